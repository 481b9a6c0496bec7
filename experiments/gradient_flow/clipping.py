"""Training runs that explode: without clipping, clipped by norm, and by value."""

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.data.memory_problems import adding
from experiments.gradient_flow.report import Claim, Figures, Result, listed
from experiments.gradient_flow.settings import Config
from experiments.harness.plots import COLOURS, save
from jaxrnn import Elman, unroll

BATCH_SIZE = 16


class Training(NamedTuple):
    """Training runs, every leaf (draws, steps)."""

    losses: jax.Array  # mean squared error
    norms: jax.Array  # of the gradient, before clipping
    angles: jax.Array  # between the gradient and what clipping leaves of it, in degrees


@functools.partial(jax.jit, static_argnames=("config", "clip"))
def train(config: Config, clip: optax.GradientTransformation, number: jax.Array) -> Training:
    """Stochastic gradient descent of a relu network on the adding problem."""
    cell = Elman(config.hidden_size, activation="relu")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), 3)
    w_out = jax.nn.initializers.lecun_normal()(keys[1], (cell.out_features, 1))
    weights = (cell.init(keys[0], 2), w_out, jnp.zeros(1))
    optimizer = optax.chain(clip, optax.sgd(config.learning_rate))

    def loss(weights: Any, key: jax.Array) -> jax.Array:
        params, w_out, b_out = weights
        inputs, targets = adding(key, BATCH_SIZE, config.time // 2)
        _, ys = unroll(cell, params, inputs, backward="bptt")
        return jnp.mean((ys[-1] @ w_out + b_out - targets[0][:, None]) ** 2)

    def step(run: tuple, position: jax.Array) -> tuple[tuple, Training]:
        weights, state = run
        value, gradient = jax.value_and_grad(loss)(weights, jax.random.fold_in(keys[2], position))
        updates, state = optimizer.update(gradient, state)
        norm = optax.tree.norm(gradient)
        cosine = -optax.tree.vdot(gradient, updates) / (norm * optax.tree.norm(updates))
        angle = jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1)))
        return (optax.apply_updates(weights, updates), state), Training(value, norm, angle)

    return jax.lax.scan(step, (weights, optimizer.init(weights)), jnp.arange(config.steps))[1]


def measure(config: Config, out: Path) -> Result:
    """The same runs without clipping, clipped by norm, and by value."""
    clips = {"no clipping": optax.identity()}
    for factor in (1, 0.5, 2):
        norm, value = factor * config.clip_norm, factor * config.clip_value
        clips[f"by norm, {norm:g}"] = optax.clip_by_global_norm(norm)
        clips[f"by value, {value:g}"] = optax.clip(value)
    found: dict[str, Training] = {}
    for name, clip in clips.items():
        found[name] = jax.device_get(
            jax.vmap(functools.partial(train, config, clip))(np.arange(config.draws))
        )
    figures: Figures = {}
    for name, (losses, _, angles) in found.items():
        finite = np.isfinite(losses)
        ends = np.median(losses[:, -max(1, config.steps // 20) :], axis=1)
        last = [float(end) if ok.all() else None for end, ok in zip(ends, finite, strict=True)]
        figures[name] = {
            "diverged": sum(end is None for end in last),
            "median angle": float(np.nanmedian(angles)),
            "last losses": last,  # None where the run diverged
            "diverged at step": [None if ok.all() else int(np.argmin(ok)) for ok in finite],
        }
    return figures, judge, lambda: plot(out / "clipping.png", found)


def judge(figures: Figures) -> list[Claim]:
    """Claims about both kinds of clipping, at several thresholds."""
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


def plot(path: Path, found: Mapping[str, Any]) -> None:
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
