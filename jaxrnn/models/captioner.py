"""A caption of an image: p(w_1 … w_T | image) from a convolutional network's features, one to many."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxrnn.attention import Attention, Memory
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType, expected_carry
from jaxrnn.checks import check_like, check_positive, checked_lengths, settle
from jaxrnn.layers import dropout
from jaxrnn.models.bridge import bridge_shapes, bridged, init_bridge
from jaxrnn.models.decoder import Decoder
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward
from jaxrnn.sharding import batch_product

Entry = Literal["carry", "input", "every"]


class ProjectionParams(NamedTuple):
    """Parameters of the projection of an image's vectors."""

    w: Array  # (image_features, projection_size)
    b: Array  # (projection_size,)


class CaptionerParams(NamedTuple):
    """Parameters of a captioner; None where the configuration needs none."""

    projection: Any  # ProjectionParams
    entry: (
        Any  # "carry": BridgeParams for every leaf of the cells' carry; "input": (features, embedding_size)
    )
    decoder: Any  # DecoderParams


class Context(NamedTuple):
    """What stays the same along a caption; None where the configuration has none."""

    memory: Memory | None
    condition: Any  # v (batch, features)


class EncodedImage(NamedTuple):
    """The decoder's first carry, and what it is given at every step."""

    carry: Carry
    context: Context


