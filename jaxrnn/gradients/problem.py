"""Input of all gradient methods: a run, and the weights of its outputs in the loss."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.checks import check_like
from jaxrnn.recurrence import checked_arguments
from jaxrnn.scan import Inputs, Starts, masked_step, prepare, zeros

MEMORY_LIMIT = 4 * 2**30  # bytes


class Problem(NamedTuple):
    """A run in the order in which it runs, and the loss L = Σ⟨d_ys, ys⟩ + Σ⟨d_carry, S_T⟩."""

    starts: Starts  # what resets return to, and what padding is given
    carry: Carry  # S_0
    inputs: Inputs  # time flipped under reverse
    d_ys: Array  # (time, *batch, out_features), time flipped under reverse
    d_carry: Carry  # of S_T


def make_problem(
    cell: Cell,
    params: Params,
    xs: Any,
    carry: Carry | None,
    d_ys: Any,
    d_carry: Carry | None,
    *,
    lengths: Any = None,
    resets: Any = None,
    noise: Noise = None,
    reverse: bool = False,
) -> Problem:
    """Check and prepare a problem; ValueError if something does not fit, or the loss has no term."""
    if d_ys is None and d_carry is None:
        raise ValueError("the loss is empty: give its gradient d_ys, d_carry or both")
    xs, lengths, resets = checked_arguments(cell, params, xs, carry, lengths, resets, noise)
    carry = None if carry is None else jax.tree.map(jnp.asarray, carry)
    _, starts, carry, inputs = prepare(cell, params, xs, carry, lengths, resets, noise, reverse=reverse)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    _, y = jax.eval_shape(lambda p, s, i: plain_step(cell, p, starts, s, i), params, carry, first)
    ys = jax.ShapeDtypeStruct((len(xs), *y.shape), y.dtype)
    d_ys = jnp.zeros(ys.shape, ys.dtype) if d_ys is None else jnp.asarray(d_ys)
    d_carry = zeros(carry) if d_carry is None else d_carry
    check_like("d_ys", ys, d_ys)
    check_like("d_carry", carry, d_carry)
    if reverse:
        inputs, d_ys = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), (inputs, d_ys))
    d_carry = jax.tree.map(lambda d, leaf: jnp.asarray(d, leaf.dtype), d_carry, carry)
    return Problem(starts, carry, inputs, d_ys.astype(ys.dtype), d_carry)


def plain_step(
    cell: Cell, params: Params, starts: Starts, carry: Carry, inputs: Inputs
) -> tuple[Carry, Array]:
    """The masked step as a function of parameters and carry: the new carry and y."""
    after, (y, _, _) = masked_step(cell.step, params, starts, carry, inputs)
    return after, y


def loss(cell: Cell, params: Params, problem: Problem) -> Array:
    """L, for ``jax.grad``."""
    last, ys = jax.lax.scan(
        lambda carry, inputs: plain_step(cell, params, problem.starts, carry, inputs),
        problem.carry,
        problem.inputs,
    )
    pairs = zip(jax.tree.leaves((problem.d_carry, problem.d_ys)), jax.tree.leaves((last, ys)), strict=True)
    return sum((jnp.vdot(weight, leaf) for weight, leaf in pairs), jnp.zeros(()))


def carries_before(cell: Cell, params: Params, problem: Problem) -> tuple[Carry, Carry]:
    """S_0 .. S_{T-1}, leading with time, and S_T."""

    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, Carry]:
        after, _ = plain_step(cell, params, problem.starts, carry, inputs)
        return after, carry

    last, befores = jax.lax.scan(body, problem.carry, problem.inputs)
    return befores, last


def as_sequences(problem: Problem) -> tuple[Problem, Callable[[Any], Any]]:
    """The problem with its batch dimensions flattened into one, and the function that unflattens them."""
    batch_shape = problem.inputs.xs.shape[1:-1]

    def flat(tree: Any, leading: int) -> Any:
        def reshape(leaf: Array) -> Array:
            rest = leaf.shape[leading + len(batch_shape) :]
            return leaf.reshape(*leaf.shape[:leading], math.prod(batch_shape), *rest)

        return jax.tree.map(reshape, tree)

    starts, carry, inputs, d_ys, d_carry = problem
    flattened = Problem(flat(starts, 0), flat(carry, 0), flat(inputs, 1), flat(d_ys, 1), flat(d_carry, 0))
    return flattened, lambda tree: jax.tree.map(lambda a: a.reshape(*batch_shape, *a.shape[1:]), tree)


def check_fits(what: str, entries: int, dtype: Any, instead: str, limit: int = MEMORY_LIMIT) -> None:
    """Raise ValueError if that many numbers would not fit in memory."""
    needed = entries * jnp.dtype(dtype).itemsize
    if needed > limit:
        raise ValueError(f"{what} would take {needed:,} bytes, and the limit is {limit:,}; {instead}")


def size(tree: Any) -> int:
    """Number of entries in all leaves."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))
