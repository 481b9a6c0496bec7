"""What a trained forecaster is worth on steps that it has not seen, beside opponents: figures and plots."""

from typing import Any

import jax
import numpy as np

from experiments.forecasting.data import Data, load_data
from experiments.forecasting.forecasts import (
    INTERVALS,
    Forecasts,
    Predictor,
    calibrated,
    conformal,
    rolling,
)
from experiments.forecasting.inputs import ahead_of, inputs_of
from experiments.forecasting.metrics import Figures, at_horizon, measure, measure_intervals
from experiments.forecasting.model import Forecaster, LinearForecast
from experiments.forecasting.opponents import opponents
from experiments.forecasting.pictures import draw_errors, draw_forecasts
from experiments.forecasting.training import (
    CONFORMAL,
    Train,
    build_model,
    build_task,
    horizon_of,
    linear_forecast,
)
from experiments.harness import run as runs
from experiments.harness.fit import Fitted, fit, report
from experiments.harness.progress import counted
from experiments.harness.reports import part

MODEL, LINEAR = "network", "linear autoregression"


def train_command(config: Train) -> None:
    """Train on the series that the settings name, and measure what comes of it."""
    data = load_data(config)
    series = data.series
    if config.strategy == "recursive" and series.covariate_names:
        names = ", ".join(series.covariate_names)
        raise ValueError(f"--strategy recursive would have to forecast the covariates too: {names}")
    if config.strategy == "recursive" and config.output != "normal":
        raise ValueError("--strategy recursive draws from a distribution; give --output normal")
    steps = len(series.targets)
    sizes = f"{data.train:,} to train on, {data.valid - data.train:,} valid, {steps - data.valid:,} test"
    print(f"{config.data}: {steps:,} {series.clock}, {sizes}; run in {config.folder}", flush=True)
    linear = linear_forecast(config, data)
    sizes_of = len(series.target_names), len(series.covariate_names), horizon_of(config, data)
    model = build_model(config, *sizes_of, series.clock)
    finish(fit(config, build_task(config, data, model, linear)), config, data, model, linear)


def finish(
    fitted: Fitted, config: Train, data: Data, model: Forecaster, linear: LinearForecast
) -> dict[str, Any]:
    """Figures on the test part beside every opponent, intervals, and plots."""
    steps = len(data.series.targets)
    valid, test = range(data.train, data.valid), range(data.valid, steps)
    inputs, key = inputs_of(data.series, data.scale), jax.random.key(config.seed)
    clock = data.series.clock
    predictor = Predictor(model, fitted.params, data.horizon, data.scale, clock, key)
    with counted(f"forecasting from {steps:,} steps"):
        forecasts = rolling(predictor, inputs)
    moves = moves_of(forecasts, data, valid)
    record = {str(nominal): of.tolist() for nominal, of in moves.items()}
    runs.write_json(fitted.out / CONFORMAL, record)
    summary: dict[str, Any] = {}
    if test:
        predictions = {MODEL: forecasts.mean}
        if config.lags and config.strategy == "direct":
            of_linear = predictor._replace(params=model.init(key, linear))
            predictions[LINEAR] = rolling(of_linear, inputs).mean
        for name, predict in opponents(data).items():
            with part(name):
                predictions[name] = predict()
        summary = judge(predictions, forecasts, moves, data, test)
        with part("errors.png"):
            draw_errors(fitted.out / "errors.png", summary["errors"], data)
        with part("forecasts.png"):
            draw_forecasts(fitted.out / "forecasts.png", calibrated(forecasts, moves), data, test)
    report(
        fitted, summary, title=f"{config.cell} on {config.data}", packages=("statsmodels", "utilsforecast")
    )
    return summary


def judge(
    predictions: dict[str, np.ndarray],
    forecasts: Forecasts,
    moves: dict[int, np.ndarray],
    data: Data,
    part: range,
) -> dict[str, Any]:
    """Print and return the errors of all forecasts on a part, and what the intervals hold."""
    errors = measure(predictions, data, part)
    found = {
        "errors": errors,
        "intervals": measure_intervals(forecasts, data, part),
        "conformal_intervals": measure_intervals(calibrated(forecasts, moves), data, part),
    }
    print_table(errors, data, len(part))
    print_coverage(found)
    return found


def moves_of(forecasts: Forecasts, data: Data, valid: range) -> dict[int, np.ndarray]:
    """By how much intervals move so that they hold on the validation part what they promise."""
    truth = ahead_of(data)
    columns = [
        (at_horizon(forecasts.quantiles, data, valid, step), at_horizon(truth, data, valid, step))
        for step in range(1, data.horizon + 1)
    ]
    quantiles, readings = (np.stack(of, axis=1) for of in zip(*columns, strict=True))
    return conformal(Forecasts(forecasts.mean[:0], quantiles), readings)


def shown_horizons(horizon: int) -> list[int]:
    """A few of all horizons, the first and the last among them.

    >>> shown_horizons(24), shown_horizons(2)
    ([1, 6, 12, 24], [1, 2])
    """
    return sorted({1, max(1, horizon // 4), max(1, horizon // 2), horizon})


def print_table(figures: dict[str, Figures], data: Data, steps: int) -> None:
    """A line for every series and model: errors at some horizons, and means over all of them."""
    shown = shown_horizons(data.horizon)
    for series in data.series.target_names:
        print(f"\n{series}, {steps:,} steps")
        header = "".join(f"{f'RMSE {step}':>10}" for step in shown)
        print(f"{'':<22}{header}{'MAE':>10}{'sMAPE':>10}{'MASE':>10}")
        for name, of in figures.items():
            cells = [of["rmse"][series][step - 1] for step in shown]
            cells += [_mean(of[figure][series]) for figure in ("mae", "smape", "mase")]
            print(f"{name:<22}" + "".join("      none" if c is None else f"{c:>10.4f}" for c in cells))
        lost = [step for step in range(1, data.horizon + 1) if _loses(figures, series, step)]
        if lost:
            print(f"{MODEL} is not the best at {len(lost)} of {data.horizon} horizons, first at {lost[0]}")
        else:
            print(f"{MODEL} is the best at every horizon")


def _loses(figures: dict[str, Figures], series: str, step: int) -> bool:
    errors = {name: of["rmse"][series][step - 1] for name, of in figures.items()}
    own = errors.pop(MODEL)
    return any(error is not None and (own is None or error < own) for error in errors.values())


def print_coverage(found: dict[str, Any]) -> None:
    """Nominal and measured coverage of the intervals, means over horizons and series."""
    for nominal in INTERVALS:
        plain, moved = (
            np.mean([_mean(of) or 0.0 for of in found[key][f"coverage_{nominal}"].values()])
            for key in ("intervals", "conformal_intervals")
        )
        print(f"{nominal} % intervals hold {plain:.1%}; conformal ones {moved:.1%}")


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
