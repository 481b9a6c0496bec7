"""Flax NNX modules that hold a cell's parameters and run it through time; no mathematics of their own."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Inexact, Int

from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell
from jaxrnn.checks import check_count, check_fraction, check_positive
from jaxrnn.layers import run_layers
from jaxrnn.recurrence import Backward, unroll


class RNN(nnx.Module):
    """A cell and its parameters, run over a sequence by ``jaxrnn.unroll``.

    Called like ``flax.nnx.RNN``: batch leads and time follows unless ``time_major``.

    The attribute ``deterministic`` is False at first: every call then draws the noise of a noisy cell
    (``Zoneout``, ``VariationalDropout``). As in ``flax.nnx.Dropout``, ``eval()`` makes it True: no noise is
    drawn, and the layer is deterministic; ``train()`` makes it False again. Other cells have no noise, and
    are always deterministic.

    Args:
      cell: any ``Cell``.
      in_features: features of the input.
      backward: how gradients are taken, as in ``unroll``.
      remat: memory policy, as in ``unroll``.
      rngs: the stream ``params`` draws the parameters; ``noise`` (or the default one) the
        cell's noise.

    >>> from jaxrnn import LSTM
    >>> layer = RNN(LSTM(hidden_size=4), in_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 5, 3))).shape
    (2, 5, 4)
    """

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        *,
        backward: Backward = "autodiff",
        remat: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        in_features, cell = check_positive("in_features", in_features), as_cell(cell)
        self.cell = cell
        self.backward = backward
        self.remat = remat
        self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), in_features)))
        noise = jax.eval_shape(lambda: cell.noise(jax.random.key(0), 1))
        self.noise_stream = rngs.noise.fork() if jax.tree.leaves(noise) else None
        self.deterministic = False

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set ``deterministic``, for ``nnx.view``."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(
        self,
        inputs: Inexact[Array, "..."],
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Int[Array, "..."] | None = None,
        return_carry: bool = False,
        time_major: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
    ) -> Any:
        """Outputs, or (carry, outputs) with ``return_carry``.

        Args:
          inputs: ``(*batch, time, in_features)``, or ``(time, *batch, in_features)`` if ``time_major``.
          initial_carry: carry before the first step.
          seq_lengths: steps of each sequence.
          return_carry: whether to return the last carry too.
          time_major: whether time leads, in inputs and outputs.
          reverse: run from the last real step to the first.
          keep_order: under ``reverse``, leave outputs at their positions; otherwise they come in the
            order in which they were computed.

        Raises:
          ValueError: as ``unroll``.
        """
        xs = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
        carry, ys = unroll(
            self.cell,
            jax.tree.map(lambda param: param[...], self.params, is_leaf=_is_param),
            xs,
            initial_carry,
            lengths=seq_lengths,
            noise=self._noise(xs),
            reverse=reverse,
            backward=self.backward,
            remat=self.remat,
        )
        if reverse and not keep_order:
            ys = _flip(ys, seq_lengths)
        if not time_major:
            ys = jnp.moveaxis(ys, 0, -2)
        return (carry, ys) if return_carry else ys

    def _noise(self, xs: Array) -> Any:
        if self.deterministic or self.noise_stream is None:
            return None
        return self.cell.noise(self.noise_stream(), xs.shape[0], xs.shape[1:-1])


class Bidirectional(nnx.Module):
    """Two layers over the same input, one in each direction, outputs side by side.

    Args:
      forward_rnn: run from the first step to the last.
      backward_rnn: run from the last to the first; a module of its own.

    Raises:
      ValueError: if both are the same module, which would share its parameters unasked.

    >>> from jaxrnn import GRU
    >>> rngs = nnx.Rngs(0)
    >>> layer = Bidirectional(RNN(GRU(4), 3, rngs=rngs), RNN(GRU(4), 3, rngs=rngs))
    >>> layer(jnp.ones((2, 5, 3))).shape
    (2, 5, 8)
    """

    def __init__(self, forward_rnn: RNN, backward_rnn: RNN) -> None:
        if forward_rnn is backward_rnn:
            raise ValueError("forward_rnn and backward_rnn must be two modules, got the same one twice")
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn

    def __call__(
        self,
        inputs: Inexact[Array, "..."],
        *,
        initial_carry: tuple[Carry, Carry] | None = None,
        seq_lengths: Int[Array, "..."] | None = None,
        return_carry: bool = False,
        time_major: bool = False,
    ) -> Any:
        """Outputs, forward features first, or (pair of carries, outputs) with ``return_carry``.

        Outputs stay at their positions. Arguments as in ``RNN``; raises as it does.
        """
        if initial_carry is not None:
            check_count("initial_carry", initial_carry, 2, "direction")
        first, second = (None, None) if initial_carry is None else initial_carry
        common: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "return_carry": True,
            "time_major": time_major,
        }
        forward, ys = self.forward_rnn(inputs, initial_carry=first, **common)
        backward, backward_ys = self.backward_rnn(
            inputs, initial_carry=second, reverse=True, keep_order=True, **common
        )
        ys = jnp.concatenate([ys, backward_ys], axis=-1)
        return ((forward, backward), ys) if return_carry else ys


class StackedRNN(nnx.Module):
    """Layers of one cell on top of each other, with dropout between them (Zaremba et al. 2014).

    Args:
      cell: the cell of every layer.
      in_features: features of the input.
      num_layers: number of layers.
      bidirectional: whether every layer runs in both directions.
      dropout: probability that a feature is dropped between layers; ``eval()`` switches it off, and the
        cells' noise with it.
      backward: how gradients are taken, as in ``unroll``.
      remat: memory policy, as in ``unroll``.
      rngs: streams ``params``, with dropout ``dropout``, and for the cells' noise ``noise``.

    Raises:
      ValueError: for sizes below 1 or a dropout outside [0, 1).

    >>> from jaxrnn import LSTM
    >>> stack = StackedRNN(LSTM(4), 3, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    >>> stack(jnp.ones((2, 5, 3))).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        *,
        num_layers: int,
        bidirectional: bool = False,
        dropout: float = 0.0,
        backward: Backward = "autodiff",
        remat: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        num_layers, dropout = check_positive("num_layers", num_layers), check_fraction("dropout", dropout)
        cell = as_cell(cell)
        directions = 2 if bidirectional else 1
        in_sizes = [in_features] + [directions * cell.out_features] * (num_layers - 1)

        def layer(size: int) -> RNN:
            return RNN(cell, size, backward=backward, remat=remat, rngs=rngs)

        self.layers = nnx.List(
            [Bidirectional(layer(s), layer(s)) if bidirectional else layer(s) for s in in_sizes]
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        inputs: Inexact[Array, "..."],
        *,
        initial_carry: tuple[Any, ...] | None = None,
        seq_lengths: Int[Array, "..."] | None = None,
        return_carry: bool = False,
        time_major: bool = False,
    ) -> Any:
        """The top layer's outputs, or (tuple of carries, outputs) with ``return_carry``.

        Arguments as in ``RNN``, carries one a layer; raises as it does.
        """
        if initial_carry is not None:
            check_count("initial_carry", initial_carry, len(self.layers), "layer")

        def run(layer: int, ys: Array, carry: Any) -> tuple[Carry, Array]:
            return self.layers[layer](
                ys if layer == 0 else self.dropout(ys),
                initial_carry=carry,
                seq_lengths=seq_lengths,
                return_carry=True,
                time_major=time_major,
            )

        carry, ys = run_layers(run, len(self.layers), inputs, initial_carry)
        return (carry, ys) if return_carry else ys


def _is_param(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Param)


def _flip(ys: Array, lengths: Any) -> Array:
    """The real steps of ``ys (time, *batch, features)`` in reverse order; padding stays behind them."""
    if lengths is None:
        return jnp.flip(ys, axis=0)
    lengths = jnp.clip(jnp.asarray(lengths), 0, len(ys))[None]  # as ``unroll`` takes them
    steps = jnp.arange(len(ys)).reshape(-1, *(1 for _ in lengths.shape[1:]))
    places = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jnp.take_along_axis(ys, places[..., None], axis=0)
