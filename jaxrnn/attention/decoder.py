"""The attention decoder's cell: at every step it reads a memory."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Int, Key

from jaxrnn.attention.scores import Attention, attend, lecun_normal
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, Noise, Params
from jaxrnn.cells.dense import cast_like
from jaxrnn.checks import check_like, check_positive, checked_lengths, describe, settle
from jaxrnn.promotion import default_promotion
from jaxrnn.sharding import batch_product


class Memory(NamedTuple):
    """An encoder's outputs and their keys, which a decoder attends to."""

    values: Any  # (*batch, source, features)
    keys: Any  # (*batch, source, k)
    mask: Any  # (*batch, source) bool, False at padding


class GateParams(NamedTuple):
    """Parameters of the gate β."""

    w: Array  # (the cell's out_features, 1)
    b: Array  # (1,)


class AttentionDecoderParams(NamedTuple):
    """Trained parameters of an attention decoder; the other half of its params is the memory."""

    cell: Params
    attention: Any
    w_c: Array  # (memory_features + the cell's out_features, size)
    gate: Any = None  # GateParams; None without a gate


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

    With a gate, β_t context_t takes the place of context_t, β_t = σ(h_t W_β + b_β): how much the memory
    counts for the next word (Xu et al. 2015, "Show, attend and tell", section 4.2.1, where both the gate
    and the scores are of h_{t-1}).

    Params are ``(weights, memory)``, of which ``init`` draws the weights and ``memory`` makes the memory.
    There is no hand-derived derivative; gradients come from ``jax.grad``, with respect to the memory too.

    Args:
      cell: the recurrent cell.
      attention: ``Additive(size)``, ``General()`` or ``Dot()``.
      memory_features: features of the memory's vectors.
      size: features of h̃, the output.
      input_feeding: whether h̃_{t-1} is fed to the cell beside x_t.
      gate: whether a gate scales the context.

    Raises:
      ValueError: for sizes below 1.

    >>> from jaxrnn import GRU
    >>> from jaxrnn.attention import Additive
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
    gate: bool = False

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
        """The weights: the cell's and the attention's own way, W_c and W_β LeCun normal, b_β zero.

        Raises:
          ValueError: where the attention needs queries and memories of equal features, and they are not.
        """
        key_cell, key_attention, key_c = jax.random.split(key, 3)
        query = self.cell.out_features
        return AttentionDecoderParams(
            self.cell.init(key_cell, in_features + (self.size if self.input_feeding else 0), dtype),
            self.attention.init(key_attention, query, self.memory_features, dtype),
            lecun_normal(key_c, (self.memory_features + query, self.size), dtype),
            self._init_gate(jax.random.fold_in(key_c, 0), dtype) if self.gate else None,
        )

    def _init_gate(self, key: Array, dtype: DType) -> GateParams:
        return GateParams(lecun_normal(key, (self.cell.out_features, 1), dtype), jnp.zeros(1, dtype))

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
        cell_carry, h = self.cell.step(weights.cell, carry.cell, self._fed(carry, x), noise)
        scores = self.attention.scores(weights.attention, h, memory.keys)
        context, alpha = attend(scores, memory.values, memory.mask)
        if self.gate:
            context = jax.nn.sigmoid(batch_product(h, weights.gate.w) + weights.gate.b) * context
        y = jnp.tanh(batch_product(jnp.concatenate([context, h], axis=-1), weights.w_c))
        after = AttentionDecoderCarry(cell_carry, y if self.input_feeding else None)
        return cast_like(after, carry), y, alpha

    def gates(
        self,
        params: tuple[AttentionDecoderParams, Memory],
        carry: AttentionDecoderCarry,
        x: Array,
        noise: Noise = None,
    ) -> dict[str, Array]:
        """The cell's gates; β is none of them, since it has one value for all units."""
        weights, _ = params
        return self.cell.gates(weights.cell, carry.cell, self._fed(carry, x), noise)

    def _fed(self, carry: AttentionDecoderCarry, x: Array) -> Array:
        """What the cell is fed: x, and h̃ of the step before where it is fed back."""
        return jnp.concatenate([x, carry.attentional], axis=-1) if self.input_feeding else x

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


@dataclass(frozen=True)
class WithWeights(Cell):
    """An attention decoder whose outputs go with the weights of its attention: y_t = [h̃_t; α_t].

    So a loss may depend on where the decoder looks at every step.

    Args:
      decoder: the attention decoder.
      source: how many vectors the memory has.

    Raises:
      ValueError: for a source below 1.

    >>> from jaxrnn import GRU, unroll
    >>> from jaxrnn.attention import Dot
    >>> cell = WithWeights(AttentionDecoder(GRU(4), Dot(), memory_features=4, size=3), source=7)
    >>> weights = cell.init(jax.random.key(0), in_features=2)
    >>> memory = cell.decoder.memory(weights, jnp.ones((1, 7, 4)))
    >>> _, ys = unroll(cell, (weights, memory), jnp.ones((5, 1, 2)))
    >>> ys.shape, ys[0, 0, 3:].sum().round(4).tolist()
    ((5, 1, 10), 1.0)
    """

    decoder: AttentionDecoder
    source: int

    def __post_init__(self) -> None:
        settle(self, check_positive, "source")

    @property
    def out_features(self) -> int:
        """Features of h̃, and the weights."""
        return self.decoder.size + self.source

    @property
    def outputs_h(self) -> bool:
        """False, as of the decoder."""
        return False

    def init(
        self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32
    ) -> AttentionDecoderParams:
        """The decoder's own."""
        return self.decoder.init(key, in_features, dtype)

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> AttentionDecoderCarry:
        """The decoder's own."""
        return self.decoder.initial_carry(batch_shape, dtype)

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The decoder's own."""
        return self.decoder.noise(key, time, batch_shape)

    def step(self, params: Params, carry: Carry, x: Array, noise: Noise = None) -> tuple[Carry, Array]:
        """One step.

        Raises:
          ValueError: as the decoder's; and for a memory of another size than ``source``.
        """
        carry, y, alpha = self.decoder.step_and_weights(params, carry, x, noise)
        return carry, jnp.concatenate([y, alpha], axis=-1)

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """Raise ValueError unless weights, memory, carry and x fit each other."""
        self.decoder.check(params, carry, x)
        if (places := jnp.shape(params[1].mask)[-1]) != self.source:
            raise ValueError(f"the memory should have {self.source} vectors a sequence, got {places}")
