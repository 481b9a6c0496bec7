"""Four models of a sequence's label: a recurrent one, and three without recurrence to hold against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.data.words import ids_of
from experiments.harness.spelling import SpelledModel
from jaxrnn.models.sequence import SequenceModel

Kind = Literal["rnn", "bag", "window", "majority"]


def products(table: Array, inputs: Array) -> Array:
    """Rows of a table ``(n, size)`` by word ids ``(...,)``, or feature vectors ``(..., n)`` times it."""
    return inputs @ table if jnp.issubdtype(inputs.dtype, jnp.floating) else table[inputs]


class BagParams(NamedTuple):
    """Parameters of a bag of words."""

    w: Array  # (inputs, classes)
    b: Array  # (classes,)


@dataclass(frozen=True)
class Bag:
    """Logistic regression on the sum over all steps, which does not know their order.

    ``inputs`` is the size of the vocabulary, or of the feature vectors.
    """

    inputs: int
    classes: int

    def init(self, key: Array) -> BagParams:
        """All zero: the loss is convex."""
        return BagParams(jnp.zeros((self.inputs, self.classes)), jnp.zeros(self.classes))

    def apply(self, params: BagParams, inputs: Any, *, lengths: Array, key: Any = None) -> Array:
        """The logits ``(batch, classes)``."""
        inputs = ids_of(inputs)
        within = (jnp.arange(len(inputs))[:, None] < lengths)[..., None]
        return jnp.sum(jnp.where(within, products(params.w, inputs), 0), axis=0) + params.b


class WindowParams(NamedTuple):
    """Parameters of a window."""

    w: Array  # (steps, inputs, hidden): a table for each place
    b: Array  # (hidden,)
    w_out: Array  # (hidden, classes)
    b_out: Array  # (classes,)


@dataclass(frozen=True)
class Window:
    """A feed-forward network of the last ``steps`` inputs, one-hot, each place with weights of its own.

    Equations::

        h = tanh(Σ_i x_{T−i} W_i + b);  logits = h W_out + b_out
    """

    inputs: int
    classes: int
    steps: int
    hidden_size: int

    def init(self, key: Array) -> WindowParams:
        """LeCun normal, as if all places were one input."""
        key_in, key_out = jax.random.split(key)
        w = jax.random.normal(key_in, (self.steps, self.inputs, self.hidden_size)) / self.steps**0.5
        w_out = jax.nn.initializers.lecun_normal()(key_out, (self.hidden_size, self.classes))
        return WindowParams(w, jnp.zeros(self.hidden_size), w_out, jnp.zeros(self.classes))

    def apply(self, params: WindowParams, inputs: Any, *, lengths: Array, key: Any = None) -> Array:
        """The logits ``(batch, classes)``; places before the first step add nothing."""
        inputs = ids_of(inputs)
        total, lanes = params.b, jnp.arange(inputs.shape[1])
        for place in range(min(self.steps, len(inputs))):
            at = lengths - 1 - place
            vectors = products(params.w[place], inputs[jnp.maximum(at, 0), lanes])
            total = total + jnp.where((at >= 0)[:, None], vectors, 0)
        hidden = jnp.tanh(jnp.broadcast_to(total, (inputs.shape[1], self.hidden_size)))
        return hidden @ params.w_out + params.b_out


@dataclass(frozen=True)
class Majority:
    """The same logits for every sequence: the logarithms of the classes' shares in training."""

    shares: tuple[float, ...]

    def init(self, key: Array) -> Array:
        """The logits; a class without examples is least likely, not impossible."""
        return jnp.log(jnp.maximum(jnp.array(self.shares), 1e-6))

    def apply(self, params: Array, inputs: Any, *, lengths: Array, key: Any = None) -> Array:
        """The logits ``(batch, classes)``."""
        logits = jax.lax.stop_gradient(params)  # training leaves them as they are
        return jnp.broadcast_to(logits, (len(lengths), len(self.shares)))


Model = SequenceModel | SpelledModel | Bag | Window | Majority
KINDS: Sequence[Kind] = ("rnn", "window", "bag", "majority")
