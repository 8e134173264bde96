"""Which file may import which: a floor imports floors below it, no file imports in a circle, and functions stay readable."""

import ast
import os

import pytest

# From the top; what stands on one line does not import each other's packages.
FLOORS = [
    ["dmilo", "dmilo-pgd", "train", "benchmark", "reproduce", "reconstructor"],
    ["experiment"],
    ["baselines"],
    ["solvers"],
    ["guided_diffusion"],
    ["util", "bkse", "motionblur"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MAIN = "__main__"
LONGEST, LONGEST_OF_METHODS = 60, 40  # lines


def sources():
    """{dotted name: path} of the project's files, tests aside."""
    found = {}
    for top in LEVEL:
        if os.path.isfile(f"{top}.py"):
            found[top] = f"{top}.py"
        for folder, _, files in os.walk(top):
            for file in files:
                if file.endswith(".py"):
                    path = os.path.join(folder, file)
                    found[path[:-3].replace(os.sep, ".").removesuffix(".__init__")] = path
    return found


def imported(path):
    """The dotted names that a file imports, those below `if __name__ == "__main__"` left out."""
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and MAIN in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            if isinstance(
                node.args[0], ast.Constant
            ):  # else a name that is asked for while the program runs
                yield node.args[0].value


SOURCES = sources()


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_imports_only_floors_below_it(name):
    top = name.split(".")[0]
    for other in imported(SOURCES[name]):
        above = other.split(".")[0]
        if above in LEVEL and above != top:
            scripts = (
                LEVEL[top] == LEVEL[above] == 0
            )  # benchmark.py and reproduce.py know the methods' generators
            assert LEVEL[above] > LEVEL[top] or scripts, f"{SOURCES[name]} imports {other}"


def test_no_file_imports_in_a_circle():
    graph = {
        name: {other for other in imported(path) if other in SOURCES}
        for name, path in SOURCES.items()
    }
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_no_function_is_long():
    """Its arguments aside. What is told in stages, the methods and how they are searched, is told in short ones."""
    for name, path in SOURCES.items():
        longest = (
            LONGEST_OF_METHODS
            if name.split(".")[0] in ("dmilo", "dmilo-pgd", "baselines", "solvers")
            else LONGEST
        )
        with open(path, encoding="utf-8") as f:
            for node in ast.walk(ast.parse(f.read())):
                if isinstance(node, ast.FunctionDef):
                    lines = node.end_lineno - node.body[0].lineno + 1
                    assert lines <= longest, f"{path}: {node.name} has {lines} lines"
