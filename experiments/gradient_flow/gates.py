"""Gated cells and the IRNN, and the highway through the cell state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from experiments.gradient_flow.networks import flows, norm_figures
from experiments.gradient_flow.report import VANISHED, Claim, Figures, Result, listed
from experiments.gradient_flow.settings import Config
from experiments.harness.plots import band, save
from jaxrnn import GRU, IRNN, LSTM, Chrono, Elman
from jaxrnn.cells.cell import Cell
from jaxrnn.gradients import Flow


def measure(config: Config, out: Path) -> Result:
    """Gated cells and the IRNN, and the highway through the cell state."""
    n, half = config.hidden_size, config.time // 2
    cells: dict[str, Cell] = {"Elman tanh": Elman(n), "IRNN": IRNN(n), "GRU": GRU(n)}
    cells |= {f"LSTM, forget bias {bias}": LSTM(n, forget_bias=float(bias)) for bias in (0, 1, 3)}
    cells["LSTM, chrono"] = LSTM(n, forget_bias=Chrono(config.time))
    with jax.enable_x64(True):
        found = {name: flows(cell, config) for name, cell in cells.items()}
    figures: Figures = {}
    for name, measured in found.items():
        row: dict[str, Any] = norm_figures(measured)
        row["directions, T/2"] = float(np.mean(measured.singular_values[:, half] > 0.1))
        if measured.highway is not None:
            row["cell state, T/2"] = float(np.median(measured.cell_state_norms[:, half]))
            row["highway, T/2"] = float(np.median(np.max(measured.highway[:, half], axis=-1)))
        row["below 0.1, above 0.9"] = {
            gate: [float(np.mean(part)) for part in parts] for gate, parts in measured.saturation.items()
        }
        figures[name] = row
    return figures, judge, lambda: plot(out / "gates.png", found)


def judge(figures: Figures) -> list[Claim]:
    """Claims about gates, biases and the highway in fresh networks."""
    at_end = {name: row["norm, T"] for name, row in figures.items()}
    gated = {name: norm for name, norm in at_end.items() if name not in ("Elman tanh", "IRNN")}
    biases = {name: row["norm, T/2"] for name, row in figures.items() if "bias" in name}
    beside = {
        name: row["cell state, T/2"] / max(row["highway, T/2"], 1e-300)
        for name, row in figures.items()
        if "highway, T/2" in row
    }
    irnn, chrono = at_end["IRNN"], at_end["LSTM, chrono"]
    return [
        Claim("gates keep the gradient that an Elman network loses, from the start",
              "Hochreiter & Schmidhuber 1997; Cho et al. 2014", min(gated.values()) > VANISHED,
              f"Norms at lag T: Elman {at_end['Elman tanh']:.2g}; {listed(gated)}"),
        Claim("the larger the forget bias, the longer the gradient lasts", "Gers et al. 2000; "
              "Jozefowicz et al. 2015", list(biases.values()) == sorted(biases.values()),
              f"Norms at lag T/2: {listed(biases)}"),
        Claim("chrono initialisation keeps the gradient over the span it is made for",
              "Tallec & Ollivier 2018", VANISHED < chrono < 1 / VANISHED, f"Norm at lag T: {chrono:.2g}"),
        Claim("dc_T/dc_k is little more than the highway Π f_j", "Hochreiter & Schmidhuber 1997",
              max(beside.values()) < 2, f"‖dc_T/dc_k‖ over the largest Π f at lag T/2: {listed(beside)}"),
        Claim("the IRNN starts without vanishing or exploding", "Le et al. 2015", 0.5 < irnn < 2,
              f"Norm at lag T: {irnn:.3g}; but at lag T/2 only "
              f"{figures['IRNN']['directions, T/2']:.0%} of all directions are left"),
    ]  # fmt: skip


def plot(path: Path, found: Mapping[str, Flow]) -> None:
    """Norms, the cell state beside its highway, directions; the legend in a panel of its own."""
    figure, panels = plt.subplots(2, 2, figsize=(8.4, 7), dpi=130, layout="constrained")
    (norms, cell_state), (kept, legend) = panels
    for index, (name, measured) in enumerate(found.items()):
        lags = np.arange(measured.singular_values.shape[1])
        band(norms, lags, measured.singular_values[..., 0], label=name, index=index)
        band(kept, lags, np.mean(measured.singular_values > 0.1, axis=-1), label=name, index=index)
        if measured.highway is not None:
            band(cell_state, lags, measured.cell_state_norms, label=name, index=index)
            highway = np.max(measured.highway, axis=-1)
            band(cell_state, lags, highway, label=name, index=index, line="--", shade=0)
    norms.set(yscale="log", ylim=(1e-12, 1e3), title="‖dS_T/dS_k‖", ylabel="largest singular value")
    cell_state.set(yscale="log", ylim=(1e-12, 1e3), title="LSTM: ‖dc_T/dc_k‖, and highway (dashed)")
    kept.set(title="directions that are left", ylabel="part of singular values above 0.1")
    for axes in (norms, cell_state, kept):
        axes.grid(alpha=0.3)
        axes.set_xlabel("lag T − k (steps)")
    lines, names = norms.get_legend_handles_labels()
    dashed = Line2D([], [], color="black", linestyle="--")
    legend.legend([*lines, dashed], [*names, "highway: largest Π f_j"], loc="center")
    legend.axis("off")
    save(figure, path)
