"""The cells of the table, each with its NumPy reference: every row passes every contract test."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.cells import table
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


IN_FEATURES, UNITS = 3, 5

# Cells of the table of which a contract test would see too little, or that would not fit.
SPECIAL = {
    "gru-before": StartsAtHalf(UNITS, reset="before"),
    # At scale 1, h would sum up all steps, more than the test in bfloat16 can hold.
    "irnn": jaxrnn.IRNN(UNITS, scale=0.5),
    "residual": jaxrnn.Residual(jaxrnn.GRU(IN_FEATURES)),
    "zoneout": jaxrnn.Zoneout(jaxrnn.LSTM(UNITS), rate_h=0.2, rate_c=0.4),
}

elman, relu, sigmoid = (partial(reference.elman, activation=name) for name in ("tanh", "relu", "sigmoid"))
REFERENCES = {
    "elman": elman,
    "elman-relu": relu,
    "elman-sigmoid": sigmoid,
    "irnn": relu,
    "lstm": reference.lstm,
    "peephole": reference.peephole,
    "coupled": reference.coupled,
    "layer-norm": reference.layer_norm,
    "projected": reference.projected,
    "gru": reference.gru_after,
    "gru-before": reference.gru_before,
    "mgu": reference.mgu,
    "min-gru": reference.min_gru,
    "min-lstm": reference.min_lstm,
    "stack": partial(reference.stack, steps=[reference.lstm, reference.gru_after, elman]),
    "residual": partial(reference.residual, step=reference.gru_after),
    "zoneout": partial(reference.zoneout, step=reference.lstm, keep=(0.2, 0.4)),
    "variational-dropout": partial(reference.variational_dropout, step=reference.lstm),
}

CELLS = [
    Row(name, SPECIAL[name] if name in SPECIAL else make(UNITS), REFERENCES[name])
    for name, make in table.CELLS.items()
]


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
