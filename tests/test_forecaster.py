"""The forecaster, its linear forecast, its intervals and its drawn paths, against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments.data.series import Clock
from experiments.forecasting.data import Scale
from experiments.forecasting.forecasts import (
    INTERVALS,
    PATHS,
    Forecasts,
    Predictor,
    calibrated,
    conformal,
    forecast,
    read,
    rolling,
)
from experiments.forecasting.inputs import calendar
from experiments.forecasting.model import (
    LEVELS,
    PENALTIES,
    Forecaster,
    LinearForecast,
    Spread,
    fit_linear,
    quantiles,
)
from jaxrnn import LSTM, Stack
from tests import reference

FEATURES, SERIES, HORIZON = 4, 2, 3


def softplus(z):
    return np.log1p(np.exp(z))


def model_of(output="normal", lags=2, horizon=HORIZON, in_features=FEATURES, dates=1, series=SERIES):
    return Forecaster(Stack([LSTM(3)]), in_features, dates, series, horizon, lags, output)


def drawn(model, dtype, seed=0):
    """Parameters that are all random."""
    unfitted = LinearForecast(
        np.zeros((*model.regressors, model.horizon * model.series)), np.ones(model.shape)
    )
    params = model.init(jax.random.key(0), unfitted)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.7, leaf.shape), dtype), params)


SPANS = {1: [(0, 1)], 3: [(0, 1), (1, 2), (2, 3)], 6: [(0, 1), (1, 2), (2, 4), (4, 6)]}


def products(xs, time, lags, dates=1):
    """(1, a) ⊗ (1, a, r̄) of a step; steps before the first are zeros."""
    padded = np.concatenate([np.zeros((lags, xs.shape[-1])), xs])
    split, now = xs.shape[-1] - dates, time + lags
    means = [np.mean([padded[now - lag, :split] for lag in range(*span)], axis=0) for span in SPANS[lags]]
    calendar = np.append(1.0, xs[time, split:])
    return np.outer(calendar, np.concatenate([calendar, *means]))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["normal", "quantiles"])
@pytest.mark.parametrize("lags", [0, 1, 6])
def test_equals_numpy(output, lags):
    """Step by step, from a state that was carried."""
    model = model_of(output, lags)
    with jax.enable_x64(True):
        params = drawn(model, jnp.float64)
        xs = np.random.default_rng(1).normal(size=(7, 2, FEATURES))
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.initial_state(2))
        state, first = model.apply(params, xs[:4], state)
        _, second = model.apply(params, xs[4:], state)
        found = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
        params = jax.tree.map(np.asarray, params)
    for lane in range(2):
        carry = (np.zeros(3), np.zeros(3))
        for time in range(7):
            carry, h = reference.lstm(params.cells[0], carry, xs[time, lane])
            out = (h @ params.w_out + params.b_out).reshape(HORIZON, SERIES, -1)
            linear = 0
            if lags:
                of = products(xs[:, lane], time, lags)
                linear = np.tensordot(of, params.w_linear).reshape(HORIZON, SERIES)
            np.testing.assert_allclose(found.centre[time, lane], linear + out[..., 0], rtol=1e-12)
            np.testing.assert_allclose(found.widths[time, lane], softplus(out[..., 1:]), rtol=1e-12)


@pytest.mark.slow
def test_quantiles_and_losses():
    """Of what is known alone: a NaN that does not count reaches neither the loss nor its gradient."""
    random = np.random.default_rng(0)
    centre = random.normal(size=(5, 2, HORIZON, SERIES))
    future = random.normal(size=centre.shape)
    known = random.random(centre.shape) < 0.7
    for output, widths in (("normal", 1), ("quantiles", 4)):
        spread = Spread(jnp.asarray(centre), jnp.asarray(random.uniform(0.1, 2, (*centre.shape, widths))))
        of = np.asarray(quantiles(spread))
        assert (np.diff(of) > 0).all()
        expected = 0.0
        for at in np.argwhere(known):
            at = tuple(at)
            if output == "normal":
                normal = scipy.stats.norm(centre[at], spread.widths[at][0])
                np.testing.assert_allclose(of[at], normal.ppf(LEVELS), rtol=1e-4)
                expected -= normal.logpdf(future[at])
            else:
                assert of[at][2] == np.float32(centre[at])
                np.testing.assert_allclose(np.diff(of[at]), spread.widths[at], rtol=1e-4, atol=1e-5)
                errors = future[at] - of[at]
                expected += np.mean(
                    [2 * max(q * e, (q - 1) * e) for q, e in zip(LEVELS, errors, strict=True)]
                )
        shown = jnp.asarray(np.where(known, future, np.nan), jnp.float32)
        total, count = model_of(output).loss(spread, shown, known)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert count == known.sum()


def test_the_linear_forecast_is_that_of_least_squares():
    """With the penalties that do best where they are chosen; steps with a reading missing do not count."""
    random = np.random.default_rng(0)
    xs = random.normal(size=(400, FEATURES)).astype(np.float32)
    future = random.normal(size=(400, HORIZON, SERIES))
    future[:, 0, 0] += 3 * xs[:, 0] + 2 * xs[:, 1] * xs[:, 3]  # changes with the calendar
    future[:, 1, 1] += xs[:, 2]  # does not
    known = random.random(future.shape) < 0.95
    fit_on, choose_on = known.copy(), known.copy()
    fit_on[250:], choose_on[:250] = False, False
    fitted = fit_linear((xs, future, fit_on), (xs, future, choose_on), lags=3, dates=1)
    design = np.array([products(xs, t, 3).ravel() for t in range(400)], np.float64)
    rows = [t for t in range(2, 250) if known[t].all()]
    targets = future.reshape(400, -1)
    ways = []
    for penalty, change in PENALTIES:
        costs = np.array([0.0] + [penalty] * 10 + [penalty * change] * 11)
        ways.append(
            np.linalg.solve(design[rows].T @ design[rows] + np.diag(costs), design[rows].T @ targets[rows])
        )
    errors = np.stack([design[2:] @ way - targets[2:] for way in ways])
    chosen = np.argmin((errors**2 * choose_on[2:].reshape(398, -1)).sum(1), axis=0)
    assert len(set(chosen)) > 1
    expected = np.stack([ways[way][:, column] for column, way in enumerate(chosen)], axis=1)
    np.testing.assert_allclose(fitted.weights.reshape(22, 6), expected, atol=1e-5)
    left = targets[rows] - design[rows] @ expected
    np.testing.assert_allclose(fitted.deviation.ravel(), left.std(0), rtol=1e-5)
    short = xs[:3], future[:3], np.ones((3, HORIZON, SERIES), bool)
    with pytest.raises(ValueError, match="give fewer --lags"):
        fit_linear(short, short, lags=3, dates=1)


@pytest.mark.slow
def test_the_first_forecast_is_the_linear_one():
    """And its deviation that of the linear one's errors."""
    model = model_of(lags=3)
    random = np.random.default_rng(0)
    fitted = LinearForecast(random.normal(size=(*model.regressors, 6)), random.uniform(0.2, 2, model.shape))
    params = model.init(jax.random.key(0), fitted)
    xs = random.normal(size=(5, 1, FEATURES)).astype(np.float32)
    _, spread = model.apply(params, xs, model.initial_state(1))
    expected = [np.tensordot(products(xs[:, 0], time, 3), fitted.weights) for time in range(5)]
    np.testing.assert_allclose(spread.centre.reshape(5, 6), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(spread.widths[3, 0, ..., 0], fitted.deviation, rtol=1e-4)


CLOCK = Clock(np.datetime64("2020-01-01", "s"), 86_400, "seconds")
SCALE = Scale(np.array([3.0]), np.array([2.0]), np.zeros(0), np.ones(0))


@pytest.mark.slow
def test_drawn_paths_are_those_of_an_autoregression():
    """z_{t+1} = φ z_t + β sin(time of year) + σ ε has means and deviations that are known."""
    phi, beta, sigma, horizon = 0.8, 0.5, 0.6, 4
    model = model_of(lags=1, horizon=1, in_features=6, dates=4, series=1)
    weights = np.zeros((*model.regressors, 1))
    weights[0, 1], weights[0, 5] = beta, phi
    unfitted = LinearForecast(weights, np.full((1, 1), sigma))
    params = model.init(jax.random.key(0), unfitted)
    predictor = Predictor(model, params, horizon, SCALE, CLOCK, jax.random.key(1))
    values = np.random.default_rng(0).normal(size=30)
    dates = calendar(CLOCK.times(np.arange(40)), CLOCK)
    xs = np.concatenate([values[:, None], np.ones((30, 1)), dates[:30]], axis=1).astype(np.float32)
    found = rolling(predictor, xs)
    for origin in (0, 17, 29):
        mean, variance = values[origin], 0.0
        for step in range(horizon):
            mean = phi * mean + beta * dates[origin + step, 0]
            variance = phi**2 * variance + sigma**2
            error = 5 * np.sqrt(variance / PATHS)
            assert abs((found.mean[origin, step, 0] - 3) / 2 - mean) < error
            spread = (found.quantiles[origin, step, 0, 3] - found.quantiles[origin, step, 0, 1]) / 2
            assert spread == pytest.approx(2 * scipy.stats.norm.ppf(0.9) * np.sqrt(variance), rel=0.4)
    widths = np.diff(found.quantiles[..., [1, 3]])[..., 0].mean(0)[:, 0]
    expected = [np.sqrt(sum(phi ** (2 * k) for k in range(step + 1))) for step in range(horizon)]
    np.testing.assert_allclose(widths / widths[0], np.array(expected) / expected[0], rtol=0.05)
    state = read(predictor, xs[:-1])
    _, last = forecast(predictor, xs[-1:], 29, state)
    np.testing.assert_allclose(last.mean[0], found.mean[29], rtol=1e-5)
    np.testing.assert_allclose(last.quantiles[0], found.quantiles[29], rtol=1e-5)


def test_conformal_intervals():
    """The smallest widening that holds ceil((n + 1) p) of n readings; it covers p of as many new ones."""
    random = np.random.default_rng(0)
    levels = np.array([-1.0, -0.5, 0, 0.5, 1.0])  # too narrow for a normal distribution
    truth = random.normal(size=(2000, HORIZON, SERIES))
    truth[random.random(truth.shape) < 0.1] = np.nan
    of = np.broadcast_to(levels, (*truth.shape, 5))
    forecasts = Forecasts(np.zeros(truth.shape), of)
    moves = conformal(forecasts._replace(quantiles=of[:1000]), truth[:1000])
    for nominal, (low, high) in INTERVALS.items():
        scores = np.maximum(levels[low] - truth[:1000], truth[:1000] - levels[high])
        scores = scores[:, 1, 1][~np.isnan(scores[:, 1, 1])] / (levels[high] - levels[low])
        rank = int(np.ceil((len(scores) + 1) * nominal / 100))
        assert moves[nominal][1, 1] == sorted(scores)[rank - 1]
        moved = calibrated(forecasts._replace(quantiles=of[1000:]), moves).quantiles
        inside = (moved[..., low] <= truth[1000:]) & (truth[1000:] <= moved[..., high])
        covered = inside.sum() / (~np.isnan(truth[1000:])).sum()
        assert abs(covered - nominal / 100) < 0.02
    nothing = conformal(forecasts, np.full(truth.shape, np.nan))
    none = conformal(forecasts._replace(quantiles=of[:0]), truth[:0])
    assert all((of == 0).all() for of in (*nothing.values(), *none.values()))
