"""Promises of all models: the draws of a key, and the way to their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, LSTM
from jaxrnn.models import Decoder, Encoder, LanguageModel, Seq2Seq

TOKENS = np.arange(12).reshape(4, 3) % 5
CELLS = [LSTM(4), GRU(3)]


def language_logits(key=None, **options):
    model = LanguageModel(5, CELLS, embedding_size=3, **options)
    params = model.init(jax.random.key(1), "float64")
    return params, lambda p: model.apply(p, TOKENS, key=key)[1]


def translated_logits(key=None, **options):
    model = Seq2Seq(5, 5, CELLS, embedding_size=3, **options)
    keys = (None, None) if key is None else (key, jax.random.key(3))
    params = model.init(jax.random.key(1), "float64")
    return params, lambda p: model.logits(p, model.encode(p, TOKENS, key=keys[0]), TOKENS, key=keys[1])


def encoded(**options):
    model = Encoder(CELLS, vocabulary_size=5, direction="bidirectional", **options)
    return model.init(jax.random.key(1), "float64"), lambda p: model.apply(p, TOKENS)[1]


def decoded(**options):
    model = Decoder(5, CELLS, 3, **options)
    carry = model.initial_carry((3,), "float64")
    return model.init(jax.random.key(1), "float64"), lambda p: model.logits(p, carry, TOKENS)


@pytest.mark.parametrize(
    ("made", "total"), [(language_logits, 12.14410684032204), (translated_logits, 14.642869982460557)]
)
@pytest.mark.slow
def test_the_draws_of_a_key_stay(made, total, float64):
    """Initial parameters and dropout: the figures of published runs rest on them."""
    params, logits = made(key=jax.random.key(2), dropout=0.5)
    assert float(jnp.sum(jnp.abs(logits(params)))) == pytest.approx(total, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("made", [language_logits, translated_logits, encoded, decoded])
def test_the_derivative_by_hand_is_taken_where_it_is_asked_for(made, float64):
    """It has no forward mode, by which it is known."""
    params, run = made(backward="autodiff")
    jax.jit(lambda p: jax.jvp(run, (p,), (p,))).lower(params)
    params, run = made(backward="bptt")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jit(lambda p: jax.jvp(run, (p,), (p,))).lower(params)
