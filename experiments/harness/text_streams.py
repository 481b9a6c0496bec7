"""Truncated back-propagation through a text that is read in streams, and its validation."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.task import Loss, Sums
from jaxrnn.data.text import Chunk, Streams
from jaxrnn.models.losses import cross_entropy

# The learning curve is an estimate from pieces spread over the validation text, read side by side (the last
# prediction of each is of the next piece's first token); the final figures are of the whole text.
CURVE_PIECES = 50
CURVE_PIECE = 2000  # tokens
CURVE_CHUNK = 1024


@functools.lru_cache  # the same function for equal models, which compiles once
def stream_loss(model: Any) -> Loss:
    """The cross-entropy of a chunk; the state starts anew with every pass over the text.

    The model is a ``LanguageModel``, or another with its ``initial_carry`` and ``apply``.
    """

    def loss(params: Any, carry: Any, chunk: Chunk, key: jax.Array | None) -> tuple[Sums, Any]:
        initial = model.initial_carry(chunk.inputs.shape[1:])
        carry = jax.tree.map(lambda a, b: jnp.where(chunk.first, a, b), initial, carry)
        carry, logits = model.apply(params, chunk.inputs, carry, key=key)
        return {"loss": cross_entropy(logits, chunk.targets, chunk.mask)}, carry

    return loss


def first_carry(model: Any) -> Any:
    """The carry before the first of chunks like the one given."""
    return lambda chunk: model.initial_carry(chunk.inputs.shape[1:])


def curve_chunks(ids: np.ndarray) -> Iterator[Chunk]:
    """Chunks of the pieces of a validation text from which its learning curve is drawn."""
    ids = pieces(ids)
    time = min(CURVE_CHUNK, -(-len(ids) // CURVE_PIECES))
    curve = Streams(ids, CURVE_PIECES, time, drop_last=False)
    return map(curve.chunk, range(curve.chunks))


def pieces(ids: np.ndarray) -> np.ndarray:
    """Pieces spread evenly over a long text; all of a short one."""
    if len(ids) <= CURVE_PIECES * CURVE_PIECE:
        return ids
    starts = np.linspace(0, len(ids) - CURVE_PIECE, CURVE_PIECES).astype(int)
    return np.concatenate([ids[start : start + CURVE_PIECE] for start in starts])
