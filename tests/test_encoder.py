"""The encoder against NumPy loops over single sequences: inputs, directions, padding, resets, noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import GRU, LSTM, Elman, VariationalDropout, Zoneout
from jaxrnn.models.encoder import Encoder, EncoderParams
from tests.models import as_float64, numpy_encoder
from tests.table import random_like, relative_error

TIME, BATCH, FEATURES, WORDS = 6, 4, 3, 5
LENGTHS = np.array([6, 3, 0, 1])
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, WORDS, (TIME, BATCH))
VECTORS = RANDOM.standard_normal((TIME, BATCH, FEATURES))
RESETS = np.array(
    [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool
)
PADDING = np.arange(TIME)[:, None] >= LENGTHS
CELLS = [GRU(4), LSTM(2), Elman(3)]
ENCODERS = {
    "words": Encoder(CELLS, vocabulary_size=WORDS, embedding_size=3, direction="reversed"),
    "one-hot": Encoder(CELLS[:2], vocabulary_size=WORDS),
    "features": Encoder(CELLS[1:], in_features=FEATURES, direction="bidirectional"),
}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def problem(encoder, dtype):
    """Parameters, carries of the batch, inputs with rubbish at padding, and as NumPy sees them."""
    params = random_like(jax.eval_shape(lambda: encoder.init(jax.random.key(0), dtype)), 1)
    carry = random_like(jax.eval_shape(lambda: encoder.initial_carry((BATCH,), dtype)), 2)
    if encoder.in_features:
        return params, carry, np.where(PADDING[..., None], np.nan, VECTORS).astype(dtype), VECTORS
    table = np.eye(WORDS) if params.embedding is None else np.asarray(params.embedding)
    return params, carry, np.where(PADDING, -7, TOKENS), table[TOKENS]


@pytest.mark.parametrize("backward", [pytest.param("autodiff", marks=pytest.mark.slow), "bptt"])
@pytest.mark.parametrize("name", ENCODERS)
def test_equals_numpy(name, backward, dtype):
    encoder = dataclasses.replace(ENCODERS[name], backward=backward)
    params, carry, inputs, vectors = problem(encoder, dtype)
    last, ys = encoder.apply(params, inputs, carry, lengths=LENGTHS, resets=RESETS)
    assert ys.shape == (TIME, BATCH, encoder.out_features)
    assert ys.dtype == dtype
    for lane, length in enumerate(LENGTHS):
        first = as_float64(jax.tree.map(lambda leaf, lane=lane: leaf[lane], carry))
        states, expected = numpy_encoder(
            encoder, as_float64(params.layers), vectors[:, lane], length, first, RESETS[:, lane]
        )
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(ys[:, lane], expected, rtol=tolerance, atol=tolerance)
        found = jax.tree.leaves(jax.tree.map(lambda leaf, lane=lane: leaf[lane], last))
        for state, own in zip(found, jax.tree.leaves(states), strict=True):
            np.testing.assert_allclose(state, own, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_recorded_of_a_layer_is_what_the_next_one_reads(name, float64):
    encoder = ENCODERS[name]
    params, carry, inputs, _ = problem(encoder, float64)
    options = {"lengths": LENGTHS, "resets": RESETS}
    *found, layers = encoder.record(params, inputs, carry, **options)
    assert relative_error(tuple(found), encoder.apply(params, inputs, carry, **options)) < 1e-15
    assert len(layers) == len(encoder.cells)
    for count, layer in enumerate(layers, start=1):
        lower = dataclasses.replace(encoder, cells=encoder.cells[:count])
        of_lower = params._replace(layers=params.layers[:count]), inputs, carry[:count]
        _, ys = lower.apply(*of_lower, **options)
        ways = layer if encoder.direction == "bidirectional" else [layer]
        h = jnp.concatenate([way.carry.h for way in ways], axis=-1)
        assert relative_error(h, ys) < 1e-15


@pytest.mark.parametrize("name", ENCODERS)
def test_step_by_step(name, float64):
    encoder = dataclasses.replace(ENCODERS[name], direction="forward")
    params, carry, _, vectors = problem(encoder, float64)
    inputs = vectors if encoder.in_features else TOKENS
    last, ys = encoder.apply(params, inputs, carry)
    step = jax.jit(encoder.step)
    for time in range(TIME):
        if time == 3 and not encoder.in_features:  # a distribution that is sure of a token is that token
            inputs = np.eye(WORDS)[inputs]
        carry, y = step(params, carry, inputs[time])
        np.testing.assert_allclose(y, ys[time], rtol=1e-12)
    assert relative_error(carry, last) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("direction", ["reversed", "bidirectional"])
def test_dropout_and_noise(direction, variational, float64):
    """Against layer after layer by hand: a key for dropout and one for each direction's noise."""
    cells = [Zoneout(GRU(4)), VariationalDropout(LSTM(2))]
    options = {"dropout": 0.4, "variational": variational, "direction": direction}
    encoder = Encoder(cells, in_features=FEATURES, **options)
    params, carry, _, ys = problem(encoder, float64)
    keys, states = jax.random.split(jax.random.key(3), 2), []
    last, found = jax.jit(encoder.apply)(params, ys, carry, lengths=LENGTHS, keys=keys)
    for layer, cell in enumerate(cells):
        key_dropout, *ways = jax.random.split(keys[layer], 3)
        kept = jax.random.bernoulli(key_dropout, 0.6, (1, *ys.shape[1:]) if variational else ys.shape)
        ys = kept * ys / 0.6
        noise = [cell.noise(key, TIME, (BATCH,)) for key in ways]
        if direction == "bidirectional":
            state, ys = jaxrnn.bidirectional(
                cell, cell, params.layers[layer], ys, carry[layer], lengths=LENGTHS, noise=tuple(noise)
            )
        else:
            given = params.layers[layer], ys, carry[layer]
            state, ys = jaxrnn.unroll(cell, *given, lengths=LENGTHS, noise=noise[0], reverse=True)
        states.append(state)
    assert relative_error((last, found), (tuple(states), ys)) < 1e-12


