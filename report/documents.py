"""Fill the tables of README.md and docs/*.md from CSV files: python -m report.documents

--plots also draws docs/quality.png, the rows of its table in RESULTS.md.

A table is between two comments:

    <!-- table docs/results/paper.csv columns: method, nfe, psnr and best by task;
    rows: method=dmilo|dmilo-pgd, images=2; bold -->
    <!-- end -->

columns: names of the CSV's columns; `run` is method/preset, as in --runs. `psnr and best` shares
one cell. `psnr by task` makes a column for each task; rows then become one row if their columns
without a number format (COLUMNS) agree, and their other figures become a range.
rows, optional: the rows to keep, ordered by these values.
bold, optional: the best figures, in a table without `by` among rows with the same first column.
Put a name or a condition that contains a comma in double quotes.
"""

import csv
import os
import re
from collections import namedtuple

from report import plots
from util.cli import Parser, run_script
from util.files import UserError, project, project_files, write_text
from util.tables import markdown

Column = namedtuple("Column", "title form best", defaults=(None, None))
Cell = namedtuple("Cell", "title names by value")  # by, value: of the rows that it shows, or None

SHORT = "two digits, more before the point"
COLUMNS = {  # titles of columns and of values after `by`; others are their own title
    "what it is": Column("method"),
    "nfe": Column("NFE", ".0f"),
    "seconds": Column("seconds", SHORT),
    "psnr": Column("PSNR", ".2f", max),
    "best": Column("PSNR best", ".2f", max),
    "ssim": Column("SSIM", ".3f", max),
    "lpips": Column("LPIPS", ".4f", min),
    "psnr lost": Column("PSNR lost", ".2f", min),
    "psnr unshifted": Column("PSNR unshifted", ".2f", max),
    "kernel error": Column("kernel error", ".2f", min),
    **{share: Column(share, ".0%") for share in ("50 %", "83 %", "95 %")},
    **{
        f"83 %, {part}": Column(f"83 %, {part}", ".0%") for part in ("missing", "measured", "steep")
    },
    "spread / error": Column("spread / error", ".2f"),
    "CRPS": Column("CRPS", ".4f", min),
    "PSNR of a sample": Column("PSNR of a sample", ".2f", max),
    "PSNR of the mean": Column("PSNR of the mean", ".2f", max),
    "LPIPS of a sample": Column("LPIPS of a sample", ".4f", min),
    "s per sample": Column("s per sample", SHORT),
    "peak GB": Column("peak GB", ".2f", min),
    "inpainting": Column("inpainting, 70 % missing"),
    "super_resolution": Column("super-resolution x4"),
    "gaussian_deblur": Column("Gaussian blur, sigma 3 px"),
    "motion_deblur": Column("motion blur, 55 px"),
}
TABLE = re.compile(r"(<!-- table (.*?) -->\n)(.*?)(<!-- end -->|(?=<!-- table )|\Z)", re.DOTALL)
QUALITY = "docs/results/faces_0.01.csv"
SPEC = re.compile(r"(\S+) columns: ([^;]+?)(?:; rows: ([^;]+?))?(; bold)?")


def column(name):
    return COLUMNS.get(name, Column(name))


def split(text):
    """The texts between commas, except those in double quotes."""
    return [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]


