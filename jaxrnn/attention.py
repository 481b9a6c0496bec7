"""Attention: how well a query fits every vector of a memory, and what is read from it."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Key

from jaxrnn.cells.cell import DType
from jaxrnn.checks import check_positive


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
        check_positive("size", self.size)

    def init(
        self, key: Key[Array, ""], query_features: int, memory_features: int, dtype: DType = jnp.float32
    ) -> AdditiveParams:
        """LeCun-normal weights."""
        keys = jax.random.split(key, 3)
        shapes = ((query_features, self.size), (memory_features, self.size), (self.size, 1))
        w_query, w_key, v = (_lecun_normal(*drawn, dtype) for drawn in zip(keys, shapes, strict=True))
        return AdditiveParams(w_query, w_key, v[:, 0])

    def keys(self, params: AdditiveParams, memory: Array) -> Array:
        """What a query is held against, ``(*batch, source, a)``: the same for every query."""
        return memory @ params.w_key

    def scores(self, params: AdditiveParams, query: Array, keys: Array) -> Array:
        """Scores e ``(*batch, source)`` of a query ``(*batch, n)``."""
        return jnp.tanh((query @ params.w_query)[..., None, :] + keys) @ params.v


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
        return GeneralParams(_lecun_normal(key, (memory_features, query_features), dtype))

    def keys(self, params: GeneralParams, memory: Array) -> Array:
        """What a query is held against, ``(*batch, source, n)``: the same for every query."""
        return memory @ params.w_key

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


def attend(
    scores: Inexact[Array, "*batch source"],
    memory: Inexact[Array, "*batch source features"],
    mask: Bool[Array, "*batch source"] | None = None,
) -> tuple[Inexact[Array, "*batch features"], Inexact[Array, "*batch source"]]:
    """What is read from a memory, and the weights by which it is read.

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

    >>> context, weights = attend(
    ...     jnp.zeros((1, 3)), jnp.array([[[1.0], [2.0], [9.0]]]), jnp.array([[True, True, False]])
    ... )
    >>> context.tolist(), weights.tolist()
    ([[1.5]], [[0.5, 0.5, 0.0]])
    """
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
        memory = jnp.where(mask[..., None], memory, 0)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    # A row of nothing but padding is shifted by 0, and divided by 1.
    weights = jnp.exp(scores - jnp.where(highest == -jnp.inf, 0, highest))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
    return jnp.einsum("...s,...sf->...f", weights, memory), weights


def _dot(query: Array, keys: Array) -> Array:
    return jnp.einsum("...f,...sf->...s", query, keys)


def _lecun_normal(key: Array, shape: tuple[int, int], dtype: DType) -> Array:
    return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32).astype(dtype)
