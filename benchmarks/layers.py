"""How fast is a recurrent layer? jaxrnn beside torch, Flax, Haiku, Equinox, and Keras on JAX.

    python -m pip install -e ".[experiments,peers]" && python -m benchmarks.layers
    python -m benchmarks.layers --cells lstm --sizes 32,128,64,256 --repeats 5      a part of it
    python -m benchmarks.layers chart --json benchmarks/results/layers.json         its chart again

The first command takes about 20 minutes on two CPU cores.

Forward pass and train step (the gradient of mean(y²) by all weights and by the inputs) of one layer in
float32. Each library lives in a process of its own, with the settings that it comes with. They are called
in rounds of all, in an order shuffled every time; figures are medians over the rounds, with quartiles, and
ratios of medians. Like is compared with like: all have one JAX device, whose operations use the cores as
they do by themselves. Ours also runs sharded, its batch split over one device a core; ratios of that are
named so. Before anything is timed, all outputs must be finite, and ours equal to torch's with the same
weights.

The product floor is the time that the train step's matrix products alone would take, at the best rate that
either XLA or torch reaches here on one large product; the floor column says what part of our time it is.
"""

import contextlib
import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measure import Process, Spread, alone, interleaved, peak_bytes, seconds, typical_seconds
from benchmarks.peers import LIBRARIES, Layer, PeerCell, Size, problem
from benchmarks.record import check_json, load_average, publish
from experiments.harness.command_line import main
from experiments.harness.devices import batch_mesh, cores
from experiments.harness.plots import COLOURS, save
from experiments.harness.progress import counted
from jaxrnn.checks import check_positive

SHARDED = [name for name in LIBRARIES if name.endswith("sharded")]
OURS = [name for name in LIBRARIES if name.startswith("jaxrnn")]
ONE_DEVICE = [name for name in OURS if name not in SHARDED]
RATIOS = ("one_device_to_torch", "one_device_to_best_jax_peer", "to_torch", "to_best_jax_peer")
JAX_PEERS = [name for name in LIBRARIES if name not in OURS and name != "torch"]

SHADES = {
    "jaxrnn bptt": COLOURS[0],
    "jaxrnn bptt, sharded": COLOURS[0],
    "jaxrnn autodiff": COLOURS[5],
    **dict(zip(JAX_PEERS, (COLOURS[1], COLOURS[4], COLOURS[2], COLOURS[3], "#999999"), strict=True)),
}
CALLS = ("forward", "train")
GATES: dict[PeerCell, int] = {"lstm": 4, "gru": 3, "elman": 1}
PRODUCT_SIZE = 2048
TOLERANCE = 1e-3  # of float32 gradients over hundreds of steps, relative to the largest


@dataclass(frozen=True)
class Config:
    """Time and memory of one recurrent layer in every library."""

    cells: tuple[PeerCell, ...] = ("lstm", "gru", "elman")
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

    cell: PeerCell
    size: str
    library: str
    forward: Spread
    train: Spread
    first_call: float  # seconds of the first train step, compilation included
    peak_bytes: int | None  # of a train step


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
    if unknown := set(config.cells) - set(get_args(PeerCell)):
        raise ValueError(
            f"cells: known are {', '.join(get_args(PeerCell))}; got {', '.join(sorted(unknown))}"
        )
    for size in config.sizes:
        parse_size(size)
    check_positive("repeats", config.repeats)
    check_json(config.json)


def build(library: str, cell: PeerCell, size: Size) -> Layer | None:
    """A library's layer, in this process; None for what it lacks, and for a batch that cannot be split."""
    sharded = library in SHARDED
    jax.config.update("jax_num_cpu_devices", cores() if sharded else 1)
    if sharded and batch_mesh(size.batch).size == 1:
        return None
    return LIBRARIES[library](problem(cell, size))


def is_none(layer: Layer | None) -> bool:
    """Whether the library lacks the layer."""
    return layer is None


def first_call(layer: Layer) -> float:
    """Seconds of the first train step."""
    return seconds(layer.train)


def peak(layer: Layer) -> int | None:
    """Bytes that a train step needs at its peak."""
    return peak_bytes(layer.train)


def results(layer: Layer, call: str) -> list[np.ndarray]:
    """The arrays that a call returns."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(getattr(layer, call)())]


def time_call(layer: Layer, call: str) -> float:
    """Seconds of a call."""
    return typical_seconds(getattr(layer, call))


def time_layers(cell: PeerCell, size: Size, repeats: int) -> list[Row]:
    """The figures of all libraries at one size."""
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process(build, name, cell, size)) for name in LIBRARIES}
        layers = {name: process for name, process in processes.items() if not process.ask(is_none)}
        first_calls = {name: layer.ask(first_call) for name, layer in layers.items()}
        peaks = {name: layer.ask(peak) for name, layer in layers.items()}
        check_outputs(
            {name: {call: layer.ask(results, call) for call in CALLS} for name, layer in layers.items()}
        )
        forward, train = (
            interleaved(
                {name: partial(layer.ask, time_call, call) for name, layer in layers.items()}, repeats
            )
            for call in CALLS
        )
    return [
        Row(cell, str(size), name, forward[name], train[name], first_calls[name], peaks[name])
        for name in layers
    ]


def check_outputs(given: dict[str, dict[str, list[np.ndarray]]]) -> None:
    """Raise RuntimeError if what a library gives is not finite, or if ours differs from torch's."""
    for name, call in itertools.product(given, CALLS):
        leaves = given[name][call]
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise RuntimeError(f"{name}: {call} is not finite")
        if name in OURS:
            pairs = zip(leaves, given["torch"][call], strict=True)
            error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
            if error > TOLERANCE:
                raise RuntimeError(f"{name}: {call} differs from torch's by {error:.1e}")


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
        {
            "xla": lambda: typical_seconds(lambda: product(*in_xla).block_until_ready()),
            "torch": lambda: typical_seconds(lambda: torch.mm(*in_torch)),
        },
        9,
    )
    return 2 * PRODUCT_SIZE**3 / min(spread.median for spread in spreads.values())


