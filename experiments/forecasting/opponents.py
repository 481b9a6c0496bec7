"""Forecasts without a network, of every step of a series: what a network has to beat."""

import warnings
from collections.abc import Callable

import numpy as np
from statsmodels.tsa.statespace.sarimax import SARIMAX

from experiments.data.series import Clock
from experiments.forecasting.data import DAY, Data
from experiments.forecasting.inputs import YEAR, ahead

WAVES = 3  # of the year and of the day, in a climatology
ORDER = (2, 0, 1)  # of the ARMA on what the climatology leaves


def opponents(data: Data) -> dict[str, Callable[[], np.ndarray]]:
    """What makes each forecast ``(time, horizon, series)``, fitted on the training part, by name."""
    return {
        "persistence": lambda: persistence(data),
        "seasonal naive": lambda: seasonal_naive(data),
        "climatology": lambda: ahead(climatology(data), data.horizon),
        "ARMA on climatology": lambda: arma(data),
    }


def last_reading(values: np.ndarray) -> np.ndarray:
    """Of every step the last reading so far, NaN before the first."""
    known = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    latest = np.maximum.accumulate(known, axis=0)
    return np.where(latest < 0, np.nan, np.take_along_axis(values, np.maximum(latest, 0), axis=0))


def persistence(data: Data) -> np.ndarray:
    """The last reading."""
    last = last_reading(data.series.targets)
    return np.repeat(last[:, None], data.horizon, axis=1)


def seasonal_naive(data: Data) -> np.ndarray:
    """The reading one season, or as many as are needed, before the step that is forecast; if there is none,
    that of the season before, and so on.
    """
    values, season = data.series.targets, data.season
    seasons = -(-len(values) // season)
    padded = np.full((seasons * season, values.shape[1]), np.nan)
    padded[: len(values)] = values
    by_season = padded.reshape(seasons, season, -1)
    last = last_reading(by_season.reshape(seasons, -1)).reshape(padded.shape)  # at each phase
    at = np.arange(len(values))[:, None] + 1 + np.arange(data.horizon)
    before = at - season * (1 + np.arange(data.horizon) // season)
    return np.where((before >= 0)[..., None], last[np.maximum(before, 0)], np.nan)


def climatology(data: Data) -> np.ndarray:
    """Means of the time of year and of day, smoothed by waves: ``(time + horizon, series)``.

    A regression on sines and cosines of the year and, for steps shorter than a day, of the day and their
    products.
    """
    series = data.series
    times = series.clock.times(np.arange(len(series.targets) + data.horizon))
    waves = harmonics(times, series.clock)
    found = []
    for values in series.targets[: data.train].T:
        known = ~np.isnan(values)
        weights, *_ = np.linalg.lstsq(waves[: data.train][known], values[known], rcond=None)
        found.append(waves @ weights)
    return np.stack(found, axis=1)


def harmonics(times: np.ndarray, clock: Clock) -> np.ndarray:
    """A constant, ``WAVES`` waves of the year, those of the day, and their products: ``(time, waves)``."""
    seconds = times.astype("datetime64[s]").astype(np.float64)

    def waves(period: float) -> np.ndarray:
        angles = 2 * np.pi * seconds[:, None] / period * np.arange(1, WAVES + 1)
        return np.concatenate([np.ones((len(times), 1)), np.sin(angles), np.cos(angles)], axis=1)

    year = waves(YEAR * DAY)
    if clock.unit == "months" or clock.step >= DAY:
        return year
    return (year[:, :, None] * waves(DAY)[:, None]).reshape(len(times), -1)


def arma(data: Data) -> np.ndarray:
    """An ARMA model of what the climatology leaves, by statsmodels; its filter passes over gaps."""
    usual = climatology(data)
    anomalies = data.series.targets - usual[: len(data.series.targets)]
    found = []
    for values in anomalies.T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of where the search begins, or that it gives up
            fitted = SARIMAX(values[: data.train], order=ORDER).fit(disp=False)
            whole = fitted.apply(values)
        state = whole.filter_results.filtered_state  # (states, time)
        system = whole.filter_results
        design, transition = system.design[:, :, 0], system.transition[:, :, 0]
        steps = []
        for _ in range(data.horizon):
            state = transition @ state
            steps.append((design @ state)[0])
        found.append(np.stack(steps, axis=1))
    return np.stack(found, axis=-1) + ahead(usual, data.horizon)
