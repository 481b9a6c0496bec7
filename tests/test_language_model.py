"""The language model: its parts, its loss over real positions, and that it exports for every platform."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.models.language_model import LanguageModel, text_nats
from jaxrnn.models.losses import cross_entropy
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step
from tests.table import random_like, relative_error

VOCABULARY, TIME, BATCH = 6, 5, 3
CELLS = [jaxrnn.LSTM(4), jaxrnn.GRU(3), jaxrnn.Stack([jaxrnn.Elman(5), jaxrnn.GRU(4, reset="before")])]


def tokens(shape=(TIME, BATCH), seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, shape), jnp.int32)


def made(**options):
    model = LanguageModel(VOCABULARY, **{"cells": CELLS, **options})
    return model, random_like(jax.eval_shape(model.init, jax.random.key(0)), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"embedding_size": 7}, {"embedding_size": 4, "tied": True}],
    ids=["one-hot", "free", "tied"],
)
def test_apply_is_embedding_unrolls_and_output(options):
    """Against the parts put together by hand, and against one token at a time."""
    model, params = made(**options)
    carry, logits = model.apply(params, tokens())
    ys = np.eye(VOCABULARY)[tokens()] if params.embedding is None else params.embedding[tokens()]
    ys = jnp.asarray(ys, jnp.float32)
    for cell, layer in zip(model.cells, params.layers, strict=True):
        _, ys = jaxrnn.unroll(cell, layer, ys)
    w_out = params.embedding.T if model.tied else params.w_out
    np.testing.assert_allclose(logits, ys @ w_out + params.b_out, rtol=1e-5, atol=1e-5)

    state, step = model.initial_carry((BATCH,)), jax.jit(model.step)
    for t in range(TIME):
        state, last = step(params, state, tokens()[t])
        np.testing.assert_allclose(last, logits[t], rtol=1e-5, atol=1e-5)
    assert relative_error(state, carry) < 1e-5


def test_the_future_is_never_seen():
    model, params = made()
    apply, others = jax.jit(model.apply), tokens().at[3].set((tokens()[3] + 1) % VOCABULARY)
    (_, logits), (_, changed) = apply(params, tokens()), apply(params, others)
    np.testing.assert_array_equal(changed[:3], logits[:3])
    assert np.abs(changed[3:] - logits[3:]).max() > 1e-3


def test_a_reset_forgets_what_came_before():
    model, params = made()
    apply = jax.jit(model.apply)
    carry = random_like(model.initial_carry((BATCH,)), 2)
    _, logits = apply(params, tokens(), carry, resets=np.arange(TIME)[:, None] == [[2] * BATCH])
    np.testing.assert_allclose(logits[2:], apply(params, tokens()[2:])[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits[:2], apply(params, tokens()[:2], carry)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"embedding_size": 7}], ids=["one-hot", "embedding"])
@pytest.mark.slow
def test_step_takes_distributions(options):
    """A distribution that is sure of a token is that token; mixtures are mixed."""
    model, params = made(**options)
    carry, ids = model.initial_carry((BATCH,)), tokens()[0]
    step = jax.jit(model.step)
    by_vector = step(params, carry, jax.nn.one_hot(ids, VOCABULARY))
    assert relative_error(by_vector, step(params, carry, ids)) < 1e-6
    mixture = jax.nn.softmax(jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, VOCABULARY))))
    read = mixture if params.embedding is None else mixture @ params.embedding
    after, y = jaxrnn.Stack(CELLS).step(params.layers, carry, read.astype("float32"))
    expected = after, y @ params.w_out + params.b_out
    assert relative_error(step(params, carry, mixture), expected) < 1e-5


@pytest.mark.slow
def test_dropout_needs_a_key_and_keeps_the_mean():
    model, params = made(cells=[jaxrnn.Elman(400)], dropout=0.5, embedding_size=300)
    _, plain = model.apply(params, tokens())
    _, again = model.apply(params, tokens())
    np.testing.assert_array_equal(plain, again)
    keys = jax.random.split(jax.random.key(0), 2)
    _, one = model.apply(params, tokens(), key=keys[0])
    _, same = model.apply(params, tokens(), key=keys[0])
    _, other = model.apply(params, tokens(), key=keys[1])
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    # At the output dropout is linear: with the input kept, the logits' mean over keys is the plain one.
    linear = dataclasses.replace(model, cells=[jaxrnn.Elman(400, activation="relu")])
    zero_input = params._replace(embedding=params.embedding * 0)
    _, expected = linear.apply(zero_input, tokens()[:1])
    draws = jax.vmap(lambda key: linear.apply(zero_input, tokens()[:1], key=key)[1])(
        jax.random.split(jax.random.key(2), 4000)
    )
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - expected) < 5 * spread)


@pytest.mark.parametrize("time", [1, 3, 1000])
@pytest.mark.slow
def test_text_nats_carries_over_the_whole_text(time):
    model, params = made()
    ids = np.asarray(tokens((23,)))
    _, logits = jax.jit(model.apply)(params, ids[:-1])
    expected, count = cross_entropy(logits, jnp.asarray(ids[1:]))
    nats, counted = text_nats(model, params, ids, time=time)
    assert counted == count == 22
    assert nats == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_text_nats_in_streams_restarts_each():
    model, params = made()
    ids = np.asarray(tokens((23,)))
    seen = []
    nats, counted = text_nats(model, params, ids, streams=3, time=3, on_chunk=lambda *a: seen.append(a))
    parts = [ids[0:9], ids[8:17], ids[16:23]]  # 8, 8 and 6 targets
    assert counted == 22
    assert nats == pytest.approx(sum(text_nats(model, params, part)[0] for part in parts), rel=1e-5)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
def test_train_step_exports_for_cpu_cuda_and_tpu(backward):
    model = LanguageModel(VOCABULARY, CELLS, dropout=0.1, backward=backward)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    def loss(params, carry, chunk, key):
        carry, logits = model.apply(params, chunk, carry, lengths=jnp.array([5, 0, 3]), key=key)
        nats, count = cross_entropy(logits, chunk)
        return nats / count, carry

    state = init_state(
        model.init(jax.random.key(0)), optimizer, model.initial_carry((BATCH,)), jax.random.key(1)
    )
    step = truncated_step(loss, optimizer)
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(state, tokens())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    expected = step(jax.tree.map(jnp.copy, state), tokens())
    actual = exported.call(state, tokens())

    chex.assert_trees_all_close(actual[0].params, expected[0].params, rtol=1e-6)
    chex.assert_trees_all_close(actual[1], expected[1], rtol=1e-6)


@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    with pytest.raises(ValueError, match="vocabulary_size must be a positive integer, got 0"):
        LanguageModel(0, CELLS)
    with pytest.raises(ValueError, match="embedding_size must be a positive integer, got -1"):
        LanguageModel(5, CELLS, embedding_size=-1)
    with pytest.raises(ValueError, match="needs at least one cell"):
        LanguageModel(5, [])
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        LanguageModel(5, CELLS, dropout=1)
    for size in (None, 5):
        with pytest.raises(ValueError, match=rf"tied output .*\(4\), got {size}"):
            LanguageModel(5, CELLS, embedding_size=size, tied=True)
    model, params = made()
    with pytest.raises(ValueError, match="too short"):
        text_nats(model, params, np.array([1]))


def test_models_are_values():
    model = LanguageModel(VOCABULARY, CELLS)
    assert model == LanguageModel(VOCABULARY, tuple(CELLS))
    assert hash(model) == hash(LanguageModel(VOCABULARY, list(CELLS)))