def train_flops(cell: PeerCell, size: Size) -> int:
    """Of the matrix products of a train step: forward, and for the gradients by weights and inputs."""
    return 3 * 2 * size.batch * size.time * (size.in_features + size.hidden) * GATES[cell] * size.hidden


def measure(config: Config) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    problems = [(cell, parse_size(size)) for cell in config.cells for size in config.sizes]
    with counted(f"measuring {len(problems)} problems") as on_problem:
        for done, (cell, size) in enumerate(problems, start=1):
            rows += time_layers(cell, size, config.repeats)
            on_problem(done, len(problems))
    return rows


def summarise(rows: list[Row], flops_per_second: float) -> list[dict[str, Any]]:
    """For each cell and size our best train step: how much faster than torch, and than the JAX peers."""
    found = []
    for cell, size in dict.fromkeys((row.cell, row.size) for row in rows):
        train = {row.library: row.train.median for row in rows if (row.cell, row.size) == (cell, size)}

        def fastest(names: list[str], train: dict[str, float] = train) -> str:
            return min((name for name in names if name in train), key=train.__getitem__)

        one, best, peer = (fastest(names) for names in (ONE_DEVICE, OURS, JAX_PEERS))
        floor = train_flops(cell, parse_size(size)) / flops_per_second
        found.append(
            {
                "cell": cell,
                "size": size,
                "one_device": one,
                "jax_peer": peer,
                "one_device_to_torch": train["torch"] / train[one],
                "one_device_to_best_jax_peer": train[peer] / train[one],
                "best": best,
                "to_torch": train["torch"] / train[best],
                "to_best_jax_peer": train[peer] / train[best],
                "floor": floor / train[best],
            }
        )
    return found


def geometric_means(summary: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each ratio over the sizes, for each cell."""
    return {
        cell: {
            name: math.exp(np.mean([math.log(entry[name]) for entry in summary if entry["cell"] == cell]))
            for name in RATIOS
        }
        for cell in dict.fromkeys(entry["cell"] for entry in summary)
    }


def times_torch(rows: list[Row], row: Row) -> float:
    """How many times as fast a train step is as torch's."""
    same = [other for other in rows if (other.cell, other.size) == (row.cell, row.size)]
    (torch,) = (other for other in same if other.library == "torch")
    return torch.train.median / row.train.median


def print_tables(rows: list[Row], summary: list[dict[str, Any]], flops_per_second: float) -> None:
    """Every library at every size, then how we compare."""
    for cell, size in dict.fromkeys((row.cell, row.size) for row in rows):
        here = [row for row in rows if (row.cell, row.size) == (cell, size)]
        print(f"\n{cell} {size} (batch, time, features, hidden)")
        head = ("", "forward ms", "quartiles", "train ms", "quartiles", "torch/it", "first s", "peak MiB")
        print("{:<25}{:>11}{:>16}{:>10}{:>16}{:>9}{:>8}{:>9}".format(*head))
        for row in sorted(here, key=lambda row: row.train.median):
            times = "".join(
                f"{1e3 * spread.median:>{width}.2f}{f'{1e3 * spread.low:.2f}-{1e3 * spread.high:.2f}':>16}"
                for spread, width in ((row.forward, 11), (row.train, 10))
            )
            peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}"
            to_torch = f"{times_torch(rows, row):.2f}"
            print(f"{row.library:<25}{times}{to_torch:>9}{row.first_call:>8.2f}{peak:>9}")
    print(f"\ntrain step; products at best {flops_per_second / 1e9:.0f} GFLOP/s")
    print(f"{'':<65}{'ours on one device':^24}{f'best, on up to {cores()} devices':^24}")
    head = ("", "", "on one device", "best JAX peer", "torch/ours", "peer/ours", "torch/ours", "peer/ours")
    line = "{:<7}{:<16}{:<26}{:<16}" + 4 * "{:>12}"
    print(line.format(*head) + "  floor  best")
    for entry in summary:
        names = (entry[name] for name in ("cell", "size", "one_device", "jax_peer"))
        print(line.format(*names, *(f"{entry[name]:.2f}" for name in RATIOS)), end="")
        print(f"{entry['floor']:>7.2f}  {entry['best']}")
    for of_cell, means in geometric_means(summary).items():
        ratios = (f"{means[name]:.2f}" for name in RATIOS)
        print(line.format(of_cell, "geometric mean", "", "", *ratios))


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
            y = [times_torch(rows, row) for row in shown]
            axes.bar(x, y, width, color=SHADES[name], label=name, hatch="//" if name in SHARDED else None)
        axes.axhline(1, color="black", linestyle="--", linewidth=1, label="torch")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(title=cell, ylabel="speed / torch's", yscale="log")
        axes.set_ylim(bottom=0.2)  # of all panels, so that their bars compare
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
        "devices_when_sharded": cores(),
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
    found = json.loads(config.json.read_text(encoding="utf-8"))["results"]
    draw(
        config.json.with_suffix(".png"),
        [Row(**result | {call: Spread(*result[call]) for call in CALLS}) for result in found],
    )


if __name__ == "__main__":
    main(__doc__ or "", {"measure": (Config, run), "chart": (Chart, redraw)})
