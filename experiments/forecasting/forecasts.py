"""Forecasts from every step of a series, by one pass over it, and intervals that hold what they promise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.series import Clock
from experiments.forecasting.data import Scale
from experiments.forecasting.inputs import calendar
from experiments.forecasting.model import LEVELS, Forecaster, Params, Spread, State, quantiles

CHUNK = 64  # steps at a time, each with all its paths
PATHS = 200  # drawn from every origin, where forecasts feed themselves
INTERVALS = {80: (1, 3), 95: (0, 4)}  # nominal coverage in percent → which of ``LEVELS``


class Forecasts(NamedTuple):
    """Forecasts from some origins, in the series' own units."""

    mean: np.ndarray  # (origins, horizon, series); the median where the model gives quantiles
    quantiles: np.ndarray  # (origins, horizon, series, levels)


class Predictor(NamedTuple):
    """A trained model, and what it must know to forecast a series in its own units."""

    model: Forecaster
    params: Params
    horizon: int  # that of the model, or more steps, which it takes one at a time
    scale: Scale
    clock: Clock  # of the series
    key: jax.Array  # of the paths that are drawn; they depend on the step alone


def rolling(predictor: Predictor, inputs: np.ndarray) -> Forecasts:
    """Forecasts from every step of ``inputs (time, features)``, in one pass."""
    state = predictor.model.initial_state(1)
    parts = []
    for start in range(0, len(inputs), CHUNK):
        state, forecasts = forecast(predictor, inputs[start : start + CHUNK], start, state)
        parts.append(forecasts)
    return Forecasts(*(np.concatenate(of) for of in zip(*parts, strict=True)))


def read(predictor: Predictor, inputs: np.ndarray) -> State:
    """The state after all of ``inputs (time, features)``."""
    state = predictor.model.initial_state(1)
    for start in range(0, len(inputs), CHUNK):
        chunk = inputs[start : start + CHUNK, None]
        state, _ = _advance(predictor.model, predictor.params, chunk, state)
    return state


def forecast(predictor: Predictor, inputs: np.ndarray, first: int, state: State) -> tuple[State, Forecasts]:
    """The state after some steps ``(time, features)``, and the forecasts from each of them.

    Args:
      predictor: a trained model.
      inputs: what it reads.
      first: which step the first one is, counted from the start of the series.
      state: that before it.
    """
    model, params, scale = predictor.model, predictor.params, predictor.scale
    if model.horizon == predictor.horizon:
        state, spread = _advance(model, params, inputs[:, None], state)
        centre, of = spread.centre[:, 0], quantiles(spread)[:, 0]
    else:
        steps = np.arange(first, first + len(inputs))
        at = steps + 1 + np.arange(predictor.horizon)[:, None]  # (horizon, origins)
        ahead = calendar(predictor.clock.times(at), predictor.clock)
        state, states, spreads = _states(model, params, inputs, state)
        keys = jax.vmap(functools.partial(jax.random.fold_in, predictor.key))(steps)
        centre, of = _paths(model, params, states, spreads, ahead, keys)
    return state, Forecasts(
        np.asarray(centre) * scale.deviation + scale.mean,
        np.asarray(of) * scale.deviation[:, None] + scale.mean[:, None],
    )


@functools.partial(jax.jit, static_argnums=0)
def _advance(model: Forecaster, params: Params, inputs: Any, state: State) -> tuple[State, Spread]:
    return model.apply(params, inputs, state)


@functools.partial(jax.jit, static_argnums=0)
def _states(model: Forecaster, params: Params, inputs: Any, state: State) -> tuple[State, State, Any]:
    """The state after the last of ``inputs (time, features)``, and state and spread after each."""

    def step(state: State, u: jax.Array) -> tuple[State, Any]:
        state, spread = model.apply(params, u[None, None], state)
        return state, (state, jax.tree.map(lambda leaf: leaf[0, 0], spread))

    state, (states, spreads) = jax.lax.scan(step, state, inputs)
    carry = jax.tree.map(lambda leaf: leaf[:, 0], states.carry)  # (time, ...): a lane for each step
    return state, State(carry, jnp.moveaxis(states.last[:, :, 0], 0, 1)), spreads