@pytest.mark.slow
def test_both_ways_to_the_gradient_agree(float64):
    encoder = Encoder(
        [Zoneout(LSTM(4)), GRU(3)],
        vocabulary_size=WORDS,
        embedding_size=3,
        direction="bidirectional",
        dropout=0.3,
    )
    params, carry, inputs, _ = problem(encoder, float64)
    keys = jax.random.split(jax.random.key(4), 2)

    def loss(params, carry, encoder):
        last, ys = encoder.apply(params, inputs, carry, lengths=LENGTHS, resets=RESETS, keys=keys)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))

    grads = [
        jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(
            params, carry, dataclasses.replace(encoder, backward=backward)
        )
        for backward in ("autodiff", "bptt")
    ]
    assert relative_error(*grads) < 1e-12


@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    for options, message in (
        ({"cells": []}, "an encoder needs at least one cell, got none"),
        ({"in_features": None}, "either vocabulary_size, .* or in_features, .* got None and None"),
        ({"vocabulary_size": 5}, "either vocabulary_size, .* got 5 and 3"),
        ({"embedding_size": 4}, "only tokens have an embedding_size, got 4 for features"),
        ({"in_features": 0}, "in_features must be a positive integer, got 0"),
        ({"dropout": 1}, r"dropout must lie in \[0, 1\), got 1"),
        ({"direction": "back"}, "direction must be one of forward, reversed, bidirectional, got 'back'"),
    ):
        with pytest.raises(ValueError, match=message):
            Encoder(**{"cells": [GRU(4)], "in_features": 3} | options)
    encoder = ENCODERS["features"]
    params, carry, _, vectors = problem(encoder, "float32")
    keys = jax.random.split(jax.random.key(0), 3)
    for call, message in (
        (
            lambda: encoder.apply(params, vectors[..., :2]),
            r"inputs must have 3 features, got shape \(6",
        ),
        (
            lambda: encoder.apply(params, vectors, carry[:1]),
            "carry must be a tuple of 2, one a cell",
        ),
        (lambda: encoder.apply(params, vectors, carry, keys=keys), "keys must be 2, one a layer, got 3"),
        (lambda: encoder.step(params, carry, vectors[0]), 'only direction="forward" goes step by step'),
        (
            lambda: encoder.apply(EncoderParams(None, params.layers[:1]), vectors),
            "params.layers must be a tuple of 2, one a cell; got 1 of them",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    words = ENCODERS["words"]
    params, _, _, _ = problem(words, "float32")
    with pytest.raises(ValueError, match=r"embedding should have shape \(5, 3\), got \(4, 3\)"):
        words.apply(params._replace(embedding=params.embedding[:4]), TOKENS)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\), the vocabulary, got 6"):
        words.apply(params, TOKENS * 0 + 6)
