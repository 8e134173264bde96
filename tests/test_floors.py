"""Rooms: a file imports only from its own room and those below it; no file imports in a circle."""

import ast
import os

import pytest

# From the top. A room imports rooms below its own line, never others on it.
ROOMS = [
    ["dmilo", "dmilo-pgd", "restore", "train", "benchmark", "reproduce", "reconstructor"],
    ["bench", "training"],
    ["photographs"],
    ["baselines", "samplers"],
    ["experiment"],
    ["report", "solvers"],
    ["guided_diffusion"],
    ["bkse", "motionblur", "util"],
]
DEPTH = {room: depth for depth, rooms in enumerate(ROOMS) for room in rooms}
LARGEST = 0.25  # share of the lines


def sources():
    """{dotted name: path} of the project's files without tests."""
    paths = {}
    for room in DEPTH:
        if os.path.isfile(f"{room}.py"):
            paths[room] = f"{room}.py"
        for folder, _, files in os.walk(room):
            for file in files:
                if file.endswith(".py"):
                    path = os.path.join(folder, file)
                    paths[path[:-3].replace(os.sep, ".").removesuffix(".__init__")] = path
    return paths


def imported(path):
    """The dotted names that a file imports, except below `if __name__ == "__main__"`."""
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "__main__" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


SOURCES = sources()


def test_every_room_has_its_floor():
    rooms = {name for name in os.listdir() if os.path.isfile(os.path.join(name, "__init__.py"))}
    scripts = {name.removesuffix(".py") for name in os.listdir() if name.endswith(".py")}
    assert rooms | scripts == set(DEPTH)


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_imports_only_rooms_below_its_own(name):
    room = name.split(".")[0]
    for other in imported(SOURCES[name]):
        target = other.split(".")[0]
        if target in DEPTH and target != room:
            assert DEPTH[target] > DEPTH[room], f"{SOURCES[name]} imports {other}"


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


def test_no_room_holds_more_than_a_quarter_of_the_lines():
    lines = dict.fromkeys(DEPTH, 0)
    for name, path in SOURCES.items():
        with open(path, encoding="utf-8") as f:
            lines[name.split(".")[0]] += len(f.readlines())
    assert max(lines.values()) <= LARGEST * sum(lines.values()), lines
