"""What every wrapper makes of any cell, with a derivative or without, and what it refuses."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from tests.table import relative_error
from tests.test_regularized import draw
from tests.unrolling import BATCH, problem

LSTM, GRU, STEP = jaxrnn.LSTM(5), jaxrnn.GRU(5), jaxrnn.Elman(3)


class TestResidualNoise:
    def test_is_the_cells(self):
        cell = jaxrnn.Zoneout(STEP)
        assert relative_error(draw(jaxrnn.Residual(cell)), draw(cell)) == 0
        assert draw(jaxrnn.Residual(STEP)) is None

    def test_reaches_the_cell(self):
        cell = jaxrnn.Zoneout(STEP, rate_h=0.5)
        params, xs, carry, _, _ = problem(cell, "float32")
        noise = jax.tree.map(lambda leaf: leaf[0], draw(cell))
        expected, y = cell.step(params, carry, xs[0], noise)
        actual = jaxrnn.Residual(cell).step(params, carry, xs[0], noise)
        assert relative_error(actual, (expected, y + xs[0])) == 0


@dataclasses.dataclass(frozen=True)
class StepOnly(jaxrnn.Cell):
    """A cell as a user may write it: an Elman network's mathematics without its derivative."""

    out_features = 3

    def init(self, key, in_features, dtype=jnp.float32):
        return STEP.init(key, in_features, dtype)

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        return STEP.initial_carry(batch_shape, dtype)

    def step(self, params, carry, x, noise=None):
        return STEP.step(params, carry, x)


WRAPPERS = {
    "zoneout": functools.partial(jaxrnn.Zoneout, rate_h=0.4),
    "variational-dropout": jaxrnn.VariationalDropout,
    "residual": jaxrnn.Residual,
    "all": lambda cell: jaxrnn.Residual(jaxrnn.VariationalDropout(jaxrnn.Zoneout(cell), rate_h=0.0)),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


class TestAnyCellInside:
    @every_wrapper
    @pytest.mark.slow
    def test_a_cell_that_has_only_its_step(self, wrap):
        params, xs, carry, lengths, _ = problem(STEP, "float32")
        noise = draw(wrap(STEP))
        run = functools.partial(jaxrnn.unroll, lengths=lengths, noise=noise)
        expected = run(wrap(STEP), params, xs, carry)
        assert relative_error(run(wrap(StepOnly()), params, xs, carry), expected) < 1e-6

    @every_wrapper
    def test_a_wrapper_has_a_derivative_if_its_cell_has(self, wrap):
        assert wrap(STEP).has_derivative
        assert not wrap(StepOnly()).has_derivative
        params, xs, _, _, _ = problem(STEP, "float32")
        with pytest.raises(ValueError, match=r'"bptt" needs a hand-derived derivative, and .*StepOnly\(\)'):
            jaxrnn.unroll(wrap(StepOnly()), params, xs, backward="bptt")

    @pytest.mark.parametrize(
        "wrapper", [jaxrnn.Zoneout, jaxrnn.VariationalDropout, jaxrnn.Residual], ids=lambda w: w.__name__
    )
    def test_a_wrapper_with_another_step_has_lost_its_derivative(self, wrapper):
        class Doubled(wrapper):
            def step(self, params, carry, x, noise=None):
                return super().step(params, carry, 2 * x, noise)

        assert wrapper(STEP).has_derivative
        assert not Doubled(STEP).has_derivative

    @every_wrapper
    def test_a_cell_with_checks_of_its_own(self, wrap):
        """Its params hold more than ``init`` draws, as an attention decoder's do."""

        @dataclasses.dataclass(frozen=True)
        class WithMemory(StepOnly):
            def step(self, params, carry, x, noise=None):
                return STEP.step(params[0], carry, x + params[1])

            def check(self, params, carry, x):
                STEP.check(params[0], carry, x)

        params, xs, carry, _, _ = problem(STEP, "float32")
        actual = wrap(WithMemory()).step((params, 0.0), carry, xs[0])
        assert relative_error(actual, wrap(STEP).step(params, carry, xs[0])) == 0


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
    @pytest.mark.parametrize(
        ("wrapper", "name"),
        [
            (jaxrnn.Zoneout, "rate_h"),
            (jaxrnn.Zoneout, "rate_c"),
            (jaxrnn.VariationalDropout, "rate_h"),
            (jaxrnn.VariationalDropout, "rate_y"),
        ],
    )
    def test_rates(self, wrapper, name, rate):
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\), got {rate}"):
            wrapper(LSTM, **{name: rate})

    def test_zoneout_of_another_carry(self):
        match = "carry has the field h and perhaps c, got Stack.* with no named fields"
        with pytest.raises(ValueError, match=match):
            jaxrnn.Zoneout(jaxrnn.Stack([LSTM]))

        class Carry(NamedTuple):
            h: jax.Array
            trace: jax.Array

        class Traced(StepOnly):
            def initial_carry(self, batch_shape=(), dtype=jnp.float32):
                return Carry(jnp.zeros((*batch_shape, 3), dtype), jnp.zeros((*batch_shape, 3), dtype))

        with pytest.raises(ValueError, match=r"got .*Traced\(\) with h, trace"):
            jaxrnn.Zoneout(Traced())

    @pytest.mark.parametrize("cell", [jaxrnn.Residual(GRU), jaxrnn.VariationalDropout(LSTM)])
    def test_zoneout_would_lose_an_output_that_is_not_h(self, cell):
        with pytest.raises(ValueError, match=r"output is h, and that of .* put Zoneout inside"):
            jaxrnn.Zoneout(cell)

    @pytest.mark.parametrize(
        "cell", [GRU, jaxrnn.MinGRU(5), jaxrnn.Zoneout(LSTM), jaxrnn.Residual(GRU), jaxrnn.Stack([LSTM])]
    )
    def test_variational_dropout_of_a_memory(self, cell):
        with pytest.raises(ValueError, match=rf"rate_h must be 0 for {type(cell).__name__}.*, got 0.25"):
            jaxrnn.VariationalDropout(cell, rate_h=0.25)

    def test_residual_of_other_sizes(self):
        cell = jaxrnn.Residual(jaxrnn.Elman(5))
        match = r"Residual adds input and output: Elman.* puts out 5 features, got inputs of 3"
        with pytest.raises(ValueError, match=match):
            cell.init(jax.random.key(0), in_features=3)
        params, xs, carry, _, _ = problem(cell.cell, "float32")
        with pytest.raises(ValueError, match=match):
            cell.step(params, carry, xs[0])
        with pytest.raises(ValueError, match=match):
            jaxrnn.unroll(cell, params, xs)

    @pytest.mark.parametrize("batch_shape", [(), (1,), (BATCH + 1,)], ids=str)
    def test_noise_of_another_batch(self, batch_shape):
        """Not broadcast: every sequence has its own."""
        for cell in (jaxrnn.Zoneout(STEP), jaxrnn.VariationalDropout(STEP)):
            params, xs, carry, _, _ = problem(cell, "float32")
            shapes = jax.eval_shape(functools.partial(draw, cell, batch_shape=batch_shape))
            noise = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
            got = re.escape(str((*batch_shape, 3)))
            with pytest.raises(ValueError, match=rf"^noise.* should have shape \(4, 3\), got {got}"):
                jaxrnn.unroll(cell, params, xs, carry, noise=noise)
