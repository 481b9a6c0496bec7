"""Times of several programs, taken so that they can be compared; peak memory of one."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Shorter calls are repeated until they take as long together: the clock and the operating system disturb
# them.
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


class Process:
    """A process that makes something, and then lives to be asked about it.

    So each library has its own threads and settings, and none waits while another's idle threads still
    spin or its memory is in the way.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._making = self._pool.submit(_make, make, *arguments)

    def wait(self) -> None:
        """Until it has made what it is to make."""
        self._making.result()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(made, *arguments)``, computed there."""
        self.wait()
        return self._pool.submit(_ask, function, *arguments).result()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


_made: Any = None  # in a process of its own


def _make(make: Callable[..., Any], *arguments: Any) -> None:
    global _made
    _made = make(*arguments)


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_made, *arguments)


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes, which must wait for its result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def typical_seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call: the median of as many as it takes to be measurable, after one not timed."""
    call()  # by now the threads of whoever ran before are asleep, and ours awake
    taken = [seconds(call)]
    while sum(taken) < LEAST_SECONDS:
        taken.append(seconds(call))
    return float(np.median(taken))


def interleaved(timers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """The spread of each timer's seconds over rounds of all: what slows the machine slows all of them.

    The order is shuffled in every round, so that none always follows the same other.
    """
    order, random = list(timers), np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            taken[name].append(timers[name]())
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
