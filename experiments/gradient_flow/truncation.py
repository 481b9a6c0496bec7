"""Gradients cut off after h steps against the full ones."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.gradient_flow.networks import draw, unit
from experiments.gradient_flow.report import Claim, Figures, Result, listed
from experiments.gradient_flow.settings import Config
from experiments.harness.plots import band, save
from jaxrnn import GRU, IRNN, LSTM, Chrono, Elman
from jaxrnn.cells.cell import Cell
from jaxrnn.gradients import truncated

LOSSES = ("loss at the end", "loss at all steps")
CUTS = 6  # lengths h


def measure(config: Config, out: Path) -> Result:
    """Angle and length of gradients cut off after h steps."""
    n, T = config.hidden_size, config.time
    cells: dict[str, Cell] = {"Elman tanh": Elman(n), "IRNN": IRNN(n), "GRU": GRU(n)}
    cells |= {"LSTM, forget bias 1": LSTM(n), "LSTM, chrono": LSTM(n, forget_bias=Chrono(T))}
    kept = sorted({round(h) for h in np.geomspace(1, T, CUTS)})
    figures: Figures = {}
    found: dict[str, dict[str, np.ndarray]] = {loss: {} for loss in LOSSES}
    with jax.enable_x64(True):
        for name, cell in cells.items():
            cuts = np.array([[cut_off(cell, config, i, h) for h in kept] for i in range(config.draws)])
            for loss, of_loss in zip(LOSSES, np.moveaxis(cuts, 2, 0), strict=True):
                found[loss][name] = of_loss  # (draws, h, 2)
                angles, ratios = np.nanmedian(of_loss, axis=0).T
                row = {f"angle, h = {h}": float(a) for h, a in zip(kept, angles, strict=True)}
                enough = next((h for h, a in zip(kept, angles, strict=True) if a < 10), T)
                figures[f"{name}, {loss}"] = row | {"h for 10°": enough, "norm ratios": ratios.tolist()}
    plotted = functools.partial(plot, out / "truncation.png", kept, found)
    return figures, judge, plotted


def cut_off(cell: Cell, config: Config, number: int, steps: int) -> list[tuple[float, float]]:
    """Angle in degrees and norm ratio of BPTT(steps) to the full gradient, for each of LOSSES."""
    params, xs, _ = draw(cell, config, number, config.time)
    every = unit(jax.random.fold_in(jax.random.key(config.seed + 1), number), (len(xs), cell.out_features))
    cuts = [truncated(cell, params, xs, steps=steps, d_ys=u) for u in (every.at[:-1].set(0), every)]
    return [(float(cut.angle), float(cut.norm_ratio)) for cut in cuts]


def judge(figures: Figures) -> list[Claim]:
    """Claims about the number of steps that truncated BPTT needs."""
    of = {name.split(", loss")[0]: row["h for 10°"] for name, row in figures.items() if "all" in name}
    return [
        Claim("a few steps of truncated BPTT give nearly the full gradient", "Williams & Peng 1990",
              max(of.values()) <= 20, f"Steps kept until the angle is below 10°: {listed(of)}"),
        Claim("truncation is the worse, the longer the memory", "Tallec & Ollivier 2017",
              of["Elman tanh"] < of["LSTM, forget bias 1"] < of["LSTM, chrono"],
              f"Steps as above: {listed(of)}"),
    ]  # fmt: skip


def plot(path: Path, steps: Sequence[int], found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """A column for each loss; angles above, norm ratios below."""
    figure, panels = plt.subplots(
        2, len(found), figsize=(8.4, 6.4), dpi=130, layout="constrained", sharex=True, sharey="row"
    )
    for (loss, cells), (angle, ratio) in zip(found.items(), panels.T, strict=True):
        for index, (name, cuts) in enumerate(cells.items()):
            band(angle, steps, cuts[..., 0], label=name, index=index)
            band(ratio, steps, cuts[..., 1], label=name, index=index)
        angle.set(title=loss, xscale="log", ylim=(0, 90), yticks=range(0, 91, 15))
        ratio.set(xlabel="steps h kept", ylim=(0, None))
        ratio.axhline(1, color="black", linestyle="--", linewidth=1)
        for axes in (angle, ratio):
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("angle to the full gradient (degrees)")
    panels[1, 0].set_ylabel("‖truncated‖ / ‖full‖")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save(figure, path)
