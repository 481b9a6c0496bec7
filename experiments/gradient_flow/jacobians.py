"""Norms of dS_T/dS_k of Elman networks against the bound (γλ)^(T−k)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from experiments.gradient_flow.networks import flows, norm_figures
from experiments.gradient_flow.report import VANISHED, Claim, Figures, Result
from experiments.gradient_flow.settings import Config
from experiments.harness.plots import COLOURS, band, save
from jaxrnn import Elman
from jaxrnn.gradients import Flow

LEVELS = (0.5, 0.9, 1.0, 1.5)  # γρ of the recurrent weights, ρ their spectral radius
SLOPES = {"tanh": 1, "relu": 1, "sigmoid": 0.25}  # γ, the largest


def measure(config: Config, out: Path) -> Result:
    """Elman networks against the bound."""
    with jax.enable_x64(True):
        found = jacobian_norms(config)
    figures: Figures = {}
    for (base, activation, level), measured in found.items():
        bound, ratios = np.median(measured.bound, axis=0), measured.singular_values[..., 0] / measured.bound
        worst = float(np.nanmax(ratios[:, 1:]))  # at lag 0 both are 1
        bounds = {"γλ": float(bound[1]), "bound, T": float(bound[-1]), "norm / bound": worst}
        figures[f"{activation}, {base}, {level}"] = norm_figures(measured) | bounds
    return figures, judge, lambda: plot(out / "jacobian_norms.png", found)


def jacobian_norms(config: Config) -> dict[tuple[str, str, float], Flow]:
    """By kind of W_hh, activation and level γρ."""

    def of_radius(base: str, radius: float, w_hh: jax.Array, number: int) -> Any:
        if base == "orthogonal":
            return radius * w_hh
        gaussian = np.random.default_rng([config.seed, number]).standard_normal(w_hh.shape)
        return jnp.asarray(radius * gaussian / np.max(np.abs(np.linalg.eigvals(gaussian))))

    cells = {act: Elman(config.hidden_size, activation=act) for act in ("tanh", "relu", "sigmoid")}
    return {
        (base, act, level): flows(
            cell, config, functools.partial(of_radius, base, level / cell.largest_slope)
        )
        for act, cell in cells.items()
        for base in ("orthogonal", "Gaussian")
        for level in LEVELS
    }


def judge(figures: Figures) -> list[Claim]:
    """Claims about conditions that are sufficient or necessary."""
    pascanu = "Pascanu et al. 2013"
    worst = max(row["norm / bound"] for row in figures.values())
    small = [row["norm, T"] for row in figures.values() if row["γλ"] < 0.999]
    large = [row["norm, T"] for row in figures.values() if row["γλ"] > 1.001]
    vanish, explode = sum(n < VANISHED for n in large), sum(n > 1 / VANISHED for n in large)
    others = max(row["norm, T"] for row in figures.values() if row["γλ"] <= 1.001)
    return [
        Claim("no norm is above (γλ)^(T−k)", pascanu, worst <= 1 + 1e-9, f"Largest ratio {worst:.6f}"),
        Claim("γλ < 1 is enough for gradients to vanish", pascanu, max(small) < VANISHED,
              f"Norms at lag T up to {max(small):.1e}"),
        Claim("γλ > 1 is necessary for gradients to explode, and not enough", pascanu,
              vanish > 0 and others <= 1 / VANISHED,
              f"Of {len(large)} settings with γλ > 1, {vanish} vanish and {explode} explode; "
              f"of the others the largest norm is {others:.2g}"),
    ]  # fmt: skip


def plot(path: Path, found: Mapping[tuple[str, str, float], Flow]) -> None:
    """A row for each kind of W_hh, a column for each activation."""
    bases, activations, levels = (list(dict.fromkeys(key[i] for key in found)) for i in range(3))
    figure, panels = plt.subplots(
        len(bases),
        len(activations),
        figsize=(9, 6.6),
        dpi=130,
        layout="constrained",
        sharex=True,
        sharey=True,
    )
    for (base, activation, level), measured in found.items():
        axes, index = panels[bases.index(base), activations.index(activation)], levels.index(level)
        norms = measured.singular_values[..., 0]
        band(axes, np.arange(norms.shape[1]), norms, label=f"γρ = {level}", index=index)
        axes.plot(np.median(measured.bound, axis=0), "--", color=COLOURS[index], linewidth=1.2)
        slope = SLOPES[activation]
        axes.set_title(f"{activation} (γ = {slope:g}), {base} W_hh", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0, 0].set(yscale="log", ylim=(1e-20, 1e10))
    figure.supxlabel("lag T − k (steps)")
    figure.supylabel("‖dS_T/dS_k‖, largest singular value")
    lines, names = panels[0, 0].get_legend_handles_labels()
    bound = Line2D([], [], color="black", linestyle="--")
    figure.legend([*lines, bound], [*names, "bound (γλ)^(T−k)"], loc="outside upper center", ncols=5)
    save(figure, path)
