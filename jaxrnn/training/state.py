"""What training changes, as one immutable pytree of arrays."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key


class TrainState(NamedTuple):
    """Everything that the next step depends on, but for the data."""

    params: Any
    opt_state: Any
    carry: Any  # the hidden state at the edge of the last chunk
    step: Int[Array, ""]  # steps taken
    key: Key[Array, ""]  # never changes: each step folds its own number into it


def init_state(
    params: Any, optimizer: optax.GradientTransformation, carry: Any, key: Key[Array, ""]
) -> TrainState:
    """The state before the first step.

    >>> import jax
    >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), (), jax.random.key(0))
    >>> int(state.step)
    0
    """
    return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key)
