"""Gradient flow: spectra, norms, highway and saturation, against ``jax.jacobian`` and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxrnn
from jaxrnn.gradients import flow
from tests.reference import sigmoid
from tests.table import IN_FEATURES, random_carry, random_like, random_params, relative_error
from tests.test_gradients_methods import UNOPTIMIZED, loss_weights, total
from tests.unrolling import both_directions, problem

LAGS = 4  # steps


def short_problem(cell, batch_shape=(2,)):
    params, xs, carry, _, _ = problem(cell, "float64", batch_shape)
    return params, xs[:LAGS], carry


@functools.partial(jax.jit, static_argnames="cell", compiler_options=UNOPTIMIZED)
def derivatives(cell, params, state, xs, d_ys, d_carry):
    """dS_T/dS and dL/dS of one sequence, the steps ``xs`` coming after S; everything as vectors."""
    flat, unravel = ravel_pytree(state)

    def run(flat):
        state, value = unravel(flat), 0.0
        for x, d_y in zip(xs, d_ys, strict=True):
            state, y = cell.step(params, state, x)
            value += jnp.vdot(d_y, y)
        last = ravel_pytree(state)[0]
        return last, value + jnp.vdot(ravel_pytree(d_carry)[0], last)

    return jax.jacobian(run)(flat)


@pytest.mark.parametrize(
    "cell",
    [
        jaxrnn.LSTM(3),
        pytest.param(jaxrnn.Elman(3), marks=pytest.mark.slow),
        pytest.param(jaxrnn.GRU(3), marks=pytest.mark.slow),
    ],
    ids=["lstm", "elman", "gru"],
)
@pytest.mark.slow
def test_spectra_and_norms(cell, float64):
    """Of each sequence and lag k, by differentiating the last k steps anew."""
    params, xs, carry = short_problem(cell)
    weights = loss_weights(cell, xs, carry)
    measured = flow(cell, params, xs, carry, **weights)
    for b in range(2):
        state, d_carry = jax.tree.map(lambda leaf, b=b: leaf[b], (carry, weights["d_carry"]))
        for t in range(LAGS + 1):
            rest = xs[t:, b], weights["d_ys"][t:, b]
            jacobian, gradient = derivatives(cell, params, state, *rest, d_carry)
            spectrum = np.linalg.svd(jacobian, compute_uv=False)
            assert relative_error(measured.singular_values[LAGS - t, b], spectrum) < 1e-12
            norm = np.linalg.norm(gradient)
            assert relative_error(measured.gradient_norms[LAGS - t, b], norm) < 1e-12
            if measured.cell_state_norms is not None:
                norm_of_c = np.linalg.norm(np.asarray(jacobian)[3:, 3:], ord=2)  # after h
                assert relative_error(measured.cell_state_norms[LAGS - t, b], norm_of_c) < 1e-12
            if t < LAGS:
                state, _ = cell.step(params, state, xs[t, b])


@pytest.mark.slow
def test_the_first_norm_is_that_of_the_gradient_of_unroll(float64):
    """dL/dS_0, with padding, resets and two batch dimensions."""
    cell = jaxrnn.GRU(3)
    params, xs, carry, lengths, resets = problem(cell, float64, (2, 2))
    weights = loss_weights(cell, xs, carry)
    measured = flow(cell, params, xs, carry, lengths=lengths, resets=resets, **weights)

    def loss(carry):
        last, ys = jaxrnn.unroll(cell, params, xs, carry, lengths=lengths, resets=resets)
        return total(weights, last, ys)

    expected = jnp.linalg.norm(jax.grad(loss)(carry).h, axis=-1)
    assert measured.gradient_norms.shape == (len(xs) + 1, 2, 2)
    assert relative_error(measured.gradient_norms[-1], expected) < 1e-13


@both_directions
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.slow
def test_the_bound_holds(activation, reverse, float64):
    """(γλ)^k with vanishing weights, to the power of real steps: padding adds none."""
    cell = jaxrnn.Elman(3, activation=activation)
    params, xs, carry, lengths, resets = problem(cell, float64)
    params = params._replace(w_hh=0.4 * params.w_hh)
    measured = flow(cell, params, xs, carry, d_carry=carry, lengths=lengths, resets=resets, reverse=reverse)
    slope = {"tanh": 1, "sigmoid": 0.25, "relu": 1}[activation]
    factor = slope * np.linalg.svd(params.w_hh, compute_uv=False)[0]
    assert factor < 1
    valid = np.arange(len(xs))[:, None] < np.asarray(lengths)
    for lag in range(len(xs) + 1):  # of the run, which under reverse ends with step 0
        real = valid[:lag].sum(0) if reverse else valid[len(xs) - lag :].sum(0)
        np.testing.assert_allclose(measured.bound[lag], factor**real, rtol=1e-12)
    assert np.all(measured.singular_values[..., 0] <= measured.bound * (1 + 1e-12))


@pytest.mark.slow
def test_the_bound_is_reached(float64):
    """By relu units that are all on and an orthogonal W_hh: a permutation."""
    cell = jaxrnn.Elman(3, activation="relu")
    permutation = jnp.roll(jnp.eye(3), 1, axis=0)
    params = random_params(cell, float64)._replace(w_hh=permutation, b=jnp.full(3, 100.0))
    measured = flow(cell, params, jnp.ones((LAGS, 3)), d_carry=cell.initial_carry((), float64))
    np.testing.assert_allclose(measured.singular_values, np.ones((LAGS + 1, 3)))
    np.testing.assert_allclose(measured.bound, np.ones(LAGS + 1))


def numpy_forget_gates(params, xs, h, c):
    """The gates i, f, o of every step of one sequence, by the equations."""
    gates = []
    for x in xs:
        i, f, g, o = np.split(x @ np.asarray(params.w_ih) + h @ np.asarray(params.w_hh) + params.b, 4)
        i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        gates.append((i, f, o))
    return np.array(gates)  # (time, 3, n)


def test_the_highway_is_the_product_of_forget_gates(float64):
    cell = jaxrnn.LSTM(3)
    params, xs, carry = short_problem(cell)
    measured = flow(cell, params, xs, carry, d_carry=carry)
    assert measured.bound is None
    for b in range(2):
        f = numpy_forget_gates(params, np.asarray(xs[:, b]), *np.asarray(carry)[:, b])[:, 1]
        products = [np.prod(f[LAGS - lag :], axis=0) for lag in range(LAGS + 1)]
        assert relative_error(measured.highway[:, b], np.stack(products)) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("cell", [jaxrnn.LSTM(3), jaxrnn.CoupledLSTM(3)], ids=["lstm", "coupled"])
@both_directions
def test_without_recurrent_weights_the_highway_is_all_there_is(cell, reverse, float64):
    """dc_T/dc_k is then Π f, whose spectral norm is its largest entry: padding and resets included."""
    params, xs, carry, lengths, resets = problem(cell, float64)
    params = params._replace(w_hh=jnp.zeros_like(params.w_hh))
    measured = flow(cell, params, xs, carry, d_carry=carry, lengths=lengths, resets=resets, reverse=reverse)
    assert relative_error(measured.cell_state_norms, jnp.max(measured.highway, axis=-1)) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("cell", [jaxrnn.GRU(2), jaxrnn.MGU(2)], ids=["gru", "mgu"])
def test_without_a_cell_state_there_is_no_highway(cell):
    params, xs = random_params(cell, "float32"), jnp.ones((2, 3))
    measured = flow(cell, params, xs, d_carry=cell.initial_carry())
    assert (measured.highway, measured.cell_state_norms, measured.bound) == (None, None, None)
    assert measured.saturation.keys() == cell.gates(params, cell.initial_carry(), xs[0]).keys()


@both_directions
@pytest.mark.slow
def test_saturation_counts_real_steps_only(reverse, float64):
    """Gates after a reset start from the initial carry."""
    cell = jaxrnn.LSTM(3)
    params, xs, carry, _, _ = problem(cell, float64, (2,))
    params = jax.tree.map(lambda leaf: 4 * leaf, params)
    lengths, resets = np.array([5, 0]), np.zeros(xs.shape[:-1], bool)
    resets[2] = True
    measured = flow(cell, params, xs, carry, d_carry=carry, lengths=lengths, resets=resets, reverse=reverse)
    first, zero = np.asarray(carry)[:, 0], np.zeros((2, 3))
    x = np.asarray(xs[:, 0])
    segments = [(x[4:1:-1], first), (x[1::-1], zero)] if reverse else [(x[:2], first), (x[2:5], zero)]
    gates = np.concatenate([numpy_forget_gates(params, xs, *start) for xs, start in segments])
    assert len(gates) == 5
    for position, name in enumerate("ifo"):
        expected = np.mean(gates[:, position] < 0.1), np.mean(gates[:, position] > 0.9)
        assert tuple(map(float, measured.saturation[name])) == pytest.approx(expected)
    assert max(measured.saturation["f"]) > 0


@both_directions
def test_padding_changes_nothing_and_a_reset_ends_everything(reverse, float64):
    cell = jaxrnn.Elman(3)
    params, xs, carry, _, _ = problem(cell, float64, ())
    resets = np.zeros(len(xs), bool)
    resets[2] = True
    measured = flow(
        cell, params, xs, carry, d_carry=carry, lengths=np.array(5), resets=resets, reverse=reverse
    )
    norms = np.asarray(measured.singular_values[:, 0])
    # The run: steps 0 1 | 2 3 4 and two of padding; under reverse two of padding, 4 3 2 | 1 0.
    padded, real = (0, 2) if reverse else (2, 3)
    np.testing.assert_array_equal(norms[: padded + 1], 1)
    assert np.all(norms[padded + 1 : padded + real] > 0)
    assert np.all(norms[padded + real :] == 0)
    assert np.all((measured.gradient_norms > 0) == (norms > 0))


def test_reverse_is_the_flow_of_the_flipped_sequence(float64):
    cell = jaxrnn.LSTM(3)
    params, xs, carry = short_problem(cell)
    weights = loss_weights(cell, xs, carry)
    actual = flow(cell, params, xs, carry, reverse=True, **weights)
    weights["d_ys"] = weights["d_ys"][::-1]
    assert relative_error(actual, flow(cell, params, xs[::-1], carry, **weights)) < 1e-14


@pytest.mark.slow
def test_no_step():
    cell = jaxrnn.LSTM(2)
    carry = random_carry(cell, (2,), "float32")
    measured = flow(cell, random_params(cell, "float32"), jnp.zeros((0, 2, 3)), carry, d_carry=carry)
    np.testing.assert_array_equal(measured.singular_values, np.ones((1, 2, 4)))
    np.testing.assert_array_equal(measured.highway, np.ones((1, 2, 2)))


@pytest.mark.slow
def test_bfloat16():
    """Singular values are taken in float32: there are none in bfloat16."""
    cell = jaxrnn.Elman(3)
    params, xs = random_params(cell, "bfloat16"), jnp.ones((3, 2, 3), "bfloat16")
    measured = flow(cell, params, xs, d_ys=jnp.ones((3, 2, 3)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(measured)} == {"float32"}
    wide = flow(cell, jax.tree.map(jnp.float32, params), xs.astype("float32"), d_ys=jnp.ones((3, 2, 3)))
    assert relative_error(measured.singular_values, wide.singular_values) < 0.05


@pytest.mark.slow
def test_zoneout_has_no_highway_and_dropout_one_at_the_h_it_sees(float64):
    """Zoneout mixes c with its past, which no product of f shows; masks on h change every f."""
    lstm = jaxrnn.LSTM(4)
    dropout = jaxrnn.VariationalDropout(lstm, rate_h=0.5, rate_y=0.0)
    params, carry = random_params(lstm, float64), random_carry(lstm, (2,), float64)
    xs = random_like(jax.ShapeDtypeStruct((3, 2, IN_FEATURES), "float64"), seed=3)
    weights = random_carry(lstm, (2,), float64, seed=4)
    assert flow(jaxrnn.Zoneout(lstm), params, xs, carry, d_carry=weights).highway is None
    noise = dropout.noise(jax.random.key(0), 3, (2,))
    highway = flow(dropout, params, xs, carry, d_carry=weights, noise=noise).highway
    expected, state = [], carry
    for t in range(3):
        seen = state._replace(h=state.h * noise.h[t])
        expected.append(lstm.gates(params, seen, xs[t])["f"])
        state, _ = lstm.step(params, seen, xs[t])
    np.testing.assert_allclose(highway[-1], expected[0] * expected[1] * expected[2], rtol=1e-12)
