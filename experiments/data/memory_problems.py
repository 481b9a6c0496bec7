"""Sequences that nothing but memory answers right, drawn on the fly, so that none comes twice.

- adding (Hochreiter & Schmidhuber 1997, "Long short-term memory", experiment 4; in the form of Arjovsky et
  al. 2016, "Unitary evolution recurrent neural networks"). Each of T steps has a value u ~ U[0, 1) and a
  marker, which is 1 at one random step of either half, else 0. Target at the end: the sum of the two marked
  values. Mean squared error; always predicting 1 gives the variance of the target, 2/12.
- copy (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016). 10 symbols out of 8, T − 1 blanks, a
  delimiter, 10 blanks; targets: T + 10 blanks, then the 10 symbols. Cross-entropy in nats, averaged over
  all T + 20 steps; knowing when to answer but not what gives 10 ln 8 / (T + 20).
- temporal_order (Hochreiter & Schmidhuber 1997, experiment 6a, here of fixed length; Pascanu et al. 2013).
  E at the start, B at the end, random a, b, c, d between, but X or Y at a step in [T/10, 2T/10] and at one
  in [5T/10, 6T/10]. Class at the end: XX, XY, YX or YY. Cross-entropy in nats; guessing gives ln 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.harness.task import Sums


class Examples(NamedTuple):
    """A batch of sequences; the targets are those of the last steps."""

    inputs: jax.Array  # (time, batch, in_features)
    targets: jax.Array  # (answers, batch)


def adding(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Values, two of them marked; their sum."""
    keys = jax.random.split(key, 3)
    values = jax.random.uniform(keys[0], (length, batch_size))
    first = jax.random.randint(keys[1], (batch_size,), 0, length // 2)
    second = jax.random.randint(keys[2], (batch_size,), length // 2, length)
    steps = jnp.arange(length)[:, None]
    markers = ((steps == first) | (steps == second)).astype(values.dtype)
    return Examples(jnp.stack([values, markers], axis=-1), jnp.sum(values * markers, axis=0)[None])


def copy(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Symbols 0 to 7, blanks (8), a delimiter (9); blanks, then the symbols."""
    symbols = jax.random.randint(key, (10, batch_size), 0, 8)
    blanks = jnp.full((length + 10, batch_size), 8)
    inputs = jnp.concatenate([symbols, blanks.at[length - 1].set(9)])
    return Examples(jax.nn.one_hot(inputs, 10), jnp.concatenate([blanks, symbols]))


def temporal_order(key: jax.Array, batch_size: int, length: int) -> Examples:
    """Distractors (0 to 3), X and Y (4, 5) at two steps, E and B (6, 7) at the ends; XX, XY, YX or YY."""
    keys = jax.random.split(key, 4)
    first = jax.random.randint(keys[0], (batch_size,), length // 10, 2 * length // 10 + 1)
    second = jax.random.randint(keys[1], (batch_size,), 5 * length // 10, 6 * length // 10 + 1)
    x_or_y = jax.random.randint(keys[2], (2, batch_size), 0, 2)
    steps = jnp.arange(length)[:, None]
    symbols = jax.random.randint(keys[3], (length, batch_size), 0, 4)
    symbols = jnp.where(steps == first, 4 + x_or_y[0], symbols)
    symbols = jnp.where(steps == second, 4 + x_or_y[1], symbols)
    symbols = symbols.at[0].set(6).at[-1].set(7)
    return Examples(jax.nn.one_hot(symbols, 8), (2 * x_or_y[0] + x_or_y[1])[None])


def squared_error(outputs: jax.Array, targets: jax.Array) -> Sums:
    """The squared error of the last outputs."""
    return {"loss": (jnp.sum((outputs[-len(targets) :, :, 0] - targets) ** 2), targets.size)}


def classification(outputs: jax.Array, targets: jax.Array) -> Sums:
    """The cross-entropy in nats, and the accuracy of the last ten answers, which ask for memory."""
    logits = outputs[-len(targets) :]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = jnp.argmax(logits[-10:], axis=-1) == targets[-10:]
    return {"loss": (jnp.sum(nats), nats.size), "accuracy": (jnp.sum(right), right.size)}


@dataclass(frozen=True)
class Problem:
    """A problem: its data, the measure of an answer, and what can be had without memory."""

    draw: Callable[[jax.Array, int, int], Examples]  # (key, batch_size, length)
    in_features: int
    out_features: int
    measure: Callable[[jax.Array, jax.Array], Sums]  # (outputs, targets)
    unit: str  # of the error
    baseline: Callable[[int], float]  # the least error without memory, by length
    length: int  # unless asked otherwise
    shortest: int


PROBLEMS = {
    "adding": Problem(adding, 2, 1, squared_error, "mean squared error", lambda T: 1 / 6, 200, 2),
    "copy": Problem(copy, 10, 9, classification, "nats", lambda T: 10 * math.log(8) / (T + 20), 100, 1),
    "temporal_order": Problem(temporal_order, 8, 4, classification, "nats", lambda T: math.log(4), 100, 10),
}
