"""docs/quickstart.ipynb: it was executed, and its code still runs."""

import ast
import json
import os

import pytest
from PIL import Image

NOTEBOOK = os.path.abspath("docs/quickstart.ipynb")


def code_cells():
    with open(NOTEBOOK, encoding="utf-8") as f:
        return [cell for cell in json.load(f)["cells"] if cell["cell_type"] == "code"]


def test_it_was_executed_and_is_small():
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert (
        sum("image/png" in output.get("data", {}) for output in outputs) == 4
        and os.path.getsize(NOTEBOOK) < 400_000
    )


@pytest.mark.slow
def test_its_code_runs(monkeypatch, capsys):
    """Each cell runs in one namespace; its last expression is an image."""
    monkeypatch.chdir(os.path.dirname(NOTEBOOK))
    names = {"__name__": "__main__"}
    for cell in code_cells():
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NOTEBOOK, "exec"), names)
        assert last is None or isinstance(
            eval(compile(ast.Expression(last.value), NOTEBOOK, "eval"), names), Image.Image
        )
    assert names["psnr_inpainting"] > 28 and names["psnr_shaken"] > 29
    assert names["missing"] > 5 * names["measured"]
    assert capsys.readouterr().out.count("PSNR") == 5
