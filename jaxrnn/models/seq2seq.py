"""A sequence-to-sequence model: p(w_1 … w_T | source) from a recurrent encoder and decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.attention import Attention, Memory
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, expected_carry
from jaxrnn.checks import check_count, check_fraction, check_like, check_positive, settle
from jaxrnn.diagnostics import Signals
from jaxrnn.models.bridge import bridge_shapes, bridged, init_bridge
from jaxrnn.models.decoder import Decoder, DecoderParams
from jaxrnn.models.encoder import Direction, Encoder, EncoderParams
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward

Tied = Literal["none", "output", "all"]


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
    """The decoder's first carry, and the memory that it reads."""

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
        settle(self, check_fraction, "dropout")
        if self.tied not in get_args(Tied):
            raise ValueError(f"tied must be one of {', '.join(get_args(Tied))}, got {self.tied!r}")
        _ = self.encoder, self.decoder  # which check what is theirs
        if self.tied == "all" and self.source_vocabulary != self.target_vocabulary:
            raise ValueError(
                "one embedding for all needs one vocabulary for source and target, "
                f"got {self.source_vocabulary} and {self.target_vocabulary} tokens"
            )

    @property
    def encoder(self) -> Encoder:
        """The part that reads the source."""
        return Encoder(
            self.cells,
            vocabulary_size=self.source_vocabulary,
            embedding_size=self.embedding_size,
            direction=self.direction,
            dropout=self.dropout,
            variational=self.variational,
            backward=self.backward,
        )

    @property
    def decoder(self) -> Decoder:
        """The part that writes the target."""
        return Decoder(
            self.target_vocabulary,
            self.decoder_cells,
            self.embedding_size,
            attention=self.attention,
            memory_features=self.encoder.out_features,
            readout_size=self.readout_size,
            input_feeding=self.input_feeding,
            tied=self.tied != "none",
            dropout=self.dropout,
            variational=self.variational,
            backward=self.backward,
        )

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> Seq2SeqParams:
        """Draw the parameters: embeddings, bridge and output LeCun normal, the cells their own way."""
        key_source, key_target, key_encoder, key_bridge, key_decoder, key_out = jax.random.split(key, 6)
        keys = list(jax.random.split(key_encoder, len(self.cells)))
        encoder = self.encoder.init_from(key_source, keys, dtype)
        decoder = self.decoder.init_from((key_target, key_decoder, key_out), dtype)
        return Seq2SeqParams(
            source_embedding=encoder.embedding,
            target_embedding=None if self.tied == "all" else decoder.embedding,
            encoder=encoder.layers,
            bridge=self._init_bridge(key_bridge, dtype),
            decoder=decoder.cell,
            w_out=decoder.w_out,
            b_out=decoder.b_out,
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
            vocabulary; for parameters or shapes that do not fit.
        """
        self._check(params)
        keys = None if key is None else jax.random.split(key, len(self.cells))
        encoder_params = EncoderParams(params.source_embedding, params.encoder)
        states, ys = self.encoder.apply(encoder_params, source, lengths=lengths, keys=keys)
        carry = self.decoder.carry_of(_bridged(params.bridge, states), params.b_out.dtype)
        if self.attention is None:
            return Encoded(carry, None)
        values = jnp.moveaxis(ys, 0, 1)  # (batch, source, features)
        return Encoded(carry, self.decoder.memory(self._decoder_params(params), values, lengths))

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
        """The logits of every next target token, the tokens before it given: ``Decoder.logits``.

        Raises:
          ValueError: as ``encode``, and for a sampling rate without a key.
        """
        self._check(params)
        return self.decoder.logits(
            self._decoder_params(params),
            encoded.carry,
            fed,
            encoded.memory,
            lengths=lengths,
            key=key,
            sampling_rate=sampling_rate,
        )

    @default_promotion()
    def record(
        self,
        params: Seq2SeqParams,
        source: Int[ArrayLike, "source batch"],
        fed: Int[ArrayLike, "time batch"],
        *,
        source_lengths: Int[ArrayLike, " batch"] | None = None,
        lengths: Int[ArrayLike, " batch"] | None = None,
    ) -> tuple[Float[Array, "time batch vocabulary"], tuple[Any, ...], tuple[Signals, ...]]:
        """``encode`` and ``logits`` without dropout, and what every layer held at every step.

        Args:
          params: from ``init``.
          source: as in ``encode``.
          fed: as in ``logits``.
          source_lengths: tokens of each source sentence; None for all.
          lengths: as in ``logits``.

        Returns:
          the logits, the signals of the encoder's layers, pairs where it reads in both directions, and
          those of the decoder's.

        Raises:
          ValueError: as ``logits``.
        """
        encoded = self.encode(params, source, lengths=source_lengths)
        encoder_params = EncoderParams(params.source_embedding, params.encoder)
        _, _, reading = self.encoder.record(encoder_params, source, lengths=source_lengths)
        logits, writing = self.decoder.record(
            self._decoder_params(params), encoded.carry, fed, encoded.memory, lengths=lengths
        )
        return logits, reading, writing

    @default_promotion()
    def step(
        self,
        params: Seq2SeqParams,
        carry: Carry,
        tokens: Int[ArrayLike, " lanes"],
        memory: Memory | None = None,
    ) -> tuple[Carry, Float[Array, "lanes vocabulary"], Any]:
        """One target token a lane: ``Decoder.step``; ``carry`` and ``memory`` are those of ``Encoded``.

        Raises:
          ValueError: as ``encode``.
        """
        self._check(params)
        return self.decoder.step(self._decoder_params(params), carry, tokens, memory)

    def _decoder_params(self, params: Seq2SeqParams) -> DecoderParams:
        embedding = params.source_embedding if self.tied == "all" else params.target_embedding
        return DecoderParams(embedding, params.decoder, params.w_out, params.b_out)

    def _check(self, params: Seq2SeqParams) -> None:
        """Raise ValueError unless the parameters fit, but for those of cells, which check their own."""
        check_count("params.encoder", params.encoder, len(self.cells), "cell")
        encoder, decoder = self.encoder.shapes(jnp.float32), self.decoder.shapes(jnp.float32)
        expected = Seq2SeqParams(
            source_embedding=encoder.embedding,
            target_embedding=None if self.tied == "all" else decoder.embedding,
            encoder=(),
            bridge=self._bridge(jnp.float32),
            decoder=(),
            w_out=decoder.w_out,
            b_out=decoder.b_out,
        )
        check_like("params", expected, params._replace(encoder=(), decoder=()))

    def _bridge(self, dtype: DType) -> Any:
        """Shapes of the bridge; None where the encoder's last states have the decoder's form."""
        last = tuple(expected_carry(cell, ()) for cell in self.cells)
        first = tuple(expected_carry(cell, ()) for cell in self.decoder_cells)
        if self.direction == "bidirectional":
            last = tuple((state, state) for state in last)
        if _alike(last, first):
            return None
        return bridge_shapes(first, sum(leaf.shape[-1] for leaf in jax.tree.leaves(last)), dtype)

    def _init_bridge(self, key: Array, dtype: DType) -> Any:
        bridge = self._bridge(dtype)
        return None if bridge is None else init_bridge(key, bridge, dtype)


def _bridged(bridge: Any, states: tuple[Carry, ...]) -> tuple[Carry, ...]:
    """The decoder's first states from the encoder's last."""
    if bridge is None:
        return states
    return bridged(bridge, jnp.concatenate(jax.tree.leaves(states), axis=-1))


def _alike(a: Any, b: Any) -> bool:
    """Whether two pytrees of shapes have the same structure and shapes."""
    first: Any = jax.tree.structure(a)
    return first == jax.tree.structure(b) and all(
        x.shape == y.shape for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
