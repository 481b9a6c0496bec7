"""The mutation study: one mistake at a time in the hand-derived derivatives, and whether anyone notices.

``mutants`` makes the mistakes, ``mutation_targets`` says where. A mistake is found if gradients, outputs or
last carry of ``backward="bptt"`` then differ by more than 1e-12 from the other columns of
``jaxrnn.gradients.check``, or the contract is broken. What is not found must be listed in ``EQUIVALENT``,
with the reason why it changes nothing.
"""

import ast
import contextlib
import dataclasses
import fnmatch
import functools
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_vjp

from experiments.harness.mutants import ZEROED
from experiments.harness.mutation_targets import BACKWARD, EVERYWHERE, SUBJECTS, Mutation, reach, seed
from jaxrnn import bptt
from jaxrnn.cells.cell import Cell
from jaxrnn.gradients.contract import check_contract
from jaxrnn.gradients.loop import loop
from jaxrnn.gradients.report import compare
from jaxrnn.recurrence import unroll

TOLERANCE = 1e-12
DTYPES = ("float64", "float32")

SAME_DTYPES = "only dtypes are read of it, and a carry's cotangent has the carry's dtypes"
SAME_SHAPES = "only shapes and dtypes are read of it, and these are the same"
SEQUENCES = "any sequence does: the next to take it only iterates or indexes"
COMMUTES = "the operation commutes"
UNREAD = "AffineCell.param_grads reads no residuals"
# (function, part of the line, what the mistake makes of it, why the function stays the same)
EQUIVALENT: tuple[tuple[str, str, str, str], ...] = (
    ("*.step_bwd", ", carry_before), ", ", d_carry), ", SAME_DTYPES),
    ("Zoneout.step_bwd", "cast_like(d_step, d_carry)", "cast_like(d_step, carry_before)", SAME_DTYPES),
    ("scan.masked_step_bwd", "zeros(d_carry)", "zeros(carry_before)", SAME_SHAPES),
    ("scan.masked_step_bwd", "zeros(d_before)", "zeros(d_after)", SAME_SHAPES),
    ("scan.select", "b.ndim", "a.ndim", SAME_SHAPES),
    ("affine.weight_grad", "range(deltas.ndim", "range(inputs.ndim", SAME_SHAPES),
    ("affine.weight_grad", "tuple(range(deltas.ndim - 1))", "range(deltas.ndim - 1)", SEQUENCES),
    ("affine.bias_grad", "tuple(range(deltas.ndim - 1))", "range(deltas.ndim - 1)", SEQUENCES),
    (
        "affine.cast",
        "tuple((array.astype(dtype) for array in arrays))",
        "(array.astype(dtype) for array in arrays)",
        SEQUENCES,
    ),
    ("scan.masked_step", "tuple(residuals)", "residuals", SEQUENCES),
    ("Stack.step_fwd", "tuple(residuals)", "residuals", SEQUENCES),
    ("Stack.step_bwd", "tuple(deltas)", "deltas", SEQUENCES),
    ("affine.*", "(deltas.dtype, weight.dtype)", "(weight.dtype, deltas.dtype)", COMMUTES),
    ("affine.*", "(deltas.dtype, bias.dtype)", "(bias.dtype, deltas.dtype)", COMMUTES),
    ("Zoneout.step_bwd", "keep, d_after", "d_after, keep", COMMUTES),
    *(
        ("*LSTM.param_grads", "carries_before, residuals", f"carries_before, {other}", UNREAD)
        for other in ("xs", "carries_before", "deltas", "i")
    ),
    ("Stack.step_fwd", "after, residuals = ", "residuals, after = ", "both begin as empty lists"),
    ("Stack.step_bwd", "layer > 0", "layer >= 0", "the d_y that is left over is not used"),
    ("Stack.step_bwd", "layer > 0", "layer > -1", "the d_y that is left over is not used"),
    (
        "scan.masked_step",
        "after, before)",
        "after, carry)",
        "no reset stands at padding, so before is carry",
    ),
    *(
        ("minimal._softplus", "> 0", other, "near 0 both branches are log(1 + exp z) to rounding")
        for other in (">= 0", "> 1", "> -1")
    ),
)


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


# The first, of equal sizes, so that few mistakes end in an error; the others for what survives it.
KINDS = (
    Kind(hidden=3, time=3, batch=(3,)),
    Kind(hidden=4, time=4, batch=(2, 2), reverse=True),
    Kind(hidden=4, time=3, batch=(2,), lengths=False, resets=False, noise=False),
    Kind(hidden=4, time=3, batch=(2,), resets=False),
    Kind(hidden=4, time=3, batch=(2,), lengths=False, reverse=True),
)
# Gates at 0 and 1, for what overflows there; tanh has no relative accuracy left to hold others to.
SATURATED = {"MinLSTM": Kind(hidden=4, time=3, batch=(2,), scale=3000.0)}


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
        """How ``jaxrnn.gradients.check`` finds a mistake; empty if it does not."""
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
        """Whether ``check_grads(..., order=1, modes=["rev"])`` finds it: that is ``check_vjp``."""

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
        """Whether the contract's check of shapes and dtypes finds it."""
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
    """What the source of a mutation defines, in the module that it comes from."""
    target, found = mutation.target, dict[str, Any]()
    if not isinstance(target.tree, ast.FunctionDef):
        exec(mutation.source, vars(target.module), found)
        return found[target.attribute]
    # A function around it gives super() its class, and the mistake its zeros.
    source = textwrap.indent(mutation.source, "    ")
    around = f"def made(__class__, {ZEROED}):\n{source}\n    return {target.attribute}"
    exec(around, vars(target.module), found)
    return found["made"](target.owner, lambda tree: jax.tree.map(jnp.zeros_like, tree))


