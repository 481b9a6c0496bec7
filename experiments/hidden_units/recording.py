"""What every unit did while a model read a text, or other sequences, in 8 bits a value."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn.caching import by_value
from jaxrnn.diagnostics import Signals
from jaxrnn.models.language_model import LanguageModel, LanguageModelParams

LEVELS = 255  # of a quantised value
CHUNK = 512  # steps of a call of the compiled model
LANES = 32  # pieces of a text that are read side by side
MARGIN = 0.1  # of the range seen, that is kept free on either side
WARM_UP = 256  # characters before a piece, read and left out
MOST_VALUES = 6_000_000_000  # bytes of a recording: two million steps of 512 units and their gates


class Signal(NamedTuple):
    """Which numbers a column of a recording holds."""

    layer: int  # from 1, the bottom
    name: str  # h, c, or a gate's
    unit: int  # from 0

    @property
    def is_state(self) -> bool:
        """Whether it is the h or c of a cell, a stack's too, and no gate."""
        return self.name.rpartition(".")[2] in ("h", "c")


class Recording(NamedTuple):
    """Every unit at every step of a text."""

    signals: tuple[Signal, ...]
    values: np.ndarray  # (steps, signals) uint8
    low: np.ndarray  # (signals,) what 0 stands for
    high: np.ndarray  # (signals,) what ``LEVELS`` stands for
    nats: np.ndarray  # (steps,) of the next character; of the last, and where it is unknown, NaN

    def exact(self, column: int) -> np.ndarray:
        """A signal's values, to within half a level, ``(steps,)``."""
        low, high = self.low[column], self.high[column]
        return low + self.values[:, column] * ((high - low) / LEVELS)


