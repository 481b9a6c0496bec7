"""Token ids as models take them, and the vectors that stand for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jaxrnn.cells.cell import DType
from jaxrnn.checks import as_ids, check_ids
from jaxrnn.sharding import explicit


def checked_tokens(tokens: Any, vocabulary_size: int, lengths: Any = None) -> Array:
    """Token ids ``(time, *batch)`` as an array.

    Raises:
      ValueError: unless they are integers and, where they are known and before their sequence's length, lie
        in the vocabulary.

    >>> checked_tokens([[2], [9]], 4, lengths=np.array([1])).tolist()
    [[2], [9]]
    """
    where = lengths
    if lengths is not None and not isinstance(lengths, jax.core.Tracer):
        where = np.arange(len(tokens)).reshape(-1, *(1 for _ in np.shape(lengths))) < jax.device_get(
            lengths
        )
    check_ids("tokens", tokens, vocabulary_size, where)
    return as_ids(tokens)


def init_embedding(key: Array, vocabulary_size: int, embedding_size: int, dtype: DType) -> Array:
    """A table ``(vocabulary_size, embedding_size)`` of vectors of about unit length.

    >>> init_embedding(jax.random.key(0), 5, 3, "float32").shape
    (5, 3)
    """
    # LeCun's rule is made for the transpose, which a tied output is.
    return jax.nn.initializers.lecun_normal()(key, (embedding_size, vocabulary_size), dtype).T


def embed(table: Array, tokens: Int[Array, "..."]) -> Array:
    """The rows of a table, NaN for ids outside it, which under ``jit`` nothing else can tell.

    >>> embed(jnp.eye(2), jnp.array([1, -1])).tolist()
    [[0.0, 1.0], [nan, nan]]
    """
    sharding = explicit(tokens)
    out = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec))
    return table.at[tokens].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False, out_sharding=out
    )


def one_hot(tokens: Int[Array, "..."], size: int, dtype: Any) -> Array:
    """One-hot vectors, NaN for ids outside [0, size).

    >>> one_hot(jnp.array([1, 2]), 2, jnp.float32).tolist()
    [[0.0, 1.0], [nan, nan]]
    """
    known = (tokens >= 0) & (tokens < size)
    return jnp.where(known[..., None], jax.nn.one_hot(tokens, size, dtype=dtype), jnp.nan)