class Outcome(NamedTuple):
    """Who found a mistake."""

    how: str  # "wrong value", "wrong shape", "error", "contract"; empty if check and contract did not
    check_grads: dict[str, bool]  # by dtype, whether jax.test_util.check_grads finds it


@functools.cache
def _bench(name: str, maker: int, kind: Kind, dtype: str) -> Bench:
    bench = Bench(SUBJECTS[name][maker](kind.hidden), kind, dtype)
    if dtype == "float64" and (found := bench.check(None)):
        raise RuntimeError(f"{bench.cell}: {found}, without any mistake")
    return bench


def judge(name: str, mutation: Mutation, dtypes: Collection[str] = DTYPES) -> Outcome:
    """Who finds a mistake of a subject.

    ``check`` is asked problem after problem until it finds it, then ``check_grads`` on the same problem, in
    each of the dtypes.
    """
    kinds = [*KINDS, SATURATED[name]] if name in SATURATED else KINDS
    problems = [(maker, kind) for kind in kinds for maker in range(len(SUBJECTS[name]))]
    how, place = "", problems[0]
    with jax.enable_x64(True):
        for problem in problems:
            if found := _bench(name, *problem, "float64").check(mutation):
                how, place = found, problem
                break
        for maker in range(len(SUBJECTS[name])):
            if not how and _bench(name, maker, KINDS[0], "float64").check_contract(mutation):
                how = "contract"
    return Outcome(how, {dtype: check_grads(name, place, mutation, dtype) for dtype in dtypes})


def check_grads(name: str, problem: tuple[int, Kind], mutation: Mutation | None, dtype: str) -> bool:
    """Whether ``jax.test_util.check_grads`` finds a mistake on one problem."""
    with jax.enable_x64(dtype == "float64"):
        return _bench(name, *problem, dtype).check_grads(mutation)


def reason(mutation: Mutation) -> str:
    """Why a mistake changes nothing, as ``EQUIVALENT`` has it; empty if it is not listed."""
    for function, before, after, why in EQUIVALENT:
        same_function = fnmatch.fnmatchcase(mutation.target.name, function)
        if same_function and mutation.after in _each_replaced(mutation.before, before, after):
            return why
    return ""


def _each_replaced(line: str, before: str, after: str) -> Iterator[str]:
    """The line with one occurrence replaced, each in turn."""
    parts = line.split(before)
    for place in range(1, len(parts)):
        yield before.join(parts[:place]) + after + before.join(parts[place:])


@dataclasses.dataclass(frozen=True)
class Study:
    """What became of the mistakes of one subject, in plain numbers and strings."""

    name: str
    seeded: int
    found: dict[str, int]  # by how
    missed: dict[str, tuple[str, ...]]  # by dtype, those of them that check_grads does not find
    false_alarms: dict[str, bool]  # by dtype, whether check_grads rejects the derivative without mistake
    survivors: tuple[tuple[str, str], ...]  # what check and contract do not find, and the reason
    seconds: float  # of CPU

    @property
    def unexplained(self) -> list[str]:
        """Survivors without a reason."""
        return [mistake for mistake, why in self.survivors if not why]


def study(
    name: str,
    dtypes: Collection[str] = DTYPES,
    *,
    every: int = 1,
    progress: Callable[[int, int], None] = lambda done, seeded: None,
) -> Study:
    """Judge all mistakes of a subject, or every k-th; ``progress`` gets the numbers done and seeded."""
    start = time.process_time()
    mutations = seed(name)[::every]
    outcomes = []
    for mutation in mutations:
        outcomes.append(judge(name, mutation, dtypes))
        progress(len(outcomes), len(mutations))
    judged = list(zip(mutations, outcomes, strict=True))
    return Study(
        name=name,
        seeded=len(mutations),
        found=dict(Counter(outcome.how for outcome in outcomes if outcome.how)),
        missed={d: tuple(str(m) for m, o in judged if o.how and not o.check_grads[d]) for d in dtypes},
        false_alarms={dtype: check_grads(name, (0, KINDS[0]), None, dtype) for dtype in dtypes},
        survivors=tuple((str(m), reason(m)) for m, outcome in judged if not outcome.how),
        seconds=time.process_time() - start,
    )


def totals(studies: Sequence[Study]) -> dict[str, int]:
    """The sums that a report needs."""
    result = {
        "mutations_seeded": sum(s.seeded for s in studies),
        "mutations_found": sum(sum(s.found.values()) for s in studies),
        "mutations_equivalent": sum(len(s.survivors) - len(s.unexplained) for s in studies),
        "mutations_unexplained": sum(len(s.unexplained) for s in studies),
    }
    for dtype in sorted({dtype for s in studies for dtype in s.missed}, reverse=True):
        key = "found_by_check_grads" if dtype == "float64" else f"found_by_check_grads_{dtype}"
        result[key] = result["mutations_found"] - sum(len(s.missed[dtype]) for s in studies)
    return result
