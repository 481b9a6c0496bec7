"""Trained forecasters at work: forecasts of a file, updated with every new reading."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.data.series import Series, numbers_of, read_table, series_of, times_of
from experiments.forecasting.data import Data, series_and_parts
from experiments.forecasting.forecasts import INTERVALS, Forecasts, calibrated, forecast, read, rolling
from experiments.forecasting.inputs import features, inputs_of
from experiments.forecasting.model import State
from experiments.forecasting.opponents import persistence, seasonal_naive
from experiments.forecasting.results import MODEL, judge
from experiments.forecasting.training import Run, load_run
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.progress import counted
from experiments.harness.settings import settings


@settings
class Forecast:
    """Print the next values of every series as CSV."""

    run: Path
    """Folder of a trained run."""
    data: Path | None = None
    """CSV file with the columns that the run was trained on; None: the run's own data."""
    time: str | None = None
    """Column of the file with the times; None: as in training, or the first one."""
    follow: bool = False
    """Then read new rows from standard input, with the file's columns, and print the updated forecast after
    each; the first row may be the header."""


@settings
class Evaluate:
    """Measure a trained forecaster on every step of a file, beside forecasts that need no training."""

    run: Path
    """Folder of a trained run; evaluation.json is written there."""
    data: Path
    """CSV file with the columns that the run was trained on."""
    time: str | None = None
    """Column of the file with the times; None: as in training, or the first one."""


def forecast_command(config: Forecast) -> None:
    """Print the forecast, and with ``--follow`` one more after every row that comes."""
    run = load_run(config.run)
    if config.data is not None:
        series, columns, time = read_file(config.data, config.time, run)
    elif config.follow:
        raise ValueError("--follow needs --data FILE, whose columns the new rows have")
    else:
        series, _, _ = series_and_parts(run.config, note)
    run = of_series(run, series)
    inputs, at = inputs_of(series, run.predictor.scale), len(series.targets) - 1
    state, found = forecast(run.predictor, inputs[-1:], at, read(run.predictor, inputs[:-1]))
    print(header())
    print_forecast(found, run, at)
    if config.follow:
        follow(csv.reader(sys.stdin), columns, time, run, state, at)


def follow(
    rows: Iterable[list[str]], columns: list[str], time: str, run: Run, state: State, at: int
) -> None:
    """Print the forecast after every new row; the past, up to step ``at``, is in the state.

    Raises:
      ValueError: for a row that does not fit, or is no later than the one before.
    """
    for row in rows:
        if not row or row == columns:
            continue
        now, readings = read_row(row, columns, time, run)
        if now <= at:
            raise ValueError(f"the row {','.join(row)!r} is no later than the last one")
        values = np.full((now - at, readings.shape[1]), np.nan)  # steps without a row
        values[-1] = readings
        targets, covariates = np.split(values, [len(run.target_names)], axis=1)
        clock, steps = run.predictor.clock, np.arange(at + 1, now + 1)
        inputs = features(targets, covariates, clock.times(steps), clock, run.predictor.scale)
        for step, u in zip(steps.tolist(), inputs, strict=True):  # one at a time: compiled once
            state, found = forecast(run.predictor, u[None], step, state)
        at = now
        print_forecast(found, run, at)


def evaluate_command(config: Evaluate) -> None:
    """Print the figures, and write them beside those of the run."""
    run = load_run(config.run)
    series, _, _ = read_file(config.data, config.time, run)
    run = of_series(run, series)
    horizon, scale = run.predictor.horizon, run.predictor.scale
    if len(series.targets) <= horizon:
        raise ValueError(
            f"{config.data} has {len(series.targets):,} steps, no more than the horizon {horizon}"
        )
    data = Data(series, 0, 0, horizon, run.season, scale, {})
    with counted(f"forecasting from {len(series.targets):,} steps"):
        forecasts = rolling(run.predictor, inputs_of(series, scale))
    predictions = {
        MODEL: forecasts.mean,
        "persistence": persistence(data),
        "seasonal naive": seasonal_naive(data),
    }
    found = judge(predictions, forecasts, run.moves, data, range(horizon, len(series.targets)))
    runs.write_json(config.run / "evaluation.json", {"data": str(config.data), **found})


def read_file(path: Path, time: str | None, run: Run) -> tuple[Series, list[str], str]:
    """The series in a file with a run's columns, the names of all of its columns, and that of the times."""
    table = read_table(path)
    columns = list(table.columns)
    time = time or run.config.time or columns[0]
    series = series_of(table, time, run.target_names, run.covariate_names, note, str(path))
    return series, columns, time


def of_series(run: Run, series: Series) -> Run:
    """A run that forecasts a series of the same step as the one that it was trained on.

    Raises:
      ValueError: for another step.
    """
    theirs, ours = run.predictor.clock, series.clock
    if (theirs.step, theirs.unit) != (ours.step, ours.unit):
        raise ValueError(f"the run was trained on {theirs}, and these are {ours}")
    return run._replace(predictor=run.predictor._replace(clock=ours))


def read_row(row: Sequence[str], columns: Sequence[str], time: str, run: Run) -> tuple[int, np.ndarray]:
    """Which step a new row is, and its readings ``(1, series + covariates)``.

    Raises:
      ValueError: for a row with other columns, or values that are none.
    """
    text = ",".join(row)
    if len(row) != len(columns):
        raise ValueError(f"the row {text!r} has {len(row)} values, expected {','.join(columns)}")
    table = pd.DataFrame([dict(zip(columns, row, strict=True))])
    name = f"the row {text!r}"
    times = times_of(table[time], name)
    (at,) = run.predictor.clock.positions(times).tolist()
    readings = [numbers_of(table[column], name) for column in (*run.target_names, *run.covariate_names)]
    return at, np.stack(readings, axis=1)


def header() -> str:
    """Names of the columns of a forecast."""
    sides = [f"{side}_{nominal}" for nominal in INTERVALS for side in ("lower", "upper")]
    return ",".join(["origin", "series", "horizon", "mean", *sides])


def print_forecast(found: Forecasts, run: Run, at: int) -> None:
    """Print the last of some forecasts, a line for every series and horizon."""
    found = calibrated(found, run.moves)
    origin = str(run.predictor.clock.times(np.array(at)))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, series in enumerate(run.target_names):
        for step, (mean, of) in enumerate(
            zip(found.mean[-1, :, number], found.quantiles[-1, :, number], strict=True), start=1
        ):
            sides = [of[side] for pair in INTERVALS.values() for side in pair]
            writer.writerow([origin, series, step, *(f"{value:.6g}" for value in (mean, *sides))])
    sys.stdout.flush()