def read(path, conditions):
    """The rows {column: text} of a CSV file that meet all conditions NAME=VALUE|VALUE, ordered by
    the values."""
    try:
        with open(project(path), encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    for row in rows:
        if "method" in row and "preset" in row:
            row["run"] = f"{row['method']}/{row['preset']}"
    for condition in conditions:
        name, _, values = condition.partition("=")
        values = [value.strip() for value in values.split("|")]
        for value in values:
            if value not in {of(row, name) for row in rows}:
                raise UserError(f"no row with {name}={value}")
        kept = [row for row in rows if row[name] in values]
        rows = sorted(kept, key=lambda row: values.index(row[name]))
    if not rows:
        raise UserError("holds no rows")
    return rows


def of(row, name):
    if name not in row:
        raise UserError(f"no column {name}; it has {', '.join(row)}")
    return row[name]


def formatted(name, text):
    """A figure with the digits of its column; texts that are no number are unchanged."""
    form = column(name).form
    try:
        value = float(text)
    except ValueError:
        return text
    if form == SHORT:
        form = ".0f" if abs(value) >= 9.95 else ".1f" if abs(value) >= 1 else ".2g"
    return f"{value:{form}}".replace("%", " %") if form else text


def figure(name, values, alone):
    """The text of one figure of a cell, a range if `values` differ; alone: they must not."""
    values = list(dict.fromkeys(value for value in values if value))
    if len(values) > 1:
        if alone:
            raise UserError(f"several rows for one cell of {name}; keep one of them by rows: …")
        ends = [
            formatted(name, value) for value in (min(values, key=float), max(values, key=float))
        ]
        return " … ".join(dict.fromkeys(ends))
    return formatted(name, values[0]) if values else ""


def layout(columns, rows):
    """The Cells of a table's rows, from left to right."""
    cells = []
    for one in split(columns):
        one, _, by = one.partition(" by ")
        names = one.split(" and ")
        for name in [*names, *filter(None, [by])]:
            of(rows[0], name)
        if by:
            values = dict.fromkeys(row[by] for row in rows)
            cells += [Cell(column(value).title, names, by, value) for value in values]
        else:
            cells.append(Cell(" / ".join(column(name).title for name in names), names, None, None))
    return cells


def grouped(rows, cells):
    """The rows of the file that each row of the table shows: one, with `by` those whose texts agree
    in all other columns."""
    if not any(cell.by for cell in cells):
        return [[row] for row in rows]
    names = [name for cell in cells if not cell.by for name in cell.names]
    texts, groups = [name for name in names if not column(name).form], {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in texts), []).append(row)
    return groups.values()


def figures(group, cell):
    """The figures of a cell, as texts."""
    rows = [row for row in group if not cell.by or row[cell.by] == cell.value]
    return [figure(name, [row[name] for row in rows], bool(cell.by)) for name in cell.names]


def mark_best(lines, cells):
    """Make the best figures of each column bold; lines: for each row, the figures of its cells."""
    for n, cell in enumerate(cells):
        for k, best in enumerate(column(name).best for name in cell.names):
            rows = [line[n] for line in lines if re.fullmatch(r"-?[\d.]+", line[n][k])]
            if best and len(rows) > 1:
                target = best(float(row[k]) for row in rows)
                for row in rows:
                    row[k] = f"**{row[k]}**" if float(row[k]) == target else row[k]


def table(spec):
    """The lines of the Markdown table that a comment describes."""
    parsed = SPEC.fullmatch(" ".join(spec.split()))
    if not parsed:
        raise UserError("must be FILE columns: NAME, …; rows: NAME=VALUE|VALUE, …; bold")
    path, columns, conditions, bold = parsed.groups()
    rows = read(path, split(conditions or ""))
    cells = layout(columns, rows)
    lines = [[figures(group, cell) for cell in cells] for group in grouped(rows, cells)]
    compared = {"" if any(cell.by for cell in cells) else line[0][0] for line in lines}
    for first in compared if bold else ():
        mark_best([line for line in lines if first in ("", line[0][0])], cells)
    texts = [[" / ".join(filter(None, cell)) for cell in line] for line in lines]
    return markdown([cell.title for cell in cells], texts)


def draw_quality():
    """Draw docs/quality.png: the runs of the table in RESULTS.md, one plot a task."""
    with open(project("docs/RESULTS.md"), encoding="utf-8") as f:
        specs = [" ".join(one[2].split()) for one in TABLE.finditer(f.read())]
    path, _, conditions, _ = SPEC.fullmatch(next(s for s in specs if QUALITY in s)).groups()
    groups = {}
    for row in read(path, split(conditions)):
        figures = {key: float(row[key]) for key in ("seconds", "psnr", "lpips")}
        groups.setdefault(row["task"], {})[row["run"]] = figures
    plots.quality(project("docs/quality.png"), groups)


def filled(text, path):
    """A document's text with its tables filled. Raises UserError, with the document's path, for a
    comment that describes no table."""

    def fill(match):
        opening, spec, _, end = match.groups()
        try:
            if not end:
                raise UserError("no <!-- end --> after it")
            return opening + "\n".join([*table(spec), end])
        except UserError as error:
            raise UserError(f"{path}: table {spec.split()[0]}: {error}") from error

    return TABLE.sub(fill, text)


def main():
    parser = Parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a table differs from its file"
    )
    parser.add_argument("--plots", action="store_true", help="also draw docs/quality.png")
    given = parser.parse_args()
    check = given.check
    if given.plots:
        draw_quality()
    for path in [project("README.md"), *project_files("docs/*.md")]:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        new = filled(text, path)
        if check and new != text:
            raise UserError(
                f"{os.path.relpath(path)}: its tables differ from docs/results/; "
                "run python -m report.documents"
            )
        if new != text:
            write_text(path, new)
            print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
