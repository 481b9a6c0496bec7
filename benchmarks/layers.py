"""How fast is a recurrent layer? jaxrnn beside torch, Flax, Haiku, Equinox, and Keras on JAX.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.layers
    python -m benchmarks.layers --cells lstm --sizes 32,128,64,256 --repeats 5      a part of it
    python -m benchmarks.layers chart --json benchmarks/results/layers.json         its chart again

The first command takes about 20 minutes on two CPU cores.

Forward pass and train step (the gradient of mean(y²) by all weights and by the inputs) of one layer in
float32. For each cell and size all libraries run in one process, in rounds of one call of each, after one
that is not timed, in an order shuffled every time; figures are medians over the rounds, with quartiles, and
ratios of medians. In a second process our batch is split over the host's devices, one a core; since that
changes the threads of every JAX library, only torch runs beside it. Peak memory is that of a process of its
own. Before anything is timed, all outputs must be finite, and ours equal to torch's with the same weights.

The product floor is the time that the train step's matrix products alone would take, at the best rate that
either XLA or torch reaches here on one large product; the floor column says what part of our time it is.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measure import Spread, alone, interleaved, peak_bytes, seconds
from benchmarks.peers import LIBRARIES, CellName, Layer, Size, problem
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, cores
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.checks import check_positive

SHARDED = [name for name in LIBRARIES if name.endswith("sharded")]
ONE_DEVICE = [name for name in LIBRARIES if name not in SHARDED]
OURS = [name for name in LIBRARIES if name.startswith("jaxrnn")]
JAX_PEERS = [name for name in LIBRARIES if name not in OURS and name != "torch"]

SHADES = {
    "jaxrnn bptt": COLOURS[0],
    "jaxrnn bptt, sharded": COLOURS[0],
    "jaxrnn autodiff": COLOURS[5],
    **dict(zip(JAX_PEERS, (COLOURS[1], COLOURS[4], COLOURS[2], COLOURS[3], "#999999"), strict=True)),
}
GATES: dict[CellName, int] = {"lstm": 4, "gru": 3, "elman": 1}
PRODUCT_SIZE = 2048
TOLERANCE = 1e-3  # of float32 gradients over hundreds of steps, relative to the largest


@dataclass(frozen=True)
class Config:
    """Time and memory of one recurrent layer in every library."""

    cells: tuple[CellName, ...] = ("lstm", "gru", "elman")
    """Recurrent cells."""
    sizes: tuple[str, ...] = ("50,50,65,128", "32,128,64,256", "64,100,128,512", "1,200,64,256")
    """Sizes, each as BATCH,TIME,FEATURES,HIDDEN."""
    repeats: int = 15
    """Rounds in which every library is called once."""
    json: Path | None = None
    """File for all figures, and beside it a chart."""


@dataclass(frozen=True)
class Row:
    """One library at one size."""

    cell: CellName
    size: str
    devices: int
    library: str
    forward: Spread
    train: Spread
    first_call: float  # seconds of the first train step, compilation included
    peak_bytes: int | None = None  # of a train step


def parse_size(text: str) -> Size:
    """Four whole numbers with commas between."""
    try:
        size = Size(*map(int, text.split(",")))
    except (TypeError, ValueError):
        raise ValueError(
            f"a size is BATCH,TIME,FEATURES,HIDDEN, for example 32,128,64,256; got {text!r}"
        ) from None
    for name, value in size._asdict().items():
        check_positive(f"{name} of size {text}", value)
    return size


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    for name in ("cells", "sizes"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be one or more, each once; got {values}")
    if unknown := set(config.cells) - set(get_args(CellName)):
        raise ValueError(
            f"cells: known are {', '.join(get_args(CellName))}; got {', '.join(sorted(unknown))}"
        )
    for size in config.sizes:
        parse_size(size)
    check_positive("repeats", config.repeats)
    check_json(config.json)


def time_layers(names: list[str], devices: int, cell: CellName, size: Size, repeats: int) -> list[Row]:
    """The figures of several libraries at one size, in this process."""
    jax.config.update("jax_num_cpu_devices", devices)
    given = problem(cell, size)
    layers = {name: layer for name in names if (layer := LIBRARIES[name](given)) is not None}
    first_calls = {name: seconds(layer.train) for name, layer in layers.items()}
    check_outputs(layers)
    forward = interleaved({name: layer.forward for name, layer in layers.items()}, repeats)
    train = interleaved({name: layer.train for name, layer in layers.items()}, repeats)
    return [
        Row(cell, str(size), devices, name, forward[name], train[name], first_calls[name])
        for name in layers
    ]


def check_outputs(layers: dict[str, Layer]) -> None:
    """Raise RuntimeError if an output is not finite, or ours differs from torch's."""
    for call in ("forward", "train"):
        results = {name: jax.tree.leaves(getattr(layer, call)()) for name, layer in layers.items()}
        for name, leaves in results.items():
            if not all(np.isfinite(leaf).all() for leaf in leaves):
                raise RuntimeError(f"{name}: {call} is not finite")
            if name in OURS:
                pairs = zip(leaves, results["torch"], strict=True)
                error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
                if error > TOLERANCE:
                    raise RuntimeError(f"{name}: {call} differs from torch's by {error:.1e}")


