"""Sequences without replacement: exact probabilities of their orders, unbiased sums, and never a NaN."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.decoding import forced_score, stochastic_beam_search
from jaxrnn.decoding.stochastic_beam import truncated
from tests.decoding import END, LANES, STARTS, VOCABULARY, sequences, state_of, step

pytestmark = pytest.mark.slow

KEYS = 10_000
PROBABILITIES = np.array([0.2, 0.2, 0.6])


def draw_leaves(state, tokens):
    """The same three tokens at every step."""
    return state, jnp.broadcast_to(jnp.log(jnp.asarray(PROBABILITIES)), (*tokens.shape, 3))


def order_probability(order, probabilities) -> float:
    """Of drawing this order without replacement."""
    left = 1 - np.concatenate([[0], np.cumsum(probabilities[list(order)])[:-1]])
    return float(np.prod(probabilities[list(order)] / left))


def test_orders_of_three_leaves():
    drawn = stochastic_beam_search(
        draw_leaves, jnp.zeros(KEYS), key=jax.random.key(0), start=0, max_length=1, beam_size=3
    )
    assert (np.diff(drawn.perturbed_scores) <= 0).all()
    codes = np.asarray(drawn.tokens[..., 0]) @ [9, 3, 1]
    for order in itertools.permutations(range(3)):
        frequency = float(np.mean(codes == np.dot(order, [9, 3, 1])))
        expected = order_probability(order, PROBABILITIES)
        assert abs(frequency - expected) < 4.5 * np.sqrt(expected * (1 - expected) / KEYS)


@pytest.mark.parametrize("end", [None, END])
def test_pairs_of_a_tree_have_exact_probabilities(end):
    """The first two of a tree with leaves at different depths; bounds are 4.5 sigma and five."""
    state, lanes = state_of(1), 40_000
    drawn = stochastic_beam_search(
        step,
        jax.tree.map(lambda leaf: jnp.repeat(leaf, lanes, axis=0), state),
        key=jax.random.split(jax.random.key(1), lanes),
        start=0,
        end=end,
        max_length=2,
        beam_size=2,
    )
    leaves = sequences(state, 0, 0, end, 2)
    padded = [tokens + (end,) * (2 - len(tokens)) for tokens, _ in leaves]
    index = {tokens: i for i, tokens in enumerate(padded)}
    counts = np.zeros((len(leaves),) * 2)
    for first, second in np.asarray(drawn.tokens):
        counts[index[tuple(first.tolist())], index[tuple(second.tolist())]] += 1
    p = np.exp([log_p for _, log_p in leaves])
    expected = p[:, None] * p / (1 - p[:, None]) * (1 - np.eye(len(p)))
    assert np.diag(counts).sum() == 0
    # Five more, for pairs that hardly ever come: their counts are not normally distributed.
    assert (np.abs(counts - lanes * expected) <= 4.5 * np.sqrt(lanes * expected) + 5).all()


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_weighted_sums_are_unbiased(beam_size):
    """Of 1, of the length, and of a function of the tokens, within 3 standard errors."""
    state, lanes = state_of(1, seed=3), 40_000
    drawn = stochastic_beam_search(
        step,
        jax.tree.map(lambda leaf: jnp.repeat(leaf, lanes, axis=0), state),
        key=jax.random.key(2),
        start=1,
        end=END,
        max_length=3,
        beam_size=beam_size,
    )
    values = np.random.default_rng(0).normal(size=(VOCABULARY,) * 3)
    leaves = sequences(state, 0, 1, END, 3)
    p = np.exp([log_p for _, log_p in leaves])
    padded = [tokens + (END,) * (3 - len(tokens)) for tokens, _ in leaves]
    truths = {
        "one": (np.ones(len(p)), np.ones(drawn.lengths.shape)),
        "length": (np.array([len(tokens) for tokens, _ in leaves]), np.asarray(drawn.lengths)),
        "value": (
            np.array([values[tokens] for tokens in padded]),
            values[tuple(np.moveaxis(np.asarray(drawn.tokens), -1, 0))],
        ),
    }
    for exact, found in truths.values():
        estimates = np.sum(np.asarray(drawn.weights) * found, axis=1)
        error = np.std(estimates) / np.sqrt(lanes)
        assert abs(estimates.mean() - p @ exact) < 3 * error + 1e-6


@pytest.mark.parametrize("end", [None, END])
def test_all_leaves_where_there_are_too_few(end):
    """Their weights are then their probabilities, and nothing is in the slots left."""
    state = state_of(LANES)
    drawn = stochastic_beam_search(
        step, state, key=jax.random.key(0), start=STARTS, end=end, max_length=2, beam_size=30
    )
    for lane, start in enumerate(STARTS.tolist()):
        leaves = dict(sequences(state, lane, start, end, 2))
        lengths, count = np.asarray(drawn.lengths[lane]), len(leaves)
        found = [
            tuple(row[:length])
            for row, length in zip(np.asarray(drawn.tokens[lane]).tolist(), lengths, strict=True)
        ]
        assert set(found[:count]) == set(leaves)
        expected = [leaves[tokens] for tokens in found[:count]]
        np.testing.assert_allclose(drawn.scores[lane, :count], expected, rtol=1e-5)
        np.testing.assert_allclose(drawn.weights[lane, :count], np.exp(expected), rtol=1e-5)
        assert found[count:] == [()] * (30 - count)
        assert (drawn.scores[lane, count:] == -jnp.inf).all()
        assert (drawn.perturbed_scores[lane, count:] == -jnp.inf).all()
        assert (drawn.weights[lane, count:] == 0).all()


draw = functools.partial(stochastic_beam_search, step, end=END, max_length=5, beam_size=4)


def test_scores_are_log_probabilities_and_sequences_differ():
    state = state_of(LANES)
    drawn = draw(state, key=jax.random.key(3), start=STARTS)
    for slot in range(4):
        scores = forced_score(
            step, state, drawn.tokens[:, slot], start=STARTS, lengths=drawn.lengths[:, slot]
        )
        np.testing.assert_allclose(drawn.scores[:, slot], scores, rtol=1e-5)
    for rows in np.asarray(drawn.tokens):
        assert len(np.unique(rows, axis=0)) == 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(LANES)))
def test_a_key_a_lane_makes_a_lane_independent_of_the_batch(seed, order):
    state, keys, order = (
        state_of(LANES, seed),
        jax.random.split(jax.random.key(seed), LANES),
        np.array(order),
    )
    drawn = draw(state, key=keys, start=STARTS)
    permuted = draw(jax.tree.map(lambda leaf: leaf[order], state), key=keys[order], start=STARTS[order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), permuted, drawn)
    broken = state | {"memory": state["memory"].at[order[0]].set(jnp.nan)}
    beside = draw(broken, key=keys, start=STARTS)
    assert np.isnan(beside.scores[order[0]]).all()
    assert np.isnan(beside.weights[order[0]]).all()
    assert (beside.lengths[order[0]] == 0).all()
    rest = order[1:]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[rest], b[rest]), beside, drawn)


@pytest.mark.parametrize("low", [-1e4, -np.inf])
def test_no_probability_is_too_low(low):
    """Two tokens of three at exp(−10⁴), or impossible, at each of three steps."""
    logits = jnp.array([0.0, low, low])

    def nearly_sure(state, tokens):
        return state, jnp.broadcast_to(logits, (*tokens.shape, 3))

    drawn = stochastic_beam_search(
        nearly_sure, jnp.zeros(50), key=jax.random.key(0), start=0, max_length=3, beam_size=5
    )
    assert not any(np.isnan(part).any() for part in drawn[:5])
    assert (drawn.tokens[:, 0] == 0).all()
    np.testing.assert_allclose(drawn.weights[:, 0], 1, rtol=1e-5)
    count = 1 if low == -np.inf else 5
    assert (drawn.lengths == jnp.where(jnp.arange(5) < count, 3, 0)).all()
    if count == 5:  # of 27 sequences, after the sure one those with one improbable token
        np.testing.assert_allclose(drawn.scores[:, 1:], -1e4, rtol=1e-5)
        np.testing.assert_allclose(drawn.weights[:, 1:], 0, atol=1e-30)


NUMBERS = st.floats(-1e4, 50, width=32, allow_subnormal=False)  # XLA takes subnormal numbers for zero


@settings(max_examples=200, deadline=None)
@given(
    free=st.lists(NUMBERS | st.just(-np.inf), min_size=1, max_size=6),
    highest=NUMBERS,
)
def test_children_never_pass_their_parent_and_one_equals_it(free, highest):
    moved = np.asarray(truncated(jnp.array(free, jnp.float32), jnp.array([highest], jnp.float32)))
    assert not np.isnan(moved).any()
    np.testing.assert_array_equal(moved == -np.inf, np.array(free) == -np.inf)
    if max(free) > -np.inf:
        assert moved.max() == np.float32(highest)
        assert moved[np.argmax(free)] == np.float32(highest)


def test_truncated_by_its_definition(float64):
    free = np.random.default_rng(0).gumbel(size=(100, 7))
    highest = np.random.default_rng(1).gumbel(size=(100, 1))
    largest = free.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        expected = -np.log(np.exp(-highest) - np.exp(-largest) + np.exp(-free))
    np.testing.assert_allclose(
        truncated(jnp.asarray(free), jnp.asarray(highest)), expected, rtol=1e-11, atol=1e-12
    )


def test_extras_follow_every_sequence():
    def telling(state, tokens):
        after, logits = step(state, tokens)
        return after, logits, tokens

    drawn = stochastic_beam_search(
        telling, state_of(LANES), key=jax.random.key(0), start=STARTS, end=END, max_length=5, beam_size=3
    )
    starts = np.broadcast_to(np.asarray(STARTS)[:, None, None], (LANES, 3, 1))
    fed = np.concatenate([starts, np.asarray(drawn.tokens)[..., :-1]], axis=-1)
    on = np.arange(5) < np.asarray(drawn.lengths)[..., None]
    np.testing.assert_array_equal(drawn.extras, np.where(on, fed, 0))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"beam_size": 0}, "beam_size must be a positive integer, got 0"),
        ({"max_length": 0}, "max_length must be a positive integer, got 0"),
        ({"end": -1}, r"end must lie in \[0, 5\)"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, r"one key or one a lane \(4\), got shape \(3,\)"),
        ({"key": jax.random.PRNGKey(0)}, "key must come from jax.random.key, got an array of uint32"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"key": jax.random.key(0), "start": 0, "max_length": 3, "beam_size": 2, **changed}
    with pytest.raises(ValueError, match=message):
        stochastic_beam_search(step, state_of(LANES), **arguments)
