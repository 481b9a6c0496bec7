"""The one masked step, its derivative, and its scan: what padding, resets and noise mean.

Everything that runs through time goes through here, so that no two paths can disagree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrnn.cells.cell import Carry, Cell, Deltas, Noise, Params, Residuals
from jaxrnn.promotion import default_promotion


class Inputs(NamedTuple):
    """What each step of a scan is given; every leaf leads with time. None stands for "nowhere"."""

    xs: Array  # (time, *batch, in_features); at padding an input that is safe to compute with
    noise: Noise
    valid: Bool[Array, "time *batch"] | None  # False at padding
    resets: Bool[Array, "time *batch"] | None  # True where the carry starts afresh; never at padding


class Starts(NamedTuple):
    """Carries that a step is given in place of the last one; every leaf leads with batch."""

    initial: Carry  # at a reset
    padded: Carry  # at padding, where the step is computed in vain; None without padding


def select(mask: Array, when_true: Any, when_false: Any) -> Any:
    """Leaf by leaf ``when_true`` where ``mask (*batch)`` holds, else ``when_false``."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (b.ndim - mask.ndim)), a, b)

    return jax.tree.map(choose, when_true, when_false)


def zeros(tree: Any) -> Any:
    """A tree of zeros like ``tree``."""
    return jax.tree.map(jnp.zeros_like, tree)


@default_promotion()
def masked_step(
    step: Callable[..., tuple], params: Params, starts: Starts, carry: Carry, inputs: Inputs
) -> tuple[Carry, tuple[Array, Carry, tuple[Residuals, ...]]]:
    """One step under padding and resets.

    ``step`` is a cell's ``step`` or ``step_fwd``; ``inputs`` are those of one step. The carry is first
    put back to the initial one where a reset stands; at padding it then stays as it was, and y is zero.

    Returns:
      the new carry, and (y, the carry that the step was given, the step's residuals if any).
    """
    before = carry if inputs.resets is None else select(inputs.resets, starts.initial, carry)
    # Safe operands, not only a masked result: 0 · NaN in a derivative would reach every gradient.
    given = before if inputs.valid is None else select(inputs.valid, before, starts.padded)
    after, y, *residuals = step(params, given, inputs.xs, inputs.noise)
    if inputs.valid is not None:
        after = select(inputs.valid, after, before)
        y = select(inputs.valid, y, zeros(y))
    return after, (y, given, tuple(residuals))


@default_promotion()
def masked_step_bwd(
    cell: Cell,
    params: Params,
    carry_before: Carry,
    residuals: Residuals,
    inputs: Inputs,
    d_carry: Carry,
    d_y: Array,
) -> tuple[Carry, Deltas]:
    """The derivative of ``masked_step``: its selections transposed, in reverse order.

    At padding the gradient passes the step by and δ is zero; at a reset it ends.
    """
    d_after = d_carry
    if inputs.valid is not None:
        d_after = select(inputs.valid, d_carry, zeros(d_carry))
        d_y = select(inputs.valid, d_y, zeros(d_y))
    d_before, delta = cell.step_bwd(params, carry_before, residuals, d_after, d_y)
    if inputs.valid is not None:
        d_before = select(inputs.valid, d_before, d_carry)
    if inputs.resets is not None:
        d_before = select(inputs.resets, zeros(d_before), d_before)
    return d_before, delta


def scan_steps(
    cell: Cell,
    params: Params,
    starts: Starts,
    carry: Carry,
    inputs: Inputs,
    *,
    reverse: bool,
    scan_unroll: int,
) -> tuple[Carry, Array]:
    """The masked step over all time: last carry and outputs, for ``jax.grad`` to differentiate."""

    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        carry, (y, _, _) = masked_step(cell.step, params, starts, carry, inputs)
        return carry, y

    return jax.lax.scan(body, carry, inputs, reverse=reverse, unroll=scan_unroll)


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
