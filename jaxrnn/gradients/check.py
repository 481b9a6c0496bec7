"""Comparison of all methods of computing a cell's gradient."""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Key

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.checks import check_positive
from jaxrnn.gradients.contract import check_contract, check_float64, check_real
from jaxrnn.gradients.differences import complex_step, finite_difference, random_directions
from jaxrnn.gradients.loop import loop
from jaxrnn.gradients.problem import size
from jaxrnn.gradients.report import GradientError, Report, compare
from jaxrnn.gradients.rtrl import rtrl
from jaxrnn.gradients.terms import explicit_terms
from jaxrnn.recurrence import Backward, unroll

METHODS = ("autodiff", "bptt", "loop", "explicit_terms", "rtrl", "complex_step", "finite_difference")

# Entries of params, inputs and carry up to which each is moved by itself.
MOST_ENTRIES = 20_000

FIRST_STEP = 1e-5  # of the central difference; a second one, twice as long, measures its error


class _Run(NamedTuple):
    """A cell, the arguments at which its gradient is taken, and the loss."""

    cell: Cell
    params: Params
    xs: Array
    carry: Carry
    weights: tuple[Carry, Array]  # of the last carry and the outputs in the loss
    along: Any  # directions, or None for every entry
    remat: int | None
    options: dict[str, Any]  # of unroll

    @property
    def arguments(self) -> tuple[Params, Array, Carry]:
        return self.params, self.xs, self.carry


