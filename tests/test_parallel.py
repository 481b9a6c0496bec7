"""``parallel_unroll`` against ``unroll``, and both against the NumPy loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests.table import CELLS, IN_FEATURES, random_carry, random_like, random_params, relative_error
from tests.unrolling import BATCH, TIME, TOLERANCE, both_directions, gradients, numpy_unroll, problem

AFFINE = [row for row in CELLS if row.name in ("min-gru", "min-lstm")]
every_affine = pytest.mark.parametrize("affine", AFFINE, ids=lambda row: row.name)


def nan_at_padding(xs, lengths):
    padding = np.broadcast_to((np.arange(len(xs))[:, None] >= lengths)[..., None], xs.shape)
    return jnp.where(padding, jnp.nan, xs), padding


@every_affine
@both_directions
def test_equals_numpy(affine, reverse, dtype):
    """Lengths, resets and a given carry; NaN at padding reaches no output."""
    params, xs, carry, lengths, resets = problem(affine.cell, dtype)
    expected = numpy_unroll(affine, params, xs, carry, lengths, resets, reverse)
    xs, padding = nan_at_padding(xs, lengths)
    after, ys = jaxrnn.parallel_unroll(
        affine.cell, params, xs, carry, lengths=lengths, resets=resets, reverse=reverse
    )
    assert relative_error((after, ys), expected) < TOLERANCE[dtype]
    assert np.all(np.asarray(ys)[padding[..., :1].repeat(5, axis=-1)] == 0)
    assert relative_error(after.h[0], carry.h[0]) == 0  # the sequence of length 0


@every_affine
@pytest.mark.parametrize("batch_shape", [(), (2, 3)], ids=str)
def test_any_batch_dimensions(affine, batch_shape, float64):
    params, xs, carry, lengths, resets = problem(affine.cell, float64, batch_shape)
    expected = numpy_unroll(affine, params, xs, carry, lengths, resets, False)
    actual = jaxrnn.parallel_unroll(affine.cell, params, xs, carry, lengths=lengths, resets=resets)
    assert relative_error(actual, expected) < TOLERANCE[float64]


@every_affine
def test_nothing_but_inputs(affine):
    params, xs, _, _, _ = problem(affine.cell, "float32")
    expected = jaxrnn.unroll(affine.cell, params, xs)
    assert relative_error(jaxrnn.parallel_unroll(affine.cell, params, xs), expected) < 1e-6


@both_directions
def test_a_reset_returns_to_the_cells_own_initial_carry(reverse):
    class StartsAtHalf(jaxrnn.MinGRU):
        def initial_carry(self, batch_shape=(), dtype=jnp.float32):
            return jax.tree.map(lambda leaf: leaf + 0.5, super().initial_carry(batch_shape, dtype))

    cell = StartsAtHalf(5)
    params, xs, carry, lengths, resets = problem(cell, "float32")
    options = {"lengths": lengths, "resets": resets, "reverse": reverse}
    expected = jaxrnn.unroll(cell, params, xs, carry, **options)
    assert relative_error(jaxrnn.parallel_unroll(cell, params, xs, carry, **options), expected) < 1e-6


@pytest.mark.slow
@every_affine
@both_directions
def test_same_gradients(affine, reverse, float64):
    """Params, inputs and initial carry, with lengths and resets; NaN at padding reaches no gradient."""
    params, xs, carry, lengths, resets = problem(affine.cell, float64)
    spoilt, padding = nan_at_padding(xs, lengths)

    def run(unroll, *arguments):
        return unroll(affine.cell, *arguments, lengths=lengths, resets=resets, reverse=reverse)

    expected = gradients(functools.partial(run, jaxrnn.unroll), (params, xs, carry))
    actual = gradients(functools.partial(run, jaxrnn.parallel_unroll), (params, spoilt, carry))
    assert relative_error(actual, expected) < 1e-12
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(actual))
    assert np.all(np.asarray(actual[1])[padding] == 0)


LONG = 5000


def long_problem(cell):
    xs = random_like(jnp.ones((LONG, 1, IN_FEATURES)), seed=1, scale=1.0)
    return random_params(cell, "float32"), xs, random_carry(cell, (1,), "float32")


def scaled(params, scale):
    return jax.tree.map(lambda w: scale * w, params)


@every_affine
@pytest.mark.slow
def test_long_sequences_equal_numpy(affine):
    """Weights times 50 drive the gates to 0 and 1, where nothing is forgotten for long."""
    params, xs, carry = long_problem(affine.cell)
    for scale in (1, 50):
        actual = jaxrnn.parallel_unroll(affine.cell, scaled(params, scale), xs, carry)
        expected = numpy_unroll(affine, scaled(params, scale), xs, carry, None, None, False)
        assert relative_error(actual, expected) < 1e-4


@pytest.mark.slow
@every_affine
def test_long_sequences_and_saturated_gates(affine):
    """float32, with gates 0 or 1 to rounding: finite, and as ``unroll`` but for rounding."""
    params, xs, carry = long_problem(affine.cell)

    @jax.jit
    def both(params):
        def value_and_grads(unroll):
            def loss(params, xs, carry):
                after, ys = unroll(affine.cell, params, xs, carry)
                return jnp.mean(ys**2) + jnp.sum(after.h**2), (after, ys)

            return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, carry)

        return value_and_grads(jaxrnn.parallel_unroll), value_and_grads(jaxrnn.unroll)

    for scale in (1, 50, 1e4):
        (actual, grads), (expected, expected_grads) = both(scaled(params, scale))
        assert relative_error((actual, grads), (expected, expected_grads)) < 1e-4
    gates, _ = affine.cell.linear_step(scaled(params, 1e4), xs)
    assert np.mean(np.isin(gates.h, [0, 1])) > 0.5


@both_directions
def test_a_segment_sees_nothing_beyond_its_resets(reverse):
    """Not even a NaN, as in ``unroll``: in the first segment, and in the given carry."""
    cell = AFFINE[0].cell
    params, xs, carry, _, _ = problem(cell, "float32")
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), carry)
    resets = jnp.zeros((TIME, BATCH), bool).at[3].set(True).at[TIME - 1 if reverse else 0, 1].set(True)
    spoilt = xs.at[5 if reverse else 1, 0].set(jnp.nan)
    _, ys = jaxrnn.parallel_unroll(cell, params, spoilt, broken, resets=resets, reverse=reverse)
    _, expected = jaxrnn.unroll(cell, params, spoilt, broken, resets=resets, reverse=reverse)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)  # NaN at the same places
    assert 0 < np.isnan(ys).sum() < ys[:3].size


@every_affine
@both_directions
@pytest.mark.parametrize("time", [0, 1])
def test_hardly_any_time(affine, time, reverse):
    params, xs, carry, _, _ = problem(affine.cell, "float32")
    resets = jnp.zeros((time, BATCH), bool)
    after, ys = jaxrnn.parallel_unroll(
        affine.cell, params, xs[:time], carry, resets=resets, reverse=reverse
    )
    assert ys.shape == (time, BATCH, 5)
    expected, y = affine.cell.step(params, carry, xs[0]) if time else (carry, None)
    assert relative_error(after, expected) < 1e-6
    assert not time or relative_error(ys[0], y) < 1e-6


@every_affine
def test_bfloat16_compute(affine):
    """Gates in bfloat16, the carry in float32, as in ``unroll``."""
    cell = type(affine.cell)(5, dtype="bfloat16")
    params, xs, carry, _, _ = problem(cell, "float32")
    after, ys = jaxrnn.parallel_unroll(cell, params, xs, carry)
    assert (after.h.dtype, ys.dtype) == ("float32", "bfloat16")
    expected = jaxrnn.unroll(cell, params, xs, carry)
    assert relative_error((after, ys), expected) < 0.01


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "cell",
    [jaxrnn.LSTM(5), jaxrnn.Zoneout(jaxrnn.MinGRU(5)), jaxrnn.Stack([jaxrnn.MinGRU(5)])],
    ids=lambda cell: type(cell).__name__,
)
def test_a_cell_that_is_not_affine_is_refused_by_name(cell):
    params, xs, _, _, _ = problem(cell, "float32")
    match = rf"parallel_unroll needs a cell that is linear in its carry, got {type(cell).__name__}\("
    with pytest.raises(ValueError, match=match):
        jaxrnn.parallel_unroll(cell, params, xs)


def test_an_affine_form_that_was_left_behind_is_refused():
    class Changed(jaxrnn.MinGRU):
        def step(self, params, carry, x, noise=None):
            return super().step(params, carry, 2 * x)

    params, xs, _, _, _ = problem(jaxrnn.MinGRU(5), "float32")
    with pytest.raises(ValueError, match=r"linear in its carry, got .*Changed"):
        jaxrnn.parallel_unroll(Changed(5), params, xs)
