"""What do several processes cost? One process with a device for each core, beside a process for each core.

    python -m benchmarks.processes                                             four minutes on two cores
    python -m benchmarks.processes --json benchmarks/results/processes.json    figures and chart kept

The same training of a character model, started by the same command: over one device, over two devices of
one process, and over two processes with a device each, on one machine. What is timed is training once all
is compiled. The state that two processes end with must be that of two devices in one, to the bit; over
one device sums add up in another order, and training makes much of what rounding begins.
"""

import itertools
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measure import Spread
from benchmarks.record import check_json, load_average, publish
from benchmarks.small_run import saved_leaves
from experiments.data.corpora import standard_library
from experiments.harness.command_line import main
from experiments.harness.distributed import local_group
from experiments.harness.plots import COLOURS, save
from experiments.harness.run import Metrics, read_json
from jaxrnn.checks import check_positive

CHARACTERS = 1_000_000  # of the corpus: measuring held-out text is not what is timed
WAYS = {"one device": (1, 1), "two devices": (1, 2), "two processes": (2, 2)}  # processes, devices


@dataclass(frozen=True)
class Config:
    """Characters a second of training, by processes and devices."""

    steps: int = 200
    """Training steps of each run."""
    hidden_size: int = 256
    """Units of the LSTM."""
    batch_size: int = 32
    """Streams of text."""
    repeats: int = 3
    """Rounds, in each of which every way is run once."""
    json: Path | None = None
    """File for all figures, and beside it a chart; the published ones are in benchmarks/results/."""


@dataclass(frozen=True)
class Row:
    """One way to train."""

    way: str
    processes: int
    devices: int  # of all processes
    seconds: Spread  # of a training step
    compiling: float  # seconds
    megabytes: float  # resident at the peak, of all processes
    distance: float  # of the last state from that of two devices in one process, the largest


def check(config: Config) -> None:
    """Raise ValueError for settings that cannot work, before any time is spent."""
    for name in ("steps", "hidden_size", "batch_size", "repeats"):
        check_positive(name, getattr(config, name))
    if config.steps % 50 or config.steps < 100:
        raise ValueError(f"steps must be a multiple of 50 from 100 on, got {config.steps}")
    check_json(config.json)


def trained(config: Config, way: str, corpus: Path, out: Path) -> tuple[list[float], float, float]:
    """Seconds of a step in every fifty but the first, those of compiling, and megabytes at the peak."""
    processes, devices = WAYS[way]
    arguments = (
        f"--hidden-size {config.hidden_size} --batch-size {config.batch_size} --steps {config.steps}"
    )
    arguments += f" --evaluate-every {config.steps} --checkpoint-every {config.steps} --devices {devices}"
    command = [sys.executable, "-m", "experiments.char_lm", "--corpus", str(corpus), "--out", str(out)]
    command += shlex.split(arguments)
    silent: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([*command, *group], **silent) for group in local_group(processes)]
    ended = [os.wait4(process.pid, 0) for process in running]
    if any(status for _, status, _ in ended):
        raise RuntimeError(f"{way}: {shlex.join(command)} failed; run it to see why")
    times = [line["seconds"] for line in Metrics(out / "metrics.jsonl").read() if "loss" in line]
    steps = [(after - before) / 50 for before, after in itertools.pairwise(times)]
    spent = read_json(out / "summary.json")["seconds_spent"]
    return steps, spent["compiling"], sum(usage.ru_maxrss for *_, usage in ended) / 1024


def measure(config: Config, folder: Path) -> list[Row]:
    """All ways, one after another in every round."""
    corpus = folder / "corpus.txt"
    corpus.write_text(standard_library()[:CHARACTERS], encoding="utf-8")
    found: dict[str, list[tuple[list[float], float, float]]] = {way: [] for way in WAYS}
    for number in range(config.repeats):
        for way, runs in found.items():
            began = time.monotonic()
            runs.append(trained(config, way, corpus, folder / f"{way} {number}".replace(" ", "_")))
            print(f"round {number + 1}, {way}: {time.monotonic() - began:.0f} s", flush=True)
    expected = saved_leaves(folder / "two_devices_0")
    rows = []
    for way, runs in found.items():
        leaves = saved_leaves(folder / f"{way}_0".replace(" ", "_"))
        distance = max(
            float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(leaves, expected, strict=True)
        )
        steps = Spread.of([seconds for of_run, _, _ in runs for seconds in of_run])
        compiling = statistics.median(seconds for _, seconds, _ in runs)
        megabytes = statistics.median(peak for _, _, peak in runs)
        rows.append(Row(way, *WAYS[way], steps, compiling, megabytes, distance))
    return rows


def draw(rows: list[Row], config: Config, path: Path) -> None:
    """Characters a second by way, with quartiles."""
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    characters = config.batch_size * 64 / 1000
    for place, row in enumerate(rows):
        low, middle, high = (
            characters / s for s in (row.seconds.high, row.seconds.median, row.seconds.low)
        )
        axes.barh(place, middle, color=COLOURS[place], xerr=[[middle - low], [high - middle]], capsize=4)
        axes.text(0.3, place, f"{middle:.1f}", va="center", color="white")
    axes.set_yticks(range(len(rows)), [row.way for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("thousand characters a second; bars: quartiles")
    axes.set_title(f"Training an LSTM of {config.hidden_size} on one machine")
    save(figure, path)


def run(config: Config) -> None:
    """Measure, print, and keep what was asked for."""
    check(config)
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(config, Path(folder))
    print(f"{'':16}{'ms a step':>10}{'quartiles':>16}{'compiling':>11}{'megabytes':>11}{'distance':>10}")
    for row in rows:
        low, middle, high = (1000 * s for s in (row.seconds.low, row.seconds.median, row.seconds.high))
        spread = f"{low:.1f}–{high:.1f}"
        figures = f"{row.compiling:>9.1f} s{row.megabytes:>11.0f}{row.distance:>10.1e}"
        print(f"{row.way:16}{middle:>10.1f}{spread:>16}{figures}")
    times = {row.way: row.seconds.median for row in rows}
    if rows[-1].distance:
        raise RuntimeError(f"two processes end {rows[-1].distance:.1e} from one with two devices")
    throughput = times["two devices"] / times["two processes"]
    print(f"two processes train at {throughput:.2f} of the speed of one with two devices")
    figures_kept: dict[str, Any] = {"rows": [asdict(row) for row in rows], "throughput": throughput}
    publish(config, figures_kept, lambda path: draw(rows, config, path), load=load)


if __name__ == "__main__":
    main(str(__doc__), {"processes": (Config, run)})
