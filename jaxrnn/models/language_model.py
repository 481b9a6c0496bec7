"""A language model over tokens (characters): p(w_{t+1} | w_1 … w_t) from stacked recurrent cells."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType
from jaxrnn.checks import check_fraction, check_ids, check_like, check_positive, settle
from jaxrnn.data.text import Streams
from jaxrnn.layers import dropout
from jaxrnn.models.encoder import Encoder, EncoderParams
from jaxrnn.models.losses import cross_entropy as next_token_nats
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward
from jaxrnn.sharding import batch_product


class LanguageModelParams(NamedTuple):
    """Parameters of a language model; None where the configuration needs none."""

    embedding: Any  # (vocabulary_size, embedding_size); None with one-hot input
    layers: tuple[Any, ...]  # one cell's params a layer
    w_out: Any  # (out_features, vocabulary_size); None when tied to the embedding
    b_out: Any  # (vocabulary_size,)


@dataclass(frozen=True)
class LanguageModel:
    """A recurrent language model (Mikolov et al. 2010; Graves 2013), layers stacked as in Zaremba et
    al. (2014), "Recurrent neural network regularization", whose dropout it uses.

    Equations, for layers l = 1..L, D(·) dropout::

        y⁰_t   = E[w_t], or the one-hot vector of w_t
        yˡ_t   = unroll(cellˡ, D(yˡ⁻¹))_t
        logits = D(yᴸ_t) W_out + b_out          (tied: W_out = Eᵀ, Press & Wolf 2017)
        −log p(w_{t+1} | w_1 … w_t) = −log softmax(logits)[w_{t+1}]

    Args:
      vocabulary_size: number of distinct tokens.
      cells: the layers, bottom first; any ``Cell``.
      embedding_size: size of the learned embedding, or None for one-hot input.
      tied: whether the output shares the embedding's weights.
      dropout: probability that a feature is dropped between layers, at the input and the output.
      backward: how ``unroll`` takes gradients; "bptt" needs cells with a hand-derived derivative.

    Raises:
      ValueError: for sizes below 1, a dropout outside [0, 1), no cells, or a tied output whose
        embedding size is not the top cell's output size.

    >>> from jaxrnn import LSTM
    >>> model = LanguageModel(vocabulary_size=5, cells=[LSTM(8)])
    >>> params = model.init(jax.random.key(0))
    >>> carry, logits = model.apply(params, jnp.array([[0], [3], [1]]))  # (time, batch)
    >>> logits.shape
    (3, 1, 5)
    """

    vocabulary_size: int
    cells: Sequence[Cell]
    embedding_size: int | None = None
    tied: bool = False
    dropout: float = 0.0
    backward: Backward = "autodiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        settle(self, check_positive, "vocabulary_size")
        if self.embedding_size is not None:
            settle(self, check_positive, "embedding_size")
        if not self.cells:
            raise ValueError("a language model needs at least one cell, got none")
        settle(self, check_fraction, "dropout")
        if self.tied and self.embedding_size != self.cells[-1].out_features:
            raise ValueError(
                "a tied output needs embedding_size equal to the top cell's out_features "
                f"({self.cells[-1].out_features}), got {self.embedding_size}"
            )

    @property
    def encoder(self) -> Encoder:
        """The model but for its output."""
        return Encoder(
            self.cells,
            vocabulary_size=self.vocabulary_size,
            embedding_size=self.embedding_size,
            dropout=self.dropout,
            backward=self.backward,
        )

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> LanguageModelParams:
        """Draw the parameters: embedding and output LeCun normal, the cells their own way."""
        key_embedding, key_out, *keys = jax.random.split(key, 2 + len(self.cells))
        shape = (self.cells[-1].out_features, self.vocabulary_size)
        return LanguageModelParams(
            *self.encoder.init_from(key_embedding, keys, dtype),
            w_out=None if self.tied else jax.nn.initializers.lecun_normal()(key_out, shape, dtype),
            b_out=jnp.zeros(self.vocabulary_size, dtype),
        )

    def output_specs(self, axis: str, devices: int) -> LanguageModelParams:
        """How the output layer, and the embedding, may be split over the devices along a mesh axis.

        Each device has some columns of the vocabulary, and the logits of these; the softmax adds up over
        devices. Where the vocabulary does not divide, each has some hidden units, and the products of these
        add up to the logits.

        Returns:
          ``PartitionSpec``s of the parameters, one for a layer, of which every device has a copy.

        Raises:
          ValueError: if the devices divide neither.

        >>> from jaxrnn import LSTM
        >>> LanguageModel(vocabulary_size=6, cells=[LSTM(8)]).output_specs("model", 2).w_out
        P(None, 'model')
        >>> LanguageModel(vocabulary_size=5, cells=[LSTM(8)]).output_specs("model", 2).w_out
        P('model', None)
        """
        sizes = {"hidden units": self.cells[-1].out_features}
        if self.embedding_size is not None:
            sizes["embedded features"] = self.embedding_size
        by_vocabulary = self.vocabulary_size % devices == 0
        if not by_vocabulary and any(size % devices for size in sizes.values()):
            either = " and ".join(f"the {size} {name}" for name, size in sizes.items())
            raise ValueError(
                f"a model over {devices} devices needs a vocabulary that they divide, or {either}; "
                f"got a vocabulary of {self.vocabulary_size}"
            )
        rows, columns = PartitionSpec(axis, None), PartitionSpec(None, axis)
        return LanguageModelParams(
            embedding=None if self.embedding_size is None else rows if by_vocabulary else columns,
            layers=(PartitionSpec(),) * len(self.cells),
            w_out=None if self.tied else columns if by_vocabulary else rows,
            b_out=PartitionSpec(axis) if by_vocabulary else PartitionSpec(),
        )

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> tuple[Carry, ...]:
        """The carry before the first token: one cell's carry a layer."""
        return self.encoder.initial_carry(batch_shape, dtype)

    @default_promotion()
    def apply(
        self,
        params: LanguageModelParams,
        tokens: Int[ArrayLike, "time *batch"],
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
        resets: Bool[ArrayLike, "time *batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "time *batch vocabulary"]]:
        """The logits of every next token.

        Args:
          params: from ``init``.
          tokens: token ids; time leads.
          carry: from ``initial_carry`` or an earlier call.
          lengths: as in ``unroll``.
          resets: as in ``unroll``.
          key: dropout's key; without one nothing is dropped.

        Returns:
          the last carry and the logits.

        Raises:
          ValueError: for tokens that are not integers or, where they are known and count, outside the
            vocabulary; for layers or shapes that do not fit (``unroll``).
        """
        self._check(params)
        keys = None if key is None else jax.random.split(key, len(self.cells) + 1)
        carry, ys = self.encoder.apply(
            EncoderParams(params.embedding, params.layers),
            tokens,
            carry,
            lengths=lengths,
            resets=resets,
            keys=None if keys is None else keys[:-1],
        )
        if keys is not None:
            ys = dropout(keys[-1], ys, self.dropout)
        return carry, self._logits(params, ys)

    @default_promotion()
    def record(
        self,
        params: LanguageModelParams,
        tokens: Int[ArrayLike, "time *batch"],
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
        resets: Bool[ArrayLike, "time *batch"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "time *batch vocabulary"], tuple[Any, ...]]:
        """``apply`` without dropout, and what every layer held at every step: its ``diagnostics.Signals``.

        Raises:
          ValueError: as ``apply``.
        """
        self._check(params)
        of_encoder = EncoderParams(params.embedding, params.layers)
        carry, ys, layers = self.encoder.record(of_encoder, tokens, carry, lengths=lengths, resets=resets)
        return carry, self._logits(params, ys), layers

    @default_promotion()
    def step(
        self, params: LanguageModelParams, carry: tuple[Carry, ...], tokens: Array
    ) -> tuple[tuple[Carry, ...], Float[Array, "lanes vocabulary"]]:
        """One token a lane, for decoders: ``jax.tree_util.Partial(model.step, params)``.

        Args:
          params: from ``init``.
          carry: from ``initial_carry((lanes,))`` or an earlier call.
          tokens: ids ``(lanes,)``, or distributions over tokens ``(lanes, vocabulary)`` as floats.

        Returns:
          the new carry and the next token's logits.

        Raises:
          ValueError: as ``apply``.
        """
        self._check(params)
        carry, y = self.encoder.step(EncoderParams(params.embedding, params.layers), carry, tokens)
        return carry, self._logits(params, y)

    def _check(self, params: LanguageModelParams) -> None:
        """Raise ValueError unless the parameters fit, but for the layers, which the encoder checks."""
        size, shape = self.vocabulary_size, jax.ShapeDtypeStruct
        w_out = None if self.tied else shape((self.cells[-1].out_features, size), jnp.float32)
        b_out = shape((size,), jnp.float32)
        expected = LanguageModelParams(*self.encoder.shapes(jnp.float32), w_out, b_out)
        check_like("params", expected, params._replace(layers=()))

    def _logits(self, params: LanguageModelParams, ys: Array) -> Array:
        w_out = params.embedding.T if self.tied else params.w_out
        return batch_product(ys.astype(w_out.dtype), w_out) + params.b_out


def text_nats(
    model: LanguageModel,
    params: LanguageModelParams,
    ids: Int[np.ndarray, " characters"],
    *,
    streams: int = 1,
    time: int = 1024,
    on_chunk: Callable[[int, int], None] | None = None,
) -> tuple[float, int]:
    """The cross-entropy of a text in nats, and the characters it is summed over: all but the first.

    Args:
      model: the model.
      params: its parameters.
      ids: the text.
      streams: 1 carries the hidden state over the whole text. More are many times faster, and every
        stream starts from the initial carry: an upper estimate.
      time: steps in one call of the compiled model; does not change the result.
      on_chunk: called with the chunks done and their number, for a progress bar.

    Raises:
      ValueError: for a text of fewer than two characters, ids outside the vocabulary, or sizes below 1.

    >>> from jaxrnn import Elman
    >>> model = LanguageModel(vocabulary_size=4, cells=[Elman(2)])
    >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    >>> nats, count = text_nats(model, params, np.array([0, 1, 2, 3, 3]))
    >>> print(f"{nats / count:.4f}", count)  # ln 4
    1.3863 4
    """
    if len(ids) < 2:
        raise ValueError(f"the text is too short: at least 2 characters are needed, got {len(ids)}")
    check_ids("ids", ids, model.vocabulary_size)
    chunks = Streams(np.asarray(ids), streams, min(time, -(-len(ids) // streams)), drop_last=False)
    carry = model.initial_carry((streams,), params.b_out.dtype)
    nats, count = 0.0, 0
    for position in range(chunks.chunks):
        chunk = chunks.chunk(position)
        carry, chunk_nats, chunk_count = _chunk_nats(
            model, params, carry, *jax.device_put((chunk.inputs, chunk.targets, chunk.mask))
        )
        nats += float(chunk_nats)
        count += int(chunk_count)
        if on_chunk is not None:
            on_chunk(position + 1, chunks.chunks)
    return nats, count


@functools.partial(by_value, static_argnames=("model",))
def _chunk_nats(
    model: LanguageModel,
    params: LanguageModelParams,
    carry: Any,
    inputs: Array,
    targets: Array,
    mask: Array,
) -> tuple[Any, Array, Array]:
    carry, logits = model.apply(params, inputs, carry)
    return carry, *next_token_nats(logits, targets, mask)
