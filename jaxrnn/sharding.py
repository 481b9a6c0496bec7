"""Sharded arrays: matching the types of the operands of scans and decoders."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array


def match_varying(tree: Any) -> Any:
    """All leaves varying over the same mesh axes, so that they may meet in a scan under ``shard_map``.

    Outside a custom derivative on purpose: autodiff then sums the gradient of what was replicated.
    """
    axes = frozenset[str]().union(*map(_varying_axes, jax.tree.leaves(tree)))

    def match(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(match, tree) if axes else tree


def explicit(leaf: Any) -> NamedSharding | None:
    """The sharding that is part of an array's type; None where the compiler chooses it.

    >>> import jax.numpy as jnp
    >>> explicit(jnp.ones(3)) is None
    True
    """
    sharding = jax.typeof(leaf).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def like_weight(weight: Array, deltas: Array) -> NamedSharding | None:
    """Sharding of a weight's gradient, which the product over a sharded batch does not determine."""
    sharding = explicit(deltas)
    if sharding is None:
        return None
    return explicit(weight) or NamedSharding(sharding.mesh, PartitionSpec(*[None] * weight.ndim))


def batch_product(xs: Array, weight: Array) -> Array:
    """``xs @ weight`` of a batch that may be split by its type.

    From that, jax 0.10.0 cannot derive the sharding of the weight's gradient, a product over the batch.
    """
    sharding = explicit(xs)
    if sharding is None:
        return xs @ weight
    rows = PartitionSpec(*sharding.spec[:-1], *[None] * (weight.ndim - 1))
    return jax.sharding.auto_axes(jax.numpy.matmul, out_sharding=rows)(xs, weight)


def shard_batch(tree: Any, like: Array, axes: slice) -> Any:
    """Leaves that lead with batch, sharded as the given ``axes`` of ``like`` are, if its type says so."""
    sharding = explicit(like)
    if sharding is None:
        return tree
    batch = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[axes]))
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, batch), tree)


def auto_sharded(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(step, state, *arrays, **static)``, whose results lead with batch as the leaves of state
    do, for arrays whose types say how they are sharded: inside, the compiler chooses.
    """

    @functools.wraps(function)
    def call(step: Any, state: Any, *arrays: Any, **static: Any) -> Any:
        sharding = explicit(jax.tree.leaves(state)[0])
        if sharding is None:
            return function(step, state, *arrays, **static)
        batch = PartitionSpec(*sharding.spec[:1])
        inside = jax.sharding.auto_axes(functools.partial(function, **static), out_sharding=batch)
        return inside(step, state, *arrays)

    return call


def _varying_axes(leaf: Array) -> frozenset[str]:
    """The mesh axes over which a value varies; JAX has had two names for them."""
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying
