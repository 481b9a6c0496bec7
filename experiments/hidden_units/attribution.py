"""How far back a model of characters looks: what every earlier one did for the logit of the next."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.caching import by_value
from jaxrnn.diagnostics import integrated_gradients
from jaxrnn.models.encoder import Encoder, EncoderParams
from jaxrnn.models.language_model import LanguageModel, LanguageModelParams
from jaxrnn.models.tokens import embed, one_hot

BACK = 64  # characters, the last of them the one just read
OUTPUTS = 64  # characters of a passage whose logits are explained
PASSAGES = 8
WARM_UP = 256  # characters before a passage and its past, from which the state has formed


class Attribution(NamedTuple):
    """What moved the logits of the characters that follow, in some passages of a text."""

    starts: np.ndarray  # (passages,) the first step whose next character's logit is explained
    moved: np.ndarray  # (passages, OUTPUTS, BACK): by the character just read, the one before it, and so on

    @property
    def reach(self) -> np.ndarray:
        """The share that each of the last characters has in what moved a logit, ``(BACK,)``."""
        sizes = np.abs(self.moved).reshape(-1, BACK)
        return np.mean(sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-30), axis=0)


def attribute(
    model: LanguageModel,
    params: LanguageModelParams,
    ids: np.ndarray,
    *,
    points: int = 0,
) -> Attribution:
    """What moved the logits in passages spread over a text; none where it is too short.

    Equation, F the logit of the character that follows, x its inputs, one-hot or embedded::

        a_s = ⟨∂F/∂x_s, x_s⟩              or, with points, integrated from x = 0

    Source: Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", for the integral.

    Args:
      model: a language model.
      params: its parameters.
      ids: a text, ``(steps,)``; −1 for characters that the model does not know.
      points: of the quadrature of integrated gradients; 0 for the plain gradient.
    """
    first, last = WARM_UP + BACK, len(ids) - OUTPUTS - 1
    if last < first:
        return Attribution(np.zeros(0, int), np.zeros((0, OUTPUTS, BACK)))
    starts = np.unique(np.linspace(first, last, PASSAGES).astype(int))
    known = np.maximum(ids, 0)
    each = [known[start - first : start + OUTPUTS + 1] for start in starts]
    return Attribution(starts, np.stack([moved(model, params, read, points) for read in each]))


def moved(
    model: LanguageModel, params: LanguageModelParams, read: np.ndarray, points: int = 0
) -> np.ndarray:
    """``Attribution.moved`` of a passage: the last ``OUTPUTS`` + 1 characters of ``read``, of which every
    one but the first is explained by the ``BACK`` characters before it. The state before those is that of
    the model, and counts as given.
    """
    before = len(read) - OUTPUTS - 1
    _, _, layers = model.record(params, jnp.asarray(read[:, None]))
    # Step t is explained by t − BACK + 1 … t, before which the state is that after t − BACK.
    at = before - BACK + np.arange(OUTPUTS)
    carries = tuple(jax.tree.map(lambda leaf: leaf[at], layer.carry) for layer in layers)
    windows = read[at[:, None] + 1 + np.arange(BACK)]  # (OUTPUTS, BACK)
    targets = read[before + 1 :]
    found = np.asarray(_moved(model, params, carries, windows, targets, points=points))
    return found[:, ::-1]


@functools.partial(by_value, static_argnames=("model", "points"))
def _moved(
    model: LanguageModel,
    params: LanguageModelParams,
    carries: Any,
    windows: Array,
    targets: Array,
    *,
    points: int,
) -> Array:
    def of_output(carry: Any, window: Array, target: Array) -> Array:
        logit = functools.partial(logit_of, model, params, carry, target)
        xs = vectors(model, params, window)
        if points:
            return integrated_gradients(logit, xs, jnp.zeros_like(xs), points=points).sum(-1)
        return jnp.sum(jax.grad(logit)(xs) * xs, axis=-1)

    return jax.vmap(of_output)(carries, windows, targets)


def vectors(model: LanguageModel, params: LanguageModelParams, tokens: Array) -> Array:
    """What the layers read of tokens: ``(time,)`` → ``(time, features)``."""
    if params.embedding is None:
        return one_hot(tokens, model.vocabulary_size, params.b_out.dtype)
    return embed(params.embedding, tokens)


def logit_of(
    model: LanguageModel, params: LanguageModelParams, carry: Any, target: Array, xs: Array
) -> Array:
    """The logit of a token after some inputs ``(time, features)``, from a state on."""
    checked = all(cell.has_derivative for cell in model.cells)
    encoder = Encoder(model.cells, in_features=xs.shape[-1], backward="bptt" if checked else "autodiff")
    _, ys = encoder.apply(EncoderParams(None, params.layers), xs[:, None], carry)
    w_out = params.embedding.T if model.tied else params.w_out
    return ys[-1, 0] @ w_out[:, target] + params.b_out[target]
