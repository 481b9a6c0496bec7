"""What the measurements of ``gradient_flow`` look like, and what they say of the literature."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.harness.plots import COLOURS, MARKERS, band, save
from experiments.harness.reports import part
from jaxrnn.gradients import Flow

SLOPES = {"tanh": 1, "relu": 1, "sigmoid": 0.25}  # γ, the largest
VANISHED = 0.01  # a norm below it has vanished, one above its inverse exploded

Figures = dict[str, dict[str, Any]]  # by what was measured, a row each


class Claim(NamedTuple):
    """What the literature says, and what was seen here."""

    claim: str
    source: str
    shows: bool
    seen: str


def print_result(figures: Figures, claims: list[Claim]) -> None:
    """The numbers of each row as a table, and the claims."""
    columns = list(dict.fromkeys(c for row in figures.values() for c in row if np.isscalar(row[c])))
    print(f"{'':<38}" + "".join(f"{column:>16}" for column in columns))
    for name, row in figures.items():
        print(f"{name:<38}" + "".join(f"{row[c]:>16.3g}" if c in row else " " * 16 for c in columns))
    for claim, source, shows, seen in claims:
        print(f"{'shows' if shows else 'DOES NOT SHOW'}: {claim} ({source}). {seen}", flush=True)


def judged(name: str, judge: Callable[[Figures], list[Claim]], figures: Figures) -> list[Claim]:
    """The claims of a part; none where figures of few draws or steps leave nothing to judge by."""
    with part(f"the claims of {name}"):
        return judge(figures)
    return []


def drawn(name: str, draw: Callable[[], None]) -> None:
    """Draw the plot of a part, if it can be drawn."""
    with part(f"the plot of {name}"):
        draw()


def listed(values: Mapping[str, Any]) -> str:
    """Names and numbers as a phrase."""
    return "; ".join(f"{name}: {value:.3g}" for name, value in values.items())


def judge_jacobians(figures: Figures) -> list[Claim]:
    """What is sufficient, and what necessary."""
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


def judge_gates(figures: Figures) -> list[Claim]:
    """What gates, biases and the highway do in fresh networks."""
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


def judge_clipping(figures: Figures) -> list[Claim]:
    """Does clipping keep training alive, and do both kinds do the same, whatever the threshold?"""
    diverged = {name: row["diverged"] for name, row in figures.items()}
    losses = {
        name: [np.inf if end is None else end for end in row["last losses"]]
        for name, row in figures.items()
    }
    ends = {name: float(np.median(of)) for name, of in losses.items()}
    ratios = [
        ends[value] / ends[norm]
        for norm, value in zip(*([n for n in ends if kind in n] for kind in ("norm", "value")), strict=True)
    ]
    clipped = sum(diverged.values()) - diverged["no clipping"]
    pascanu = "Pascanu et al. 2013"
    return [
        Claim("clipping keeps finite what otherwise explodes", f"Mikolov 2012; {pascanu}",
              diverged["no clipping"] > 0 == clipped, f"Runs that diverge: {listed(diverged)}"),
        Claim("clipping by norm and by value behave alike", pascanu,
              0.8 < min(ratios) <= max(ratios) < 1.25,
              f"Medians of last losses, {1 / 6:.3f} without memory: {listed(ends)}"),
    ]  # fmt: skip


def judge_truncation(figures: Figures) -> list[Claim]:
    """How far back must a gradient be followed?"""
    of = {name.split(", loss")[0]: row["h for 10°"] for name, row in figures.items() if "all" in name}
    return [
        Claim("a few steps of truncated BPTT give nearly the full gradient", "Williams & Peng 1990",
              max(of.values()) <= 20, f"Steps kept until the angle is below 10°: {listed(of)}"),
        Claim("truncation is the worse, the longer the memory", "Tallec & Ollivier 2017",
              of["Elman tanh"] < of["LSTM, forget bias 1"] < of["LSTM, chrono"],
              f"Steps as above: {listed(of)}"),
    ]  # fmt: skip


def judge_cost(figures: Figures) -> list[Claim]:
    """Two powers of T, and one gradient."""
    error = max(row["relative error"] for row in figures.values())
    slopes = {name: row["slope"] for name, row in figures.items()}
    naive, *others = slopes.values()
    return [
        Claim("the sum over steps is the gradient", "Werbos 1990", error < 1e-12,
              f"Largest relative error against jax.grad: {error:.1e}"),
        Claim("its naive cost grows with T², that of the recursion with T", "Werbos 1990",
              1.7 < naive < 2.3 and max(others) < 1.3, f"Seconds grow as T to the power: {listed(slopes)}"),
    ]  # fmt: skip


def draw_jacobians(path: Path, found: Mapping[tuple[str, str, float], Flow]) -> None:
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


def draw_gates(path: Path, found: Mapping[str, Flow]) -> None:
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


def draw_clipping(path: Path, found: Mapping[str, Any]) -> None:
    """A column for each of the first three, a line for each run, a cross where it stops being finite."""
    figure, panels = plt.subplots(
        2, 3, figsize=(8.4, 5.8), dpi=130, layout="constrained", sharex=True, sharey="row"
    )
    for (name, trained), (top, bottom) in zip(found.items(), panels.T, strict=False):
        for losses, norms, colour in zip(
            trained.losses, trained.norms, itertools.cycle(COLOURS), strict=False
        ):
            finite = np.isfinite(losses)
            length = len(losses) if finite.all() else int(np.argmin(finite))
            overflowed = np.nan_to_num(norms, nan=1e38, posinf=1e38)
            _curve(top, losses, length, colour, np.median)
            _curve(bottom, overflowed, length, colour, np.max)
        top.axhline(1 / 6, color="black", linestyle="--", linewidth=1)
        top.set_title(name, pad=12)
        bottom.set_xlabel("training step")
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
    panels[0, 0].set(yscale="log", ylim=(0.03, 1), ylabel="mean squared error (medians)")
    panels[1, 0].set(yscale="log", ylim=(0.1, 1e8), ylabel="norm of the gradient\nbefore clipping (maxima)")
    lines = [
        Line2D([], [], color="black", linestyle="--"),
        Line2D([], [], color="black", marker="X", linestyle=""),
    ]
    names = ["without memory: 1/6", "no longer finite"]
    figure.legend(lines, names, loc="outside upper center", ncols=2)
    save(figure, path)


def _curve(
    axes: Axes, values: np.ndarray, length: int, colour: str, statistic: Callable[[np.ndarray], Any]
) -> None:
    """A statistic of every few steps up to a length; if that is not the end, a cross at the upper edge."""
    width = max(1, len(values) // 75)
    x = np.arange(0, length, width)
    axes.plot(x, [statistic(values[i : min(i + width, length)]) for i in x], color=colour, linewidth=1)
    if length < len(values):
        at_edge = axes.get_xaxis_transform()
        axes.plot(length, 1, "X", color=colour, markersize=8, clip_on=False, transform=at_edge, zorder=3)


def draw_truncation(
    path: Path, steps: Sequence[int], found: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
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


def draw_cost(
    path: Path, lengths: Sequence[int], found: Mapping[str, Sequence[float]], figures: Figures
) -> None:
    """Seconds against length, both logarithmic."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for (name, taken), colour, marker in zip(found.items(), COLOURS, MARKERS, strict=False):
        axes.loglog(
            lengths, taken, color=colour, marker=marker, label=f"{name}: slope {figures[name]['slope']:.2f}"
        )
    axes.set(xlabel="length T (steps)", ylabel="processor seconds for one gradient")
    axes.set_xticks(lengths, [str(length) for length in lengths], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)
