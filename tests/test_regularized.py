"""Zoneout and variational dropout: what they draw, and the unroll and its gradients with what was drawn."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cells.regularized import VariationalNoise, ZoneoutNoise
from tests import reference
from tests.table import random_params, relative_error
from tests.unrolling import BATCH, TIME, TOLERANCE, assert_agree, both_directions, problem

LSTM, GRU, STEP = jaxrnn.LSTM(5), jaxrnn.GRU(5), jaxrnn.Elman(3)


class Case(NamedTuple):
    name: str
    cell: jaxrnn.Cell
    step: Callable | None = None  # one unbatched step in NumPy, which takes (x, noise) for x


def zoneout(params, carry, pair, step):
    x, noise = pair
    return reference.zoneout(params, carry, x, step, noise.keep)


def variational_dropout(params, carry, pair, step):
    x, noise = pair
    masks = {"mask_h": 1 if noise.h is None else noise.h, "mask_y": 1 if noise.y is None else noise.y}
    return reference.variational_dropout(params, carry, x, step, **masks)


def variational_zoneout(params, carry, pair, step):
    x, noise = pair
    inside = functools.partial(reference.zoneout, step=step, keep=noise.cell.keep)
    return variational_dropout(params, carry, (x, noise), inside)


CASES = [
    Case(
        "zoneout-lstm",
        jaxrnn.Zoneout(LSTM, rate_h=0.3, rate_c=0.6),
        functools.partial(zoneout, step=reference.lstm),
    ),
    Case(
        "zoneout-gru",
        jaxrnn.Zoneout(GRU, rate_h=0.4),
        functools.partial(zoneout, step=reference.gru_after),
    ),
    Case(
        "variational-lstm",
        jaxrnn.VariationalDropout(LSTM, rate_h=0.4, rate_y=0.3),
        functools.partial(variational_dropout, step=reference.lstm),
    ),
    Case(
        "variational-gru",
        jaxrnn.VariationalDropout(GRU, rate_h=0.0, rate_y=0.3),
        functools.partial(variational_dropout, step=reference.gru_after),
    ),
    Case(
        "variational-zoneout-lstm",
        jaxrnn.VariationalDropout(jaxrnn.Zoneout(LSTM, rate_h=0.3), rate_h=0.0, rate_y=0.3),
        functools.partial(variational_zoneout, step=reference.lstm),
    ),
]
COMPOSED = [
    Case(
        "residual-zoneout-variational-lstm",
        jaxrnn.Residual(jaxrnn.Zoneout(jaxrnn.VariationalDropout(jaxrnn.LSTM(3), rate_y=0.0), rate_h=0.3)),
    ),
    Case(
        "stack",
        jaxrnn.Stack(
            [
                jaxrnn.VariationalDropout(jaxrnn.Elman(4), rate_h=0.4, rate_y=0.3),
                jaxrnn.Elman(5),
                jaxrnn.Zoneout(jaxrnn.Elman(3), rate_h=0.4),
            ]
        ),
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def draw(cell, seed=3, time=TIME, batch_shape=(BATCH,)):
    return cell.noise(jax.random.key(seed), time, batch_shape)


def numpy_unroll(case, params, xs, carry, lengths, resets, noise, reverse):
    """The reference over the sequences of a batch, each with its own noise."""
    params, xs, carry, noise = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry, noise))
    initial = jax.tree.map(np.asarray, case.cell.initial_carry())
    after, ys = [], []
    for b in range(BATCH):
        steps = [(xs[t, b], jax.tree.map(lambda a, t=t, b=b: a[t, b], noise)) for t in range(TIME)]
        start = jax.tree.map(lambda a, b=b: a[b], carry)
        one = reference.unroll(
            case.step, params, steps, start, initial, int(lengths[b]), resets[:, b], reverse,
            case.cell.out_features,
        )  # fmt: skip
        after.append(tuple(one[0]))
        ys.append(one[1])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *after), np.stack(ys, axis=1)


@every_case
@both_directions
def test_equals_numpy(case: Case, reverse, dtype):
    """Ragged lengths with 0 and a full one, resets, a given carry; in reverse also in chunks."""
    params, xs, carry, lengths, resets = problem(case.cell, dtype)
    noise = draw(case.cell)
    expected = numpy_unroll(case, params, xs, carry, lengths, resets, noise, reverse)
    actual = jaxrnn.unroll(
        case.cell, params, xs, carry, lengths=lengths, resets=resets, noise=noise,
        reverse=reverse, remat=3 if reverse else None,
    )  # fmt: skip
    assert relative_error(actual, expected) < TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "reverse"),
    [*((case, False) for case in CASES), *((case, True) for case in [*CASES, *COMPOSED])],
    ids=lambda value: getattr(value, "name", "reverse" if value else "forward"),
)
def test_bptt_equals_autodiff(case: Case, reverse, float64):
    """Params, inputs and initial carry; in reverse also in chunks of 3, which do not divide the 7 steps."""
    params, xs, carry, lengths, resets = problem(case.cell, float64)
    noise = draw(case.cell)

    def run(backward, params, xs, carry):
        return jaxrnn.unroll(
            case.cell, params, xs, carry, lengths=lengths, resets=resets, noise=noise,
            reverse=reverse, backward=backward, remat=3 if reverse and backward == "bptt" else None,
        )  # fmt: skip

    grads = assert_agree(run, (params, xs, carry), float64)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_bptt_equals_autodiff_in_both_directions(float64):
    """``bidirectional`` gives each direction the noise of its place in the pair."""
    cells = (jaxrnn.Zoneout(jaxrnn.Elman(5), rate_h=0.4), jaxrnn.VariationalDropout(jaxrnn.Elman(5)))
    params, xs, carry, lengths, resets = problem(cells[0], float64)
    second = random_params(cells[1], float64, seed=5)
    noise = (draw(cells[0], 3), draw(cells[1], 4))

    def run(backward, params, xs, carry):
        return jaxrnn.bidirectional(
            *cells, params, xs, carry, lengths=lengths, resets=resets, noise=noise, backward=backward
        )

    arguments = ((params, second), xs, (carry, carry))
    assert_agree(run, arguments, float64)
    options = {"lengths": lengths, "resets": resets}
    forward = jaxrnn.unroll(cells[0], params, xs, carry, noise=noise[0], **options)
    backward = jaxrnn.unroll(cells[1], second, xs, carry, noise=noise[1], reverse=True, **options)
    expected = ((forward[0], backward[0]), jnp.concatenate([forward[1], backward[1]], axis=-1))
    assert relative_error(run("autodiff", *arguments), expected) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
def test_noise_gets_zero_gradient(backward):
    cell = COMPOSED[1].cell
    params, xs, carry, _, _ = problem(cell, "float32")

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(noise, xs):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, carry, noise=noise, backward=backward)[1] ** 2)

    noise = draw(cell)
    d_noise, d_xs = gradient(noise, xs)
    assert relative_error(d_noise, jax.tree.map(jnp.zeros_like, noise)) == 0
    assert np.any(np.asarray(d_xs))


MANY = {"time": 50, "batch_shape": (40,)}


class TestDraws:
    """100 000 draws: the standard error of a rate is below 0.0016; the tolerance is three of them."""

    def test_zoneout_keeps_at_its_rates(self):
        keep = draw(jaxrnn.Zoneout(jaxrnn.LSTM(50), rate_h=0.05, rate_c=0.5), **MANY).keep
        assert keep.h.shape == keep.c.shape == (50, 40, 50)
        assert set(np.unique(keep.h)) == set(np.unique(keep.c)) == {0, 1}
        assert np.mean(keep.h) == pytest.approx(0.05, abs=0.0021)
        assert np.mean(keep.c) == pytest.approx(0.5, abs=0.0048)

    def test_zoneout_draws_for_each_step_sequence_unit_and_field(self):
        keep = draw(jaxrnn.Zoneout(jaxrnn.LSTM(50), rate_h=0.5, rate_c=0.5), **MANY).keep
        for axis in range(3):
            neighbours = np.equal(*(np.delete(keep.h, i, axis) for i in (0, -1)))
            assert np.mean(neighbours) == pytest.approx(0.5, abs=0.0048)
        assert np.mean(keep.h == keep.c) == pytest.approx(0.5, abs=0.0048)

    @pytest.mark.parametrize("rate", [0.1, 0.5])
    def test_variational_dropout_drops_at_its_rate_and_scales_the_rest(self, rate):
        cell = jaxrnn.VariationalDropout(jaxrnn.LSTM(50), rate_h=rate, rate_y=rate)
        noise = draw(cell, time=1, batch_shape=(2000,))
        for mask in (noise.h, noise.y):
            np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
            assert np.mean(mask == 0) == pytest.approx(rate, abs=0.0048)

    def test_variational_dropout_has_one_mask_a_sequence(self):
        cell = jaxrnn.VariationalDropout(jaxrnn.LSTM(50), rate_h=0.5, rate_y=0.5)
        noise = draw(cell, **MANY)
        for mask in (noise.h, noise.y):
            assert mask.shape == (50, 40, 50)
            assert np.all(mask == mask[0])
            assert len(np.unique(mask[0], axis=0)) == 40  # no two sequences share one
            assert len(np.unique(mask[0], axis=1).T) == 50  # nor do two units
        assert np.mean(noise.h[0] == noise.y[0]) == pytest.approx(0.5, abs=0.04)

    def test_each_of_nested_and_stacked_cells_draws_its_own(self):
        inner = jaxrnn.Zoneout(STEP, rate_h=0.5)
        stack = jaxrnn.Stack([inner, inner, STEP, jaxrnn.VariationalDropout(inner, rate_h=0.0)])
        first, second, none, nested = draw(stack, time=500)
        assert none is None
        for one, other in [(first, second), (second, nested.cell)]:
            assert np.mean(one.keep.h == other.keep.h) == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=lambda case: case.name)
    def test_a_key_reproduces_and_another_differs(self, case: Case):
        noise = draw(case.cell, seed=1)
        assert relative_error(draw(case.cell, seed=1), noise) == 0
        assert all(
            np.any(np.asarray(one) != np.asarray(other))
            for one, other in zip(*map(jax.tree.leaves, (noise, draw(case.cell, seed=2))), strict=True)
        )

    def test_a_rate_of_zero_draws_no_mask(self):
        cell = jaxrnn.VariationalDropout(LSTM, rate_h=0.0, rate_y=0.0)
        assert draw(cell) == VariationalNoise(h=None, y=None, cell=None)

    def test_zoneout_draws_for_the_cell_inside(self):
        cell = jaxrnn.VariationalDropout(STEP, rate_y=0.0)
        assert draw(jaxrnn.Zoneout(cell)).cell.h.shape == draw(cell).h.shape


class TestWithoutNoise:
    """One step, not compiled as a whole, so that equal operations give equal bits."""

    @pytest.mark.parametrize(
        "cell",
        [
            jaxrnn.Zoneout(LSTM, rate_h=0.0, rate_c=0.0),
            jaxrnn.VariationalDropout(LSTM, rate_h=0.0, rate_y=0.0),
        ],
        ids=["zoneout", "variational-dropout"],
    )
    def test_a_rate_of_zero_gives_the_plain_cell_exactly(self, cell):
        params, xs, carry, _, _ = problem(LSTM, "float32")
        expected = LSTM.step(params, carry, xs[0])
        noise = jax.tree.map(lambda leaf: leaf[0], draw(cell))
        assert relative_error(cell.step(params, carry, xs[0]), expected) == 0
        assert relative_error(cell.step(params, carry, xs[0], noise), expected) == 0

    def test_variational_dropout_is_the_plain_cell(self):
        params, xs, carry, _, _ = problem(LSTM, "float32")
        actual = CASES[2].cell.step(params, carry, xs[0])
        assert relative_error(actual, LSTM.step(params, carry, xs[0])) == 0

    def test_zoneout_takes_the_expectation(self):
        cell = CASES[0].cell
        params, xs, carry, _, _ = problem(LSTM, "float32")
        rates = carry._replace(h=jnp.full((BATCH, 5), 0.3), c=jnp.full((BATCH, 5), 0.6))
        expected = cell.step(params, carry, xs[0], ZoneoutNoise(keep=rates, cell=None))
        assert relative_error(cell.step(params, carry, xs[0]), expected) < 1e-6
        after, _ = LSTM.step(params, carry, xs[0])
        assert relative_error(expected[0].c, 0.6 * carry.c + 0.4 * after.c) < 1e-6
