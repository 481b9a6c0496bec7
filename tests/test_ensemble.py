"""Ensembles: the mean of their models' predictions, under every decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.decoding import beam_search, ensemble, forced_score, greedy
from tests.decoding import END, LANES, STARTS, state_of, step

CONTEXT = {"bias": jnp.linspace(-1, 1, 5 * LANES).reshape(LANES, 5)}


def step_with_extras(state, tokens):
    state, logits = step(state, tokens)
    return state, logits, tokens.astype(jnp.float32)


@pytest.mark.slow
def test_the_mean_of_the_predictions():
    """Models with another state, with and without context and extras."""
    states = (state_of(LANES, 1), state_of(LANES, 2), state_of(LANES, 3))
    together = ensemble([step, step_with_extras, step])
    after, logits, extras = together(states, STARTS, (None, None, CONTEXT))
    alone = [
        step(states[0], STARTS),
        step_with_extras(states[1], STARTS)[:2],
        step(states[2], STARTS, CONTEXT),
    ]
    mean = np.mean([jax.nn.softmax(row) for _, row in alone], axis=0)
    np.testing.assert_allclose(np.exp(logits), mean, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after, tuple(state for state, _ in alone))
    assert extras[0] is None
    np.testing.assert_array_equal(extras[1], STARTS)


@pytest.mark.slow
def test_decoders_take_it():
    states, contexts = (state_of(LANES, 1), state_of(LANES, 2)), (None, CONTEXT)
    options = {"start": STARTS, "end": END, "max_length": 6, "context": contexts}
    together = ensemble([step, step])
    decoded = greedy(together, states, **options)
    best = beam_search(together, states, beam_size=1, **options)
    np.testing.assert_array_equal(best.tokens[:, 0], decoded.tokens)
    scores = forced_score(
        together, states, decoded.tokens, start=STARTS, lengths=decoded.lengths, context=contexts
    )
    np.testing.assert_allclose(scores, decoded.scores, rtol=1e-5)


def test_one_model_is_itself():
    state = state_of(LANES)
    _, logits, _ = ensemble([step])((state,), STARTS)
    np.testing.assert_allclose(logits, jax.nn.log_softmax(step(state, STARTS)[1]), rtol=1e-6)


def test_equal_ensembles_compile_once():
    """Parameters that are bound to steps are leaves, not constants; ensembles of equal steps are equal."""

    def made(scale):
        return ensemble([jax.tree_util.Partial(scaled, scale), jax.tree_util.Partial(scaled, -scale)])

    first, second = made(jnp.ones(())), made(jnp.full((), 2.0))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert [float(leaf) for leaf in jax.tree.leaves(second)] == [2.0, -2.0]


def scaled(scale, state, tokens):
    state, logits = step(state, tokens)
    return state, scale * logits


def test_bad_input():
    with pytest.raises(ValueError, match="at least one step, got none"):
        ensemble([])

    def short(state, tokens):
        state, logits = step(state, tokens)
        return state, logits[:, :-1]

    with pytest.raises(ValueError, match=r"one vocabulary, got \[5, 4\] tokens"):
        ensemble([step, short])((state_of(LANES), state_of(LANES)), STARTS)
