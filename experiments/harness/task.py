"""The one value that describes an experiment to the harness, and how its loss is measured."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.harness.devices import (
    WHOLE,
    Split,
    batch_mesh,
    lanes,
    shard,
    shard_batch,
    split_params,
    spread,
)
from jaxrnn.training.state import TrainState
from jaxrnn.training.step import truncated_step

# By the name of a figure, its sum and the number of terms: masked and ragged batches add up exactly.
Sums = dict[str, tuple[Any, Any]]
Loss = Callable[..., Any]

COMPILED = 8  # losses of which what was compiled is kept
PATIENCE = 5  # measurements without a better one, after which a training ends that may end early


def never(losses: Sequence[float]) -> bool:
    """Whether to end a training early: no."""
    return False


def past_its_best(losses: Sequence[float]) -> bool:
    """Whether the lowest of the validation losses so far is ``PATIENCE`` measurements back.

    >>> past_its_best([3, 1, 2, 2, 2, 2]), past_its_best([3, 1, 2, 2, 2, 2, 2])
    (False, True)
    """
    return len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE


@dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Args:
      init: key → parameters.
      loss: (params, batch, key) → ``Sums``, of which "loss" is minimised; the key is dropout's, None in an
        evaluation. With ``carry``, truncated back-propagation: (params, carry, batch, key) → (``Sums``,
        the carry after the batch).
      batch: (position, lanes=all) → the batch at a position, always the same one, or a slice of its
        sequences. Time leads and the sequences follow in every leaf of rank 2 or more; vectors, lengths
        say, have an entry a sequence; numbers are everybody's.
      valid: makes the validation batches, in their order.
      unit: of the loss, "nats per character" say.
      items: what a training step reads, and how many of them on average: ("characters", 2048).
      record: beside the settings, what a run that is resumed must have in common with the one that began:
        digests of its data, under names that end in "_sha256".
      assets: writes files that a run needs beside its parameters, a vocabulary say, into a new folder.
      on_evaluate: (params, step), after every evaluation: to write samples or plots.
      carry: the carry before the first of batches like the one given.
      stop: whether to end the training early, from the validation losses so far.
      split: how the parameters lie on the devices.
    """

    init: Callable[[jax.Array], Any]
    loss: Loss
    batch: Callable[..., Any]
    valid: Callable[[], Iterable[Any]]
    unit: str
    items: tuple[str, float]
    record: Mapping[str, Any] = field(default_factory=dict)
    assets: Callable[[Path], None] = lambda folder: None
    on_evaluate: Callable[[Any, int], None] = lambda params, step: None
    carry: Callable[[Any], Any] | None = None
    stop: Callable[[Sequence[float]], bool] = never
    split: Split = WHOLE

    def first_carry(self, batch: Any) -> Any:
        """The carry before the first of batches like the one given; empty for a task without."""
        return () if self.carry is None else self.carry(batch)


def train_step(
    task: Task, optimizer: optax.GradientTransformation, state: TrainState
) -> Callable[..., Any]:
    """``truncated_step`` of the task's loss, whose states lie on the devices as the one given does."""
    shardings, form = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, state))
    return _train_step(task.loss, task.carry is not None, optimizer, tuple(shardings), form)


# Runs of one process, of several seeds say, compile once where loss and optimiser are the same functions.
@functools.lru_cache(maxsize=COMPILED)
def _train_step(
    loss: Loss,
    carried: bool,
    optimizer: optax.GradientTransformation,
    shardings: tuple[Any, ...],
    form: Any,
) -> Callable[..., Any]:
    def mean_loss(params: Any, carry: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        sums, carry = _sums(loss, carried, params, carry, batch, key)
        total, count = sums["loss"]
        return total / count, carry

    step = truncated_step(mean_loss, optimizer)
    return jax.jit(step, donate_argnums=0, out_shardings=(jax.tree.unflatten(form, shardings), None))


@functools.lru_cache(maxsize=COMPILED)
def _measure(loss: Loss, carried: bool) -> Callable[..., tuple[Sums, Any]]:
    """(params, carry, batch) → (``Sums``, carry), compiled, nothing dropped."""
    return jax.jit(lambda params, carry, batch: _sums(loss, carried, params, carry, batch, None))


def _sums(loss: Loss, carried: bool, params: Any, carry: Any, batch: Any, key: Any) -> tuple[Sums, Any]:
    """The loss of a task with a carry or without."""
    if carried:
        return loss(params, carry, batch, key)
    return loss(params, batch, key), carry


def evaluate(task: Task, params: Any, batches: Iterable[Any]) -> dict[str, float]:
    """The task's figures over all batches together: each sum divided by its number of terms.

    >>> import numpy as np
    >>> task = Task(
    ...     init=lambda key: (),
    ...     loss=lambda params, batch, key: {"loss": (batch.sum(), batch.size)},
    ...     batch=lambda position, lanes=slice(None): np.ones(2)[lanes],
    ...     valid=list, unit="", items=("numbers", 2),
    ... )
    >>> evaluate(task, (), [np.ones(3), np.zeros(1)])
    {'loss': 0.75}
    """
    totals: dict[str, tuple[float, float]] = {}
    measure, carry = _measure(task.loss, task.carry is not None), None
    together, last_mesh, placed_params = spread(params), None, params
    for batch in batches:
        mesh = batch_mesh(lanes(batch), task.split.devices, together=together)
        if mesh != last_mesh:
            last_mesh, placed_params = mesh, split_params(params, mesh, task.split)
        carry = task.first_carry(batch) if carry is None else carry
        placed = shard(carry, mesh, axis=0)
        sums, carry = measure(placed_params, placed, shard_batch(batch, mesh))
        for name, (total, count) in jax.device_get(sums).items():
            before = totals.get(name, (0.0, 0.0))
            totals[name] = before[0] + float(total), before[1] + float(count)
    figures = {name: total / count for name, (total, count) in totals.items()}
    return {"loss": figures.pop("loss"), **figures}
