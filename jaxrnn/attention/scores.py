"""Attention: scores, masked softmax and context vector, as pure functions."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Key

from jaxrnn.cells.cell import DType
from jaxrnn.checks import check_positive, settle
from jaxrnn.promotion import default_promotion
from jaxrnn.sharding import batch_product


class AdditiveParams(NamedTuple):
    """Parameters of additive attention for queries of n and memories of m features."""

    w_query: Array  # (n, a)
    w_key: Array  # (m, a)
    v: Array  # (a,)


class GeneralParams(NamedTuple):
    """Parameters of general attention for queries of n and memories of m features."""

    w_key: Array  # (m, n)


@dataclass(frozen=True)
class Additive:
    """Additive attention (Bahdanau, Cho & Bengio 2015, section A.1.2).

    Equation, for the query s and the memory vector h_j; the second product is that of ``keys``::

        e_j = v · tanh(s W_query + h_j W_key)

    Args:
      size: the number a of units in between.

    Raises:
      ValueError: for a size below 1.

    >>> attention = Additive(size=4)
    >>> params = attention.init(jax.random.key(0), query_features=3, memory_features=5)
    >>> keys = attention.keys(params, jnp.ones((2, 7, 5)))  # two memories of seven vectors
    >>> attention.scores(params, jnp.ones((2, 3)), keys).shape
    (2, 7)
    """

    size: int

    def __post_init__(self) -> None:
        settle(self, check_positive, "size")

    def init(
        self, key: Key[Array, ""], query_features: int, memory_features: int, dtype: DType = jnp.float32
    ) -> AdditiveParams:
        """LeCun-normal weights."""
        keys = jax.random.split(key, 3)
        shapes = ((query_features, self.size), (memory_features, self.size), (self.size, 1))
        w_query, w_key, v = (lecun_normal(*drawn, dtype) for drawn in zip(keys, shapes, strict=True))
        return AdditiveParams(w_query, w_key, v[:, 0])

    def keys(self, params: AdditiveParams, memory: Array) -> Array:
        """Keys ``(*batch, source, a)``, the projected memory: the same for every query."""
        return batch_product(memory, params.w_key)

    def scores(self, params: AdditiveParams, query: Array, keys: Array) -> Array:
        """Scores e ``(*batch, source)`` of a query ``(*batch, n)``."""
        return _additive_scores(batch_product(query, params.w_query), keys, params.v)


@dataclass(frozen=True)
class General:
    """General attention (Luong, Pham & Manning 2015, section 3.1).

    Equation, for the query s and the memory vector h_j; the second product is that of ``keys``::

        e_j = s · (h_j W_key)

    >>> attention = General()
    >>> params = attention.init(jax.random.key(0), query_features=3, memory_features=5)
    >>> attention.scores(params, jnp.ones((2, 3)), attention.keys(params, jnp.ones((2, 7, 5)))).shape
    (2, 7)
    """

    def init(
        self, key: Key[Array, ""], query_features: int, memory_features: int, dtype: DType = jnp.float32
    ) -> GeneralParams:
        """LeCun-normal weights."""
        return GeneralParams(lecun_normal(key, (memory_features, query_features), dtype))

    def keys(self, params: GeneralParams, memory: Array) -> Array:
        """Keys ``(*batch, source, n)``, the projected memory: the same for every query."""
        return batch_product(memory, params.w_key)

    def scores(self, params: GeneralParams, query: Array, keys: Array) -> Array:
        """Scores e ``(*batch, source)`` of a query ``(*batch, n)``."""
        return _dot(query, keys)


@dataclass(frozen=True)
class Dot:
    """Dot-product attention (Luong, Pham & Manning 2015, section 3.1), without parameters.

    Equation, for the query s and the memory vector h_j::

        e_j = s · h_j

    >>> Dot().scores((), jnp.ones((2, 5)), jnp.ones((2, 7, 5))).shape
    (2, 7)
    """

    def init(
        self, key: Key[Array, ""], query_features: int, memory_features: int, dtype: DType = jnp.float32
    ) -> tuple[()]:
        """Nothing.

        Raises:
          ValueError: where query and memory differ in features.
        """
        if query_features != memory_features:
            raise ValueError(
                "dot attention needs queries and memories of equal features, "
                f"got {query_features} and {memory_features}; General and Additive do not"
            )
        return ()

    def keys(self, params: tuple[()], memory: Array) -> Array:
        """The memory itself."""
        return memory

    def scores(self, params: tuple[()], query: Array, keys: Array) -> Array:
        """Scores e ``(*batch, source)`` of a query ``(*batch, n)``."""
        return _dot(query, keys)


Attention = Additive | General | Dot


@default_promotion()
def attend(
    scores: Inexact[Array, "*batch source"],
    memory: Inexact[Array, "*batch source features"],
    mask: Bool[Array, "*batch source"] | None = None,
) -> tuple[Inexact[Array, "*batch features"], Inexact[Array, "*batch source"]]:
    """Context vector and attention weights: the masked softmax of scores, and the memory averaged by it.

    Equations (Bahdanau, Cho & Bengio 2015, eq. 5-6)::

        α_j = exp(e_j) / Σ_k exp(e_k)        context = Σ_j α_j h_j

    Args:
      scores: e.
      memory: the vectors h_j. What lies at padding is not read; but ``keys`` has seen it, so that it must
        be finite where gradients are taken.
      mask: True where the memory holds something, False at padding; None for everywhere.

    Returns:
      the context, and weights that sum to one and are exactly zero at padding. Where all is padding, both
      are zero.

    Raises:
      ValueError: for a memory or mask of other positions than the scores, or a mask that is not bool.

    >>> context, weights = attend(
    ...     jnp.zeros((1, 3)), jnp.array([[[1.0], [2.0], [9.0]]]), jnp.array([[True, True, False]])
    ... )
    >>> context.tolist(), weights.tolist()
    ([[1.5]], [[0.5, 0.5, 0.0]])
    """
    for name, array in (("memory", memory[..., 0]), ("mask", scores if mask is None else mask)):
        if array.shape != scores.shape:
            raise ValueError(f"{name} must have the positions of scores, {scores.shape}, got {array.shape}")
    if mask is not None:
        if not jnp.issubdtype(mask.dtype, jnp.bool):
            raise ValueError(f"mask must be bool, got {mask.dtype}")
        scores = jnp.where(mask, scores, -jnp.inf)
        memory = jnp.where(mask[..., None], memory, 0)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    # A row of nothing but padding is shifted by 0, and divided by 1.
    weights = jnp.exp(scores - jnp.where(highest == -jnp.inf, 0, highest))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
    return jnp.einsum("...s,...sf->...f", weights, memory), weights


# To keep (*batch, source, a) of every step for the derivative takes longer than to compute it again.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _additive_scores(query: Array, keys: Array, v: Array) -> Array:
    return batch_product(jnp.tanh(query[..., None, :] + keys), v)


def _dot(query: Array, keys: Array) -> Array:
    return jnp.einsum("...f,...sf->...s", query, keys)


def lecun_normal(key: Array, shape: tuple[int, int], dtype: DType) -> Array:
    """Weights drawn in float32, whatever the dtype."""
    return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32).astype(dtype)
