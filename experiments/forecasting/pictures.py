"""Plots of forecasts: what they say from several origins, and how far they are off at every horizon."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.forecasting.data import Data
from experiments.forecasting.forecasts import Forecasts
from experiments.forecasting.metrics import Figures
from experiments.harness.plots import COLOURS, MARKERS, save

ORIGINS = 4  # forecasts in a plot
BETWEEN = 1.5  # horizons from one to the next


def draw_errors(path: Path, figures: dict[str, Figures], data: Data) -> None:
    """Draw the error at every horizon, a line for each model and a panel for each series."""
    names = data.series.target_names
    figure, axes = plt.subplots(
        1, len(names), figsize=(1 + 5.2 * len(names), 4.2), dpi=120, layout="constrained", squeeze=False
    )
    steps = np.arange(1, data.horizon + 1)
    for panel, series in zip(axes[0], names, strict=True):
        for (name, of), colour, marker in zip(figures.items(), COLOURS, MARKERS, strict=False):
            values = [np.nan if value is None else value for value in of["rmse"][series]]
            panel.plot(steps, values, marker=marker, markersize=4, color=colour, label=name)
        panel.set(title=series, xlabel=f"horizon ({data.series.clock})", ylabel="root mean squared error")
        panel.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=9)
    save(figure, path)


def draw_forecasts(path: Path, forecasts: Forecasts, data: Data, part: range) -> None:
    """Draw readings in the middle of a part, and forecasts from several origins with their intervals."""
    names, horizon = data.series.target_names, data.horizon
    apart = max(1, round(BETWEEN * horizon))
    span = apart * (ORIGINS - 1) + horizon + 1
    start = max(part.start, min((part.start + part.stop) // 2, part.stop - span - 1))
    origins = [at for k in range(ORIGINS) if (at := start + k * apart) + horizon < part.stop]
    shown = range(max(0, start - 2 * horizon), min(part.stop, start + span))
    times = data.series.clock.times(np.arange(shown.start, shown.stop + horizon))
    figure, axes = plt.subplots(
        len(names), 1, figsize=(10, 3.2 * len(names)), dpi=120, layout="constrained", squeeze=False
    )
    for number, (panel, series) in enumerate(zip(axes[:, 0], names, strict=True)):
        readings = data.series.targets[shown.start : shown.stop, number]
        panel.plot(
            times[: len(readings)],
            readings,
            ".-",
            color="black",
            markersize=3,
            linewidth=0.8,
            label="readings",
        )
        for place, at in enumerate(origins):
            ahead = times[at - shown.start + 1 :][:horizon]
            of = forecasts.quantiles[at, :, number]
            label = ("mean", "80 %", "95 %") if place == 0 else (None,) * 3
            panel.fill_between(
                ahead, of[:, 0], of[:, 4], color=COLOURS[0], alpha=0.15, linewidth=0, label=label[2]
            )
            panel.fill_between(
                ahead, of[:, 1], of[:, 3], color=COLOURS[0], alpha=0.3, linewidth=0, label=label[1]
            )
            panel.plot(
                ahead, forecasts.mean[at, :, number], "o-", color=COLOURS[1], markersize=3, label=label[0]
            )
            panel.axvline(times[at - shown.start], color=COLOURS[1], linewidth=0.8, linestyle=":")
        panel.set(ylabel=series, title="forecasts from several origins (dotted)" if number == 0 else "")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left", ncols=4)
    save(figure, path)
