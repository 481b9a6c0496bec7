"""A whole sequence at once: ``parallel_unroll`` of cells that are linear in their carry."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Params
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import checked_arguments
from jaxrnn.scan import Inputs, prepare, select, zeros


def parallel_unroll(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    lengths: Int[ArrayLike, "*batch"] | None = None,
    resets: Bool[ArrayLike, "time *batch"] | None = None,
    reverse: bool = False,
) -> tuple[Carry, Inexact[Array, "time *batch out_features"]]:
    """``unroll`` of a cell that is linear in its carry, in parallel over time.

    The steps S_t = a_t ⊙ S_{t-1} + b_t compose to one of the same form, so that a parallel prefix sum
    (Blelloch 1990, "Prefix sums and their applications") takes about 2·log₂(time) dependent operations
    instead of time::

        (a, b) ∘ (a′, b′) = (a′ a, a′ b + b′)        S_t = A_t ⊙ S_0 + B_t

    Equal to ``unroll`` but for rounding; nothing is divided, so that saturated gates do no harm.

    Args:
      cell: a cell with ``linear_step``: ``MinGRU``, ``MinLSTM``.
      params: its parameters; these and all others as in ``unroll``.
      xs: inputs.
      carry: carry before the first step.
      lengths: steps of each sequence.
      resets: True at the first position of a segment.
      reverse: run from step length−1 down to 0.

    Returns:
      the carry after the last step, and ys ``(time, *batch, out_features)``.

    Raises:
      ValueError: as ``unroll``, and for a cell that is not linear in its carry.

    >>> from jaxrnn import MinGRU, unroll
    >>> cell = MinGRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (100, 2, 3))
    >>> _, ys = parallel_unroll(cell, params, xs)
    >>> bool(jnp.allclose(ys, unroll(cell, params, xs)[1], atol=1e-5))
    True
    """
    cell = as_cell(cell)
    if not cell.has_linear_step:
        raise ValueError(f"parallel_unroll needs a cell that is linear in its carry, got {cell}")
    xs, lengths, resets = checked_arguments(cell, params, xs, carry, lengths, resets, None)
    return _parallel_unroll(cell, params, xs, carry, lengths, resets, reverse=reverse)


@functools.partial(by_value, static_argnames=("cell", "reverse"))
def _parallel_unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
) -> tuple[Carry, Array]:
    params, starts, carry, inputs = prepare(cell, params, xs, carry, lengths, resets, None, reverse=reverse)
    return associative_steps(cell, params, starts.initial, carry, inputs, reverse=reverse)


@default_promotion()
def associative_steps(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, *, reverse: bool
) -> tuple[Carry, Array]:
    """The masked step of a linear cell over all time at once: last carry and outputs.

    Padding makes a step do nothing (a = 1, b = 0). A reset makes it start from ``initial``, and the first
    step starts from ``carry``, both by b = a ⊙ start + b, so that S_t = b_t in the end. What lies before a
    reset is left out of the composition; multiplied by 0 instead, it would let a NaN through.
    """
    a, b = cell.linear_step(params, inputs.xs)
    if not len(inputs.xs):
        return carry, b.h
    dtype, resets = b.h.dtype, inputs.resets
    if inputs.valid is not None:
        a, b = select(inputs.valid, (a, b), (jax.tree.map(jnp.ones_like, a), zeros(b)))
    a, b = (jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), tree, carry) for tree in (a, b))
    if resets is not None:
        afresh = jax.tree.map(lambda a, b, start: a * start + b, a, b, initial)
        b = select(resets, afresh, b)
    first, last = (-1, 0) if reverse else (0, -1)
    before = carry if resets is None else select(resets[first], zeros(carry), carry)
    b = jax.tree.map(lambda a, b, start: b.at[first].add(a[first] * start), a, b, before)

    def compose(earlier: tuple, later: tuple) -> tuple:
        a, b, begins = later
        if begins is not None:
            begins = earlier[2] | begins
            earlier = select(later[2], zeros(earlier), earlier)
        return (
            jax.tree.map(jnp.multiply, a, earlier[0]),
            jax.tree.map(lambda a, b, c: a * b + c, a, earlier[1], b),
            begins,
        )

    _, carries, _ = jax.lax.associative_scan(compose, (a, b, resets), reverse=reverse)
    ys = carries.h.astype(dtype)
    if inputs.valid is not None:
        ys = select(inputs.valid, ys, zeros(ys))
    return jax.tree.map(lambda leaf: leaf[last], carries), ys
