"""The train state: one immutable pytree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from jaxrnn.promotion import default_promotion


class TrainState(NamedTuple):
    """Everything that the next step depends on, but for the data."""

    params: Any
    opt_state: Any
    carry: Any  # the hidden state at the edge of the last chunk
    step: Int[Array, ""]  # steps taken
    key: Key[Array, ""]  # never changes: each step folds its own number into it


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    carry: Any,
    key: Key[Array, ""],
) -> TrainState:
    """The state before the first step.

    Every leaf has a buffer of its own, as donation asks for: where the optimiser keeps the parameters
    themselves, or two leaves are the same array, all but the first are copied. The first is the caller's
    own, which the first step takes over: what is still needed elsewhere must be a copy.

    >>> import jax
    >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), (), jax.random.key(0))
    >>> int(state.step)
    0
    """
    # Constants are made here on purpose, and the optimiser's arithmetic is not the caller's.
    with jax.transfer_guard_host_to_device("allow"), default_promotion():
        state = TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key)
        return distinct_buffers(state)


def distinct_buffers(tree: Any) -> Any:
    """The same arrays, those copied whose memory an earlier leaf has already."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        buffers = _buffers(leaf)
        shared = not seen.isdisjoint(buffers)
        seen.update(buffers)
        return jnp.copy(leaf) if shared else leaf

    return jax.tree.map(own, tree)


def _buffers(leaf: Any) -> set[int]:
    """Addresses of an array's memory; none for what is no array on a device, and so is not donated."""
    if not isinstance(leaf, jax.Array):
        return set()
    if isinstance(leaf, jax.core.Tracer):
        return {id(leaf)}
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return {shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards}
