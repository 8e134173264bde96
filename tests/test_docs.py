"""What the documents point to is there, and their tables hold the figures of the CSV files."""

import os
import re

import pytest

from report.documents import filled
from util.files import UserError, project, project_files

DOCUMENTS = [
    project(name)
    for name in (
        "README.md",
        "models/README.md",
        "data/demo/README.md",
        "data/photo/README.md",
        "bkse/README.md",
    )
] + list(project_files("docs/*.md"))


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    with open(path, encoding="utf-8") as f:
        headings = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", f.read(), flags=re.M | re.S), flags=re.M
        )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: os.path.relpath(path, project(".")))
def test_links_lead_somewhere(path):
    with open(path, encoding="utf-8") as f:
        links = re.findall(r"\]\(([^)\s]+)\)", f.read())
    for link in links:
        if not re.match(r"\w+:", link):
            file, _, anchor = link.partition("#")
            file = os.path.join(os.path.dirname(path), file) if file else path
            assert os.path.exists(file), link
            assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: os.path.relpath(path, project(".")))
def test_tables_hold_the_figures_of_their_files(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert filled(text, path) == text, "run python -m report.documents"


FIGURES = """task,method,preset,seconds,psnr,lpips
deblur,a,x,0.0312,30.004,0.1
deblur,b,x,12.4,29.996,0.2
denoise,a,x,2,25,0.15
denoise,b,x,3,26,
"""


def body(tmp_path, spec):
    """The header and the rows of a table filled from FIGURES."""
    path = tmp_path / "figures.csv"
    path.write_text(FIGURES)
    text = filled(f"<!-- table {path} {spec} -->\n<!-- end -->", "page.md")
    header, _, *lines = text.partition(" -->\n")[2].splitlines()[:-1]
    return [line[2:-2].split(" | ") for line in [header, *lines]]


def test_a_table_rounds_filters_and_marks_the_best(tmp_path):
    spec = "columns: task, run, seconds, psnr; rows: run=b/x|\na/x, task=denoise|deblur; bold"
    assert body(tmp_path, spec) == [
        ["task", "run", "seconds", "PSNR"],
        ["denoise", "b/x", "3.0", "**26.00**"],
        ["denoise", "a/x", "2.0", "25.00"],
        ["deblur", "b/x", "12", "**30.00**"],
        ["deblur", "a/x", "0.031", "**30.00**"],
    ]


def test_a_table_spreads_a_column_by_the_values_of_another(tmp_path):
    assert body(tmp_path, "columns: method, seconds, psnr and lpips by task; bold") == [
        ["method", "seconds", "deblur", "denoise"],
        ["a", "0.031 … 2.0", "**30.00** / **0.1000**", "25.00 / 0.1500"],
        ["b", "3.0 … 12", "**30.00** / 0.2000", "**26.00**"],
    ]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("columns: task, pnsr", "no column pnsr; it has task, method"),
        ("columns: task; rows: method=c", "no row with method=c"),
        ("columns: seconds, psnr by task", "several rows for one cell of psnr"),
        ("psnr", "must be FILE columns: NAME"),
    ],
)
def test_a_wrong_comment_is_one_clear_error(tmp_path, spec, message):
    with pytest.raises(UserError, match=rf"^page.md: table \S+figures.csv: {message}"):
        body(tmp_path, spec)


def test_a_missing_file_and_a_missing_end_are_errors(tmp_path):
    with pytest.raises(UserError, match="table none.csv: cannot be read"):
        filled("<!-- table none.csv columns: a -->\n<!-- end -->", "page.md")
    with pytest.raises(UserError, match="no <!-- end --> after it"):
        filled("<!-- table none.csv columns: a -->\n\ntext", "page.md")
