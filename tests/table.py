"""The one table of cells: a row each, and every row passes every contract test."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.cells.cell import Cell
from tests import reference


class Row(NamedTuple):
    name: str
    cell: Cell
    reference: Callable  # one unbatched step in NumPy: (params, carry, x) -> (carry, y)


@dataclasses.dataclass(frozen=True)
class StartsAtHalf(jaxrnn.GRU):
    """A cell whose initial carry is not zero, so that a reset to zero shows."""

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        return jax.tree.map(lambda leaf: leaf + 0.5, super().initial_carry(batch_shape, dtype))


CELLS = [
    Row("elman", jaxrnn.Elman(5), functools.partial(reference.elman, activation="tanh")),
    Row(
        "elman-relu",
        jaxrnn.Elman(5, activation="relu"),
        functools.partial(reference.elman, activation="relu"),
    ),
    Row(
        "elman-sigmoid",
        jaxrnn.Elman(5, activation="sigmoid"),
        functools.partial(reference.elman, activation="sigmoid"),
    ),
    Row("lstm", jaxrnn.LSTM(5), reference.lstm),
    Row("gru-after", jaxrnn.GRU(5), reference.gru_after),
    Row("gru-before", StartsAtHalf(5, reset="before"), reference.gru_before),
    Row("mgu", jaxrnn.MGU(5), reference.mgu),
    # At scale 1, h would sum up all steps, more than the test in bfloat16 can hold.
    Row("irnn", jaxrnn.IRNN(5, scale=0.5), functools.partial(reference.elman, activation="relu")),
    Row("peephole", jaxrnn.PeepholeLSTM(5), reference.peephole),
    Row("coupled", jaxrnn.CoupledLSTM(5), reference.coupled),
    Row("layer-norm", jaxrnn.LayerNormLSTM(5), reference.layer_norm),
    Row("projected", jaxrnn.ProjectedLSTM(5, 4), reference.projected),
    Row("min-gru", jaxrnn.MinGRU(5), reference.min_gru),
    Row("min-lstm", jaxrnn.MinLSTM(5), reference.min_lstm),
    Row(
        "residual",
        jaxrnn.Residual(jaxrnn.GRU(3)),
        functools.partial(reference.residual, step=reference.gru_after),
    ),
    Row(
        "zoneout",
        jaxrnn.Zoneout(jaxrnn.LSTM(5), rate_h=0.2, rate_c=0.4),
        functools.partial(reference.zoneout, step=reference.lstm, keep=(0.2, 0.4)),
    ),
    Row(
        "variational-dropout",
        jaxrnn.VariationalDropout(jaxrnn.LSTM(5)),
        functools.partial(reference.variational_dropout, step=reference.lstm),
    ),
    Row(
        "stack",
        jaxrnn.Stack([jaxrnn.LSTM(4), jaxrnn.GRU(3), jaxrnn.Elman(5)]),
        functools.partial(
            reference.stack,
            steps=[
                reference.lstm,
                reference.gru_after,
                functools.partial(reference.elman, activation="tanh"),
            ],
        ),
    ),
]

IN_FEATURES = 3


def random_like(tree, seed, scale=0.6):
    """Normal draws in place of every leaf: no bias is zero, no gate is symmetric."""
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)
    return structure.unflatten(
        [jnp.asarray(scale * random.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    )


def random_params(cell, dtype, in_features=IN_FEATURES, seed=0):
    return random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features, dtype)), seed)


def random_carry(cell, batch_shape, dtype, seed=1):
    return random_like(jax.eval_shape(lambda: cell.initial_carry(batch_shape, dtype)), seed)


def relative_error(actual, expected):
    """Largest over leaves of max|a−b| / max|b|; where b is exactly zero, a must be too."""
    worst = 0.0
    actual_leaves, expected_leaves = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual_leaves) == len(expected_leaves)
    for a, b in zip(actual_leaves, expected_leaves, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        if b.size == 0:
            continue
        scale = np.max(np.abs(b))
        difference = np.max(np.abs(a - b))
        assert np.isfinite(difference)
        worst = max(worst, float(difference / scale) if scale else float(difference > 0))
    return worst
