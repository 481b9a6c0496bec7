"""The house rules that a reader cannot see at a glance: who imports whom, and what no file may do."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up: a module may import from its own level's folder and from those below.
LEVELS = [
    ["jaxrnn.caching", "jaxrnn.checks", "jaxrnn.promotion", "jaxrnn.sharding"],
    ["jaxrnn.cells"],
    ["jaxrnn.scan"],
    ["jaxrnn.bptt"],
    ["jaxrnn.recurrence", "jaxrnn.parallel"],
    ["jaxrnn.gradients", "jaxrnn.diagnostics", "jaxrnn.attention", "jaxrnn.layers"],
    ["jaxrnn.nn"],
    ["jaxrnn.models"],
    ["experiments", "benchmarks"],
]
# Beside the tower: these know nothing of cells, and only the levels above models' ground may use them.
APART = ["jaxrnn.decoding", "jaxrnn.training", "jaxrnn.data"]
FORBIDDEN = {"matplotlib", "rich", "tyro", "pooch", "tokenizers", "grain", "tensorboardX", "experiments"}
MODULES = sorted(
    [*ROOT.glob("jaxrnn/**/*.py"), *ROOT.glob("experiments/**/*.py"), *ROOT.glob("benchmarks/*.py")]
)


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def nodes_of(path):
    return list(ast.walk(ast.parse(path.read_text())))


def imports_of(path):
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def level_of(module):
    for level, names in enumerate(LEVELS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return level
    return None


def within(module, folders):
    return any(module == folder or module.startswith(folder + ".") for folder in folders)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path):
    module = name_of(path)
    if module == "jaxrnn":
        return  # the public names
    for imported in imports_of(path):
        if not imported.startswith("jaxrnn."):
            continue
        if within(module, APART):
            own = next(folder for folder in APART if within(module, [folder]))
            assert within(imported, [own, *LEVELS[0]]), f"{module} imports {imported}"
        elif within(imported, APART):
            assert level_of(module) >= level_of("jaxrnn.models"), f"{module} imports {imported}"
        else:
            assert level_of(imported) <= level_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("jaxrnn")], ids=name_of)
def test_the_library_neither_prints_nor_plots(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & FORBIDDEN
    calls = [n for n in nodes_of(path) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "print" not in {call.func.id for call in calls}
    for call in calls:
        if call.func.id == "isinstance":  # a cell is never asked what it is
            assert not (isinstance(call.args[0], ast.Name) and call.args[0].id == "cell")


@pytest.mark.parametrize("path", [*MODULES, *ROOT.glob("tests/*.py")], ids=name_of)
def test_files_and_functions_stay_short(path):
    assert path.read_text().count("\n") <= 400
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert lines <= 50, f"{node.name} has {lines} lines"
