"""Tables of texts: Markdown, LaTeX and CSV."""

import csv
import io
import os
import re

from util.files import write_text


def markdown(header, rows):
    """Lines of a Markdown table. header, rows: of texts."""
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def write_table(out, header, rows, sheet):
    """table.md, table.tex, table.csv. rows: of texts, the bold ones between ** and **; sheet: rows of bare figures, the first their
    names. Returns table.md's lines."""
    lines = markdown(header, rows)
    as_tex = lambda text: (
        re.sub(r"\*\*(.*)\*\*", r"\\textbf{\1}", text).replace("_", r"\_").replace("±", r"$\pm$")
    )
    tex = [" & ".join(map(as_tex, row)) + r" \\" for row in [header, *rows]]
    tex = [
        r"\begin{tabular}{" + "l" * len(header) + "}",
        r"\hline",
        tex[0],
        r"\hline",
        *tex[1:],
        r"\hline",
        r"\end{tabular}",
    ]
    text = io.StringIO()
    csv.writer(text).writerows(sheet)
    for ending, content in (
        (".md", "\n".join(lines) + "\n"),
        (".tex", "\n".join(tex) + "\n"),
        (".csv", text.getvalue()),
    ):
        write_text(os.path.join(out, f"table{ending}"), content)
    return lines
