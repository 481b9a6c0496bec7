"""What a forecaster reads at every step of a series, and what it is to foretell."""

from typing import Any, NamedTuple

import numpy as np

from experiments.data.series import Clock, Series
from experiments.forecasting.data import DAY, Data, Scale

YEAR = 365.2425  # days


class Batch(NamedTuple):
    """Pieces of a series side by side; what they are to foretell, in units of ``Scale``."""

    inputs: np.ndarray  # (time, batch, features) float32
    future: np.ndarray  # (time, batch, horizon, series) float32
    known: np.ndarray  # likewise, of bool: the readings that there are, and that count


def features(
    targets: np.ndarray, covariates: np.ndarray, times: np.ndarray, clock: Clock, scale: Scale
) -> np.ndarray:
    """What a network reads at some steps: readings, which of them there are, and the calendar.

    Args:
      targets: ``(..., series)``, NaN where there is no reading.
      covariates: ``(..., covariates)``, likewise; large ones are compressed as by a logarithm.
      times: ``(...)`` of ``datetime64[s]``.
      clock: of the series.
      scale: of the training part.

    Returns:
      ``(..., 2 series + 2 covariates + calendar)`` of float32; 0 for what is missing.
    """
    readings = (targets - scale.mean) / scale.deviation
    others = np.arcsinh((covariates - scale.covariate_mean) / scale.covariate_deviation)
    parts = (
        np.nan_to_num(readings),
        ~np.isnan(readings),
        np.nan_to_num(others),
        ~np.isnan(others),
        calendar(times, clock),
    )
    return np.concatenate([np.asarray(part, np.float32) for part in parts], axis=-1)


def calendar(times: np.ndarray, clock: Clock) -> np.ndarray:
    """Sine and cosine of the time of year, and of day where steps are shorter than that, and of twice these
    angles: ``(..., 4 or 8)``.

    >>> noon = np.array("2023-01-01T12", "datetime64[s]")
    >>> calendar(noon, Clock(noon, 3600, "seconds")).round(2).tolist()
    [0.01, 1.0, 0.02, 1.0, 0.0, -1.0, -0.0, 1.0]
    """
    years = times.astype("datetime64[Y]")
    seconds = (times - years).astype("timedelta64[s]").astype(np.float64)
    turns = [seconds / (YEAR * DAY)]
    if clock.unit == "seconds" and clock.step < DAY:
        turns.append(seconds / DAY)
    angles = [2 * np.pi * times * turn for turn in turns for times in (1, 2)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack(waves, axis=-1)


def dates_of(clock: Clock) -> int:
    """How many of the features are the calendar's, the last ones."""
    return calendar(np.array(clock.start), clock).shape[-1]


def inputs_of(series: Series, scale: Scale) -> np.ndarray:
    """``features`` of all steps: ``(time, features)``."""
    return features(series.targets, series.covariates, series.times, series.clock, scale)


def ahead(values: np.ndarray, horizon: int) -> np.ndarray:
    """What follows each of the first steps: ``(time + horizon, series)`` → ``(time, horizon, series)``.

    >>> ahead(np.arange(5)[:, None], 2)[..., 0].tolist()
    [[1, 2], [2, 3], [3, 4]]
    """
    windows = np.lib.stride_tricks.sliding_window_view(values[1:], horizon, axis=0)
    return np.moveaxis(windows, -1, 1)


def ahead_of(data: Data) -> np.ndarray:
    """The readings that follow every step: ``(time, horizon, series)``, NaN past the end."""
    values = data.series.targets
    return ahead(np.concatenate([values, np.full((data.horizon, values.shape[1]), np.nan)]), data.horizon)


def pieces(
    data: Data, starts: np.ndarray, length: int, targets: range, *, forming: int, hidden: Any = None
) -> Batch:
    """Pieces of so many steps from the given ones on; steps before the first have no reading.

    Args:
      data: a series.
      starts: ``(batch,)``; may be below 0.
      length: steps of a piece.
      targets: which steps may be foretold; others do not count.
      forming: nor does what is foretold in so many steps at the beginning, while the state forms.
      hidden: ``(length, batch)`` of bool: steps whose readings are not shown, by default none.
    """
    series = data.series
    at = np.arange(length)[:, None] + starts  # (time, batch)
    inside = np.clip(at, 0, len(series.targets) - 1)
    shown = (at == inside)[..., None]
    if hidden is not None:
        shown &= ~hidden[..., None]
    inputs = features(
        np.where(shown, series.targets[inside], np.nan),
        np.where(shown, series.covariates[inside], np.nan),
        series.clock.times(at),
        series.clock,
        data.scale,
    )
    ahead = at[..., None] + 1 + np.arange(data.horizon)  # (time, batch, horizon)
    allowed = (ahead >= targets.start) & (ahead < targets.stop) & (at[..., None] >= 0)
    allowed[:forming] = False
    values = series.targets[np.clip(ahead, 0, len(series.targets) - 1)]
    known = allowed[..., None] & ~np.isnan(values)
    future = np.where(known, (values - data.scale.mean) / data.scale.deviation, 0)
    return Batch(inputs, future.astype(np.float32), known)