@dataclass(frozen=True)
class Captioner:
    """A decoder that is told of an image by a vector v, by attention to the places of a grid, or by both.

    Equations, for the grid's vectors g_i, i = 1 … L, of a convolutional network; D(·) is dropout, and
    without a projection a_i = D(g_i). A summary vector alone is a grid of one place::

        a_i = D(relu(g_i W_a + b_a))            v = (1/L) Σ_i a_i
        y_t = decoder(S_{t-1}, x_t, a)           with attention, which reads a_1 … a_L
        −log p(w_t | w_1 … w_{t-1}, image) = −log softmax(D(y_t) W_out + b_out)[w_t]

    The vector v enters by one of three ways, else S_0 = 0 and x_t = D(E[w_{t-1}])::

        "carry":  S_0 = tanh(v W + b), for every part of it: the first step alone is told
        "input":  x_0 = v W_x, the input of a step before the start token
        "every":  x_t = [D(E[w_{t-1}]); v], which is to say weights of its own at every step; of Elman's
                  cell, h_t = tanh(h_{t-1} W_hh + x_t W_xh + v W_vh + b)

    They are those of Xu et al. (2015), "Show, attend and tell", section 3.1.2; of Vinyals et al. (2015),
    "Show and tell", eq. 10-12; and of Karpathy & Fei-Fei (2015), "Deep visual-semantic alignments", eq. 14,
    but at every step. Attention takes its scores from h_t, which has seen w_{t-1}, as in Lu et al. (2017),
    "Knowing when to look", eq. 6-8; in Xu et al. they are of h_{t-1}.

    Args:
      vocabulary_size: number of distinct tokens.
      cells: the decoder's layers, bottom first; any ``Cell``.
      embedding_size: size of the embedding.
      image_features: features of the image's vectors.
      projection_size: features of a_i; None takes the image's vectors as they are.
      entry: how v enters.
      attention: ``Additive(size)``, ``General()``, ``Dot()``, or None.
      readout_size: features of h̃ (see ``AttentionDecoder``); by default the embedding size.
      input_feeding: whether h̃ is fed to the next step.
      gate: whether a gate scales what attention has read (see ``AttentionDecoder``).
      tied: whether the output shares the embedding's weights.
      dropout: probability that a feature is dropped: of the image's, of embeddings, between layers, and of
        the readout.
      backward: how gradients are taken where there is no attention.

    Raises:
      ValueError: as ``Decoder``; and for an unknown entry.

    >>> from jaxrnn import GRU
    >>> from jaxrnn.attention import Additive
    >>> model = Captioner(7, [GRU(8)], 4, image_features=6, attention=Additive(5))
    >>> params = model.init(jax.random.key(0))
    >>> encoded = model.encode(params, jnp.ones((2, 9, 6)))  # two images, a grid of 3 × 3
    >>> model.logits(params, encoded, jnp.array([[0, 0], [6, 5]])).shape
    (2, 2, 7)
    """

    vocabulary_size: int
    cells: Sequence[Cell]
    embedding_size: int
    _: KW_ONLY
    image_features: int
    projection_size: int | None = None
    entry: Entry = "every"
    attention: Attention | None = None
    readout_size: int | None = None
    input_feeding: bool = True
    gate: bool = False
    tied: bool = False
    dropout: float = 0.0
    backward: Backward = "autodiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        settle(self, check_positive, "image_features")
        if self.projection_size is not None:
            settle(self, check_positive, "projection_size")
        if self.entry not in get_args(Entry):
            raise ValueError(f"entry must be one of {', '.join(get_args(Entry))}, got {self.entry!r}")
        if self.gate and self.attention is None:
            raise ValueError("a gate scales what attention has read, and there is no attention")
        _ = self.decoder  # which checks what is its

    @property
    def features(self) -> int:
        """Features of a_i and of v."""
        return self.image_features if self.projection_size is None else self.projection_size

    @property
    def decoder(self) -> Decoder:
        """The part that writes the caption."""
        return Decoder(
            self.vocabulary_size,
            self.cells,
            self.embedding_size,
            attention=self.attention,
            memory_features=self.features,
            condition_size=self.features if self.entry == "every" else None,
            readout_size=self.readout_size,
            input_feeding=self.input_feeding,
            gate=self.gate,
            tied=self.tied,
            dropout=self.dropout,
            backward=self.backward,
        )

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> CaptionerParams:
        """Draw the parameters: LeCun normal but for the cells, which draw theirs their own way."""
        key_projection, key_entry, key_decoder = jax.random.split(key, 3)
        draw, (projection, entry) = jax.nn.initializers.lecun_normal(), self._shapes(dtype)
        if projection is not None:
            w, b = projection
            projection = ProjectionParams(draw(key_projection, w.shape, dtype), jnp.zeros(b.shape, dtype))
        if self.entry == "carry":
            entry = init_bridge(key_entry, entry, dtype)
        elif self.entry == "input":
            entry = draw(key_entry, entry.shape, dtype)
        return CaptionerParams(projection, entry, self.decoder.init(key_decoder, dtype))

    @default_promotion()
    def encode(
        self,
        params: CaptionerParams,
        image: Float[Array, "batch *places image_features"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> EncodedImage:
        """What the decoder is told of images.

        Args:
          params: from ``init``.
          image: a vector each, or with ``places`` a grid of them.
          key: dropout's key; without one nothing is dropped.

        Raises:
          ValueError: for parameters or shapes that do not fit, and for a vector where attention reads a
            grid.
        """
        self._check(params, image)
        grid = image[:, None] if image.ndim == 2 else image
        if self.projection_size is not None:
            grid = jax.nn.relu(batch_product(grid, params.projection.w) + params.projection.b)
        if key is not None:
            grid = dropout(key, grid, self.dropout)
        v, decoder = jnp.mean(grid, axis=1), self.decoder
        memory = None if self.attention is None else decoder.memory(params.decoder, grid)
        condition = v if self.entry == "every" else None
        if self.entry == "carry":
            carry = decoder.carry_of(bridged(params.entry, v), v.dtype)
        else:
            carry = decoder.initial_carry(v.shape[:1], v.dtype)
        if self.entry == "input":
            carry = decoder.primed(params.decoder, carry, batch_product(v, params.entry), memory)
        return EncodedImage(carry, Context(memory, condition))

    @default_promotion()
    def logits(
        self,
        params: CaptionerParams,
        encoded: EncodedImage,
        fed: Int[ArrayLike, "time batch"],
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "time batch vocabulary"]:
        """The logits of every next token, the tokens before it given: ``Decoder.logits``.

        Raises:
          ValueError: as ``Decoder.logits``.
        """
        carry, context = encoded
        return self.decoder.logits(params.decoder, carry, fed, *context, lengths=lengths, key=key)

    @default_promotion()
    def logits_and_weights(
        self,
        params: CaptionerParams,
        encoded: EncodedImage,
        fed: Int[ArrayLike, "time batch"],
        *,
        lengths: Int[ArrayLike, " batch"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "time batch vocabulary"], Float[Array, "time batch places"]]:
        """``logits``, and where each step looked: ``Decoder.logits_and_weights``.

        Raises:
          ValueError: as ``logits``; and for a captioner without attention.
        """
        carry, (memory, condition) = encoded
        if memory is None:
            raise ValueError("only a captioner with attention has its weights")
        return self.decoder.logits_and_weights(
            params.decoder, carry, fed, memory, condition, lengths=lengths, key=key
        )

    @default_promotion()
    def step(
        self, params: CaptionerParams, carry: Carry, tokens: Int[ArrayLike, " lanes"], context: Context
    ) -> tuple[Carry, Float[Array, "lanes vocabulary"], Any]:
        """One token a lane: ``Decoder.step``; ``carry`` and ``context`` are those of ``EncodedImage``.

        Raises:
          ValueError: as ``Decoder.step``.
        """
        return self.decoder.step(params.decoder, carry, tokens, *context)

    def _shapes(self, dtype: DType) -> tuple[Any, Any]:
        """Shapes of the projection and of the entry's parameters."""
        shape, features, size = jax.ShapeDtypeStruct, self.image_features, self.projection_size
        projection: Any = None
        if size is not None:
            w: Any = shape((features, size), dtype)
            b: Any = shape((size,), dtype)
            projection = ProjectionParams(w, b)
        entry: Any = None
        if self.entry == "carry":
            carry = tuple(expected_carry(cell, ()) for cell in self.cells)
            entry = bridge_shapes(carry, self.features, dtype)
        elif self.entry == "input":
            entry = shape((self.features, self.embedding_size), dtype)
        return projection, entry

    def _check(self, params: CaptionerParams, image: Any) -> None:
        """Raise ValueError unless the parameters but for the decoder's, and the image, fit."""
        projection, entry = self._shapes(jnp.float32)
        expected = CaptionerParams(projection, entry, ())
        check_like("params", expected, params._replace(decoder=()))
        if image.ndim not in (2, 3) or image.shape[-1] != self.image_features:
            raise ValueError(
                f"image should have shape (batch, {self.image_features}) or "
                f"(batch, places, {self.image_features}), got {image.shape}"
            )
        if image.ndim == 2 and self.attention is not None:
            raise ValueError(f"attention reads a grid (batch, places, features), got {image.shape}")


@default_promotion()
def doubly_stochastic_penalty(
    weights: Float[Array, "time batch places"], lengths: Int[ArrayLike, " batch"] | None = None
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """How unevenly attention was spread over an image's places, summed over sequences, and their number.

    Equation (Xu et al. 2015, eq. 14), for a sequence of T steps over L places::

        Σ_i (1 − Σ_t α_{t,i})²

    Args:
      weights: α, from ``Captioner.logits_and_weights``; zero at padding.
      lengths: of the sequences; those of length 0 do not count. None for all.

    Raises:
      ValueError: for lengths of another batch.

    >>> penalty, count = doubly_stochastic_penalty(jnp.full((4, 3, 2), 0.5))
    >>> penalty.tolist(), count.tolist()  # 2 · (1 − 4/2)², three times
    (6.0, 3)
    """
    time, batch, _ = weights.shape
    counted = jnp.ones(batch, bool)
    if lengths is not None:
        counted = checked_lengths(lengths, time, (batch,), "the weights", "(time, batch, places)") > 0
    each = jnp.sum((1 - jnp.sum(weights, axis=0)) ** 2, axis=-1)
    return jnp.sum(each, where=counted), jnp.sum(counted)
