"""What does bfloat16 cost and gain? Train step of one layer: time, and error of its gradients.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.precision
    python -m benchmarks.precision --json benchmarks/results/precision.json     figures and chart kept

The gradient of mean(y²) by weights and inputs, float32 parameters and inputs, with the steps computed in
float32 or in bfloat16 (the cell's ``dtype``), by autodiff or by the hand-derived BPTT. The error of a
gradient is the largest over its arrays of max|g − g₆₄| / max|g₆₄|, where g₆₄ is the same in float64.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxrnn
from benchmarks.layers import parse_size
from benchmarks.measure import Spread, alone, interleaved, typical_seconds
from benchmarks.peers import PeerCell, Size, problem
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.cells.table import CELLS
from jaxrnn.checks import check_positive
from jaxrnn.recurrence import Backward

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Config:
    """Time and error of a train step in float32 and in bfloat16."""

    cell: PeerCell = "lstm"
    """Recurrent cell."""
    sizes: tuple[str, ...] = ("50,50,65,128", "32,128,64,256", "64,100,128,512", "1,200,64,256")
    """Sizes, each as BATCH,TIME,FEATURES,HIDDEN."""
    repeats: int = 9
    """Rounds in which every variant is called once."""
    json: Path | None = None
    """File for all figures, and beside it a chart."""


@dataclass(frozen=True)
class Row:
    """One variant at one size."""

    size: str
    dtype: str
    backward: Backward
    train: Spread
    error: float


def train_step(cell: Any, backward: Backward) -> Any:
    """The jitted gradients by weights and inputs."""

    def loss(params: Any, xs: Any) -> Any:
        return jnp.mean(jaxrnn.unroll(cell, params, xs, backward=backward)[1].astype(xs.dtype) ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def exact_gradients(cell: PeerCell, size: Size) -> list[np.ndarray]:
    """In float64, for a process of its own."""
    given = problem(cell, size)
    with jax.enable_x64(True):
        params, xs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (given.params, given.xs))
        grads = train_step(CELLS[cell](size.hidden), "autodiff")(params, xs)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]


def measure(config: Config) -> list[Row]:
    """All rows; the variants of one size are called in turns."""
    rows = []
    with counted(f"measuring {len(config.sizes)} sizes") as on_size:
        for done, name in enumerate(config.sizes, start=1):
            size = parse_size(name)
            given, exact = problem(config.cell, size), alone(exact_gradients, config.cell, size)
            xs = jnp.asarray(given.xs)
            variants = {}
            for dtype, backward in itertools.product(DTYPES, get_args(Backward)):
                cell: Any = CELLS[config.cell](size.hidden)
                step = train_step(dataclasses.replace(cell, dtype=dtype), backward)
                variants[dtype, backward] = partial(step, given.params, xs)
            errors = {
                variant: max(
                    float(np.abs(got - want).max() / np.abs(want).max())
                    for got, want in zip(jax.tree.leaves(call()), exact, strict=True)
                )
                for variant, call in variants.items()
            }
            timers = {
                " ".join(variant): lambda call=call: typical_seconds(lambda: jax.block_until_ready(call()))
                for variant, call in variants.items()
            }
            spreads = interleaved(timers, config.repeats)
            rows += [
                Row(name, *variant, spreads[" ".join(variant)], error) for variant, error in errors.items()
            ]
            on_size(done, len(config.sizes))
    return rows


def print_table(rows: list[Row]) -> None:
    """Every row."""
    print(f"\n{'size':<16}{'dtype':<10}{'backward':<10}{'train ms':>10}{'quartiles':>18}{'error':>10}")
    for row in rows:
        median, low, high = (1e3 * part for part in row.train)
        print(
            f"{row.size:<16}{row.dtype:<10}{row.backward:<10}{median:>10.2f}"
            f"{f'{low:.2f}-{high:.2f}':>18}{row.error:>10.1e}"
        )


def draw(path: Path, rows: list[Row]) -> None:
    """Error against time, a marker for each variant, a line for each size."""
    figure, axes = plt.subplots(figsize=(7, 3.8), dpi=130, layout="constrained")
    markers = {("float32", "bptt"): "o", ("float32", "autodiff"): "s"}
    markers |= {("bfloat16", "bptt"): "^", ("bfloat16", "autodiff"): "v"}
    for colour, size in zip(
        itertools.cycle(COLOURS), dict.fromkeys(row.size for row in rows), strict=False
    ):
        for row in (row for row in rows if row.size == size):
            marker = markers[row.dtype, row.backward]
            axes.plot(1e3 * row.train.median, row.error, marker, color=colour, markersize=8)
        axes.plot([], [], color=colour, linewidth=6, label=size)
    for (dtype, backward), marker in markers.items():
        axes.plot([], [], marker, color="black", label=f"{dtype}, {backward}")
    axes.set(xscale="log", yscale="log", xlabel="train step (ms)", ylabel="largest relative error")
    axes.set_title("Gradients of one layer in float32 and bfloat16")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; table, record and chart."""
    check_positive("repeats", config.repeats)
    check_json(config.json)
    if not config.sizes:
        raise ValueError("sizes must be one or more, got none")
    for size in config.sizes:
        parse_size(size)
    load = load_average()
    rows = measure(config)
    print_table(rows)
    figures = {"results": [dataclasses.asdict(row) for row in rows]}
    publish(config, figures, lambda chart: draw(chart, rows), load=load)


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run)})
