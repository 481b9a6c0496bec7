"""Tokens or feature vectors through stacked recurrent layers, in one direction or both."""

import functools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int, Key

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, DType
from jaxrnn.cells.stack import Stack
from jaxrnn.checks import check_count, check_fraction, check_like, check_positive, on_device, settle
from jaxrnn.diagnostics import record
from jaxrnn.layers import dropout, run_layers
from jaxrnn.models.tokens import checked_tokens, embed, init_embedding, one_hot
from jaxrnn.promotion import default_promotion
from jaxrnn.recurrence import Backward, bidirectional, unroll

Direction = Literal["forward", "reversed", "bidirectional"]


class EncoderParams(NamedTuple):
    """Parameters of an encoder."""

    embedding: Any  # (vocabulary_size, embedding_size); None for one-hot or feature vectors
    layers: tuple[Any, ...]  # one cell's params a layer, or a pair with both directions


@dataclass(frozen=True)
class Encoder:
    """Stacked recurrent layers that read a sequence, with the dropout of Zaremba et al. (2014), "Recurrent
    neural network regularization".

    Equations, for layers l = 1..L, D(·) dropout::

        y⁰_t = x_t, or of tokens E[w_t], or the one-hot vector of w_t
        yˡ   = unroll(cellˡ, D(yˡ⁻¹))               forward, reversed or in both directions

    Give ``vocabulary_size`` for tokens, or ``in_features`` for feature vectors.

    Args:
      cells: the layers, in each direction, bottom first; any ``Cell``.
      vocabulary_size: number of distinct tokens.
      embedding_size: size of the learned embedding of tokens, or None for one-hot vectors.
      in_features: size of feature vectors.
      direction: "forward"; "reversed", from the last step to the first; or "bidirectional", both, with the
        features of the forward cells first.
      dropout: probability that a feature is dropped, at the input and between layers.
      variational: one dropout mask for all steps of a sequence (Gal & Ghahramani 2016).
      backward: how ``unroll`` takes gradients; "bptt" needs cells with a hand-derived derivative.

    Raises:
      ValueError: for sizes below 1, a dropout outside [0, 1), no cells, an unknown direction, or unless
        there is either a vocabulary or a size of feature vectors.

    >>> from jaxrnn import GRU
    >>> encoder = Encoder([GRU(4), GRU(5)], in_features=3, direction="bidirectional")
    >>> params = encoder.init(jax.random.key(0))
    >>> carry, ys = encoder.apply(params, jnp.ones((6, 2, 3)), lengths=jnp.array([6, 0]))
    >>> ys.shape, [[state.h.shape for state in layer] for layer in carry]
    ((6, 2, 10), [[(2, 4), (2, 4)], [(2, 5), (2, 5)]])
    """

    cells: Sequence[Cell]
    _: KW_ONLY
    vocabulary_size: int | None = None
    embedding_size: int | None = None
    in_features: int | None = None
    direction: Direction = "forward"
    dropout: float = 0.0
    variational: bool = False
    backward: Backward = "autodiff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(as_cell, self.cells)))
        for name in ("vocabulary_size", "embedding_size", "in_features"):
            if getattr(self, name) is not None:
                settle(self, check_positive, name)
        settle(self, check_fraction, "dropout")
        if not self.cells:
            raise ValueError("an encoder needs at least one cell, got none")
        if self.direction not in get_args(Direction):
            known = ", ".join(get_args(Direction))
            raise ValueError(f"direction must be one of {known}, got {self.direction!r}")
        if (self.vocabulary_size is None) == (self.in_features is None):
            raise ValueError(
                "an encoder needs either vocabulary_size, for tokens, or in_features, for feature vectors, "
                f"got {self.vocabulary_size} and {self.in_features}"
            )
        if self.vocabulary_size is None and self.embedding_size is not None:
            raise ValueError(f"only tokens have an embedding_size, got {self.embedding_size} for features")

    @property
    def out_features(self) -> int:
        """Features of the outputs, of both directions where there are two."""
        return self._directions * self.cells[-1].out_features

    def init(self, key: Key[Array, ""], dtype: DType = jnp.float32) -> EncoderParams:
        """Draw the parameters: the embedding LeCun normal, the cells their own way."""
        key_embedding, *keys = jax.random.split(key, 1 + len(self.cells))
        return self.init_from(key_embedding, keys, dtype)

    def init_from(self, key_embedding: Array, keys: Sequence[Array], dtype: DType) -> EncoderParams:
        """``init`` from a key for the embedding and one for each layer."""
        size: Any = self.vocabulary_size if self.in_features is None else self.in_features
        embedding = None
        if self.embedding_size is not None:
            embedding = init_embedding(key_embedding, size, self.embedding_size, dtype)
            size = self.embedding_size
        layers: list[Any] = []
        for cell, key in zip(self.cells, keys, strict=True):
            if self.direction == "bidirectional":
                layers.append(tuple(cell.init(k, size, dtype) for k in jax.random.split(key)))
            else:
                layers.append(cell.init(key, size, dtype))
            size = self._directions * cell.out_features
        return EncoderParams(embedding, tuple(layers))

    def initial_carry(
        self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32
    ) -> tuple[Carry, ...]:
        """The carry before the first step: one cell's carry a layer, or a pair with both directions."""

        def carry(cell: Cell) -> Carry:
            return cell.initial_carry(batch_shape, dtype)

        if self.direction == "bidirectional":
            return tuple((carry(cell), carry(cell)) for cell in self.cells)
        return tuple(map(carry, self.cells))

    @default_promotion()
    def apply(
        self,
        params: EncoderParams,
        inputs: ArrayLike,
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
        resets: Bool[ArrayLike, "time *batch"] | None = None,
        keys: Key[Array, " layers"] | None = None,
    ) -> tuple[tuple[Carry, ...], Inexact[Array, "time *batch out_features"]]:
        """The last carry of every layer, and the top layer's outputs at every step.

        Args:
          params: from ``init``.
          inputs: token ids ``(time, *batch)``, or feature vectors ``(time, *batch, in_features)``.
          carry: from ``initial_carry`` or an earlier call.
          lengths: as in ``unroll``.
          resets: as in ``unroll``.
          keys: a key for each layer, of dropout and the cell's noise; without them nothing is dropped.

        Raises:
          ValueError: for tokens that are not integers or, where they are known and count, outside the
            vocabulary; for layers, keys or shapes that do not fit (``unroll``).
        """
        if self.vocabulary_size is not None:
            inputs = checked_tokens(inputs, self.vocabulary_size, lengths)
        self._check(params, carry)
        if keys is not None and len(keys) != len(self.cells):
            raise ValueError(f"keys must be {len(self.cells)}, one a layer, got {len(keys)}")
        options: dict[str, Any] = {"lengths": lengths, "resets": resets, "backward": self.backward}

        def run(layer: int, ys: Array, layer_carry: Any) -> tuple[Carry, Array]:
            cell, noise = self.cells[layer], (None, None)
            if keys is not None:
                key_dropout, *ways = jax.random.split(keys[layer], 1 + self._directions)
                ys = dropout(key_dropout, ys, self.dropout, variational=self.variational)
                noise = tuple(cell.noise(key, ys.shape[0], ys.shape[1:-1]) for key in ways)
            ours = params.layers[layer], ys, layer_carry
            if self.direction == "bidirectional":
                return bidirectional(cell, cell, *ours, noise=noise, **options)
            return unroll(cell, *ours, noise=noise[0], reverse=self.direction == "reversed", **options)

        return run_layers(run, len(self.cells), self._vectors(params, on_device(inputs)), carry)

    @default_promotion()
    def record(
        self,
        params: EncoderParams,
        inputs: ArrayLike,
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Int[ArrayLike, "*batch"] | None = None,
        resets: Bool[ArrayLike, "time *batch"] | None = None,
    ) -> tuple[tuple[Carry, ...], Inexact[Array, "time *batch out_features"], tuple[Any, ...]]:
        """``apply`` without dropout, and what every layer held at every step.

        Args:
          params: from ``init``; this and the others as in ``apply``.
          inputs: token ids or feature vectors.
          carry: from ``initial_carry`` or an earlier call.
          lengths: steps of each sequence.
          resets: True at the first position of a segment.

        Returns:
          the last carry of every layer, the top layer's outputs, and the ``diagnostics.Signals`` of every
          layer, or a pair with both directions.

        Raises:
          ValueError: as ``apply``.
        """
        if self.vocabulary_size is not None:
            inputs = checked_tokens(inputs, self.vocabulary_size, lengths)
        self._check(params, carry)
        recorded: list[Any] = []

        def run(layer: int, ys: Array, layer_carry: Any) -> tuple[Carry, Array]:
            of_cell = functools.partial(record, self.cells[layer], lengths=lengths, resets=resets)
            ours = params.layers[layer]
            if self.direction != "bidirectional":
                after, ys, signals = of_cell(ours, ys, layer_carry, reverse=self.direction == "reversed")
                recorded.append(signals)
                return after, ys
            carries = (None, None) if layer_carry is None else layer_carry
            ways = [of_cell(ours[way], ys, carries[way], reverse=way == 1) for way in (0, 1)]
            after, both_ys, both = zip(*ways, strict=True)
            recorded.append(both)
            return after, jnp.concatenate(both_ys, axis=-1)

        vectors = self._vectors(params, on_device(inputs))
        return *run_layers(run, len(self.cells), vectors, carry), tuple(recorded)

    @default_promotion()
    def step(
        self, params: EncoderParams, carry: tuple[Carry, ...], inputs: ArrayLike
    ) -> tuple[tuple[Carry, ...], Inexact[Array, "*batch out_features"]]:
        """One step forward in time.

        Args:
          params: from ``init``.
          carry: from ``initial_carry`` or an earlier call.
          inputs: token ids ``(*batch,)`` or, as floats, distributions over tokens ``(*batch, vocabulary)``;
            or feature vectors ``(*batch, in_features)``.

        Raises:
          ValueError: as ``apply``, and for an encoder of another direction than "forward".
        """
        if self.direction != "forward":
            raise ValueError(f'only direction="forward" goes step by step, got {self.direction!r}')
        inputs = on_device(inputs)
        if self.vocabulary_size is not None and not jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = checked_tokens(inputs, self.vocabulary_size)
        self._check(params, carry)
        return Stack(self.cells).step(params.layers, carry, self._vectors(params, inputs))

    def shapes(self, dtype: DType) -> EncoderParams:
        """Shapes of the parameters but for the layers, whose cells check their own."""
        if self.embedding_size is None:
            return EncoderParams(None, ())
        shape: Any = (self.vocabulary_size, self.embedding_size)
        return EncoderParams(jax.ShapeDtypeStruct(shape, dtype), ())

    @property
    def _directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def _check(self, params: EncoderParams, carry: Any) -> None:
        check_count("params.layers", params.layers, len(self.cells), "cell")
        check_like("params", self.shapes(jnp.float32), params._replace(layers=()))
        if carry is not None:
            check_count("carry", carry, len(self.cells), "cell")

    def _vectors(self, params: EncoderParams, inputs: Array) -> Array:
        """Ids (...,), distributions over tokens (..., vocabulary) or features to what the layers read."""
        if self.vocabulary_size is None:
            if inputs.ndim < 1 or inputs.shape[-1] != self.in_features:
                raise ValueError(f"inputs must have {self.in_features} features, got shape {inputs.shape}")
            return inputs
        distributions = jnp.issubdtype(inputs.dtype, jnp.floating)
        if params.embedding is None:
            dtype = _float_type(params.layers[0])
            return inputs.astype(dtype) if distributions else one_hot(inputs, self.vocabulary_size, dtype)
        if distributions:
            return inputs.astype(params.embedding.dtype) @ params.embedding
        return embed(params.embedding, inputs)


def _float_type(params: Any) -> Any:
    """The type that floating-point parameters promote to; JAX's default where there are none."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)
