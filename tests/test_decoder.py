"""The decoder, with carry and memory from outside, against NumPy loops over single sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, LSTM
from jaxrnn.attention import Additive, General
from jaxrnn.gradients import check
from jaxrnn.gradients.check import METHODS
from jaxrnn.models.decoder import Decoder
from tests.models import as_float64, numpy_decoder
from tests.table import IN_FEATURES, random_like
from tests.unrolling import five_cells

WORDS, TIME, PLACES = 6, 5, 4
LENGTHS, SOURCES = np.array([5, 0, 2]), np.array([4, 3, 0])
RANDOM = np.random.default_rng(0)
FED = RANDOM.integers(0, WORDS, (TIME, 3))
VALUES = RANDOM.standard_normal((3, PLACES, 7))
DECODERS = {
    "plain": Decoder(WORDS, [LSTM(4), GRU(3)], 3, tied=True, backward="bptt"),
    "attention": Decoder(WORDS, [GRU(4)], 3, attention=Additive(5), memory_features=7),
    "no feeding": Decoder(
        WORDS,
        [GRU(4), LSTM(4)],
        3,
        attention=General(),
        memory_features=7,
        readout_size=2,
        input_feeding=False,
    ),
    "condition": Decoder(WORDS, [LSTM(4), GRU(3)], 3, condition_size=2, backward="bptt"),
    "both": Decoder(
        WORDS, [GRU(4)], 3, attention=Additive(5), memory_features=7, condition_size=2, tied=True
    ),
}
CONDITIONS = RANDOM.standard_normal((3, 2))


@pytest.mark.parametrize("given", ["states", "nothing"])
@pytest.mark.parametrize("name", DECODERS)
def test_equals_numpy(name, given, float64):
    decoder = DECODERS[name]
    params = random_like(jax.eval_shape(lambda: decoder.init(jax.random.key(0), float64)), 1)
    states = jax.eval_shape(lambda: tuple(cell.initial_carry((3,), float64) for cell in decoder.cells))
    states = random_like(states, 2, scale=0.6 if given == "states" else 0.0)
    carry = decoder.carry_of(states, float64) if given == "states" else decoder.initial_carry((3,), float64)
    memory = decoder.memory(params, jnp.asarray(VALUES), SOURCES) if decoder.attention else None
    condition = jnp.asarray(CONDITIONS) if decoder.condition_size else None
    logits = decoder.logits(params, carry, FED, memory, condition, lengths=LENGTHS)
    step = jax.jit(decoder.step)
    for lane, (length, places) in enumerate(zip(LENGTHS, SOURCES, strict=True)):
        first = [tuple(map(np.asarray, jax.tree.leaves(state))) for state in states]
        first = [tuple(leaf[lane] for leaf in state) for state in first]
        expected, _ = numpy_decoder(
            decoder,
            as_float64(params),
            first,
            VALUES[lane, :places],
            FED[:length, lane],
            () if condition is None else CONDITIONS[lane],
        )
        np.testing.assert_allclose(logits[:length, lane], expected, rtol=1e-12, atol=1e-13)
        padding = np.broadcast_to(params.b_out, (TIME - length, WORDS))  # where y = 0
        np.testing.assert_allclose(logits[length:, lane], padding, rtol=1e-12)
    for time, fed in enumerate(FED):
        carry, row, weights = step(params, carry, fed, memory, condition)
        np.testing.assert_allclose(row[0], logits[time, 0], rtol=1e-12)
        assert (weights is None) == (decoder.attention is None)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.slow
def test_bad_input():
    for options, message in (
        ({"cells": []}, "a decoder needs at least one cell, got none"),
        ({"vocabulary_size": 0}, "vocabulary_size must be a positive integer, got 0"),
        ({"attention": General()}, "attention needs the memory_features that it reads, got None"),
        (
            {"attention": General(), "memory_features": 0},
            "memory_features must be a positive integer, got 0",
        ),
        ({"tied": True}, r"tied output needs a readout of embedding_size \(3\), got 4"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            Decoder(**{"vocabulary_size": 6, "cells": [GRU(4)], "embedding_size": 3} | options)
    decoder = DECODERS["attention"]
    params, carry = decoder.init(jax.random.key(0)), decoder.initial_carry((3,))
    memory = decoder.memory(params, jnp.asarray(VALUES))
    for call in (
        lambda p, m: decoder.logits(p, carry, FED, m),
        lambda p, m: decoder.step(p, carry, FED[0], m),
    ):
        with pytest.raises(ValueError, match="a decoder with attention reads a memory, got None"):
            call(params, None)
        with pytest.raises(ValueError, match=r"w_out should have shape \(3, 6\), got \(2, 6\)"):
            call(params._replace(w_out=params.w_out[:2]), memory)
    decoder = DECODERS["condition"]
    params, carry = decoder.init(jax.random.key(0)), decoder.initial_carry((3,))
    for wrong, got in ((None, "None"), (CONDITIONS[:, :1], r"\(3, 1\)"), (CONDITIONS[:1], r"\(1, 2\)")):
        condition = None if wrong is None else jnp.asarray(wrong)
        message = rf"condition should have shape \(3, 2\), got {got}"
        with pytest.raises(ValueError, match=message):
            decoder.logits(params, carry, FED, None, condition)
        with pytest.raises(ValueError, match=message):
            decoder.step(params, carry, FED[0], None, condition)
    decoder = DECODERS["plain"]
    with pytest.raises(ValueError, match=r"condition should have shape None, got \(3, 2\)"):
        decoder.step(decoder.init(jax.random.key(0)), carry, FED[0], None, jnp.asarray(CONDITIONS))


@pytest.mark.slow
@five_cells
def test_the_gradient_by_the_condition(row, dtype):
    """Against differences of NumPy loops over single sequences."""
    decoder = Decoder(
        WORDS,
        [row.cell],
        IN_FEATURES - 2,
        condition_size=2,
        backward="bptt" if row.cell.has_derivative else "autodiff",
    )
    params = random_like(jax.eval_shape(lambda: decoder.init(jax.random.key(0), dtype)), 1, scale=0.5)
    weights = np.random.default_rng(1).standard_normal((TIME, 3, WORDS))

    def loss(condition):
        carry = decoder.initial_carry((3,), dtype)
        logits = decoder.logits(params, carry, FED, None, condition, lengths=LENGTHS)
        return jnp.sum(jnp.asarray(weights, dtype) * logits)

    exact = as_float64(params)

    def loss_of_one(lane, condition):
        carry, total = as_float64(row.cell.initial_carry()), 0.0
        for time in range(LENGTHS[lane]):
            x = np.concatenate([exact.embedding[FED[time, lane]], condition])
            carry, y = row.reference(exact.cell[0], carry, x)
            total += weights[time, lane] @ (y @ exact.w_out + exact.b_out)
        return total

    step = 1e-6 * np.eye(2)
    expected = [
        [(loss_of_one(lane, v + h) - loss_of_one(lane, v - h)) / 2e-6 for h in step]
        for lane, v in enumerate(CONDITIONS)
    ]
    found = jax.grad(loss)(jnp.asarray(CONDITIONS, dtype))
    assert np.abs(expected).max() > 1e-2
    tolerance = 1e-7 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.slow
def test_every_method_agrees_on_the_gradient_by_the_condition(float64):
    """The condition is a part of every input: all methods of ``check`` give its gradient, step by step."""
    decoder = DECODERS["condition"]
    params = random_like(jax.eval_shape(lambda: decoder.init(jax.random.key(0), float64)), 1)
    repeated = np.broadcast_to(CONDITIONS, (TIME, 3, 2))
    xs = jnp.concatenate([params.embedding[FED], jnp.asarray(repeated)], axis=-1)
    methods = check(decoder.cell, params.cell, xs, lengths=LENGTHS).max_errors()
    assert set(methods) == set(METHODS)


@pytest.mark.slow
def test_draws_that_are_fed_come_with_the_condition(float64):
    """At rate 1 every step but the first is fed what was drawn, and the condition beside it."""
    decoder = DECODERS["condition"]
    params = random_like(jax.eval_shape(lambda: decoder.init(jax.random.key(0), float64)), 1)
    condition, carry = jnp.asarray(CONDITIONS), decoder.initial_carry((3,), float64)
    key = jax.random.key(5)
    drawn = decoder.logits(params, carry, FED, None, condition, key=key, sampling_rate=1.0)
    _, key_noise, _ = jax.random.split(key, 3)
    _, key_draws, _ = jax.random.split(key_noise, 3)
    tokens = FED[0]
    for row, draw in zip(drawn, jax.random.split(key_draws, TIME), strict=True):
        carry, logits, _ = decoder.step(params, carry, tokens, None, condition)
        np.testing.assert_allclose(row, logits, rtol=1e-10)
        tokens = jax.random.categorical(draw, logits)
