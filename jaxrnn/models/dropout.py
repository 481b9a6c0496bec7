"""Dropout of features along a sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key


def dropout(key: Key[Array, ""], ys: Array, rate: float, *, variational: bool = False) -> Array:
    """Inverted dropout: features kept with probability 1 − rate, and scaled by its inverse.

    Args:
      key: of the draws.
      ys: ``(time, *batch, features)``.
      rate: probability that a feature is dropped.
      variational: one draw for all steps of a sequence (Gal & Ghahramani 2016), not one a step.

    >>> ys = dropout(jax.random.key(0), jnp.ones((3, 2, 100)), 0.5, variational=True)
    >>> bool(jnp.all(ys == ys[0])), sorted(set(ys.ravel().tolist()))
    (True, [0.0, 2.0])
    """
    if rate == 0:
        return ys
    kept = jax.random.bernoulli(key, 1 - rate, (1, *ys.shape[1:]) if variational else ys.shape)
    return jnp.where(kept, ys / (1 - rate), 0)