def peak_of(name: str, cell: CellName, size: Size) -> int | None:
    """Peak memory of a library's train step, in this process."""
    jax.config.update("jax_num_cpu_devices", cores() if name in SHARDED else 1)
    layer = LIBRARIES[name](problem(cell, size))
    return layer and peak_bytes(layer.train)


def product_flops_per_second() -> float:
    """The best rate of one large product, in XLA or torch."""
    import torch

    jax.config.update("jax_num_cpu_devices", 1)
    a, b = np.random.default_rng(0).standard_normal((2, PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    product, in_xla, in_torch = (
        jax.jit(jnp.matmul),
        (jnp.array(a), jnp.array(b)),
        (torch.tensor(a), torch.tensor(b)),
    )
    spreads = interleaved(
        {"xla": lambda: product(*in_xla).block_until_ready(), "torch": lambda: torch.mm(*in_torch)}, 9
    )
    return 2 * PRODUCT_SIZE**3 / min(spread.median for spread in spreads.values())


def train_flops(cell: CellName, size: Size) -> int:
    """Of the matrix products of a train step: forward, and for the gradients by weights and inputs."""
    return 3 * 2 * size.batch * size.time * (size.in_features + size.hidden) * GATES[cell] * size.hidden


def measure(config: Config) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    problems = [(cell, parse_size(size)) for cell in config.cells for size in config.sizes]
    with counted(f"measuring {len(problems)} problems") as on_problem:
        for done, (cell, size) in enumerate(problems, start=1):
            new = alone(time_layers, ONE_DEVICE, 1, cell, size, config.repeats)
            if alone(devices_for, size.batch) > 1:
                names = [*SHARDED, "torch"]
                new += alone(time_layers, names, cores(), cell, size, config.repeats)
            rows += [replace(row, peak_bytes=alone(peak_of, row.library, cell, size)) for row in new]
            on_problem(done, len(problems))
    return rows


def devices_for(batch: int) -> int:
    """Over how many devices a batch is split."""
    jax.config.update("jax_num_cpu_devices", cores())
    return batch_mesh(batch).size


def ratio(rows: list[Row], ours: Row, names: list[str], what: str = "train") -> float | None:
    """How many times as fast as the best of some libraries in the same process."""
    theirs = [
        getattr(row, what).median
        for row in rows
        if row.library in names
        and (row.cell, row.size, row.devices) == (ours.cell, ours.size, ours.devices)
    ]
    return min(theirs) / getattr(ours, what).median if theirs else None


def summarise(rows: list[Row], flops_per_second: float) -> list[dict[str, Any]]:
    """For each cell and size our best train step: how much faster than torch, and than the JAX peers."""
    found = []
    for cell, size in dict.fromkeys((row.cell, row.size) for row in rows):
        here = [row for row in rows if (row.cell, row.size) == (cell, size)]
        ours = [row for row in here if row.library in OURS]
        best = max(ours, key=lambda row: ratio(rows, row, ["torch"]) or 0)
        peers = min(row.train.median for row in here if row.library in JAX_PEERS)
        to_torch = ratio(rows, best, ["torch"])
        one = min((row for row in ours if row.devices == 1), key=lambda row: row.train.median)
        floor = train_flops(cell, parse_size(size)) / flops_per_second
        found.append(
            {
                "cell": cell,
                "size": size,
                "best": best.library,
                "to_torch": to_torch,
                "to_best_jax_peer": peers / best.train.median,
                "one_device_to_torch": ratio(rows, one, ["torch"]),
                "one_device_to_best_jax_peer": ratio(rows, one, JAX_PEERS),
                "floor": floor / best.train.median,
            }
        )
    return found


def geometric_means(summary: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each ratio over the sizes, for each cell."""
    names = [name for name in summary[0] if name.startswith(("to_", "one_"))]
    return {
        cell: {
            name: math.exp(np.mean([math.log(entry[name]) for entry in summary if entry["cell"] == cell]))
            for name in names
        }
        for cell in dict.fromkeys(entry["cell"] for entry in summary)
    }


def print_tables(rows: list[Row], summary: list[dict[str, Any]], flops_per_second: float) -> None:
    """Every library at every size, then how we compare."""
    for cell, size, devices in dict.fromkeys((row.cell, row.size, row.devices) for row in rows):
        here = [row for row in rows if (row.cell, row.size, row.devices) == (cell, size, devices)]
        print(f"\n{cell} {size} (batch, time, features, hidden), {devices} JAX device{'s' * (devices > 1)}")
        head = ("", "forward ms", "quartiles", "train ms", "quartiles", "torch/it", "first s", "peak MiB")
        print("{:<25}{:>11}{:>16}{:>10}{:>16}{:>9}{:>8}{:>9}".format(*head))
        for row in sorted(here, key=lambda row: row.train.median):
            times = "".join(
                f"{1e3 * spread.median:>{width}.2f}{f'{1e3 * spread.low:.2f}-{1e3 * spread.high:.2f}':>16}"
                for spread, width in ((row.forward, 11), (row.train, 10))
            )
            peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}"
            to_torch = f"{ratio(rows, row, ['torch']):.2f}"
            print(f"{row.library:<25}{times}{to_torch:>9}{row.first_call:>8.2f}{peak:>9}")
    print(f"\ntrain step; products at best {flops_per_second / 1e9:.0f} GFLOP/s")
    head = ("", "", "ours", "torch/ours", "JAX peer/ours", "one device: torch", "JAX peer", "floor")
    print("{:<7}{:<16}{:<26}{:>11}{:>15}{:>19}{:>10}{:>7}".format(*head))
    for entry in summary:
        _, _, _, *ratios = entry.values()
        print(
            f"{entry['cell']:<7}{entry['size']:<16}{entry['best']:<26}"
            "{:>11.2f}{:>15.2f}{:>19.2f}{:>10.2f}{:>7.2f}".format(*ratios)
        )
    for name, means in geometric_means(summary).items():
        print(
            f"{name:<7}{'geometric mean':<42}"
            + "{:>11.2f}{:>15.2f}{:>19.2f}{:>10.2f}".format(*means.values())
        )


def draw(path: Path, rows: list[Row]) -> None:
    """Speed of the train step relative to torch, a panel for each cell."""
    cells = list(dict.fromkeys(row.cell for row in rows))
    sizes = list(dict.fromkeys(row.size for row in rows))
    names = [name for name in LIBRARIES if name not in ("torch", "jaxrnn autodiff, sharded")]
    figure, panels = plt.subplots(
        len(cells), 1, figsize=(9, 0.8 + 2.5 * len(cells)), dpi=130, layout="constrained", squeeze=False
    )
    width = 0.8 / len(names)
    for axes, cell in zip(panels[:, 0], cells, strict=True):
        for index, name in enumerate(names):
            shown = [row for row in rows if (row.cell, row.library) == (cell, name)]
            x = [sizes.index(row.size) + (index - len(names) / 2 + 0.5) * width for row in shown]
            y = [ratio(rows, row, ["torch"]) for row in shown]
            axes.bar(x, y, width, color=SHADES[name], label=name, hatch="//" if name in SHARDED else None)
        axes.axhline(1, color="black", linestyle="--", linewidth=1, label="torch")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(title=cell, ylabel="speed / torch's", yscale="log")
        axes.yaxis.set_major_locator(plt.LogLocator(base=2))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(plt.NullLocator())
        axes.grid(alpha=0.3, axis="y")
    panels[-1, 0].set_xlabel("batch, time, features, hidden")
    figure.suptitle("Train step of one layer, float32, higher is faster")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    save(figure, path)


def run(config: Config) -> None:
    """Measure; tables, record and chart."""
    check(config)
    load = load_average()
    flops_per_second = alone(product_flops_per_second)
    rows = measure(config)
    summary = summarise(rows, flops_per_second)
    print_tables(rows, summary, flops_per_second)
    figures = {
        "product_gflops": flops_per_second / 1e9,
        "geometric_means": geometric_means(summary),
        "summary": summary,
        "results": [dataclasses.asdict(row) for row in rows],
    }
    publish(
        config,
        figures,
        lambda chart: draw(chart, rows),
        load=load,
        peers=("torch", "dm-haiku", "equinox", "keras"),
    )


@dataclass(frozen=True)
class Chart:
    """Draw the chart of figures that are already there."""

    json: Path
    """File that measuring left; the chart goes beside it."""


def redraw(config: Chart) -> None:
    """The chart from the figures."""
    check_json(config.json)
    results = json.loads(config.json.read_text(encoding="utf-8"))["results"]
    times = ("forward", "train")
    draw(
        config.json.with_suffix(".png"),
        [Row(**result | {what: Spread(*result[what]) for what in times}) for result in results],
    )


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run), "chart": (Chart, redraw)})
