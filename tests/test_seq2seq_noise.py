"""Dropout and scheduled sampling of the sequence-to-sequence model."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import LSTM, Cell, VariationalDropout
from jaxrnn.attention import AttentionDecoderParams, Dot
from jaxrnn.models.seq2seq import Seq2Seq
from tests.test_seq2seq import (
    BATCH,
    MODELS,
    SOURCE_LENGTHS,
    SOURCE_WORDS,
    TARGET,
    TARGET_WORDS,
    TOLERANCE,
    random_params,
    sentences,
)


@dataclass(frozen=True)
class Echo(Cell):
    """Its output is its input, so that what was dropped before it shows behind it."""

    size: int
    out_features = property(lambda self: self.size)

    def init(self, key, in_features, dtype="float32"):
        return ()

    def initial_carry(self, batch_shape=(), dtype="float32"):
        return jnp.zeros((*batch_shape, 1), dtype)

    def step(self, params, carry, x, noise=None):
        return carry, x


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.slow
def test_dropout(variational):
    """Half of the embeddings, of what passes between layers, and of the readout; nothing without a key."""
    model = Seq2Seq(
        1, 1, [Echo(200)] * 3, embedding_size=200, direction="forward", dropout=0.5, variational=variational
    )
    params = model.init(jax.random.key(0))
    params = params._replace(
        source_embedding=jnp.ones((1, 200)), target_embedding=jnp.ones((200, 200)), w_out=jnp.eye(200)
    )
    model = dataclasses.replace(model, target_vocabulary=200)
    params = params._replace(b_out=jnp.zeros(200))
    words, attending = np.zeros((6, 5), int), dataclasses.replace(model, attention=Dot())
    weights = AttentionDecoderParams((), (), jnp.ones((400, 200)))

    @jax.jit
    def memory(key):
        values = attending.encode(params._replace(decoder=weights), words, key=key).memory.values
        return jnp.moveaxis(values, 0, 1)

    @jax.jit
    def readout(key):
        return model.logits(params, model.encode(params, words), words, key=key)

    for found, layers in ((memory, 3), (readout, 4)):  # embeddings and between layers; and the readout
        assert (found(None) == 1).all()
        dropped = found(jax.random.key(1))
        share = float(jnp.mean(dropped == 0))
        assert share == pytest.approx(1 - 0.5**layers, abs=0.03)
        assert set(np.unique(dropped)) == {0.0, 2.0**layers}
        steps_alike = jnp.all((dropped == 0) == (dropped[0] == 0))
        assert bool(steps_alike) == variational
        assert not jnp.array_equal(dropped, found(jax.random.key(2)))


@pytest.mark.slow
def test_variational_dropout_of_the_carry():
    wrapped = VariationalDropout(LSTM(4), rate_h=0.5, rate_y=0.0)
    model = Seq2Seq(SOURCE_WORDS, TARGET_WORDS, [wrapped], embedding_size=3)
    params, (source, _, _) = random_params(model, "float32"), sentences(model)
    encode = jax.jit(model.encode)
    read = [encode(params, source, key=key) for key in (None, jax.random.key(0), jax.random.key(1))]
    assert not jnp.array_equal(read[0].carry[0].c, read[1].carry[0].c)
    assert not jnp.array_equal(read[1].carry[0].c, read[2].carry[0].c)


def test_draws_that_are_fed_are_dropped_like_words(float64):
    """One mask a sentence holds for words and draws alike; a step alone cannot tell the two apart."""
    model = Seq2Seq(3, 3, [Echo(50)], embedding_size=50, direction="forward", dropout=0.5, variational=True)
    params = model.init(jax.random.key(0), float64)
    params = params._replace(target_embedding=jnp.ones((3, 50)), w_out=jnp.eye(50, 3))
    fed = np.zeros((4, 2), int)

    @jax.jit
    def logits_at(rate):
        encoded = model.encode(params, fed)
        return model.logits(params, encoded, fed, key=jax.random.key(4), sampling_rate=rate)

    logits = [logits_at(rate) for rate in (0.0, 1.0)]
    np.testing.assert_allclose(*logits, rtol=1e-12)
    assert 0 < float(jnp.mean(logits[0] == 0)) < 1


@pytest.mark.slow
def test_scheduled_sampling(dtype):
    """At rate 0 teacher forcing; at rate 1 the decoder is fed what it drew, from the second step on."""
    model = MODELS["additive"]
    params, (source, _, fed) = random_params(model, dtype), sentences(model)
    encoded = model.encode(params, source, lengths=SOURCE_LENGTHS)
    key = jax.random.key(5)
    logits_of = functools.partial(
        jax.jit(model.logits), params, encoded, fed, lengths=np.full(BATCH, TARGET)
    )
    never, forced = logits_of(key=key, sampling_rate=0.0), logits_of()
    np.testing.assert_allclose(never, forced, rtol=1e-6)
    always, step = logits_of(key=key, sampling_rate=1.0), jax.jit(model.step)
    _, key_noise, _ = jax.random.split(key, 3)
    _, key_draws, _ = jax.random.split(key_noise, 3)
    carry, tokens = encoded.carry, fed[0]
    for row, draw in zip(always, jax.random.split(key_draws, TARGET), strict=True):
        carry, logits, _ = step(params, carry, tokens, encoded.memory)
        np.testing.assert_allclose(row, logits, rtol=1e-4, atol=TOLERANCE[dtype])
        tokens = jax.random.categorical(draw, logits)
    assert not jnp.array_equal(always[1:], forced[1:])