@functools.partial(jax.jit, static_argnums=0)
def _paths(
    model: Forecaster, params: Params, states: State, spreads: Any, ahead: Any, keys: Any
) -> tuple[jax.Array, jax.Array]:
    """Means ``(origins, horizon, series)`` and quantiles of drawn paths."""
    origins = len(keys)

    def drawn(spread: Any, step: Any) -> jax.Array:  # (origins, paths, series)
        of_step = jax.vmap(
            lambda key: jax.random.normal(jax.random.fold_in(key, step), (PATHS, model.series))
        )
        return spread.centre[..., 0, :] + spread.widths[..., 0, :, 0] * of_step(keys)

    def step(carried: tuple[State, Any], given: tuple[Any, Any]) -> tuple[tuple[State, Any], Any]:
        (state, spread), (number, of_time) = carried, given
        values = drawn(spread, number)
        seen = jnp.ones_like(values)
        dates = jnp.broadcast_to(of_time[:, None], (*values.shape[:2], of_time.shape[-1]))
        u = jnp.concatenate([values, seen, dates], axis=-1).reshape(1, origins * PATHS, -1)
        state, after = model.apply(params, u, state)
        spread = jax.tree.map(lambda leaf: leaf[0].reshape(origins, PATHS, *leaf.shape[2:]), after)
        return (state, spread), values

    carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, PATHS, axis=0), states.carry)
    lanes = State(carry, jnp.repeat(states.last, PATHS, axis=1))
    first = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], PATHS, axis=1), spreads)
    given = jnp.arange(len(ahead)), ahead
    _, values = jax.lax.scan(step, (lanes, first), given)  # (horizon, origins, paths, series)
    levels = jnp.quantile(values, jnp.array(LEVELS), axis=2)
    return jnp.moveaxis(values.mean(2), 0, 1), jnp.moveaxis(levels, (0, 1), (-1, 1))


def conformal(forecasts: Forecasts, truth: np.ndarray) -> dict[int, np.ndarray]:
    """By how much of its width each side of an interval has to move so that it covers what it promises.

    Split conformal prediction, as in Romano et al. 2019, "Conformalized quantile regression", with scores
    divided by the width: E = max(lower − y, y − upper) / (upper − lower).

    Args:
      forecasts: of the validation part.
      truth: ``(origins, horizon, series)``, NaN where there is no reading.

    Returns:
      ``(horizon, series)`` by nominal coverage in percent; 0 where there is nothing to go by.
    """
    found = {}
    for nominal, (low, high) in INTERVALS.items():
        lower, upper = forecasts.quantiles[..., low], forecasts.quantiles[..., high]
        scores = np.maximum(lower - truth, truth - upper) / np.maximum(upper - lower, 1e-12)
        none = np.full((1, *scores.shape[1:]), np.nan)  # so that there is a score to sort
        scores = np.concatenate([scores, none])
        count = (~np.isnan(scores)).sum(0)
        rank = np.minimum(np.ceil((count + 1) * nominal / 100), count).astype(int)
        ordered = np.sort(scores, axis=0)  # NaN last
        chosen = np.take_along_axis(ordered, np.maximum(rank - 1, 0)[None], axis=0)[0]
        found[nominal] = np.where(count > 0, np.maximum(np.nan_to_num(chosen), -0.5), 0.0)
    return found


def calibrated(forecasts: Forecasts, moves: dict[int, np.ndarray]) -> Forecasts:
    """Forecasts whose intervals are moved as ``conformal`` says."""
    moved = forecasts.quantiles.copy()
    for nominal, (low, high) in INTERVALS.items():
        by = moves[nominal] * (moved[..., high] - moved[..., low])
        moved[..., low] -= by
        moved[..., high] += by
    return forecasts._replace(quantiles=moved)
