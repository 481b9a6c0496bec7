"""Series by the settings of a run: what a network reads at every step, and what it is to foretell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.corpora import can_be_read
from experiments.data.series import (
    UNITS,
    Clock,
    Series,
    beijing_weather,
    daily_min_temperatures,
    digest,
    read_series,
)
from experiments.data.simulated_weather import simulated_weather
from experiments.harness.run import DIGEST
from experiments.harness.settings import Count, Fraction, settings

DAY, YEAR = UNITS["day"], 365.2425  # seconds, days
# Data sets by name, and when their validation and test parts begin.
NAMED: dict[str, tuple[Callable[[Callable[[str], None]], Series], str, str]] = {
    "simulated_weather": (lambda report: simulated_weather(), "2022-07-01", "2023-01-01"),
    "daily_min_temperatures": (daily_min_temperatures, "1988-01-01", "1989-01-01"),
    "beijing_weather": (beijing_weather, "2013-01-01", "2014-01-01"),
}


@settings
class DataSettings:
    """Settings of series."""

    data: str = "simulated_weather"
    """simulated_weather (two places, hourly; no download), daily_min_temperatures, beijing_weather, or a
    CSV file with a header."""
    time: str | None = None
    """Column of a CSV file with the times, in ISO 8601 or a notation that is read as easily."""
    target: str | None = None
    """Columns of a CSV file to forecast, with commas between them."""
    covariates: str | None = None
    """Columns of a CSV file that are known up to the present, likewise."""
    horizon: Count | None = None
    """Steps ahead; None: a day of hours, a week of days, a year of months."""
    season: Count | None = None
    """Steps after which the naive forecast repeats itself, by which MASE is scaled; None: a day of hours, a
    year of days, weeks or months."""
    valid_fraction: Fraction = 0.1
    """Part of a CSV file, before its test part, that chooses the model; 0: the end of the training part."""
    test_fraction: Fraction = 0.1
    """Part of a CSV file, at its end, to measure on; 0: none."""


class Scale(NamedTuple):
    """Means and standard deviations of the training part."""

    mean: np.ndarray  # (series,)
    deviation: np.ndarray  # (series,)
    covariate_mean: np.ndarray  # (covariates,)
    covariate_deviation: np.ndarray  # (covariates,)


class Data(NamedTuple):
    """A series, its parts, and how it is read."""

    series: Series
    train: int  # steps to train on, the first ones
    valid: int  # steps before the test part
    horizon: int
    season: int
    scale: Scale
    digests: dict[str, str]


class Batch(NamedTuple):
    """Pieces of a series side by side; what they are to foretell, in units of ``Scale``."""

    inputs: np.ndarray  # (time, batch, features) float32
    future: np.ndarray  # (time, batch, horizon, series) float32
    known: np.ndarray  # likewise, of bool: the readings that there are, and that count


def load_data(config: DataSettings, report: Callable[[str], None] = print) -> Data:
    """The data that the settings ask for.

    Raises:
      ValueError: for an unknown name, columns that are not there, and parts that are too short.
    """
    series, train, valid = series_and_parts(config, report)
    horizon = _default_horizon(series.clock) if config.horizon is None else config.horizon
    season = _default_season(series.clock) if config.season is None else config.season
    steps = len(series.targets)
    if train <= horizon:
        raise ValueError(f"--horizon {horizon} needs more than {train:,} steps to train on")
    if 0 < steps - valid < horizon:
        raise ValueError(f"the test part has {steps - valid:,} steps, fewer than --horizon {horizon}")
    if season >= train:
        report(f"the training part, {train:,} steps, is no longer than a season of {season:,}")
    for part, readings in (
        ("training", series.targets[:train]),
        ("validation", series.targets[train:valid]),
    ):
        for name, of in zip(series.target_names, readings.T, strict=True):
            if len(of) and np.isnan(of).all():
                raise ValueError(f"series {name!r} has no reading in the {part} part")
    return Data(
        series, train, valid, horizon, season, scale_of(series, train), {"data" + DIGEST: digest(series)}
    )


def series_and_parts(config: DataSettings, report: Callable[[str], None]) -> tuple[Series, int, int]:
    """The series, the steps to train on, and those before the test part."""
    columns = {"--time": config.time, "--target": config.target}
    if config.data in NAMED:
        columns["--covariates"] = config.covariates
        if given := [option for option, value in columns.items() if value is not None]:
            raise ValueError(f"{given[0]} is for a CSV file; {config.data} has its own columns")
        load, *starts = NAMED[config.data]
        series = load(report)
        train, valid = series.clock.positions(np.array(starts, "datetime64[s]")).tolist()
        return series, train, valid
    if not can_be_read(Path(config.data)):
        raise ValueError(f"data {config.data!r} is neither a file nor one of {', '.join(NAMED)}")
    if missing := [option for option, value in columns.items() if value is None]:
        raise ValueError(f"a CSV file needs {missing[0]} COLUMN")
    series = read_series(
        Path(config.data), str(config.time), names_of(config.target), names_of(config.covariates), report
    )
    steps = len(series.targets)
    valid = steps - round(config.test_fraction * steps)
    return series, valid - round(config.valid_fraction * steps), valid


def names_of(text: str | None) -> tuple[str, ...]:
    """Names with commas between them.

    >>> names_of("a, b"), names_of(None)
    (('a', 'b'), ())
    """
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def _default_horizon(clock: Clock) -> int:
    if clock.unit == "months":
        return max(1, 12 // clock.step)
    return max(1, DAY // clock.step) if clock.step < DAY else 7


def _default_season(clock: Clock) -> int:
    if clock.unit == "months":
        return max(1, 12 // clock.step)
    return max(1, DAY // clock.step) if clock.step < DAY else max(1, round(365 * DAY / clock.step))


def scale_of(series: Series, train: int) -> Scale:
    """That of the first ``train`` steps; a constant series is not stretched."""

    def of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = ~np.isnan(values)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0).sum(0) / count
        deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
        return mean, np.where(deviation > 1e-9 * np.maximum(1, abs(mean)), deviation, 1.0)

    return Scale(*of(series.targets[:train]), *of(series.covariates[:train]))


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
