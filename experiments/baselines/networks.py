"""Networks without recurrence that predict the next token: of the last few, or of all as a bag."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.caching import by_value
from jaxrnn.layers import dropout
from jaxrnn.models.tokens import embed, init_embedding

CHUNK = 1024  # tokens in one call of a compiled model
lecun_normal = jax.nn.initializers.lecun_normal()


class Weights(NamedTuple):
    """Parameters of both networks."""

    embedding: Any  # (vocabulary_size, embedding_size); None for one-hot vectors
    w_in: Array  # (window, in_features, hidden_size)
    b_in: Array  # (hidden_size,)
    w_out: Array  # (hidden_size, vocabulary_size)
    b_out: Array  # (vocabulary_size,)


@dataclass(frozen=True)
class WindowNetwork:
    """From the last N tokens, and no others, to the next.

    Equations, with D(·) dropout, and x_t = 0 before the first token::

        x_t    = E[w_t], or the one-hot vector of w_t
        h_t    = tanh(Σ_{j<N} x_{t−j} W_j + b)
        logits = D(h_t) W_out + b_out

    Source: Bengio et al. 2003, "A neural probabilistic language model" (eq. 1, without its direct weights).
    """

    vocabulary_size: int
    window: int
    hidden_size: int
    embedding_size: int | None = None
    dropout: float = 0.0

    def init(self, key: Array) -> Weights:
        """LeCun normal; biases 0."""
        return _init(self, self.window, key)

    def initial_carry(self, batch_shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """No tokens: ``(*batch, window)`` of −1."""
        return jnp.full((*batch_shape, self.window), -1)

    def apply(
        self, params: Weights, tokens: Array, carry: Array, *, key: Array | None = None
    ) -> tuple[Array, Array]:
        """The last tokens, and the logits of every next one: ``(time, *batch, vocabulary)``."""
        time, together = len(tokens), jnp.concatenate([jnp.moveaxis(carry, -1, 0), tokens])
        known = (together >= 0)[..., None]
        xs = jnp.where(known, _embedded(self, params, jnp.maximum(together, 0)), 0)
        zs = [xs[self.window - back :][:time] @ params.w_in[back] for back in range(self.window)]
        return jnp.moveaxis(together[time:], 0, -1), _readout(self, params, sum(zs), key)


@dataclass(frozen=True)
class BagNetwork:
    """From all tokens so far, whatever their order, to the next.

    Equations, with D(·) dropout::

        x_t    = E[w_t], or the one-hot vector of w_t
        h_t    = tanh(1/t Σ_{s≤t} x_s W + b)
        logits = D(h_t) W_out + b_out
    """

    vocabulary_size: int
    hidden_size: int
    embedding_size: int | None = None
    dropout: float = 0.0

    def init(self, key: Array) -> Weights:
        """LeCun normal; biases 0."""
        return _init(self, 1, key)

    def initial_carry(self, batch_shape: Sequence[int], dtype: Any = jnp.float32) -> tuple[Array, Array]:
        """The sum of no x, and how many there are."""
        size = self.embedding_size or self.vocabulary_size
        return jnp.zeros((*batch_shape, size)), jnp.zeros(batch_shape)

    def apply(
        self, params: Weights, tokens: Array, carry: tuple[Array, Array], *, key: Array | None = None
    ) -> tuple[tuple[Array, Array], Array]:
        """The sum of all x and their number, and the logits of every next token."""
        total, count = carry
        sums = total + jnp.cumsum(_embedded(self, params, tokens), axis=0)
        counts = count + jnp.arange(1, len(tokens) + 1).reshape(-1, *[1] * count.ndim)
        zs = sums / counts[..., None] @ params.w_in[0]
        return (sums[-1], counts[-1]), _readout(self, params, zs, key)


Network = WindowNetwork | BagNetwork


def _init(network: Network, window: int, key: Array) -> Weights:
    key_embedding, key_in, key_out = jax.random.split(key, 3)
    size, hidden_size = network.vocabulary_size, network.hidden_size
    embedding, features = None, size
    if network.embedding_size is not None:
        features = network.embedding_size
        embedding = init_embedding(key_embedding, size, features, jnp.float32)
    w_in = lecun_normal(key_in, (window * features, hidden_size)).reshape(window, features, hidden_size)
    w_out = lecun_normal(key_out, (hidden_size, size))
    return Weights(embedding, w_in, jnp.zeros(hidden_size), w_out, jnp.zeros(size))


def _embedded(network: Network, params: Weights, tokens: Array) -> Array:
    if params.embedding is None:
        return jax.nn.one_hot(tokens, network.vocabulary_size)
    return embed(params.embedding, tokens)


def _readout(network: Network, params: Weights, zs: Any, key: Array | None) -> Array:
    hs = jnp.tanh(zs + params.b_in)
    if key is not None:
        hs = dropout(key, hs, network.dropout)
    return hs @ params.w_out + params.b_out


def token_log_probabilities(
    model: Any, params: Any, ids: np.ndarray, on_chunk: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """In nats, of every token but the first, given those before it: ``(tokens − 1,)``.

    Args:
      model: one of these networks, or a ``LanguageModel``.
      params: its parameters.
      ids: a text.
      on_chunk: called with the chunks done and their number.
    """
    carry, found = model.initial_carry((1,)), []
    starts = range(0, len(ids) - 1, CHUNK)
    for number, start in enumerate(starts, start=1):
        inputs, targets = ids[start : start + CHUNK], ids[start + 1 : start + 1 + CHUNK]
        carry, part = _log_probabilities(
            model, params, carry, inputs[: len(targets), None], targets[:, None]
        )
        found.append(np.asarray(part[:, 0], np.float64))
        if on_chunk is not None:
            on_chunk(number, len(starts))
    return np.concatenate(found)


@functools.partial(by_value, static_argnames=("model",))
def _log_probabilities(
    model: Any, params: Any, carry: Any, inputs: Array, targets: Array
) -> tuple[Any, Array]:
    carry, logits = model.apply(params, inputs, carry)
    return carry, jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
