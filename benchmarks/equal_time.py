"""Data, clock and schedule shared by models that are compared at equal wall time.

A run is limited by wall time and can still be replayed: its first steps measure how long a step takes,
which fixes the number of steps once and for all. Whatever depends on that number begins after these
steps, so that a run told the number from the start goes the very same way.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.data.corpora import load_text
from jaxrnn.data.text import Vocabulary

CORPUS = "tiny_shakespeare"
TRAINING_CHARACTERS = 1_003_854  # nanoGPT's split: nine tenths, rounded down

# The first step compiles and is not measured; these many after it are.
CALIBRATION_STEPS = 200
CALIBRATION_END = 1 + CALIBRATION_STEPS
SAFETY = 0.97  # part of the remaining time that is planned for: steps may come to be a little slower
TOLERANCE = 0.05  # a training further off its time is pointed out

LINE_SECONDS = 10.0  # between lines of progress

PRODUCT_SIZE = 1024
PRODUCT_REPETITIONS = 20


class Data(NamedTuple):
    """The ids to train on and to measure, and the number of distinct characters."""

    train: np.ndarray
    valid: np.ndarray
    vocabulary_size: int


class Timing(NamedTuple):
    """How far a training came, and how long it took, its compilation included."""

    steps: int
    seconds: float
    first_step_seconds: float  # compilation and one step


def load_data(*, tuning: bool) -> Data:
    """Training and validation part of the corpus; with ``tuning`` both are of the training part."""
    text = load_text(CORPUS)
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    train, valid = ids[:TRAINING_CHARACTERS], ids[TRAINING_CHARACTERS:]
    if tuning:
        kept = len(train) * 9 // 10
        train, valid = train[:kept], train[kept:]
    return Data(train, valid, len(vocabulary))


def check_limits(seconds: float, steps: int | None) -> None:
    """Raise ValueError for limits under which there is nothing to train."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"seconds must be a finite number above 0, got {seconds}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def warmed_up(step: int, warmup_steps: int) -> float:
    """The part of the highest learning rate that the warm-up allows at a step."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def decay_done(step: int, total: float, plateau: float) -> float:
    """How much of the decay lies behind a step: 0 at its start, 1 at the last step.

    The decay starts once the part ``plateau`` of all steps is done, yet never while the number of steps
    may still be unknown, which ``total`` being infinite stands for.
    """
    start = max(CALIBRATION_END, plateau * total)
    return 0.0 if step <= start else (step - start) / (total - 1 - start)


def train_for(
    take_step: Callable[[int, float], float],
    *,
    name: str,
    started: float,
    seconds: float,
    steps: int | None,
) -> Timing:
    """Train until the time is up, or for a given number of steps.

    Args:
      take_step: (step, total) → loss; takes a step and waits for it. ``total`` is infinite until known.
      name: of the model, for the lines of progress.
      started: when the clock started, by ``time.monotonic``.
      seconds: the time to train; without effect if ``steps`` is given.
      steps: the number of steps of the run to replay, or None.

    Raises:
      FloatingPointError: when the loss is not finite.
    """
    total = math.inf if steps is None else steps
    step = 0
    first_ended = printed = started
    while step < total:
        loss = take_step(step, total)
        step += 1
        now = time.monotonic()
        if not math.isfinite(loss):
            raise FloatingPointError(f"{name}: training stopped at step {step} with loss {loss}")
        if step == 1:
            first_ended = now
        if total == math.inf and now - started >= seconds:
            total = step
        elif total == math.inf and step == CALIBRATION_END:
            per_step = (now - first_ended) / CALIBRATION_STEPS
            total = step + int(SAFETY * (seconds - (now - started)) / per_step)
        if now - printed >= LINE_SECONDS or step == total:
            goal = "" if total == math.inf else f"/{total}"
            print(f"{name}: {now - started:5.1f} s  step {step:>6}{goal}  loss {loss:.4f}", flush=True)
            printed = now
    if steps is None and abs(now - started - seconds) > TOLERANCE * seconds:
        print(f"{name}: {now - started:.1f} s are not {seconds:g} s: was the machine busy? Measure again.")
    return Timing(step, now - started, first_ended - started)


def product_gflops(product: Callable[[], Any]) -> float:
    """The best rate of a call that waits for one product of square matrices of ``PRODUCT_SIZE``."""
    product()  # compiles
    best = math.inf
    for _ in range(PRODUCT_REPETITIONS):
        started = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - started)
    return 2 * PRODUCT_SIZE**3 / best / 1e9
