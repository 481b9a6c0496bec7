"""Readings over time: from CSV files, or by name; what is missing is NaN."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from experiments.data.corpora import RemoteFile, fetch, read_text

MISSING = ("", "na", "nan", "null", "none", "n/a", "-", "?")  # what stands for no reading, in any case
UNITS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}  # in seconds
MOST_ABSENT = 20  # times as many steps as rows: above, a date is wrong

_DATASETS = "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f/"
# Daily minima in Melbourne, 1981 to 1990, in °C; Australian Bureau of Meteorology.
DAILY_MIN_TEMPERATURES = RemoteFile(
    "daily-min-temperatures.csv",
    f"{_DATASETS}daily-min-temperatures.csv",
    "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
)
# Liang et al. 2015, "Assessing Beijing's PM2.5 pollution": hourly, 2010 to 2014; UCI 381.
BEIJING_WEATHER = RemoteFile(
    "pollution.csv",
    f"{_DATASETS}pollution.csv",
    "892e9559205d16d32623135c127a3951c12e46ea1e0b3093e107ce89a9fd60e2",
)
BEIJING_COVARIATES = ("DEWP", "PRES", "pm2.5", "Iws", "Is", "Ir")


class Clock(NamedTuple):
    """When readings are due: every ``step`` seconds, or every so many calendar months."""

    start: np.datetime64  # [s]
    step: int
    unit: Literal["seconds", "months"]

    def times(self, positions: np.ndarray) -> np.ndarray:
        """The times ``datetime64[s]`` of steps counted from the start.

        >>> Clock(np.datetime64("2024-01-31T12", "s"), 86_400, "seconds").times(np.array([1]))
        array(['2024-02-01T12:00:00'], dtype='datetime64[s]')
        >>> Clock(np.datetime64("2024-01-01", "s"), 3, "months").times(np.array([-1, 1])).tolist()[1].month
        4
        """
        if self.unit == "seconds":
            return self.start + (positions * self.step).astype("timedelta64[s]")
        month = self.start.astype("datetime64[M]")
        return (month + positions * self.step).astype("datetime64[s]") + (self.start - month)

    def positions(self, times: np.ndarray) -> np.ndarray:
        """Which step each of some times is.

        Raises:
          ValueError: for a time between two steps.
        """
        if self.unit == "seconds":
            found = (times - self.start) // np.timedelta64(self.step, "s")
        else:
            months = times.astype("datetime64[M]") - self.start.astype("datetime64[M]")
            found = months.astype(int) // self.step
        if (between := self.times(found) != times).any():
            raise ValueError(f"{_text(times[between][0])} is no whole number of {self} after {self.start}")
        return found

    def __str__(self) -> str:
        """The step in words.

        >>> print(Clock(np.datetime64("2024-01-01", "s"), 7200, "seconds"))
        steps of 2 hours
        """
        sizes = {"month": 1} if self.unit == "months" else UNITS
        unit, size = next((unit, size) for unit, size in sizes.items() if self.step % size == 0)
        count = self.step // size
        return f"steps of {count} {unit}{'s' * (count > 1)}"


class Series(NamedTuple):
    """Readings at even steps of time: what is forecast, and what else is measured."""

    clock: Clock
    targets: np.ndarray  # (time, series) float64; NaN where there is no reading
    covariates: np.ndarray  # (time, covariates), likewise
    target_names: tuple[str, ...]
    covariate_names: tuple[str, ...]

    @property
    def times(self) -> np.ndarray:
        """``(time,)`` of ``datetime64[s]``."""
        return self.clock.times(np.arange(len(self.targets)))


def daily_min_temperatures(report: Callable[[str], None]) -> Series:
    """Ten years of daily minima; the file lacks the last days of leap years."""
    path = fetch("daily_min_temperatures", DAILY_MIN_TEMPERATURES)
    return read_series(path, "Date", ("Temp",), (), report)


def beijing_weather(report: Callable[[str], None]) -> Series:
    """Temperature of five years, hour by hour, and six covariates."""
    frame = read_table(fetch("beijing_weather", BEIJING_WEATHER))
    frame["time"] = (
        frame["year"] + "-" + frame["month"].str.zfill(2) + "-" + frame["day"].str.zfill(2) + "T"
    ) + frame["hour"].str.zfill(2)
    return series_of(frame, "time", ("TEMP",), BEIJING_COVARIATES, report, "beijing_weather")


def read_series(
    path: Path, time: str, targets: Sequence[str], covariates: Sequence[str], report: Callable[[str], None]
) -> Series:
    """The named columns of a CSV file with a header.

    Raises:
      ValueError: for a file that is none, or as ``series_of``.
    """
    return series_of(read_table(path), time, targets, covariates, report, str(path))


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file with a header as texts; its index counts lines of the file.

    Raises:
      ValueError: for anything else.
    """
    text = io.StringIO(read_text(path))
    try:
        frame = pd.read_csv(text, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no CSV file with a header: {' '.join(str(error).split())}") from error
    if frame.empty:
        raise ValueError(f"{path} has no row below its header")
    return frame


def series_of(
    frame: pd.DataFrame,
    time: str,
    targets: Sequence[str],
    covariates: Sequence[str],
    report: Callable[[str], None],
    name: str,
) -> Series:
    """The series in some columns of a table of texts; steps without a row are filled, and reported.

    Raises:
      ValueError: for columns that are not there, texts among numbers, and times that are none, out of
        order, there twice, or not at even steps.
    """
    columns = [time, *targets, *covariates]
    if missing := [column for column in columns if column not in frame]:
        has = ", ".join(map(str, frame.columns))
        raise ValueError(f"{name} has no column {missing[0]!r}; it has {has}")
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise ValueError(f"column {twice[0]!r} is named twice")
    times = times_of(frame[time], name)
    values = np.stack([numbers_of(frame[column], name) for column in columns[1:]], axis=1)
    clock = clock_of(times, name)
    positions = clock.positions(times)
    if positions[-1] >= MOST_ABSENT * len(times):
        widest = int(np.argmax(np.diff(positions)))
        raise ValueError(
            f"{name} has {len(times):,} rows in {clock}, which span {positions[-1] + 1:,}; "
            f"the widest gap is from {_text(times[widest])} to {_text(times[widest + 1])}"
        )
    whole = np.full((positions[-1] + 1, values.shape[1]), np.nan)
    whole[positions] = values
    if absent := np.setdiff1d(np.arange(len(whole)), positions).tolist():
        first = _text(clock.times(np.array(absent[:1]))[0])
        report(f"{name}: {len(absent):,} of {len(whole):,} steps have no row, first {first}")
    for column, of in zip(columns[1:], values.T, strict=True):
        if (none := int(np.isnan(of).sum())) == len(of):
            raise ValueError(f"{name}, column {column!r} has no reading")
        if none:
            report(f"{name}, {column}: {none:,} of {len(of):,} rows have no reading")
    split = len(targets)
    return Series(clock, whole[:, :split], whole[:, split:], tuple(targets), tuple(covariates))


def times_of(column: pd.Series, name: str) -> np.ndarray:
    """Times ``datetime64[s]`` of a column of texts, in UTC where a zone stands beside them.

    Raises:
      ValueError: for what is no time, and unless each comes after the one before.
    """
    parsed = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
    if parsed.isna().all():  # in another notation
        parsed = pd.to_datetime(column, errors="coerce", utc=True)
    if (bad := parsed.isna().to_numpy()).any():
        row = int(np.argmax(bad))
        raise ValueError(f"{_where(name, column, row)}: expected a time, got {column.iloc[row]!r}")
    times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    if (early := np.diff(times) <= np.timedelta64(0, "s")).any():
        row = int(np.argmax(early)) + 1
        how = "twice" if times[row] == times[row - 1] else f"out of order, after {_text(times[row - 1])}"
        raise ValueError(f"{_where(name, column, row)}: {_text(times[row])} comes {how}")
    return times


def numbers_of(column: pd.Series, name: str) -> np.ndarray:
    """Numbers of a column of texts, NaN where there is none.

    Raises:
      ValueError: for text among them, and for infinity.
    """
    texts = column.str.strip()
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    wrong = np.isnan(numbers) & ~texts.str.lower().isin(MISSING).to_numpy() | np.isinf(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{_where(name, column, row)}: expected a number, got {column.iloc[row]!r}")
    return numbers


def clock_of(times: np.ndarray, name: str) -> Clock:
    """The commonest step between times, in months where all fall on one day of the month.

    Raises:
      ValueError: for fewer than two times, or where some are not a whole number of steps from the first.
    """
    if len(times) < 2:
        raise ValueError(f"{name} has 1 row, and at least 2 are needed to see the step between them")
    months = times.astype("datetime64[M]")
    within = times - months
    steps, unit = np.diff(times).astype(int), "seconds"
    if (within == within[0]).all():
        steps, unit = np.diff(months).astype(int), "months"
    values, counts = np.unique(steps, return_counts=True)
    clock = Clock(times[0], int(values[np.argmax(counts)]), "months" if unit == "months" else "seconds")
    try:
        clock.positions(times)
    except ValueError as error:
        raise ValueError(f"{name}: times are not evenly spaced: {error}") from error
    return clock


def _where(name: str, column: pd.Series, row: int) -> str:
    return f"{name}, line {row + 2}, column {column.name!r}"


def _text(time: np.datetime64) -> str:
    return str(time).removesuffix("T00:00:00")


def digest(series: Series) -> str:
    """SHA-256 of the readings, their names and when they are due."""
    content = hashlib.sha256(repr((series.clock, series.target_names, series.covariate_names)).encode())
    content.update(np.ascontiguousarray(series.targets).tobytes())
    content.update(np.ascontiguousarray(series.covariates).tobytes())
    return content.hexdigest()