def record_text(
    model: LanguageModel,
    params: LanguageModelParams,
    ids: np.ndarray,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Recording:
    """Read a text, or ``LANES`` pieces of it side by side where it is long, and keep what every unit did.

    A piece but the first is read from ``WARM_UP`` characters before it on, from the initial state.

    Args:
      model: a language model.
      params: its parameters.
      ids: the text's characters, ``(steps,)``; −1 for one that the model does not know, which is read as
        the first of the vocabulary.
      on_chunk: called with the chunks done and their number.
    """
    lanes = LANES if len(ids) > 2 * LANES * WARM_UP else 1
    size = -(-len(ids) // lanes)  # of a piece
    warm_up = 0 if lanes == 1 else WARM_UP
    # Lane i reads ids[i size − warm_up : (i + 1) size], what is before or after the text as padding.
    padded = np.concatenate([np.full(warm_up, -1), ids, np.full(lanes * size - len(ids) + 1, -1)])
    read = np.stack([padded[lane * size :][: warm_up + size + 1] for lane in range(lanes)], axis=1)
    low, high = ranges(model, params, read[: 4 * CHUNK])
    carry = model.initial_carry((lanes,))
    signals = signals_of(_shapes(model))
    values, nats = np.empty((lanes, size, len(signals)), np.uint8), np.empty((lanes, size))
    starts = range(0, warm_up + size, CHUNK)
    for number, start in enumerate(starts, start=1):
        inputs, targets = read[start : start + CHUNK], read[start + 1 : start + 1 + CHUNK]
        # The first lane has nothing before its piece: it starts there.
        fresh = np.zeros(inputs.shape, bool)
        if start <= warm_up < start + len(inputs):
            fresh[warm_up - start, 0] = True
        steps = len(targets)
        given = np.maximum(inputs[:steps], 0), np.maximum(targets, 0), fresh[:steps]
        carry, levels, costs = _chunk(model, params, carry, *given, low, high)
        costs = np.where(targets >= 0, np.asarray(costs), np.nan)
        begin, end = (max(0, place - warm_up) for place in (start, start + steps))
        kept = slice(steps - (end - begin), None)
        for into, found in ((values, levels), (nats, costs)):
            into[:, begin:end] = np.asarray(found)[kept].swapaxes(0, 1)
        on_chunk(number, len(starts))
    values = values.reshape(lanes * size, -1)[: len(ids)]
    return Recording(signals, values, low, high, nats.reshape(-1)[: len(ids)])


def record_sequences(
    batches: Sequence[tuple[list[int], Any, np.ndarray]], read: Callable[[Any], Any]
) -> Recording:
    """What the units did on sequences, one after another in the order of their numbers; without the loss.

    Args:
      batches: the numbers of the sequences in a batch, the batch, and the steps of each.
      read: from a batch to the signals of every layer, ``(time, lanes, units)`` each.
    """

    def each() -> Iterator[np.ndarray]:  # twice: no sequence goes beyond the range
        return (np.asarray(_columns(read(batch))) for _, batch, _ in batches)

    ends = [(of.min((0, 1)), of.max((0, 1))) for of in each()]
    low, high = (of(end, axis=0) for of, end in zip((np.min, np.max), zip(*ends, strict=True), strict=True))
    kept: dict[int, np.ndarray] = {}
    for (numbers, _, lengths), columns in zip(batches, each(), strict=True):
        levels = np.asarray(_levels(columns, low, np.maximum(high, low + 1e-6)))
        kept |= {number: levels[: lengths[lane], lane] for lane, number in enumerate(numbers)}
    values = np.concatenate([kept[number] for number in sorted(kept)])
    signals = signals_of(jax.eval_shape(read, batches[0][1]))
    return Recording(signals, values, low, high, np.full(len(values), np.nan))


def most_steps(model: LanguageModel) -> int:
    """How many steps of a model are recorded at most, all of whose signals lie in memory."""
    return max(2, MOST_VALUES // len(signals_of(_shapes(model))))


def signals_of(layers: Any) -> tuple[Signal, ...]:
    """The columns of a recording, in their order, from the signals of every layer."""
    return tuple(
        Signal(layer, name, unit)
        for layer, signals in enumerate(layers, start=1)
        for name, leaf in _by_name(signals).items()
        for unit in range(leaf.shape[-1])
    )


def ranges(
    model: LanguageModel, params: LanguageModelParams, read: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What 0 and ``LEVELS`` stand for in every column: a little beyond what is seen in a text."""
    return _beyond(*map(np.asarray, _extremes(model, params, np.maximum(read, 0))))


def _beyond(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    beyond = MARGIN * (high - low) + 1e-6
    return low - beyond, high + beyond


def _levels(values: Any, low: Any, high: Any) -> jax.Array:
    """Values in 8 bits."""
    return jnp.clip(jnp.round((values - low) / (high - low) * LEVELS), 0, LEVELS).astype(jnp.uint8)


def _shapes(model: LanguageModel) -> Any:
    """The signals of every layer after one step of one sequence, as shapes."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.record, params, tokens)[2]


def _by_name(signals: Any) -> dict[str, Any]:
    """h, c and the gates of a layer, and of a layer that reads backward too; under its own name what a cell
    carries beside them.
    """
    if not isinstance(signals, Signals):
        forward, backward = map(_by_name, signals)
        return forward | {f"backward.{name}": leaf for name, leaf in backward.items()}
    carried = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(signals.carry)
    }
    return carried | dict(sorted(signals.gates.items()))


@functools.partial(by_value, static_argnames=("model",))
def _chunk(
    model: LanguageModel,
    params: LanguageModelParams,
    carry: Any,
    inputs: jax.Array,
    targets: jax.Array,
    fresh: jax.Array,
    low: jax.Array,
    high: jax.Array,
) -> tuple[Any, jax.Array, jax.Array]:
    """The carry, all signals ``(time, lanes, signals)`` in 8 bits, and the nats of the targets."""
    carry, logits, layers = model.record(params, inputs, carry, resets=fresh)
    values = _levels(_columns(layers), low, high)
    return carry, values, optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _columns(layers: Any) -> jax.Array:
    """All signals of all layers beside each other, ``(time, lanes, signals)``."""
    return jnp.concatenate([leaf for layer in layers for leaf in _by_name(layer).values()], axis=-1)


@functools.partial(by_value, static_argnames=("model",))
def _extremes(
    model: LanguageModel, params: LanguageModelParams, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The least and the largest value of every signal, ``(signals,)``."""
    _, _, layers = model.record(params, tokens)
    columns = _columns(layers)
    return columns.min((0, 1)), columns.max((0, 1))
