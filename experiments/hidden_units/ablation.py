"""What a model loses when a unit is held at its mean."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.hidden_units.recording import Signal
from jaxrnn.caching import by_value
from jaxrnn.cells.cell import Carry, Noise, Params
from jaxrnn.cells.wrapped import WrappedCell
from jaxrnn.models.language_model import LanguageModel, LanguageModelParams

CHUNK = 256  # steps of a call of the compiled model
HELD = ("h", "c")  # what can be held


class HeldCarry(NamedTuple):
    """The carry of a cell, and the constants."""

    carry: Carry
    h: Array  # (*batch, units): what a unit is held at; NaN where it is free
    c: Array  # the same; of no units where there is no c


@dataclass(frozen=True)
class Held(WrappedCell):
    """A cell of which units are held: whatever a step computes, their h, or c, is a constant after it.

    A c that is held is read by the next step: h of the step itself comes of the c that was computed.
    """

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: Any = jnp.float32) -> HeldCarry:
        """The wrapped cell's, with all units free."""
        carry = self.cell.initial_carry(batch_shape, dtype)
        free = [jnp.full((*batch_shape, width(carry, name)), jnp.nan, dtype) for name in HELD]
        return HeldCarry(carry, *free)

    def check(self, params: Params, carry: HeldCarry, x: Any) -> None:
        """The wrapped cell's checks."""
        self.cell.check(params, carry.carry, x)

    def step(
        self, params: Params, carry: HeldCarry, x: Array, noise: Noise = None
    ) -> tuple[HeldCarry, Array]:
        """The wrapped cell's step, and the constants in their places."""
        after, y = self.cell.step(params, carry.carry, x, noise)
        for name, constants in zip(HELD, carry[1:], strict=True):
            if constants.shape[-1]:
                computed = getattr(after, name)
                held = jnp.where(jnp.isnan(constants), computed, constants)
                after = after._replace(**{name: held})
                y = held if name == "h" and self.cell.outputs_h else y
        return carry._replace(carry=after), y


def width(carry: Carry, name: str) -> int:
    """The units of the h or c of a carry; 0 where it has none."""
    leaf = getattr(carry, name, None)
    return 0 if leaf is None else leaf.shape[-1]


def can_be_held(model: LanguageModel, signal: Signal) -> bool:
    """Whether a signal is a unit's h or c, and that of a cell whose carry says so by name."""
    carry = jax.eval_shape(model.cells[signal.layer - 1].initial_carry)
    return signal.name in HELD and width(carry, signal.name) > 0


def nats_held(
    model: LanguageModel,
    params: LanguageModelParams,
    ids: np.ndarray,
    units: Sequence[Signal],
    constants: Sequence[float],
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The nats of every character of a text but the first, with each of some units held on its own.

    Args:
      model: a language model.
      params: its parameters.
      ids: a text, ``(steps,)``.
      units: what to hold, each ``can_be_held``.
      constants: at which value, one a unit.
      on_chunk: called with the chunks done and their number.

    Returns:
      ``(steps − 1, 1 + units)``; first, with all units free.
    """
    held = dataclasses.replace(model, cells=[Held(cell) for cell in model.cells], backward="autodiff")
    lanes = 1 + len(units)
    carry: list[Any] = list(held.initial_carry((lanes,)))
    for lane, (signal, constant) in enumerate(zip(units, constants, strict=True), start=1):
        of_layer = carry[signal.layer - 1]
        placed = getattr(of_layer, signal.name).at[lane, signal.unit].set(constant)
        carry[signal.layer - 1] = of_layer._replace(**{signal.name: placed})
    found, starts, state = [], range(0, len(ids) - 1, CHUNK), tuple(carry)
    for number, start in enumerate(starts, start=1):
        inputs, targets = ids[start : start + CHUNK], ids[start + 1 : start + 1 + CHUNK]
        state, nats = _chunk(held, params, state, inputs[: len(targets)], targets)
        found.append(np.asarray(nats))
        on_chunk(number, len(starts))
    return np.concatenate(found)


@functools.partial(by_value, static_argnames=("model",))
def _chunk(
    model: LanguageModel, params: LanguageModelParams, carry: Any, inputs: Array, targets: Array
) -> tuple[Any, Array]:
    lanes = jax.tree.leaves(carry)[0].shape[0]

    def in_lanes(tokens: Array) -> Array:  # (time,) -> (time, lanes)
        return jnp.broadcast_to(tokens[:, None], (len(tokens), lanes))

    carry, logits = model.apply(params, in_lanes(inputs), carry)
    return carry, optax.softmax_cross_entropy_with_integer_labels(logits, in_lanes(targets))


def added(nats: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nats that holding each unit adds to a character, inside a label and outside.

    Args:
      nats: from ``nats_held``.
      label: truths of the characters that are predicted, ``(steps − 1,)``.

    Returns:
      ``(units,)`` twice; NaN where there is no such character.

    >>> nats = np.array([[1.0, 3.0], [1.0, 1.5], [2.0, 2.5]])
    >>> [of.tolist() for of in added(nats, np.array([True, False, False]))]
    [[2.0], [0.5]]
    """
    more = nats[:, 1:] - nats[:, :1]

    def mean(where: np.ndarray) -> np.ndarray:
        return more[where].mean(0) if where.any() else np.full(more.shape[1], np.nan)

    return mean(label), mean(~label)
