"""Captioners against NumPy loops over single images, and the penalty on their attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, LSTM, Elman
from jaxrnn.attention import Additive, General
from jaxrnn.gradients import finite_difference
from jaxrnn.models import Captioner, doubly_stochastic_penalty
from tests.models import as_float64, numpy_decoder, zeros
from tests.table import random_like

WORDS, TIME, PLACES, FEATURES = 6, 5, 4, 7
LENGTHS = np.array([5, 0, 2])
RANDOM = np.random.default_rng(0)
FED = RANDOM.integers(0, WORDS, (TIME, 3))
GRIDS = RANDOM.standard_normal((3, PLACES, FEATURES))
ATTENTION = {"attention": Additive(5), "gate": True}
CAPTIONERS = {
    "carry": Captioner(WORDS, [LSTM(4), GRU(3)], 3, image_features=FEATURES, entry="carry"),
    "input": Captioner(
        WORDS, [LSTM(4)], 3, image_features=FEATURES, projection_size=5, entry="input", backward="bptt"
    ),
    "every": Captioner(WORDS, [Elman(4)], 3, image_features=FEATURES, projection_size=5, backward="bptt"),
    "attention": Captioner(
        WORDS, [LSTM(4)], 3, image_features=FEATURES, projection_size=5, entry="carry", **ATTENTION
    ),
    "attention and input": Captioner(
        WORDS, [GRU(4), LSTM(4)], 3, image_features=FEATURES, entry="input", **ATTENTION
    ),
    "attention and every": Captioner(
        WORDS,
        [GRU(4)],
        3,
        image_features=FEATURES,
        attention=General(),
        input_feeding=False,
        readout_size=2,
    ),
}


def drawn(model, dtype):
    return random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), dtype)), 1)


def numpy_captioner(model, params, grid, fed):
    """Logits and attention weights of one caption."""
    if model.projection_size is not None:
        grid = np.maximum(grid @ params.projection.w + params.projection.b, 0)
    v = np.mean(grid, axis=0)
    states, condition, before = [zeros(cell) for cell in model.cells], (), []
    if model.entry == "carry":
        states = [tuple(np.tanh(v @ w + b) for w, b in parts) for parts in params.entry]
    elif model.entry == "input":
        before = [v @ params.entry]
    else:
        condition = v
    return numpy_decoder(model.decoder, params.decoder, states, grid, fed, condition, before)


# The quick check is content with the most that a captioner has.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "attention" else pytest.mark.slow) for n in CAPTIONERS],
)
def test_equals_numpy(name, dtype):
    model = CAPTIONERS[name]
    params, tolerance = drawn(model, dtype), {"float64": 1e-12, "float32": 2e-5}[dtype]
    encoded = jax.jit(model.encode)(params, jnp.asarray(GRIDS, dtype))
    logits, weights = model.logits(params, encoded, FED, lengths=LENGTHS), None
    if model.attention:
        both = model.logits_and_weights(params, encoded, FED, lengths=LENGTHS)
        np.testing.assert_allclose(both[0], logits, rtol=tolerance, atol=tolerance)
        weights = both[1]
    for lane, length in enumerate(LENGTHS):
        expected, looked = numpy_captioner(model, as_float64(params), GRIDS[lane], FED[:length, lane])
        np.testing.assert_allclose(logits[:length, lane], expected, rtol=tolerance, atol=tolerance)
        if weights is not None and length:
            np.testing.assert_allclose(weights[:length, lane], looked, rtol=tolerance, atol=tolerance)
            assert (weights[length:, lane] == 0).all()
    carry, step = encoded.carry, jax.jit(model.step)
    for time in range(TIME):
        carry, row, looked = step(params, carry, FED[time], encoded.context)
        np.testing.assert_allclose(row[0], logits[time, 0], rtol=tolerance, atol=tolerance)
        if weights is not None:
            np.testing.assert_allclose(looked[0], weights[time, 0], rtol=tolerance, atol=tolerance)


def test_a_vector_is_a_grid_of_one_place(float64):
    model = CAPTIONERS["every"]
    params = drawn(model, float64)
    vector, grid = (
        model.logits(params, model.encode(params, jnp.asarray(image)), FED)
        for image in (GRIDS[:, 0], GRIDS[:, :1])
    )
    np.testing.assert_array_equal(vector, grid)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTIONERS)
def test_gradients_against_finite_differences(name, float64):
    """By every parameter and by the images, of which that of the empty lane counts for nothing."""
    model = CAPTIONERS[name]

    @jax.jit
    def loss(arguments):
        params, grids = arguments
        encoded = model.encode(params, grids)
        if not model.attention:
            return jnp.sum(jnp.sin(model.logits(params, encoded, FED, lengths=LENGTHS)))
        logits, weights = model.logits_and_weights(params, encoded, FED, lengths=LENGTHS)
        return jnp.sum(jnp.sin(logits)) + doubly_stochastic_penalty(weights, LENGTHS)[0]

    arguments = drawn(model, float64), jnp.asarray(GRIDS)
    found, expected = jax.grad(loss)(arguments), finite_difference(loss, arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)
    assert (found[1][1] == 0).all()
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(found))


@pytest.mark.slow
def test_dropout_reaches_the_image_and_the_weights_are_those_of_the_logits(float64):
    model = Captioner(WORDS, [GRU(4)], 3, image_features=FEATURES, dropout=0.5, **ATTENTION)
    params, key = drawn(model, float64), jax.random.key(3)
    plain, dropped = (model.encode(params, jnp.asarray(GRIDS), key=of) for of in (None, key))
    kept = dropped.context.memory.values != 0
    assert 0.2 < np.mean(kept) < 0.8
    np.testing.assert_allclose(dropped.context.memory.values, 2 * kept * plain.context.memory.values)
    np.testing.assert_allclose(dropped.context.condition, np.mean(2 * kept * GRIDS, axis=1), rtol=1e-12)
    logits = model.logits(params, plain, FED, lengths=LENGTHS, key=key)
    both, _ = model.logits_and_weights(params, plain, FED, lengths=LENGTHS, key=key)
    np.testing.assert_allclose(logits, both, rtol=1e-12)


def test_the_penalty_equals_numpy(dtype):
    weights = RANDOM.dirichlet(np.ones(PLACES), (TIME, 3)) * (np.arange(TIME)[:, None] < LENGTHS)[..., None]
    penalty, count = doubly_stochastic_penalty(jnp.asarray(weights, dtype), LENGTHS)
    expected = sum(
        (1 - sum(weights[t, lane, i] for t in range(LENGTHS[lane]))) ** 2
        for lane in (0, 2)
        for i in range(PLACES)
    )
    np.testing.assert_allclose(penalty, expected, rtol={"float64": 1e-12, "float32": 1e-5}[dtype])
    assert count == 2
    everyone, count = doubly_stochastic_penalty(jnp.asarray(weights, dtype))
    np.testing.assert_allclose(everyone - penalty, PLACES, rtol=1e-5)  # the sequence without a step
    assert count == 3


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    for options, message in (
        ({"image_features": 0}, "image_features must be a positive integer, got 0"),
        ({"projection_size": 0}, "projection_size must be a positive integer, got 0"),
        ({"entry": "first"}, "entry must be one of carry, input, every, got 'first'"),
        ({"gate": True}, "a gate scales what attention has read, and there is no attention"),
        ({"cells": []}, "a decoder needs at least one cell, got none"),
    ):
        given = {"vocabulary_size": 6, "cells": [GRU(4)], "embedding_size": 3, "image_features": 7}
        with pytest.raises(ValueError, match=message):
            Captioner(**given | options)
    model = CAPTIONERS["attention"]
    params = model.init(jax.random.key(0))
    for shape, message in (
        ((3, 4, 6), r"image should have shape \(batch, 7\) or \(batch, places, 7\), got \(3, 4, 6\)"),
        ((3, 7), r"attention reads a grid \(batch, places, features\), got \(3, 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode(params, jnp.ones(shape))
    narrow = params._replace(projection=params.projection._replace(w=params.projection.w[:6]))
    with pytest.raises(ValueError, match=r"w should have shape \(7, 5\), got \(6, 5\)"):
        model.encode(narrow, jnp.asarray(GRIDS))
    model = CAPTIONERS["carry"]
    params = model.init(jax.random.key(0))
    encoded = model.encode(params, jnp.asarray(GRIDS))
    with pytest.raises(ValueError, match="only a captioner with attention has its weights"):
        model.logits_and_weights(params, encoded, FED)
    with pytest.raises(ValueError, match="only a decoder with attention has its weights"):
        model.decoder.logits_and_weights(params.decoder, encoded.carry, FED, None)
    with pytest.raises(ValueError, match="lengths"):
        doubly_stochastic_penalty(jnp.ones((5, 3, 4)), np.array([1, 2]))
