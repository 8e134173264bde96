"""Tables of texts as Markdown, LaTeX and CSV."""

import csv
import io
import os
import re

from util.files import write_text


def markdown(header, rows):
    """The lines of a Markdown table; header: texts, rows: lists of texts."""
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def latex(header, rows):
    """A LaTeX table; texts between ** and ** become bold."""

    def line(row):
        bold = [re.sub(r"\*\*(.*)\*\*", r"\\textbf{\1}", text) for text in row]
        return " & ".join(bold).replace("_", r"\_").replace("±", r"$\pm$") + r" \\"

    columns, rule = "l" * len(header), r"\hline"
    body = [rule, line(header), rule, *map(line, rows), rule]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


def write_csv(path, sheet):
    """Write rows of bare figures, the first one their names."""
    text = io.StringIO()
    csv.writer(text).writerows(sheet)
    write_text(path, text.getvalue())


def write_table(out, header, rows, sheet):
    """Write table.md and table.tex (texts) and table.csv (sheet: see `write_csv`) to the folder
    `out`; returns the lines of table.md."""
    lines = markdown(header, rows)
    write_text(os.path.join(out, "table.md"), "\n".join(lines) + "\n")
    write_text(os.path.join(out, "table.tex"), latex(header, rows) + "\n")
    write_csv(os.path.join(out, "table.csv"), sheet)
    return lines
