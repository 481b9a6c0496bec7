"""From what users hand in to what a scan takes: checks, padding, resets, the default carry."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Cell, Noise, Params, expected_carry
from jaxrnn.checks import on_device
from jaxrnn.scan import Inputs, Starts, select
from jaxrnn.sharding import match_varying, shard_batch


def checked(
    cell: Cell,
    params: Params,
    xs: Any,
    carry: Carry | None,
    lengths: Any,
    resets: Any,
    noise: Noise,
) -> tuple[Array, Array | None, Array | None]:
    """xs, lengths and resets as arrays; ValueError unless everything fits together."""
    xs = on_device(xs)
    lengths = None if lengths is None else checked_lengths(lengths, xs.shape[0], xs.shape[1:-1])
    resets = None if resets is None else on_device(resets)
    _check(cell, params, xs, carry, lengths, resets, noise)
    return xs, lengths, resets


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
    """params, the carries that steps may start from anew, the one before the first step, and every step's
    inputs.
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
    """Steps at padding repeat a step that is taken anyway, the first of a longest sequence.

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
    """Where the carry is put back before a step, from where segments begin."""
    if resets is None or not reverse:
        return resets
    # Backward in time, the edge between t-1 and t is crossed on the way to step t-1.
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


def checked_lengths(lengths: Any, time: int, batch_shape: tuple[int, ...], of: str = "xs") -> Array:
    """Lengths as an array; ValueError unless they are integers in [0, time], one per sequence."""
    if not isinstance(lengths, jax.core.Tracer):
        concrete = np.asarray(lengths)
        if concrete.dtype.kind in "iu" and concrete.size:
            low, high = int(concrete.min()), int(concrete.max())
            if low < 0 or high > time:
                raise ValueError(
                    f"lengths must lie in [0, {time}] (the time axis of {of}), "
                    f"got values from {low} to {high}"
                )
    lengths = on_device(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != batch_shape:
        raise ValueError(f"lengths must have the batch shape of {of} {batch_shape}, got {lengths.shape}")
    # Clipped in their own type, which may be wider; a narrower one need not reach the time.
    most = min(time, jnp.iinfo(lengths.dtype).max)
    return _clipped(lengths, most)


@functools.partial(jax.jit, static_argnums=1)
def _clipped(lengths: Array, most: int) -> Array:
    return jnp.clip(lengths, 0, most).astype(jnp.int32)


def _check(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    noise: Noise,
) -> None:
    """Raise ValueError unless the arrays of an unroll fit each other."""
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise ValueError(f"xs must be floating-point, got {xs.dtype}")
    if xs.ndim < 2:
        raise ValueError(f"xs must be (time, *batch, in_features), of rank 2 or more, got shape {xs.shape}")
    time, *batch_shape, in_features = xs.shape
    one_step = jax.ShapeDtypeStruct((*batch_shape, in_features), xs.dtype)
    if carry is None:
        carry = expected_carry(cell, tuple(batch_shape))
    cell.check(params, carry, one_step)
    if resets is not None and (resets.dtype != bool or resets.shape != (time, *batch_shape)):
        raise ValueError(
            f"resets must be bool of shape {(time, *batch_shape)}, "
            f"got {resets.dtype} of shape {resets.shape}"
        )
    for leaf in jax.tree.leaves(noise):
        if leaf.ndim < 1 or leaf.shape[0] != time:
            raise ValueError(f"every leaf of noise must lead with time {time}, got shape {leaf.shape}")
