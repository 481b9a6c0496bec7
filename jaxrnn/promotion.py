"""Rank and dtype promotion inside the library."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def default_promotion() -> Iterator[None]:
    """JAX's defaults, whatever the caller has set: equations add a bias to a batch, bfloat16 to float32.

    >>> import jax.numpy as jnp
    >>> with jax.numpy_rank_promotion("raise"), default_promotion():
    ...     (jnp.ones((2, 3)) + jnp.ones(3)).shape
    (2, 3)
    """
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
