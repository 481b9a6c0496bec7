"""Training steps of a model in several libraries: timed in turns, each in a process of its own."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.measure import (
    Process,
    Spread,
    alone,
    interleaved,
    peak_bytes,
    seconds,
    typical_seconds,
)
from experiments.harness.devices import cores

STEPS_TO_IMPROVE = 5
COMPILATIONS = 3

Step = Callable[[], float]  # takes a training step, waits for it, and returns the loss before
Make = Callable[[Any], Step]  # from a problem
# By name; one that ends in "sharded" has a JAX device a core, others have one.
Libraries = Mapping[str, Make]


def time_steps(libraries: Libraries, given: Any, repeats: int, most_loss: float) -> dict[str, Spread]:
    """Seconds of a step of each library, after it has brought down its loss, at first below ``most_loss``.

    Raises:
      RuntimeError: for one that does not.
    """
    with contextlib.ExitStack() as stack:
        steps = {
            name: stack.enter_context(Process(_build, name, make, given))
            for name, make in libraries.items()
        }
        for name, step in steps.items():
            first, *_, last = step.ask(_losses)
            if not last < first < most_loss:
                raise RuntimeError(f"{name} does not learn: its loss goes from {first} to {last}")
        return interleaved(
            {name: partial(step.ask, typical_seconds) for name, step in steps.items()}, repeats
        )


def first_call(name: str, make: Make, given: Any) -> float:
    """Seconds of the first step, compilation included: the median over fresh processes."""
    return float(np.median([alone(_first_call, name, make, given) for _ in range(COMPILATIONS)]))


def peak(name: str, make: Make, given: Any) -> int | None:
    """Bytes that a step needs at its peak beyond what was there, in a fresh process."""
    return alone(_peak, name, make, given)


def _build(name: str, make: Make, given: Any) -> Step:
    jax.config.update("jax_num_cpu_devices", cores() if name.endswith("sharded") else 1)
    return make(given)


def _losses(step: Step) -> list[float]:
    return [step() for _ in range(STEPS_TO_IMPROVE)]


def _first_call(name: str, make: Make, given: Any) -> float:
    return seconds(_build(name, make, given))


def _peak(name: str, make: Make, given: Any) -> int | None:
    return peak_bytes(_build(name, make, given))
