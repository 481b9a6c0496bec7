"""A language model over tokens (characters): p(w_{t+1} | w_1 … w_t) from stacked recurrent cells."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType
from jaxrnn.checks import (
    as_array,
    as_ids,
    check_count,
    check_fraction,
    check_ids,
    check_like,
    check_positive,
    settle,
)
from jaxrnn.data.text import Streams
from jaxrnn.models.dropout import dropout
from jaxrnn.models.tokens import checked_tokens, embed, one_hot
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward, unroll


class LanguageModelParams(NamedTuple):
    """Parameters of a language model; None where the configuration needs none."""

    embedding: Any  # (vocabulary_size, embedding_size); None with one-hot input
    layers: tuple[Any, ...]  # one cell's params a layer
    w_out: Any  # (out_features, vocabulary_size); None when tied to the embedding
    b_out: Array  # (vocabulary_size,)


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

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> LanguageModelParams:
        """Draw the parameters: embedding and output LeCun normal, the cells their own way."""
        key_embedding, key_out, *keys = jax.random.split(key, 2 + len(self.cells))
        draw = jax.nn.initializers.lecun_normal()
        in_size = self.vocabulary_size if self.embedding_size is None else self.embedding_size
        in_sizes = [in_size] + [cell.out_features for cell in self.cells]
        embedding = w_out = None
        if self.embedding_size is not None:
            # Rows of about unit length: the transpose is what LeCun's rule is made for.
            shape = (self.embedding_size, self.vocabulary_size)
            embedding = draw(key_embedding, shape, dtype).T
        if not self.tied:
            w_out = draw(key_out, (in_sizes[-1], self.vocabulary_size), dtype)
        return LanguageModelParams(
            embedding=embedding,
            layers=tuple(
                cell.init(k, size, dtype) for cell, k, size in zip(self.cells, keys, in_sizes, strict=False)
            ),
            w_out=w_out,
            b_out=jnp.zeros(self.vocabulary_size, dtype),
        )

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> tuple[Carry, ...]:
        """The carry before the first token: one cell's carry a layer."""
        return tuple(cell.initial_carry(batch_shape, dtype) for cell in self.cells)

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
        tokens = checked_tokens(tokens, self.vocabulary_size, lengths)
        self._check_params(params, carry)
        keys = None if key is None else jax.random.split(key, len(self.cells) + 1)
        time, batch_shape = tokens.shape[0], tokens.shape[1:]
        ys = self._embed(params, tokens)
        after = []
        for layer, cell in enumerate(self.cells):
            noise = None
            if keys is not None:
                key_dropout, key_noise = jax.random.split(keys[layer])
                ys = dropout(key_dropout, ys, self.dropout)
                noise = cell.noise(key_noise, time, batch_shape)
            layer_carry, ys = unroll(
                cell,
                params.layers[layer],
                ys,
                None if carry is None else carry[layer],
                lengths=lengths,
                resets=resets,
                noise=noise,
                backward=self.backward,
            )
            after.append(layer_carry)
        if keys is not None:
            ys = dropout(keys[-1], ys, self.dropout)
        return tuple(after), self._logits(params, ys)

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
        if not jnp.issubdtype(jnp.result_type(tokens), jnp.floating):
            tokens = checked_tokens(tokens, self.vocabulary_size)
        self._check_params(params, carry)
        y = self._embed(params, tokens)
        after = []
        for layer, cell in enumerate(self.cells):
            layer_carry, y = cell.step(params.layers[layer], carry[layer], y)
            after.append(layer_carry)
        return tuple(after), self._logits(params, y)

    def _check_params(self, params: LanguageModelParams, carry: Any) -> None:
        check_count("params.layers", params.layers, len(self.cells), "cell")
        size: int = self.vocabulary_size
        shape: Any = jax.ShapeDtypeStruct
        out_shape, dtype = (self.cells[-1].out_features, size), params.b_out.dtype
        expected = LanguageModelParams(
            None if self.embedding_size is None else shape((size, self.embedding_size), dtype),
            (),  # the cells check their own
            None if self.tied else shape(out_shape, dtype),
            shape((size,), dtype),
        )
        check_like("params", expected, params._replace(layers=()))
        if carry is not None:
            check_count("carry", carry, len(self.cells), "cell")

    def _embed(self, params: LanguageModelParams, tokens: Array) -> Array:
        """Ids (...,) or distributions (..., vocabulary) to vectors."""
        distributions = jnp.issubdtype(tokens.dtype, jnp.floating)
        if params.embedding is None:
            dtype = params.b_out.dtype
            return tokens.astype(dtype) if distributions else one_hot(tokens, self.vocabulary_size, dtype)
        if distributions:
            return tokens.astype(params.embedding.dtype) @ params.embedding
        return embed(params.embedding, tokens)

    def _logits(self, params: LanguageModelParams, ys: Array) -> Array:
        w_out = params.embedding.T if self.tied else params.w_out
        return ys.astype(w_out.dtype) @ w_out + params.b_out


@default_promotion()
def next_token_nats(
    logits: Float[Array, "*positions vocabulary"],
    targets: Int[ArrayLike, "*positions"],
    mask: Bool[ArrayLike, "*positions"] | None = None,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The summed cross-entropy in nats over real positions, and their number.

    Their ratio is the loss in nats per token; divided by ln 2 it is bits per token. With label smoothing
    ε over a vocabulary of V (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7), a
    position costs::

        −(1 − ε) log p(w) − (ε / V) Σ_v log p(v)

    Args:
      logits: scores of every token at every position.
      targets: the token that came.
      mask: False at positions that do not count; their logits may be anything.
      label_smoothing: ε, in [0, 1).

    Raises:
      ValueError: for a label smoothing outside [0, 1), targets or a mask that do not have the positions of
        logits, targets that are not integers, or a mask that is not bool. Targets that count and lie
        outside the vocabulary are a ValueError where they are known, and cost NaN under ``jit``.

    >>> nats, count = next_token_nats(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> print(f"{nats / count:.4f}")  # ln 4
    1.3863
    """
    label_smoothing = check_fraction("label_smoothing", label_smoothing)
    targets = _checked_targets(logits, targets, mask)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # a sum of thousands of terms
    if mask is not None:
        mask = jnp.asarray(mask)
        logits, targets = jnp.where(mask[..., None], logits, 0), jnp.where(mask, targets, 0)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        nats = (1 - label_smoothing) * nats + label_smoothing * uniform
    if mask is None:
        return jnp.sum(nats), jnp.asarray(nats.size)
    return jnp.sum(nats, where=mask), jnp.sum(mask)


def _checked_targets(logits: Array, targets: Any, mask: Any) -> Array:
    positions, size = logits.shape[:-1], logits.shape[-1]
    targets, mask = as_array(targets), as_array(mask)
    if jnp.shape(targets) != positions:
        raise ValueError(
            f"targets must have the positions of logits, {positions}, got {jnp.shape(targets)}"
        )
    is_bool = mask is None or jnp.issubdtype(jnp.result_type(mask), jnp.bool)
    if mask is not None and not (is_bool and jnp.shape(mask) == positions):
        raise ValueError(
            f"mask must be bool with the positions of logits, {positions}, "
            f"got {jnp.result_type(mask)} of shape {jnp.shape(mask)}"
        )
    check_ids("targets", targets, size, mask)
    targets = as_ids(targets)
    return jnp.where(targets < 0, size, targets)  # beyond the end, where no id wraps around


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
