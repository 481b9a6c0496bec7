"""A sequence-to-sequence model: p(w_1 … w_T | source) from a recurrent encoder and decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.attention import Attention, AttentionDecoder, Memory
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType
from jaxrnn.cells.regularized import VariationalDropout
from jaxrnn.cells.stack import Stack
from jaxrnn.checks import check_count, check_fraction, check_positive, settle
from jaxrnn.models.dropout import dropout
from jaxrnn.models.scheduled import SamplingCarry, SamplingParams, ScheduledSampling
from jaxrnn.models.tokens import checked_tokens, embed
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward, bidirectional, unroll

Direction = Literal["forward", "reversed", "bidirectional"]
Tied = Literal["none", "output", "all"]


class BridgeParams(NamedTuple):
    """From the encoder's last state to one array of the decoder's first."""

    w: Array  # (features of all encoder states, n)
    b: Array  # (n,)


class Seq2SeqParams(NamedTuple):
    """Parameters of a sequence-to-sequence model; None where the configuration needs none."""

    source_embedding: Array  # (source_vocabulary, embedding_size)
    target_embedding: Any  # (target_vocabulary, embedding_size)
    encoder: tuple[Any, ...]  # one cell's params a layer, or a pair with both directions
    bridge: Any  # BridgeParams for every leaf of the decoder's carry; None where the states fit
    decoder: Any  # of the stacked cells, or AttentionDecoderParams
    w_out: Any  # (readout, target_vocabulary); None when tied to the target embedding
    b_out: Array  # (target_vocabulary,)


class Encoded(NamedTuple):
    """What the decoder starts from."""

    carry: Carry
    memory: Memory | None  # None without attention


@dataclass(frozen=True)
class Seq2Seq:
    """An encoder and a decoder: Sutskever, Vinyals & Le (2014), "Sequence to sequence learning with neural
    networks"; with attention, Bahdanau et al. (2015) and Luong et al. (2015).

    Equations, for stacked cells, E the embeddings, D(·) dropout; the decoder is an ``AttentionDecoder``
    where there is attention, and else the stack alone, whose top output is y::

        h̄, S̄  = unroll(encoder, D(E_source[x]))       forward, reversed or in both directions
        S_0   = S̄, or tanh(S̄ W + b) for every part of S_0 where the two states differ in form
        y_t   = decoder(S_{t-1}, D(E_target[w_{t-1}]), h̄)
        −log p(w_t | w_1 … w_{t-1}, x) = −log softmax(D(y_t) W_out + b_out)[w_t]

    Tied: W_out = E_targetᵀ (Press & Wolf 2017), and with "all" E_source = E_target too.

    Args:
      source_vocabulary: number of distinct source tokens.
      target_vocabulary: number of distinct target tokens.
      cells: the encoder's layers, in each direction, bottom first.
      decoder_cells: the decoder's layers; by default those of the encoder.
      embedding_size: size of both embeddings.
      direction: how the encoder reads: "forward"; "reversed", from the last token to the first; or
        "bidirectional", both, with the features of the forward cells first.
      attention: ``Additive(size)``, ``General()``, ``Dot()``, or None.
      readout_size: features of h̃ (see ``AttentionDecoder``); by default the embedding size. Without
        attention the readout is the top cell's output.
      input_feeding: whether h̃ is fed to the next step.
      tied: "output": the output shares the target embedding's weights; "all": so does the source
        embedding, of the same vocabulary; or "none".
      dropout: probability that a feature is dropped: of embeddings, between layers, and of the readout.
      variational: one dropout mask for all steps of a sequence (Gal & Ghahramani 2016). Between layers of
        the decoder, which are stepped together, there is never another; wrap the cells in
        ``VariationalDropout`` to drop units of h_{t-1} too.
      backward: how ``unroll`` takes the encoder's gradients; "bptt" needs cells with a hand-derived
        derivative. The decoder's come from autodiff where it has attention, or is fed its own draws.

    Raises:
      ValueError: for sizes below 1, a dropout outside [0, 1), no cells, an unknown direction, or tied or
        shared weights whose sizes differ.

    >>> from jaxrnn import GRU
    >>> from jaxrnn.attention import Additive
    >>> model = Seq2Seq(5, 7, [GRU(8)], embedding_size=4, direction="bidirectional", attention=Additive(6))
    >>> params = model.init(jax.random.key(0))
    >>> encoded = model.encode(params, jnp.array([[0, 3], [2, 1], [4, 0]]), lengths=jnp.array([3, 2]))
    >>> model.logits(params, encoded, jnp.array([[0, 0], [6, 5]])).shape  # (time, batch) of target tokens
    (2, 2, 7)
    """

    source_vocabulary: int
    target_vocabulary: int
    cells: Sequence[Cell]
    decoder_cells: Any = None  # Sequence[Cell], or None; a tuple once it is made
    embedding_size: int = 256
    direction: Direction = "bidirectional"
    attention: Attention | None = None
    readout_size: int | None = None
    input_feeding: bool = True
    tied: Tied = "none"
    dropout: float = 0.0
    variational: bool = False
    backward: Backward = "autodiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        decoder_cells = (
            self.cells if self.decoder_cells is None else tuple(map(as_cell, self.decoder_cells))
        )
        object.__setattr__(self, "decoder_cells", decoder_cells)
        settle(self, check_positive, "source_vocabulary", "target_vocabulary", "embedding_size")
        if self.readout_size is not None:
            settle(self, check_positive, "readout_size")
        if not self.cells or not decoder_cells:
            raise ValueError("encoder and decoder need at least one cell each, got none")
        for name, known in (("direction", get_args(Direction)), ("tied", get_args(Tied))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        settle(self, check_fraction, "dropout")
        if self.tied != "none" and self.decoder.out_features != self.embedding_size:
            raise ValueError(
                f"a tied output needs a readout of embedding_size ({self.embedding_size}), "
                f"got {self.decoder.out_features}"
            )
        if self.tied == "all" and self.source_vocabulary != self.target_vocabulary:
            raise ValueError(
                "one embedding for all needs one vocabulary for source and target, "
                f"got {self.source_vocabulary} and {self.target_vocabulary} tokens"
            )

    @property
    def decoder(self) -> Cell:
        """The decoder's one cell: the stack, or the ``AttentionDecoder`` around it."""
        *lower, top = self.decoder_cells
        # Layers are stepped together, so that what is dropped between them is drawn beforehand.
        lower = [VariationalDropout(cell, rate_h=0.0, rate_y=self.dropout) for cell in lower]
        stack = Stack([*lower, top])
        if self.attention is None:
            return stack
        features = self.cells[-1].out_features * (2 if self.direction == "bidirectional" else 1)
        size = self.embedding_size if self.readout_size is None else self.readout_size
        return AttentionDecoder(
            stack,
            self.attention,
            memory_features=features,
            size=size,
            input_feeding=self.input_feeding,
        )

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> Seq2SeqParams:
        """Draw the parameters: embeddings, bridge and output LeCun normal, the cells their own way."""
        key_source, key_target, key_encoder, key_bridge, key_decoder, key_out = jax.random.split(key, 6)
        draw = jax.nn.initializers.lecun_normal()

        def embedding(key: Array, vocabulary: int) -> Array:
            # Rows of about unit length: the transpose is what LeCun's rule is made for.
            return draw(key, (self.embedding_size, vocabulary), dtype).T

        decoder = self.decoder
        source = embedding(key_source, self.source_vocabulary)
        out_shape = (decoder.out_features, self.target_vocabulary)
        return Seq2SeqParams(
            source_embedding=source,
            target_embedding=None if self.tied == "all" else embedding(key_target, self.target_vocabulary),
            encoder=self._init_encoder(key_encoder, dtype),
            bridge=self._init_bridge(key_bridge, dtype),
            decoder=decoder.init(key_decoder, self.embedding_size, dtype),
            w_out=draw(key_out, out_shape, dtype) if self.tied == "none" else None,
            b_out=jnp.zeros(self.target_vocabulary, dtype),
        )

    @default_promotion()
    def encode(
        self,
        params: Seq2SeqParams,
        source: Int[ArrayLike, "time batch"],
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Encoded:
        """Read source sentences.

        Args:
          params: from ``init``.
          source: token ids; time leads.
          lengths: tokens of each sentence; None for all.
          key: dropout's key; without one nothing is dropped.

        Returns:
          the carry before the decoder's first step, and the memory that it reads.

        Raises:
          ValueError: for tokens that are not integers or, where they are known and count, outside the
            vocabulary; for layers or shapes that do not fit (``unroll``).
        """
        source = checked_tokens(source, self.source_vocabulary, lengths)
        check_count("params.encoder", params.encoder, len(self.cells), "cell")
        keys = [None] * len(self.cells) if key is None else jax.random.split(key, len(self.cells))
        ys = embed(params.source_embedding, source)
        states = []
        for layer, cell in enumerate(self.cells):
            state, ys = self._encode_layer(cell, params.encoder[layer], ys, lengths, keys[layer])
            states.append(state)
        carry = self._first_carry(params, tuple(states))
        if self.attention is None:
            return Encoded(carry, None)
        values = jnp.moveaxis(ys, 0, 1)  # (batch, source, features)
        decoder: Any = self.decoder
        return Encoded(carry, decoder.memory(params.decoder, values, lengths))

    @default_promotion()
    def logits(
        self,
        params: Seq2SeqParams,
        encoded: Encoded,
        fed: Int[ArrayLike, "time batch"],
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
        sampling_rate: Float[ArrayLike, ""] | None = None,
    ) -> Float[Array, "time batch vocabulary"]:
        """The logits of every next target token, the tokens before it given (teacher forcing).

        Args:
          params: from ``init``.
          encoded: from ``encode``.
          fed: the start token, then the target but for its last token; time leads.
          lengths: tokens of each target that count; None for all.
          key: dropout's key; without one nothing is dropped.
          sampling_rate: probability that a step is fed the model's own draw instead of the target's
            token (``ScheduledSampling``); needs a key.

        Raises:
          ValueError: as ``encode``, and for a sampling rate without a key.
        """
        fed = checked_tokens(fed, self.target_vocabulary, lengths)
        cell, cell_params, carry = self.decoder, self._decoder_params(params, encoded.memory), encoded.carry
        xs, noise = embed(self._target_embedding(params), fed), None
        if sampling_rate is not None and key is None:
            raise ValueError("scheduled sampling draws tokens: give a key")
        if key is not None:
            key_in, key_noise, key_out = jax.random.split(key, 3)
            time, batch_shape = xs.shape[0], xs.shape[1:-1]
            mask = self._dropout(key_in, jnp.ones_like(xs))
            xs = mask * xs
            if sampling_rate is None:
                noise = cell.noise(key_noise, time, batch_shape)
            else:
                cell = ScheduledSampling(cell, self.embedding_size)
                noise = cell.draw_noise(key_noise, sampling_rate, time, batch_shape, mask)
                cell_params = SamplingParams(
                    cell_params, self._target_embedding(params), self._w_out(params), params.b_out
                )
                carry = SamplingCarry(carry, jnp.zeros_like(xs[0]))
        backward = self.backward if cell.has_derivative else "autodiff"
        _, ys = unroll(cell, cell_params, xs, carry, lengths=lengths, noise=noise, backward=backward)
        if key is not None:
            ys = self._dropout(key_out, ys)
        # One product of two matrices, batch first so that a sharded batch stays so: XLA's CPU backend takes
        # four times as long for the weights' gradient where it has two axes to sum over.
        rows = jnp.swapaxes(ys, 0, 1).reshape(-1, ys.shape[-1])
        logits = rows @ self._w_out(params) + params.b_out
        return jnp.swapaxes(logits.reshape(*ys.shape[1::-1], self.target_vocabulary), 0, 1)

    @default_promotion()
    def step(
        self,
        params: Seq2SeqParams,
        carry: Carry,
        tokens: Int[ArrayLike, " lanes"],
        memory: Memory | None = None,
    ) -> tuple[Carry, Float[Array, "lanes vocabulary"], Any]:
        """One target token a lane, for decoders: ``jax.tree_util.Partial(model.step, params)``.

        Args:
          params: from ``init``.
          carry: of ``Encoded``, or from an earlier call.
          tokens: the tokens before.
          memory: of ``Encoded``: what decoders take as ``context``.

        Returns:
          the new carry, the next token's logits, and the attention weights ``(lanes, source)``, or None.

        Raises:
          ValueError: as ``encode``.
        """
        tokens = checked_tokens(tokens, self.target_vocabulary)
        decoder: Any = self.decoder
        decoder_params = self._decoder_params(params, memory)
        x, weights = embed(self._target_embedding(params), tokens), None
        if self.attention is None:
            carry, y = decoder.step(decoder_params, carry, x)
        else:
            carry, y, weights = decoder.step_and_weights(decoder_params, carry, x)
        return carry, y @ self._w_out(params) + params.b_out, weights

    def _init_encoder(self, key: Array, dtype: DType) -> tuple[Any, ...]:
        layers, in_features = [], self.embedding_size
        for cell, layer_key in zip(self.cells, jax.random.split(key, len(self.cells)), strict=True):
            if self.direction == "bidirectional":
                pair = jax.random.split(layer_key)
                layers.append(tuple(cell.init(k, in_features, dtype) for k in pair))
                in_features = 2 * cell.out_features
            else:
                layers.append(cell.init(layer_key, in_features, dtype))
                in_features = cell.out_features
        return tuple(layers)

    def _encode_layer(
        self, cell: Cell, params: Any, ys: Array, lengths: Any, key: Array | None
    ) -> tuple[Carry, Array]:
        """The last state of a layer, of both directions where there are two, and its outputs."""
        noises = (None, None)
        if key is not None:
            key_dropout, *keys = jax.random.split(key, 3)
            ys = self._dropout(key_dropout, ys)
            noises = tuple(cell.noise(k, ys.shape[0], ys.shape[1:-1]) for k in keys)
        options = {"lengths": lengths, "backward": self.backward}
        if self.direction == "bidirectional":
            return bidirectional(cell, cell, params, ys, noise=noises, **options)
        return unroll(cell, params, ys, noise=noises[0], reverse=self.direction == "reversed", **options)

    def _states(self) -> tuple[Carry, Carry]:
        """The shapes of the encoder's last states, and of the decoder's first."""
        pair = self.direction == "bidirectional"

        def shapes() -> tuple[Carry, Carry]:
            last = tuple(cell.initial_carry() for cell in self.cells)
            first = tuple(cell.initial_carry() for cell in self.decoder_cells)
            return tuple((state, state) for state in last) if pair else last, first

        return jax.eval_shape(shapes)

    def _init_bridge(self, key: Array, dtype: DType) -> Any:
        last, first = self._states()
        if _alike(last, first):
            return None
        features = sum(leaf.shape[-1] for leaf in jax.tree.leaves(last))
        draw = jax.nn.initializers.lecun_normal()
        leaves, structure = jax.tree.flatten(first)
        sizes = [leaf.shape[-1] for leaf in leaves]
        bridges = [
            BridgeParams(draw(k, (features, size), dtype), jnp.zeros(size, dtype))
            for k, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
        ]
        return jax.tree.unflatten(structure, bridges)

    def _first_carry(self, params: Seq2SeqParams, states: tuple[Carry, ...]) -> Carry:
        """The decoder's carry before its first step, from the encoder's last states."""
        first = states
        if params.bridge is not None:
            features = jnp.concatenate(jax.tree.leaves(states), axis=-1)
            first = jax.tree.map(
                lambda bridge: jnp.tanh(features @ bridge.w + bridge.b),
                params.bridge,
                is_leaf=lambda node: isinstance(node, BridgeParams),
            )
        if self.attention is None:
            return first
        batch_shape, dtype = jax.tree.leaves(first)[0].shape[:-1], params.b_out.dtype
        return self.decoder.initial_carry(batch_shape, dtype)._replace(cell=first)

    def _decoder_params(self, params: Seq2SeqParams, memory: Memory | None) -> Any:
        return params.decoder if self.attention is None else (params.decoder, memory)

    def _target_embedding(self, params: Seq2SeqParams) -> Array:
        return params.source_embedding if self.tied == "all" else params.target_embedding

    def _w_out(self, params: Seq2SeqParams) -> Array:
        return params.w_out if self.tied == "none" else self._target_embedding(params).T

    def _dropout(self, key: Array, ys: Array) -> Array:
        return dropout(key, ys, self.dropout, variational=self.variational)


def _alike(a: Any, b: Any) -> bool:
    """Whether two pytrees of shapes have the same structure and shapes."""
    first: Any = jax.tree.structure(a)
    return first == jax.tree.structure(b) and all(
        x.shape == y.shape for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
