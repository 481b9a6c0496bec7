"""From what users hand in to what a scan takes: checks, padding, resets, the default carry."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.scan import Inputs, select, zeros


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
    xs = jnp.asarray(xs)
    lengths = None if lengths is None else _checked_lengths(xs, lengths)
    resets = None if resets is None else jnp.asarray(resets)
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
) -> tuple[Params, Carry, Carry, Inputs]:
    """params, the carry that resets return to, the carry before the first step, and every step's inputs."""
    time, batch_shape = xs.shape[0], xs.shape[1:-1]
    initial = cell.initial_carry(batch_shape, jnp.result_type(*jax.tree.leaves(params), xs))
    if carry is None:
        carry = initial
    initial = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), initial, carry)
    valid = None
    if lengths is not None:
        steps = jnp.arange(time).reshape(time, *(1 for _ in batch_shape))
        valid = steps < jnp.clip(lengths, 0, time)
        xs = select(valid, xs, zeros(xs))
    resets = _resets_before_step(resets, valid, reverse)
    inputs = Inputs(xs, jax.lax.stop_gradient(noise), valid, resets)
    return _match_varying((params, initial, carry, inputs))


def _resets_before_step(resets: Array | None, valid: Array | None, reverse: bool) -> Array | None:
    """Where the carry is put back before a step, from where segments begin."""
    if resets is None:
        return None
    if valid is not None:
        resets = resets & valid
    if not reverse:
        return resets
    # Backward in time, the edge between t-1 and t is crossed on the way to step t-1.
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


def _match_varying(tree: Any) -> Any:
    """All leaves varying over the same mesh axes, so that they may meet in a scan under ``shard_map``.

    Outside the custom derivative on purpose: autodiff then sums the gradient of what was replicated.
    """
    axes = frozenset[str]().union(*map(_varying_axes, jax.tree.leaves(tree)))

    def match(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(match, tree) if axes else tree


def _varying_axes(leaf: Array) -> frozenset[str]:
    """The mesh axes over which a value varies; JAX has had two names for them."""
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying


def _checked_lengths(xs: Array, lengths: Any) -> Array:
    """Lengths as an array; ValueError unless they are integers in [0, time], one per sequence."""
    if not isinstance(lengths, jax.core.Tracer):
        concrete = np.asarray(lengths)
        if concrete.dtype.kind in "iu" and concrete.size:
            low, high = int(concrete.min()), int(concrete.max())
            if low < 0 or high > xs.shape[0]:
                raise ValueError(
                    f"lengths must lie in [0, {xs.shape[0]}] (the time axis of xs), "
                    f"got values from {low} to {high}"
                )
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != xs.shape[1:-1]:
        raise ValueError(f"lengths must have the batch shape of xs {xs.shape[1:-1]}, got {lengths.shape}")
    return lengths.astype(jnp.int32)  # a narrower type could not hold the time it is compared with


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
        carry = jax.eval_shape(lambda: cell.initial_carry(tuple(batch_shape)))
    cell.check(params, carry, one_step)
    if resets is not None and (resets.dtype != bool or resets.shape != (time, *batch_shape)):
        raise ValueError(
            f"resets must be bool of shape {(time, *batch_shape)}, "
            f"got {resets.dtype} of shape {resets.shape}"
        )
    for leaf in jax.tree.leaves(noise):
        if leaf.ndim < 1 or leaf.shape[0] != time:
            raise ValueError(f"every leaf of noise must lead with time {time}, got shape {leaf.shape}")
