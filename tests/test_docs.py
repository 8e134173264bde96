"""What the documents point to is there."""

import os
import re

import pytest

from util.files import project, project_files

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
