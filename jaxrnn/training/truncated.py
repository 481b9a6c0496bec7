"""Truncated back-propagation through time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from jaxrnn.training.state import TrainState


class StepMetrics(NamedTuple):
    """What one training step measured."""

    loss: Float[Array, ""]  # before the update
    grad_norm: Float[Array, ""]  # global norm, before clipping


def truncated_step(
    loss: Callable[[Any, Any, Any, Array], tuple[Array, Any]],
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One step of truncated BPTT over successive chunks of a stream (Williams & Peng 1990, BPTT(h; h)).

    The hidden state crosses from chunk to chunk; the gradient stops at their edge::

        S_0 = stop_gradient(state.carry)
        ℓ, S_T = loss(params, S_0, chunk, key)        ∂ℓ/∂params by jax.grad

    Args:
      loss: (params, carry, chunk, key) → (mean loss, last carry).
      optimizer: any Optax transformation, clipping included.

    Returns:
      (state, chunk) → (state, metrics), jitted; the old state's buffers are donated.

    >>> import jax.numpy as jnp
    >>> from jaxrnn.training.state import init_state
    >>> def loss(params, carry, chunk, key):
    ...     return jnp.mean((params * chunk - carry) ** 2), carry + 1
    >>> optimizer = optax.sgd(0.1)
    >>> state = init_state(jnp.ones(()), optimizer, jnp.zeros(()), jax.random.key(0))
    >>> state, metrics = truncated_step(loss, optimizer)(state, jnp.ones(3))
    >>> print(f"{metrics.loss:.1f} {state.params:.1f} {state.carry:.1f}")
    1.0 0.8 1.0
    """

    def train_step(state: TrainState, chunk: Any) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(state.key, state.step)
        carry = jax.lax.stop_gradient(state.carry)
        (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(state.params, carry, chunk, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(value, optax.tree.norm(grads))
        return TrainState(params, opt_state, carry, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)
