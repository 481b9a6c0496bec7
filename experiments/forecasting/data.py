"""Series by the settings of a run, and their parts."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

DAY = UNITS["day"]  # in seconds
# Data sets by name, and when their validation and test parts begin.
NAMED: dict[str, tuple[Callable[[Callable[[str], None]], Series], str, str]] = {
    "simulated_weather": (lambda report: simulated_weather(), "2025-01-01", "2026-01-01"),
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
