"""The decoder, with carry and memory from outside, against NumPy loops over single sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, LSTM
from jaxrnn.attention import Additive, General
from jaxrnn.models.decoder import Decoder
from tests.models import as_float64, numpy_decoder
from tests.table import random_like

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
}


@pytest.mark.parametrize("given", ["states", "nothing"])
@pytest.mark.parametrize("name", DECODERS)
def test_equals_numpy(name, given, float64):
    decoder = DECODERS[name]
    params = random_like(jax.eval_shape(lambda: decoder.init(jax.random.key(0), float64)), 1)
    states = jax.eval_shape(lambda: tuple(cell.initial_carry((3,), float64) for cell in decoder.cells))
    states = random_like(states, 2, scale=0.6 if given == "states" else 0.0)
    carry = decoder.carry_of(states, float64) if given == "states" else decoder.initial_carry((3,), float64)
    memory = decoder.memory(params, jnp.asarray(VALUES), SOURCES) if decoder.attention else None
    logits = decoder.logits(params, carry, FED, memory, lengths=LENGTHS)
    step = jax.jit(decoder.step)
    for lane, (length, places) in enumerate(zip(LENGTHS, SOURCES, strict=True)):
        first = [tuple(map(np.asarray, jax.tree.leaves(state))) for state in states]
        first = [tuple(leaf[lane] for leaf in state) for state in first]
        expected, _ = numpy_decoder(
            decoder, as_float64(params), first, VALUES[lane, :places], FED[:length, lane]
        )
        np.testing.assert_allclose(logits[:length, lane], expected, rtol=1e-12, atol=1e-13)
        padding = np.broadcast_to(params.b_out, (TIME - length, WORDS))  # where y = 0
        np.testing.assert_allclose(logits[length:, lane], padding, rtol=1e-12)
    for time, fed in enumerate(FED):
        carry, row, weights = step(params, carry, fed, memory)
        np.testing.assert_allclose(row[0], logits[time, 0], rtol=1e-12)
        assert (weights is None) == (decoder.attention is None)


@pytest.mark.usefixtures("as_users_run")
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
