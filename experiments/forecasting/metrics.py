"""Figures of forecasts, by utilsforecast: at every horizon, over all steps of a part."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from utilsforecast import losses

from experiments.forecasting.data import Data
from experiments.forecasting.forecasts import INTERVALS, Forecasts
from experiments.forecasting.inputs import ahead_of
from experiments.forecasting.model import LEVELS

Figures = dict[str, dict[str, list[float | None]]]  # figure → series → value at each horizon


def origins_of(data: Data, part: range, step: int) -> range:
    """The steps from which ``step`` steps ahead lie in a part: every horizon has the same targets."""
    return range(max(0, part.start - step), part.stop - step)


def at_horizon(values: np.ndarray, data: Data, part: range, step: int) -> np.ndarray:
    """Of values ``(time, horizon, ...)`` those for the steps of a part: ``(part, ...)``."""
    origins = origins_of(data, part, step)
    return values[origins.start : origins.stop, step - 1]


def measure(predictions: Mapping[str, np.ndarray], data: Data, part: range) -> dict[str, Figures]:
    """MAE, RMSE, sMAPE (0 to 1) and MASE of forecasts ``(time, horizon, series)``, by name.

    A step counts where there is a reading and every one has a forecast. MASE is the MAE divided by that of
    the seasonal naive forecast on the training part; None where that is 0, or not to be had.
    """
    found: dict[str, Figures] = {
        name: {figure: {} for figure in ("mae", "rmse", "smape", "mase")} for name in predictions
    }
    names, readings = list(predictions), ahead_of(data)
    for number, series in enumerate(data.series.target_names):
        training = _frame(data.series.targets[: data.train, number], {})  # gaps keep their steps
        for step in range(1, data.horizon + 1):
            truth = at_horizon(readings, data, part, step)[:, number]
            of = {name: at_horizon(v, data, part, step)[:, number] for name, v in predictions.items()}
            frame = _frame(truth, of).dropna()
            rows = {
                "mae": losses.mae(frame, names),
                "rmse": losses.rmse(frame, names),
                "smape": losses.smape(frame, names),
                "mase": losses.mase(frame, names, data.season, training),
            }
            for figure, row in rows.items():
                for name in names:
                    found[name][figure].setdefault(series, []).append(_number(row[name]))
    return found


def measure_intervals(forecasts: Forecasts, data: Data, part: range) -> Figures:
    """The part of readings within each interval, 0 to 1; and the continuous ranked probability score of the
    quantiles, divided by the mean size of what is forecast.
    """
    found: Figures = {figure: {} for figure in (*(f"coverage_{n}" for n in INTERVALS), "scaled_crps")}
    columns, readings = [f"q{level}" for level in LEVELS], ahead_of(data)
    for number, series in enumerate(data.series.target_names):
        for step in range(1, data.horizon + 1):
            truth = at_horizon(readings, data, part, step)[:, number]
            quantiles = at_horizon(forecasts.quantiles, data, part, step)[:, number]
            frame = _frame(truth, dict(zip(columns, quantiles.T, strict=True))).dropna()
            for nominal, (low, high) in INTERVALS.items():
                renamed = frame.rename(
                    columns={columns[low]: f"m-lo-{nominal}", columns[high]: f"m-hi-{nominal}"}
                )
                covered = losses.coverage(renamed, ["m"], nominal)["m"]
                found[f"coverage_{nominal}"].setdefault(series, []).append(_number(covered))
            score = losses.scaled_crps(frame, {"m": columns}, np.array(LEVELS))["m"]
            found["scaled_crps"].setdefault(series, []).append(_number(score))
    return found


def _frame(truth: np.ndarray, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table as utilsforecast takes it."""
    return pd.DataFrame({"unique_id": "", "ds": np.arange(len(truth)), "y": truth, **columns})


def _number(values: pd.Series) -> float | None:
    """The one value, None where there is none."""
    value = float(values.iloc[0]) if len(values) else math.nan
    return value if math.isfinite(value) else None
