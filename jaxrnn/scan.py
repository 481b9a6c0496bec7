"""The one masked step, its derivative, and its scan: what padding, resets, reverse and noise mean.

Everything that runs through time goes through here, so that no two paths can disagree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrnn.cells.cell import Carry, Cell, Deltas, Noise, Params, Residuals
from jaxrnn.promotion import default_promotion
from jaxrnn.sharding import match_varying, shard_batch


class Inputs(NamedTuple):
    """Inputs of every step of a scan; every leaf leads with time. None stands for "nowhere"."""

    xs: Array  # (time, *batch, in_features); at padding an input that is safe to compute with
    noise: Noise
    valid: Bool[Array, "time *batch"] | None  # False at padding
    resets: Bool[Array, "time *batch"] | None  # True where the carry starts afresh; never at padding


class Starts(NamedTuple):
    """Carries that replace the last step's; every leaf leads with batch."""

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
) -> tuple[Carry, tuple[Any, Carry, tuple[Residuals, ...]]]:
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
    step: Callable[..., tuple],
    params: Params,
    starts: Starts,
    carry: Carry,
    inputs: Inputs,
    *,
    reverse: bool,
    scan_unroll: int = 1,
) -> tuple[Carry, Any]:
    """The masked step over all time: last carry and outputs, for ``jax.grad`` to differentiate.

    ``step`` is a cell's, or one that gives more than y, a tree whose every leaf leads with batch.
    """

    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, Any]:
        carry, (y, _, _) = masked_step(step, params, starts, carry, inputs)
        return carry, y

    return jax.lax.scan(body, carry, inputs, reverse=reverse, unroll=scan_unroll)


def prepare(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    noise: Noise,
    *,
    reverse: bool,
) -> tuple[Params, Starts, Carry, Inputs]:
    """The arguments of a scan from those of ``unroll``: masks, safe padding and the default carry.

    Returns:
      params, the carries that replace the last step's, the carry before the first step, and the inputs.
    """
    time, batch_shape = xs.shape[0], xs.shape[1:-1]
    initial = cell.initial_carry(batch_shape, jnp.result_type(*jax.tree.leaves(params), xs))
    initial, carry = shard_batch((initial, initial if carry is None else carry), xs, slice(1, -1))
    initial = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), initial, carry)
    inputs = Inputs(xs, jax.lax.stop_gradient(noise), None, resets)
    starts = Starts(initial, None)
    if lengths is not None:
        starts = Starts(initial, initial)
        lengths = jnp.clip(lengths, 0, time)
        valid = jnp.arange(time).reshape(time, *(1 for _ in batch_shape)) < lengths[None]
        inputs = inputs._replace(valid=valid, resets=None if resets is None else resets & valid)
    inputs = inputs._replace(resets=_resets_before_step(inputs.resets, reverse))
    if lengths is not None and inputs.xs.size:
        inputs, starts = _with_safe_padding(inputs, starts, carry, lengths, reverse)
    return match_varying((params, starts, carry, inputs))


def _with_safe_padding(
    inputs: Inputs, starts: Starts, carry: Carry, lengths: Array, reverse: bool
) -> tuple[Inputs, Starts]:
    """Inputs and carries under which steps at padding repeat the first step of a longest sequence.

    So a step that is finite, and has a finite derivative, where it counts is so at padding too. Zeros would
    not do for log x or x / ‖x‖, nor the lane's own carry, which may be NaN where the length is 0.
    """
    valid: Any = inputs.valid
    batch_axes = tuple(range(lengths.ndim))
    longest, lanes = jnp.max(lengths), jnp.arange(lengths.size).reshape(lengths.shape)
    lane = jnp.min(jnp.where(lengths == longest, lanes, lengths.size))
    first = jnp.maximum(longest - 1, 0) if reverse else 0

    def of_lane(leaf: Array, otherwise: Any) -> Array:
        """The lane's entry of ``leaf (*batch, ...)`` in every lane; only numbers can be NaN."""
        if not jnp.issubdtype(leaf.dtype, jnp.number):
            return otherwise
        chosen = select(lanes == lane, leaf, jnp.zeros_like(leaf))
        chosen = jnp.sum(chosen, axis=batch_axes, keepdims=True, dtype=leaf.dtype)
        return jax.lax.stop_gradient(jnp.where(longest > 0, chosen, otherwise))

    def fill(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        at_first = jax.lax.dynamic_index_in_dim(leaf, first, keepdims=False)
        if leaf.shape[: lengths.ndim + 1] != valid.shape:  # noise that the sequences share
            return select(jnp.arange(len(leaf)) < longest, leaf, jax.lax.stop_gradient(at_first)[None])
        # Where no sequence has a step: neither 0 nor 1, and not all alike.
        spread = jnp.linspace(0.25, 0.75, at_first.shape[-1] if at_first.ndim else 1, dtype=leaf.dtype)
        return select(valid, leaf, of_lane(at_first, jnp.broadcast_to(spread, at_first.shape))[None])

    start = carry
    if inputs.resets is not None:
        at_first = jax.lax.dynamic_index_in_dim(inputs.resets, first, keepdims=False)
        start = select(at_first, starts.initial, carry)
    xs, noise = jax.tree.map(fill, (inputs.xs, inputs.noise))
    padded = jax.tree.map(of_lane, start, starts.initial)
    return inputs._replace(xs=xs, noise=noise), starts._replace(padded=padded)


def _resets_before_step(resets: Array | None, reverse: bool) -> Array | None:
    """True where the carry is put back before a step, from True where a segment begins."""
    if resets is None or not reverse:
        return resets
    # Backward in time, the edge between t-1 and t is crossed on the way to step t-1.
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
