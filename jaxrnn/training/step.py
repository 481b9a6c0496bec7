"""Training steps: supervised, and truncated back-propagation through time."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxrnn.promotion import default_promotion
from jaxrnn.training.state import TrainState


class StepMetrics(NamedTuple):
    """Loss and gradient norm of one training step."""

    loss: Float[Array, ""]  # before the update
    grad_norm: Float[Array, ""]  # global norm, before clipping


def supervised_step(
    loss: Callable[[Any, Any, Array], Array],
    optimizer: optax.GradientTransformation | optax.MultiSteps,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One step of gradient descent on batches that have nothing to do with each other.

    Args:
      loss: (params, batch, key) → mean loss.
      optimizer: any Optax transformation, as in ``truncated_step``.

    Returns:
      (state, batch) → (state, metrics), jitted; the old state's buffers are donated. ``state.carry`` is
      () and stays so.

    >>> import jax.numpy as jnp
    >>> from jaxrnn.training.state import init_state
    >>> def loss(params, batch, key):
    ...     return jnp.mean((params * batch) ** 2)
    >>> optimizer = optax.sgd(0.1)
    >>> state = init_state(jnp.ones(()), optimizer, (), jax.random.key(0))
    >>> state, metrics = supervised_step(loss, optimizer)(state, jnp.ones(3))
    >>> print(f"{metrics.loss:.1f} {state.params:.1f} {state.carry}")
    1.0 0.8 ()
    """

    def without_carry(params: Any, carry: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        return loss(params, batch, key), carry

    return truncated_step(without_carry, optimizer)


def truncated_step(
    loss: Callable[[Any, Any, Any, Array], tuple[Array, Any]],
    optimizer: optax.GradientTransformation | optax.MultiSteps,
) -> Callable[[TrainState, Any], tuple[TrainState, StepMetrics]]:
    """One step of truncated BPTT over successive chunks of a stream (Williams & Peng 1990, BPTT(h; h)).

    The hidden state crosses from chunk to chunk; the gradient stops at their edge::

        S_0 = stop_gradient(state.carry)
        ℓ, S_T = loss(params, S_0, chunk, key)        ∂ℓ/∂params by jax.grad

    Args:
      loss: (params, carry, chunk, key) → (mean loss, last carry).
      optimizer: any Optax transformation, clipping included; one that asks for the loss (``value``,
        ``grad``, ``value_fn`` and the like) is given that of this chunk, with its carry and key held fixed.

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
        (value, last), grads = jax.value_and_grad(loss, has_aux=True)(state.params, carry, chunk, key)

        # Line searches hand on whatever else they are given.
        def value_fn(params: Any, obj_fn: Any = None, grad_fn: Any = None) -> Array:
            return loss(params, carry, chunk, key)[0]

        extra = {
            "value": value,
            "grad": grads,
            "value_fn": value_fn,
            "obj_fn": value_fn,  # what sophia calls it
            "grad_fn": lambda params, _: jax.grad(value_fn)(params),  # sam's: of parameters and inner step
        }
        # The arithmetic from here on, Optax's, is not the caller's, whose strictness it does not meet.
        with default_promotion():
            updates, opt_state = _update(optimizer, grads, state.opt_state, state.params, extra)
            params = optax.apply_updates(state.params, updates)
            metrics = StepMetrics(value, _norm(grads))
        return TrainState(params, opt_state, last, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)


def _update(optimizer: Any, grads: Any, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """The optimiser's update, with those extra arguments that all its parts take."""
    while True:
        try:
            return optimizer.update(grads, state, params, **extra)
        except TypeError as error:  # some parts, anywhere in a chain, refuse what they do not know
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in extra:
                raise
            extra = {name: value for name, value in extra.items() if name != refused[1]}


def _norm(grads: Any) -> Float[Array, ""]:
    """The global norm, in float32 at least: in half precision its squares overflow."""
    return optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), grads))
