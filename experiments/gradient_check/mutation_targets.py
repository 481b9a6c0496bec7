"""The functions that mistakes are put into: hand-derived derivatives, and the masked step."""

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import jax

from experiments.gradient_check.mutants import mutants
from experiments.gradient_check.subjects import MASKED_STEP, SUBJECTS
from jaxrnn import bptt, scan
from jaxrnn.cells.cell import Cell


class Target(NamedTuple):
    """Something to put mistakes into, and where it is looked up."""

    name: str
    owner: Any  # a class, or a module
    attribute: str
    tree: ast.stmt
    within: tuple[ast.AST, ...]  # nodes of the tree to stay within; empty for all

    @property
    def module(self) -> ModuleType:
        """The module in which it is written."""
        return sys.modules[self.owner.__module__] if isinstance(self.owner, type) else self.owner


class Mutation(NamedTuple):
    """One mistake."""

    target: Target
    before: str  # the line that it changes
    after: str
    source: str  # of the whole target

    def __str__(self) -> str:
        return f"{self.target.name}: {self.before}  →  {self.after}"


# How far a mistake reaches: the backward pass of bptt, its forward pass too, or every unroll.
BACKWARD, FORWARD, EVERYWHERE = range(3)
_REACH = {
    "step_fwd": FORWARD,
    "_backward": FORWARD,  # looked up there
    "select": EVERYWHERE,
    "masked_step": EVERYWHERE,
    "_resets_before_step": EVERYWHERE,
}


def reach(mutation: Mutation | None) -> int:
    """How far a mistake reaches."""
    return BACKWARD if mutation is None else _REACH.get(mutation.target.attribute, BACKWARD)


def seed(name: str) -> list[Mutation]:
    """All mistakes of a subject; what cells inherit or share is seeded once, with the first of them."""
    names = list(SUBJECTS)
    done = {label for other in names[: names.index(name)] for label in _labels(other)}
    cell = SUBJECTS[name][0](3)
    new = {target.name: target for target in _targets_of(name) if target.name not in done}
    return [mutation for target in new.values() for mutation in _mutations(target, cell)]


@functools.cache
def _labels(name: str) -> frozenset[str]:
    return frozenset(target.name for target in _targets_of(name))


def _targets_of(name: str) -> list[Target]:
    if name == MASKED_STEP:
        return masked_step_targets()
    return [target for make in SUBJECTS[name] for target in targets(make(3))]


def _mutations(target: Target, cell: Cell) -> list[Mutation]:
    types = {value for value in vars(target.module).values() if hasattr(value, "_fields")}
    parts = jax.eval_shape(lambda: (cell.init(jax.random.key(0), 3), cell.initial_carry()))
    types |= {type(part) for part in parts if hasattr(part, "_fields")}
    fields = sorted(kind._fields for kind in types)
    return [Mutation(target, *found) for found in mutants(target.tree, target.within, fields)]


def targets(cell: Cell) -> list[Target]:
    """The parts of a cell's hand-derived derivative, and the functions that they call."""
    methods = [
        (owner, name)
        for name in ("step_fwd", "step_bwd", "input_grads", "param_grads")
        for owner in type(cell).__mro__
        if name in vars(owner) and owner is not Cell
    ]
    found = []
    for owner, name in methods:
        tree = _tree(vars(owner)[name])
        # The step that residuals come with is written once for all ways to the gradient, or else twice.
        within = _residuals(tree) if name == "step_fwd" and "step" not in vars(owner) else ()
        found.append(Target(f"{owner.__name__}.{name}", owner, name, tree, within))
    functions = [vars(owner)[name] for owner, name in methods if name != "step_fwd"]
    for module, name in dict.fromkeys(helper for function in functions for helper in _helpers(function)):
        found.append(_module_target(module, name))
    return found


def _tree(function: Any) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _module_target(module: ModuleType, name: str) -> Target:
    """A function of a module; of a table of activations, their slopes."""
    label, value = f"{module.__name__.rpartition('.')[2]}.{name}", vars(module)[name]
    if not isinstance(value, dict):
        return Target(label, module, name, _tree(value), ())
    statements = ast.parse(inspect.getsource(module)).body
    tree = next(s for s in statements if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == name)
    assert isinstance(tree.value, ast.Dict)
    slopes = [entry.args[1] for entry in tree.value.values if isinstance(entry, ast.Call)]
    return Target(label, module, name, tree, tuple(slopes))


def _helpers(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Functions and tables of the cells' modules that a function uses, by itself or through others."""
    function = inspect.unwrap(function)
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for name in dict.fromkeys(name for code in codes for name in code.co_names):
        value = function.__globals__.get(name)
        if isinstance(value, dict):
            yield sys.modules[function.__module__], name
        elif isinstance(value, FunctionType) and value.__module__.startswith("jaxrnn.cells"):
            yield sys.modules[value.__module__], name
            yield from _helpers(value)


def _residuals(tree: ast.FunctionDef) -> tuple[ast.AST, ...]:
    """Nodes of a step_fwd that only its third result depends on."""
    *_, last = (node for node in ast.walk(tree) if isinstance(node, ast.Return))
    assert isinstance(last.value, ast.Tuple)
    needed = _names(*last.value.elts[:2])
    only: list[ast.AST] = [last.value.elts[2]]
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for node in sorted(assignments, key=lambda node: -node.lineno):
        if needed & _names(*node.targets):
            needed |= _names(node.value)
        else:
            only.append(node)
    return tuple(only)


def _names(*trees: ast.AST) -> set[str]:
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def masked_step_targets() -> list[Target]:
    """The masked step, its derivative, and what decides where it resets."""
    functions = [
        scan.select,
        scan.masked_step,
        scan.masked_step_bwd,
        bptt._backward,
        scan._resets_before_step,
    ]
    return [_module_target(sys.modules[f.__module__], f.__name__) for f in functions]
