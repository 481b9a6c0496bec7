"""A recurrent decoder: p(w_1 … w_T | first carry, memory, condition), with attention or without."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact, Int, Key

from jaxrnn.attention import Attention, AttentionDecoder, Memory, WithWeights
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType
from jaxrnn.cells.regularized import VariationalDropout
from jaxrnn.cells.stack import Stack
from jaxrnn.checks import check_fraction, check_like, check_positive, settle
from jaxrnn.diagnostics import Signals, by_layer, record
from jaxrnn.layers import dropout
from jaxrnn.models.scheduled_sampling import SamplingCarry, SamplingParams, ScheduledSampling
from jaxrnn.models.tokens import checked_tokens, embed, init_embedding
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward, unroll
from jaxrnn.sharding import batch_product


class DecoderParams(NamedTuple):
    """Parameters of a decoder."""

    embedding: Array  # (vocabulary_size, embedding_size)
    cell: Any  # of the stacked cells, or AttentionDecoderParams
    w_out: Any  # (readout, vocabulary_size); None when tied to the embedding
    b_out: Array  # (vocabulary_size,)


@dataclass(frozen=True)
class Decoder:
    """Stacked cells that write tokens, each fed the token before, with a readout of every step.

    Equations, E the embedding, D(·) dropout; ``cell`` is an ``AttentionDecoder`` around the stacked cells
    where there is attention, and else the stack alone, whose top output is y::

        S_t, y_t = cell(S_{t-1}, x_t, memory)            x_t = D(E[w_{t-1}])
        −log p(w_t | w_1 … w_{t-1}) = −log softmax(D(y_t) W_out + b_out)[w_t]

    Tied: W_out = Eᵀ (Press & Wolf 2017). The first carry S_0 and the memory come from outside, and so does
    the condition, a vector v that enters every step by weights of its own: x_t = [D(E[w_{t-1}]); v], so
    that a cell's x_t W is D(E[w_{t-1}]) W_x + v W_v (Cho et al. 2014, "Learning phrase representations
    using RNN encoder–decoder", appendix A.1.2, where v is the summary of the source).

    Args:
      vocabulary_size: number of distinct tokens.
      cells: the layers, bottom first; any ``Cell``.
      embedding_size: size of the embedding.
      attention: ``Additive(size)``, ``General()``, ``Dot()``, or None.
      memory_features: features of the memory's vectors; only with attention.
      condition_size: features of the condition; None for a decoder without one.
      readout_size: features of h̃ (see ``AttentionDecoder``); by default the embedding size. Without
        attention the readout is the top cell's output.
      input_feeding: whether h̃ is fed to the next step.
      gate: whether a gate scales what attention has read (see ``AttentionDecoder``).
      tied: whether the output shares the embedding's weights.
      dropout: probability that a feature is dropped: of embeddings, between layers, and of the readout.
      variational: one dropout mask for all steps of a sequence (Gal & Ghahramani 2016). Between layers,
        which are stepped together, there is never another.
      backward: how ``unroll`` takes gradients where there is no attention and no scheduled sampling; else
        they come from autodiff.

    Raises:
      ValueError: for sizes below 1, a dropout outside [0, 1), no cells, attention without the features of
        its memory, or a tied output whose embedding size is not the size of the readout.

    >>> from jaxrnn import GRU
    >>> decoder = Decoder(7, [GRU(8)], embedding_size=4)
    >>> params = decoder.init(jax.random.key(0))
    >>> decoder.logits(params, decoder.initial_carry((2,)), jnp.array([[0, 0], [6, 5]])).shape
    (2, 2, 7)
    """

    vocabulary_size: int
    cells: Sequence[Cell]
    embedding_size: int
    _: KW_ONLY
    attention: Attention | None = None
    memory_features: int | None = None
    condition_size: int | None = None
    readout_size: int | None = None
    input_feeding: bool = True
    gate: bool = False
    tied: bool = False
    dropout: float = 0.0
    variational: bool = False
    backward: Backward = "autodiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        settle(self, check_positive, "vocabulary_size", "embedding_size")
        for name in ("memory_features", "condition_size", "readout_size"):
            if getattr(self, name) is not None:
                settle(self, check_positive, name)
        settle(self, check_fraction, "dropout")
        if not self.cells:
            raise ValueError("a decoder needs at least one cell, got none")
        if self.attention is not None and self.memory_features is None:
            raise ValueError("a decoder with attention needs the memory_features that it reads, got None")
        if self.tied and self.cell.out_features != self.embedding_size:
            raise ValueError(
                f"a tied output needs a readout of embedding_size ({self.embedding_size}), "
                f"got {self.cell.out_features}"
            )

    @property
    def cell(self) -> Cell:
        """The one cell that is stepped: the stack, or the ``AttentionDecoder`` around it."""
        *lower, top = self.cells
        # Layers are stepped together, so that what is dropped between them is drawn beforehand.
        lower = [VariationalDropout(cell, rate_h=0.0, rate_y=self.dropout) for cell in lower]
        stack = Stack([*lower, top])
        if self.attention is None:
            return stack
        size = self.embedding_size if self.readout_size is None else self.readout_size
        features: Any = self.memory_features
        return AttentionDecoder(
            stack,
            self.attention,
            memory_features=features,
            size=size,
            input_feeding=self.input_feeding,
            gate=self.gate,
        )

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> DecoderParams:
        """Draw the parameters: embedding and output LeCun normal, the cells their own way."""
        return self.init_from(list(jax.random.split(key, 3)), dtype)

    def init_from(self, keys: Sequence[Array], dtype: DType) -> DecoderParams:
        """``init`` from a key each for embedding, cell and output."""
        key_embedding, key_cell, key_out = keys
        draw, cell = jax.nn.initializers.lecun_normal(), self.cell
        return DecoderParams(
            embedding=init_embedding(key_embedding, self.vocabulary_size, self.embedding_size, dtype),
            cell=cell.init(key_cell, self.embedding_size + (self.condition_size or 0), dtype),
            w_out=None if self.tied else draw(key_out, (cell.out_features, self.vocabulary_size), dtype),
            b_out=jnp.zeros(self.vocabulary_size, dtype),
        )

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> Carry:
        """The carry before the first step where none comes from outside."""
        return self.cell.initial_carry(batch_shape, dtype)

    def carry_of(self, states: tuple[Carry, ...], dtype: DType = jnp.float32) -> Carry:
        """The carry before the first step from the states of the stacked cells."""
        if self.attention is None:
            return states
        return self.initial_carry(jax.tree.leaves(states)[0].shape[:-1], dtype)._replace(cell=states)

    def memory(
        self,
        params: DecoderParams,
        values: Inexact[Array, "*batch source features"],
        lengths: Int[ArrayLike, "*batch"] | None = None,
    ) -> Memory:
        """A memory of vectors, of which each sequence has ``lengths (*batch,)``; for attention.

        Raises:
          ValueError: for lengths that do not fit the values.
        """
        cell: Any = self.cell
        return cell.memory(params.cell, values, lengths)

    @default_promotion()
    def logits(
        self,
        params: DecoderParams,
        carry: Carry,
        fed: Int[ArrayLike, "time batch"],
        memory: Memory | None = None,
        condition: Float[Array, "batch condition"] | None = None,
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
        sampling_rate: Float[ArrayLike, ""] | None = None,
    ) -> Float[Array, "time batch vocabulary"]:
        """The logits of every next token, the tokens before it given (teacher forcing).

        Args:
          params: from ``init``.
          carry: from ``carry_of`` or ``initial_carry``.
          fed: the start token, then the target but for its last token; time leads.
          memory: from ``memory``; None without attention.
          condition: v; None without ``condition_size``.
          lengths: tokens of each target that count; None for all.
          key: dropout's key; without one nothing is dropped.
          sampling_rate: probability that a step is fed the model's own draw instead of the target's
            token (``ScheduledSampling``); needs a key.

        Raises:
          ValueError: for tokens that are not integers or, where they are known and count, outside the
            vocabulary; for parameters or shapes that do not fit; for a sampling rate without a key.
        """
        self._check(params, memory, condition, jnp.shape(fed)[1:])
        ys = self._unrolled(
            self.cell, params, carry, fed, memory, condition, lengths, key, sampling_rate=sampling_rate
        )
        return self._readout(params, ys, key)

    @default_promotion()
    def logits_and_weights(
        self,
        params: DecoderParams,
        carry: Carry,
        fed: Int[ArrayLike, "time batch"],
        memory: Memory,
        condition: Float[Array, "batch condition"] | None = None,
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "time batch vocabulary"], Float[Array, "time batch source"]]:
        """``logits``, and the attention weights of every step, zero at padding; for losses of both.

        Raises:
          ValueError: as ``logits``; and for a decoder without attention.
        """
        if self.attention is None:
            raise ValueError("only a decoder with attention has its weights")
        self._check(params, memory, condition, jnp.shape(fed)[1:])
        cell: Any = self.cell
        watched = WithWeights(cell, memory.mask.shape[-1])
        ys = self._unrolled(watched, params, carry, fed, memory, condition, lengths, key)
        outputs, weights = jnp.split(ys, [cell.out_features], axis=-1)
        return self._readout(params, outputs, key), weights

    @default_promotion()
    def record(
        self,
        params: DecoderParams,
        carry: Carry,
        fed: Int[ArrayLike, "time batch"],
        memory: Memory | None = None,
        condition: Float[Array, "batch condition"] | None = None,
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
    ) -> tuple[Float[Array, "time batch vocabulary"], tuple[Signals, ...]]:
        """``logits`` without dropout, and what every layer held at every step.

        Raises:
          ValueError: as ``logits``.
        """
        self._check(params, memory, condition, jnp.shape(fed)[1:])
        fed = checked_tokens(fed, self.vocabulary_size, lengths)
        xs = _beside(embed(params.embedding, fed), condition)
        _, ys, signals = record(self.cell, self._cell_params(params, memory), xs, carry, lengths=lengths)
        if self.attention is not None:
            signals = signals._replace(carry=signals.carry.cell)
        return self._readout(params, ys, None), by_layer(signals)

    def primed(
        self,
        params: DecoderParams,
        carry: Carry,
        x: Float[Array, "batch features"],
        memory: Memory | None = None,
    ) -> Carry:
        """The carry after a step on a vector that is no token's: what comes before the start token.

        Args:
          params: from ``init``.
          carry: as in ``logits``.
          x: x_0; ``embedding_size`` features, and those of the condition where there is one.
          memory: as in ``logits``.
        """
        carry, _ = self.cell.step(self._cell_params(params, memory), carry, x)
        return carry

    @default_promotion()
    def step(
        self,
        params: DecoderParams,
        carry: Carry,
        tokens: Int[ArrayLike, " lanes"],
        memory: Memory | None = None,
        condition: Float[Array, "lanes condition"] | None = None,
    ) -> tuple[Carry, Float[Array, "lanes vocabulary"], Any]:
        """One token a lane, for decoders: ``jax.tree_util.Partial(decoder.step, params)``.

        Args:
          params: from ``init``.
          carry: as in ``logits``, or from an earlier call.
          tokens: the tokens before.
          memory: as in ``logits``: what decoders take as ``context``.
          condition: as in ``logits``.

        Returns:
          the new carry, the next token's logits, and the attention weights ``(lanes, source)``, or None.

        Raises:
          ValueError: as ``logits``.
        """
        tokens = checked_tokens(tokens, self.vocabulary_size)
        self._check(params, memory, condition, tokens.shape)
        cell: Any = self.cell
        cell_params = self._cell_params(params, memory)
        x, weights = _beside(embed(params.embedding, tokens), condition), None
        if self.attention is None:
            carry, y = cell.step(cell_params, carry, x)
        else:
            carry, y, weights = cell.step_and_weights(cell_params, carry, x)
        return carry, y @ self._w_out(params) + params.b_out, weights

    def shapes(self, dtype: DType) -> DecoderParams:
        """Shapes of the parameters but for the cell's, which checks its own."""
        shape, size = jax.ShapeDtypeStruct, self.vocabulary_size
        embedding: Any = shape((size, self.embedding_size), dtype)
        w_out = None if self.tied else shape((self.cell.out_features, size), dtype)
        b_out: Any = shape((size,), dtype)
        return DecoderParams(embedding, (), w_out, b_out)

    def _unrolled(
        self,
        cell: Cell,
        params: DecoderParams,
        carry: Carry,
        fed: Any,
        memory: Any,
        condition: Any,
        lengths: Any,
        key: Any,
        sampling_rate: Any = None,
    ) -> Array:
        """The outputs of ``cell``, this decoder's own or one around it, at every step."""
        fed = checked_tokens(fed, self.vocabulary_size, lengths)
        cell_params, noise = self._cell_params(params, memory), None
        xs = embed(params.embedding, fed)
        if sampling_rate is not None and key is None:
            raise ValueError("scheduled sampling draws tokens: give a key")
        if key is not None:
            key_in, key_noise, _ = jax.random.split(key, 3)
            time, batch_shape = xs.shape[0], xs.shape[1:-1]
            mask = self._dropout(key_in, jnp.ones_like(xs))
            xs = mask * xs
            if sampling_rate is None:
                noise = cell.noise(key_noise, time, batch_shape)
            else:
                cell = ScheduledSampling(cell, self.embedding_size)
                noise = cell.draw_noise(key_noise, sampling_rate, time, batch_shape, mask)
                cell_params = SamplingParams(
                    cell_params, params.embedding, self._w_out(params), params.b_out
                )
                carry = SamplingCarry(carry, jnp.zeros_like(xs[0]))
        xs = _beside(xs, condition)
        backward = self.backward if cell.has_derivative else "autodiff"
        _, ys = unroll(cell, cell_params, xs, carry, lengths=lengths, noise=noise, backward=backward)
        return ys

    def _readout(self, params: DecoderParams, ys: Array, key: Any) -> Array:
        if key is not None:
            _, _, key_out = jax.random.split(key, 3)
            ys = self._dropout(key_out, ys)
        # One product of two matrices, batch first so that a sharded batch stays so: XLA's CPU backend takes
        # four times as long for the weights' gradient where it has two axes to sum over.
        rows = jnp.swapaxes(ys, 0, 1).reshape(-1, ys.shape[-1])
        logits = batch_product(rows, self._w_out(params)) + params.b_out
        return jnp.swapaxes(logits.reshape(*ys.shape[1::-1], self.vocabulary_size), 0, 1)

    def _check(self, params: DecoderParams, memory: Any, condition: Any, batch: tuple[int, ...]) -> None:
        check_like("params", self.shapes(jnp.float32), params._replace(cell=()))
        if self.attention is not None and memory is None:
            raise ValueError("a decoder with attention reads a memory, got None")
        expected = None if self.condition_size is None else (*batch, self.condition_size)
        if (shape := None if condition is None else condition.shape) != expected:
            raise ValueError(f"condition should have shape {expected}, got {shape}")

    def _cell_params(self, params: DecoderParams, memory: Memory | None) -> Any:
        return params.cell if self.attention is None else (params.cell, memory)

    def _w_out(self, params: DecoderParams) -> Array:
        return params.embedding.T if self.tied else params.w_out

    def _dropout(self, key: Array, ys: Array) -> Array:
        return dropout(key, ys, self.dropout, variational=self.variational)


def _beside(xs: Array, condition: Array | None) -> Array:
    """Inputs ``(*time, batch, features)``, each with its sequence's condition ``(batch, condition)``."""
    if condition is None:
        return xs
    repeated = jnp.broadcast_to(condition.astype(xs.dtype), (*xs.shape[:-1], condition.shape[-1]))
    return jnp.concatenate([xs, repeated], axis=-1)
