"""Times of several programs, taken so that they can be compared; peak memory of one."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Shorter calls are repeated within a round until they take as long: the clock and the operating system
# disturb them more than each other.
LEAST_SECONDS = 0.02


class Spread(NamedTuple):
    """Seconds of a call over all rounds."""

    median: float
    low: float  # lower quartile
    high: float  # upper quartile

    @classmethod
    def of(cls, seconds: Any) -> "Spread":
        """The quartiles of measured seconds."""
        low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
        return cls(median, low, high)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, where nothing is compiled and JAX may be given its devices."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes, which must wait for its result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Spread]:
    """The time of each call, in rounds of all: what slows the machine for a while slows all of them.

    The order is shuffled in every round, so that none always follows the same other.
    """
    order, random = list(calls), np.random.default_rng(0)
    repeats = {name: 1 + int(LEAST_SECONDS / seconds(call)) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            # Not timed: the idle threads of the library before still spin, and ours are asleep. With
            # OMP_WAIT_POLICY=passive they would not spin, but torch would be up to ten times slower.
            calls[name]()
            taken[name].append(float(np.median([seconds(calls[name]) for _ in range(repeats[name])])))
    return {name: Spread.of(values) for name, values in taken.items()}


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Memory that a call needs at its peak beyond what was there, once it has been called before.

    For a process of its own: what it allocated and freed before would hide it. None where the operating
    system does not tell.
    """
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    before = _status("VmRSS")
    call()
    reset.write_text("5")  # the peak is now what is resident
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(value)