def check(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    key: Key[Array, ""] | None = None,
    directions: int | None = None,
    leave_out: Collection[str] = (),
    remat: int | None = None,
    tolerance: float = 1e-12,
    **options: Any,
) -> Report:
    """Compute the gradient of a cell's unroll by all methods, and compare them.

    The loss is L = Σ⟨w_t, y_t⟩ + Σ⟨w, S_T⟩ with a random weight for every output and every number of the
    last carry; its gradient is taken with respect to every parameter, every input and the carry before
    the first step:

    - ``autodiff``: ``jax.grad`` through ``unroll``;
    - ``bptt``: the cell's hand-derived derivative, where it has one;
    - ``loop``: ``jax.vjp`` of single steps in Python loops, without masks, batch or scan;
    - ``rtrl`` and ``explicit_terms`` (their sum over steps), which give no gradient of the inputs;
    - ``complex_step``, which needs no differentiation rule at all;
    - ``finite_difference``, central, held to the error that its theory allows: the truncation that a
      second step length shows, and rounding over step.

    Outputs and the last carry are compared too, where a method computes them.

    Args:
      cell: any object that keeps the ``Cell`` contract, yours too; best a subclass of ``Cell``.
      params: its parameters, in float64.
      xs: inputs, in float64.
      carry: carry before the first step; by default the cell's initial one.
      key: draws the weights of the loss, and the directions.
      directions: None moves every entry by itself, for complex step and finite difference; a number moves
        along so many random directions instead, and leaves RTRL out: for large sizes.
      leave_out: methods to do without: ``complex_step``, say, for a cell that needs ``abs``.
      remat: as in ``unroll``, for ``autodiff`` and ``bptt``.
      tolerance: largest relative difference max|a − b| / max|b| between exact methods, per leaf.
      **options: ``lengths``, ``resets``, ``noise``, ``reverse``, as in ``unroll``.

    Returns:
      the report.

    Raises:
      GradientError: if the methods disagree; its message is the report's table.
      ValueError: for a cell that breaks the contract, a parameter that no method finds a gradient for,
        an unknown method, anything that is not float64, or sizes too large to move every entry by itself.

    >>> from jaxrnn import GRU
    >>> with jax.enable_x64(True):
    ...     cell = GRU(hidden_size=3)
    ...     params = cell.init(jax.random.key(0), in_features=2, dtype="float64")
    ...     xs = jax.random.normal(jax.random.key(1), (5, 2, 2))
    ...     report = check(cell, params, xs, lengths=np.array([5, 3]))
    >>> report.agrees, report.max_errors()["bptt"] < 1e-12
    (True, True)
    """
    cell, xs = as_cell(cell), jnp.asarray(xs)
    if xs.ndim < 2 or not len(xs):
        raise ValueError(
            f"xs must be (time, *batch, in_features) with one step or more, got shape {xs.shape}"
        )
    if carry is None:
        carry = cell.initial_carry(xs.shape[1:-1], xs.dtype)
    arrays = [name for name in ("lengths", "resets") if options.get(name) is not None]
    options |= {name: np.asarray(options[name]) for name in arrays}
    if unknown := set(leave_out) - set(METHODS):
        raise ValueError(f"leave_out: known are {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    check_real(cell, params)
    check_float64(params=params, xs=xs, carry=carry)
    check_contract(cell, params, carry, xs[0], jax.tree.map(lambda leaf: leaf[0], options.get("noise")))
    _check_sizes((params, xs, carry), carry, directions)
    key_weights, key_directions = jax.random.split(jax.random.key(0) if key is None else key)
    outputs = jax.eval_shape(lambda *a: unroll(cell, *a, **options), params, xs, carry)
    weights = jax.tree.map(lambda leaf: leaf[0], random_directions(key_weights, outputs, 1))
    along = (
        None if directions is None else random_directions(key_directions, (params, xs, carry), directions)
    )
    run = _Run(cell, params, xs, carry, weights, along, remat, options)

    gradients, bounds = _all_gradients(run, leave_out)
    _check_used(run, gradients)
    report = compare(str(cell), gradients, tolerance=tolerance, bounds=bounds)
    if not report.agrees:
        raise GradientError(report)
    return report


def _all_gradients(
    run: _Run, leave_out: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every method's gradients by name, and the errors that the theory of one of them allows."""
    ways: dict[str, Callable[[_Run], dict[str, Any]]] = {
        "autodiff": functools.partial(_through_unroll, backward="autodiff"),
        "bptt": functools.partial(_through_unroll, backward="bptt"),
        "loop": _through_loop,
        "explicit_terms": _sum_of_terms,
        "rtrl": _forward,
        "complex_step": _complex_step,
    }
    left_out = set(leave_out)
    if not run.cell.has_derivative:
        left_out.add("bptt")
    if run.along is not None:
        left_out.add("rtrl")
    gradients = {method: way(run) for method, way in ways.items() if method not in left_out}
    if "finite_difference" in left_out:
        return gradients, {}
    gradients["finite_difference"], bound = _finite_difference(run)
    return gradients, {"finite_difference": bound}


def _check_sizes(arguments: Any, carry: Carry, directions: int | None) -> None:
    if directions is not None:
        check_positive("directions", directions)
    elif size(arguments) > MOST_ENTRIES:
        raise ValueError(
            f"params, xs and carry have {size(arguments):,} entries, whose influence on "
            f"{size(carry):,} numbers of the carry takes {8 * size(arguments) * size(carry):,} bytes; "
            f"above {MOST_ENTRIES:,} give directions=N, to move along N random directions instead"
        )


def _check_used(run: _Run, gradients: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError, naming it, if every method's gradient of a parameter is zero."""
    lengths = run.options.get("lengths")
    if not run.xs.size or (lengths is not None and not np.any(lengths)):  # not one real step
        return
    by_method = [
        jax.tree_util.tree_leaves_with_path(f["params"]) for f in gradients.values() if "params" in f
    ]
    for entries in zip(*by_method, strict=True):
        if not any(np.any(leaf) for _, leaf in entries):
            raise ValueError(
                f"{run.cell}: no method ({', '.join(gradients)}) finds a gradient for "
                f"params{jax.tree_util.keystr(entries[0][0])}; does step use it? (One step from a carry "
                f"of zeros does not show recurrent weights.)"
            )


def _named(run: _Run, gradient: Any) -> dict[str, Any]:
    """Gradients by name: of (params, xs, carry), or along directions."""
    if run.along is not None:
        return {"along directions": gradient}
    return dict(zip(("params", "xs", "carry"), gradient, strict=True))


def _with_outputs(run: _Run, outputs: tuple[Carry, Any], gradient: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Gradient and outputs of a method that goes backward, its slopes along directions too if asked."""
    last, ys = outputs
    found = dict(zip(("params", "xs", "carry"), gradient, strict=True)) | {"ys": ys, "last_carry": last}
    if run.along is not None:
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(run.along), strict=True)
        found["along directions"] = sum(jnp.tensordot(v, leaf, axes=leaf.ndim) for leaf, v in pairs)
    return found


def _varying(run: _Run) -> dict[str, Any]:
    """The options that are arrays; the direction is static."""
    return {name: run.options.get(name) for name in ("lengths", "resets", "noise")}


def _through_unroll(run: _Run, backward: Backward) -> dict[str, Any]:
    fixed = {"reverse": run.options.get("reverse", False), "remat": run.remat, "backward": backward}
    return _with_outputs(run, *_unroll_vjp(run.cell, run.arguments, run.weights, _varying(run), **fixed))


@functools.partial(by_value, static_argnames=("cell", "reverse", "remat", "backward"))
def _unroll_vjp(
    cell: Cell, arguments: tuple[Any, Any, Any], weights: Any, varying: dict[str, Any], **fixed: Any
) -> tuple[Any, Any]:
    def run(params: Params, xs: Array, carry: Carry) -> tuple[Carry, Array]:
        return unroll(cell, params, xs, carry, **varying, **fixed)

    outputs, vjp = jax.vjp(run, *arguments)
    return outputs, vjp(weights)


def _through_loop(run: _Run) -> dict[str, Any]:
    cell, (d_last, d_ys) = run.cell, run.weights
    initial = cell.initial_carry(run.xs.shape[1:-1])
    initial = jax.tree.map(lambda a, b: a.astype(b.dtype), initial, run.carry)
    return _with_outputs(run, *loop(cell, *run.arguments, initial, d_ys, d_last, **run.options))


def _sum_of_terms(run: _Run) -> dict[str, Any]:
    d_last, d_ys = run.weights
    terms = explicit_terms(run.cell, *run.arguments, d_ys=d_ys, d_carry=d_last, **run.options)
    return {"params": jax.tree.map(lambda leaf: leaf.sum(0), terms)}


def _forward(run: _Run) -> dict[str, Any]:
    d_last, d_ys = run.weights
    d_params, d_carry = rtrl(run.cell, *run.arguments, d_ys=d_ys, d_carry=d_last, **run.options)
    return {"params": d_params, "carry": d_carry}


def _complex_step(run: _Run) -> dict[str, Any]:
    reverse = run.options.get("reverse", False)
    return _named(
        run,
        _by_complex_step(run.cell, run.arguments, run.weights, run.along, _varying(run), reverse=reverse),
    )


@functools.partial(by_value, static_argnames=("cell", "reverse"))
def _by_complex_step(
    cell: Cell, arguments: Any, weights: Any, along: Any, varying: dict[str, Any], *, reverse: bool
) -> Any:
    value = functools.partial(_loss, cell, weights=weights, **varying, reverse=reverse)
    return complex_step(value, arguments, directions=along)


def _finite_difference(run: _Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The difference quotient, and what is allowed: what a longer step changes, and rounding over step."""
    reverse = run.options.get("reverse", False)
    once, twice, magnitude = _by_difference(
        run.cell, run.arguments, run.weights, run.along, _varying(run), reverse=reverse
    )
    rounding = 50 * np.finfo(np.float64).eps * magnitude / FIRST_STEP
    allowed = jax.tree.map(lambda a, b: jnp.abs(b - a) + rounding, once, twice)
    return _named(run, once), _named(run, allowed)


@functools.partial(by_value, static_argnames=("cell", "reverse"))
def _by_difference(
    cell: Cell, arguments: Any, weights: Any, along: Any, varying: dict[str, Any], *, reverse: bool
) -> tuple[Any, Any, Array]:
    value = functools.partial(_loss, cell, weights=weights, **varying, reverse=reverse)
    both = jax.lax.map(
        lambda step: finite_difference(value, arguments, directions=along, step=step),
        FIRST_STEP * jnp.array([1.0, 2.0]),
    )
    once, twice = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))
    terms = jax.tree.map(jnp.multiply, unroll(cell, *arguments, **varying, reverse=reverse), weights)
    magnitude = sum((jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(terms)), jnp.ones(()))
    return once, twice, magnitude


def _loss(cell: Cell, arguments: tuple[Any, Any, Any], *, weights: Any, **options: Any) -> Array:
    """L = Σ⟨w, outputs⟩, complex where the arguments are."""
    pairs = zip(jax.tree.leaves(unroll(cell, *arguments, **options)), jax.tree.leaves(weights), strict=True)
    return sum((jnp.sum(output * weight) for output, weight in pairs), jnp.zeros(()))
