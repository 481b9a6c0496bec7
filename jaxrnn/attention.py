"""Attention: scores, masked softmax and context vector, and the attention decoder's cell."""

import functools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int, Key

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, Noise, Params
from jaxrnn.cells.dense import cast_like
from jaxrnn.checks import check_like, check_positive, checked_lengths, describe, settle
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
        w_query, w_key, v = (_lecun_normal(*drawn, dtype) for drawn in zip(keys, shapes, strict=True))
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
        return GeneralParams(_lecun_normal(key, (memory_features, query_features), dtype))

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


class Memory(NamedTuple):
    """An encoder's outputs and their keys, which a decoder attends to."""

    values: Any  # (*batch, source, features)
    keys: Any  # (*batch, source, k)
    mask: Any  # (*batch, source) bool, False at padding


class AttentionDecoderParams(NamedTuple):
    """Trained parameters of an attention decoder; the other half of its params is the memory."""

    cell: Params
    attention: Any
    w_c: Array  # (memory_features + the cell's out_features, size)


class AttentionDecoderCarry(NamedTuple):
    """Carry of an attention decoder."""

    cell: Carry
    attentional: Any  # h̃ (*batch, size); None without input feeding


@dataclass(frozen=True)
class AttentionDecoder(Cell):
    """A cell that reads a memory at every step (Luong, Pham & Manning 2015, eq. 5 and section 3.3).

    Equations, with the memory h̄ and its keys constant over time; ``cell`` may be a ``Stack``::

        S_t, h_t = cell(params, S_{t-1}, [x_t; h̃_{t-1}])       (x_t alone without input feeding)
        context_t = attend(scores(h_t, keys), h̄)
        h̃_t = tanh([context_t; h_t] W_c)                        y_t = h̃_t

    Params are ``(weights, memory)``, of which ``init`` draws the weights and ``memory`` makes the memory.
    There is no hand-derived derivative; gradients come from ``jax.grad``, with respect to the memory too.

    Args:
      cell: the recurrent cell.
      attention: ``Additive(size)``, ``General()`` or ``Dot()``.
      memory_features: features of the memory's vectors.
      size: features of h̃, the output.
      input_feeding: whether h̃_{t-1} is fed to the cell beside x_t.

    Raises:
      ValueError: for sizes below 1.

    >>> from jaxrnn import GRU
    >>> decoder = AttentionDecoder(GRU(4), Additive(5), memory_features=6, size=3)
    >>> weights = decoder.init(jax.random.key(0), in_features=2)
    >>> memory = decoder.memory(weights, jnp.ones((1, 7, 6)), lengths=jnp.array([5]))
    >>> carry, y = decoder.step((weights, memory), decoder.initial_carry((1,)), jnp.ones((1, 2)))
    >>> y.shape
    (1, 3)
    """

    cell: Cell
    attention: Attention
    _: KW_ONLY
    memory_features: int
    size: int
    input_feeding: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", as_cell(self.cell))
        settle(self, check_positive, "memory_features", "size")

    @property
    def out_features(self) -> int:
        """Features of h̃."""
        return self.size

    @property
    def outputs_h(self) -> bool:
        """False: the output is h̃."""
        return False

    def init(
        self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32
    ) -> AttentionDecoderParams:
        """The weights: the cell's and the attention's own way, W_c LeCun normal.

        Raises:
          ValueError: where the attention needs queries and memories of equal features, and they are not.
        """
        key_cell, key_attention, key_c = jax.random.split(key, 3)
        query = self.cell.out_features
        return AttentionDecoderParams(
            self.cell.init(key_cell, in_features + (self.size if self.input_feeding else 0), dtype),
            self.attention.init(key_attention, query, self.memory_features, dtype),
            _lecun_normal(key_c, (self.memory_features + query, self.size), dtype),
        )

    @default_promotion()
    def memory(
        self,
        weights: AttentionDecoderParams,
        values: Inexact[Array, "*batch source features"],
        lengths: Int[ArrayLike, "*batch"] | None = None,
    ) -> Memory:
        """A memory of vectors h̄, of which each sequence has ``lengths (*batch,)``; None for all.

        Raises:
          ValueError: for lengths that do not fit the values.
        """
        mask = jnp.ones(values.shape[:-1], bool)
        if lengths is not None:
            *batch_shape, source, _ = values.shape
            lengths = checked_lengths(
                lengths, source, tuple(batch_shape), "the memory", "(*batch, source, features)"
            )
            mask = jnp.arange(source) < lengths[..., None]
            values = jnp.where(mask[..., None], values, 0)  # keys see them, and their gradient with them
        return Memory(values, self.attention.keys(weights.attention, values), mask)

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> AttentionDecoderCarry:
        """The cell's own, and h̃ = 0."""
        attentional = jnp.zeros((*batch_shape, self.size), dtype) if self.input_feeding else None
        return AttentionDecoderCarry(self.cell.initial_carry(batch_shape, dtype), attentional)

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The cell's own."""
        return self.cell.noise(key, time, batch_shape)

    def step(
        self,
        params: tuple[AttentionDecoderParams, Memory],
        carry: AttentionDecoderCarry,
        x: Array,
        noise: Noise = None,
    ) -> tuple[AttentionDecoderCarry, Array]:
        """One step.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        carry, y, _ = self.step_and_weights(params, carry, x, noise)
        return carry, y

    @default_promotion()
    def step_and_weights(
        self,
        params: tuple[AttentionDecoderParams, Memory],
        carry: AttentionDecoderCarry,
        x: Inexact[Array, "*batch in_features"],
        noise: Noise = None,
    ) -> tuple[AttentionDecoderCarry, Array, Array]:
        """``step``, and the weights α ``(*batch, source)`` by which the memory was read.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        self.check(params, carry, x)
        weights, memory = params
        fed = jnp.concatenate([x, carry.attentional], axis=-1) if self.input_feeding else x
        cell_carry, h = self.cell.step(weights.cell, carry.cell, fed, noise)
        scores = self.attention.scores(weights.attention, h, memory.keys)
        context, alpha = attend(scores, memory.values, memory.mask)
        y = jnp.tanh(batch_product(jnp.concatenate([context, h], axis=-1), weights.w_c))
        after = AttentionDecoderCarry(cell_carry, y if self.input_feeding else None)
        return cast_like(after, carry), y, alpha

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """Raise ValueError unless weights, memory, carry and x fit each other."""
        if not isinstance(params, tuple) or len(params) != 2 or not isinstance(params[1], Memory):
            raise ValueError(f"params of an AttentionDecoder are (weights, memory), got {describe(params)}")
        weights, memory = params
        super().check(weights, carry, x)
        fed = x.shape[-1] + (self.size if self.input_feeding else 0)
        self.cell.check(weights.cell, carry.cell, jax.ShapeDtypeStruct((*x.shape[:-1], fed), x.dtype))
        shape = (*x.shape[:-1], jnp.shape(memory.mask)[-1])
        values = jax.ShapeDtypeStruct((*shape, self.memory_features), weights.w_c.dtype)
        keys = jax.eval_shape(self.attention.keys, weights.attention, values)
        mask = jax.ShapeDtypeStruct(shape, jnp.dtype(bool))
        check_like("memory", Memory(values, keys, mask), memory, because=f"the batch shape is {shape[:-1]}")


# To keep (*batch, source, a) of every step for the derivative takes longer than to compute it again.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _additive_scores(query: Array, keys: Array, v: Array) -> Array:
    return batch_product(jnp.tanh(query[..., None, :] + keys), v)


def _dot(query: Array, keys: Array) -> Array:
    return jnp.einsum("...f,...sf->...s", query, keys)


def _lecun_normal(key: Array, shape: tuple[int, int], dtype: DType) -> Array:
    return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32).astype(dtype)
