"""One problem for one cell, to plant mistakes in its derivative and run every check on them."""

import ast
import contextlib
import functools
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_vjp

from experiments.gradient_check.mutants import ZEROED
from experiments.gradient_check.mutation_targets import BACKWARD, EVERYWHERE, Mutation, reach
from jaxrnn import bptt
from jaxrnn.cells.cell import Cell
from jaxrnn.gradients.contract import check_contract
from jaxrnn.gradients.loop import loop
from jaxrnn.gradients.report import compare
from jaxrnn.recurrence import unroll

TOLERANCE = 1e-12


class Kind(NamedTuple):
    """A kind of problem."""

    hidden: int
    time: int
    batch: tuple[int, ...]
    scale: float = 1.0  # of the inputs
    lengths: bool = True
    resets: bool = True
    noise: bool = True
    reverse: bool = False


class Bench:
    """One problem, and everything about it that no mistake changes.

    All runs step by step, without compiling, which would take a hundred times as long.
    """

    def __init__(self, cell: Cell, kind: Kind, dtype: str) -> None:
        self.cell = cell
        draw = np.random.default_rng(7)

        def like(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.7, leaf.shape), dtype), tree)

        params = like(jax.eval_shape(lambda: cell.init(jax.random.key(0), 3, dtype)))
        carry = like(jax.eval_shape(lambda: cell.initial_carry(kind.batch, dtype)))
        xs = kind.scale * like(jax.ShapeDtypeStruct((kind.time, *kind.batch, 3), dtype))
        self.arguments = (params, xs, carry)
        self.options: dict[str, Any] = {"reverse": kind.reverse}
        if kind.lengths:
            self.options["lengths"] = np.resize([kind.time, kind.time // 2, 0], kind.batch)
        if kind.resets:
            count = np.arange(xs[..., 0].size).reshape(kind.time, *kind.batch)
            self.options["resets"] = (count + count // kind.time) % 3 == 1
        if kind.noise:
            self.options["noise"] = cell.noise(jax.random.key(2), kind.time, kind.batch)
        self.forward = jax.jit(functools.partial(self.unroll, "autodiff"))
        self.weights = like(jax.eval_shape(self.forward, *self.arguments))
        self.linear = self.linearized("bptt")

    @functools.cached_property
    def columns(self) -> dict[str, Any]:
        """The gradient by two methods that nobody derived by hand."""
        params, xs, carry = self.arguments
        d_carry, d_ys = self.weights
        initial = self.cell.initial_carry(xs.shape[1:-1], xs.dtype)
        with jax.disable_jit():
            by_loop = loop(self.cell, params, xs, carry, initial, d_ys, d_carry, **self.options)
        outputs, pull = self.linearized("autodiff")
        return {"loop": _column(*by_loop), "autodiff": _column(outputs, pull(self.weights))}

    def unroll(self, backward: Any, *arguments: Any) -> Any:
        """Last carry and outputs."""
        return unroll(self.cell, *arguments, **self.options, backward=backward)

    def linearized(self, backward: str) -> Any:
        """Outputs and pull-back."""
        with jax.disable_jit():
            return jax.vjp(functools.partial(self.unroll, backward), *self.arguments)

    def value_and_pull(self, mutation: Mutation | None) -> Any:
        """Outputs and pull-back of the hand-derived derivative, as it is now."""
        return self.linearized("bptt") if reach(mutation) > BACKWARD else self.linear

    def check(self, mutation: Mutation | None) -> str:
        """How ``jaxrnn.gradients.check`` detects a mistake; empty if it does not."""
        columns = dict(self.columns)
        with planted(mutation):
            try:
                if reach(mutation) == EVERYWHERE:
                    outputs, pull = self.linearized("autodiff")
                    columns["autodiff"] = _column(outputs, _pulled(pull, self.weights))
                outputs, pull = self.value_and_pull(mutation)
                columns["bptt"] = _column(outputs, _pulled(pull, self.weights))
            except Exception:
                return "error"
        try:
            return "" if compare("", columns, tolerance=TOLERANCE).agrees else "wrong value"
        except ValueError:
            return "wrong shape"

    def check_grads(self, mutation: Mutation | None) -> bool:
        """Whether ``check_grads(..., order=1, modes=["rev"])``, that is ``check_vjp``, detects it."""

        def value(*arguments: Any) -> Any:
            if reach(mutation) < EVERYWHERE:
                return self.forward(*arguments)
            with jax.disable_jit():
                return self.unroll("bptt", *arguments)

        def value_and_pull(*arguments: Any) -> Any:
            outputs, pull = self.value_and_pull(mutation)
            return outputs, functools.partial(_pulled, pull)

        with planted(mutation):
            try:
                check_vjp(value, value_and_pull, self.arguments)
            except Exception:  # an AssertionError, or whatever the mistake raises
                return True
        return False

    def check_contract(self, mutation: Mutation | None) -> bool:
        """Whether the contract's check of shapes and dtypes detects a mistake."""
        cell = renewed(self.cell)
        params, xs, carry = self.arguments
        noise = jax.tree.map(lambda leaf: leaf[0], self.options.get("noise"))
        with planted(mutation):
            try:
                for bit in range(5):  # any two leaves differ in dtype for one of these
                    check_contract(cell, _mixed(params, bit, 0), _mixed(carry, bit, 1), xs[0], noise)
            except ValueError:
                return True
        return False


def _column(outputs: tuple[Any, Any], gradient: tuple[Any, Any, Any]) -> dict[str, Any]:
    names = ("last_carry", "ys", "params", "xs", "carry")
    return dict(zip(names, (*outputs, *gradient), strict=True))


def _pulled(pull: Callable[[Any], Any], cotangents: Any) -> Any:
    """The gradient, with every scan of the backward pass as a Python loop."""

    def scan_eagerly(body: Any, carry: Any, xs: Any, *, reverse: bool = False, unroll: int = 1) -> Any:
        leaves, structure = jax.tree.flatten(xs)
        steps = [jax.tree.unflatten(structure, step) for step in zip(*map(list, leaves), strict=True)]
        ys: list[Any] = [None] * len(steps)
        for t in reversed(range(len(steps))) if reverse else range(len(steps)):
            carry, ys[t] = body(carry, steps[t])
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)

    with mock.patch.object(jax.lax, "scan", scan_eagerly):
        return jax.block_until_ready(pull(cotangents))


def _mixed(tree: Any, bit: int, first: int) -> Any:
    """Leaves in float32 and float64 by turns."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = [("float64", "float32")[(number + first) >> bit & 1] for number in range(len(leaves))]
    mixed = [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return jax.tree.unflatten(structure, mixed)


def renewed(cell: Cell) -> Cell:
    """The cell as one of a new class, for which JAX has nothing in its caches."""
    new: Cell = object.__new__(type(type(cell).__name__, (type(cell),), {}))
    vars(new).update(vars(cell))
    return new


@contextlib.contextmanager
def planted(mutation: Mutation | None) -> Iterator[None]:
    """Put a mistake in wherever its target is looked up, and take it out again."""
    with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as stack:
        if mutation is not None:
            owner, name = mutation.target.owner, mutation.target.attribute
            modules = [module for name, module in sys.modules.items() if name.startswith("jaxrnn")]
            true, false = vars(owner)[name], _compiled(mutation)
            for holder in [owner] if isinstance(owner, type) else [*modules, bptt.scan_bptt]:
                for place in [place for place, value in vars(holder).items() if value is true]:
                    stack.enter_context(mock.patch.object(holder, place, false))
        yield


def _compiled(mutation: Mutation) -> Any:
    """The function or table that a mutation's source defines, in the module that it comes from."""
    target, found = mutation.target, dict[str, Any]()
    if not isinstance(target.tree, ast.FunctionDef):
        exec(mutation.source, vars(target.module), found)
        return found[target.attribute]
    # A function around it gives super() its class, and the mistake its zeros.
    source = textwrap.indent(mutation.source, "    ")
    around = f"def made(__class__, {ZEROED}):\n{source}\n    return {target.attribute}"
    exec(around, vars(target.module), found)
    return found["made"](target.owner, lambda tree: jax.tree.map(jnp.zeros_like, tree))
