"""Decoders on table models, against plain NumPy loops and exact distributions."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.decoding.sampling import Decoded, _scan, greedy, sample
from jaxrnn.models.language_model import LanguageModel
from tests.decoding import END, LANES, SHIFT, STARTS, TABLE, VOCABULARY, log_softmax, state_of, step
from tests.table import random_like

pytestmark = pytest.mark.slow

LENGTH = 12


def numpy_decode(choose: Callable, state, starts, end=None, bias=0.0):
    """``step`` in NumPy, lane by lane; ``choose(lane, time, logits)`` gives the token."""
    tokens, scores, lengths = [], [], []
    for lane, start in enumerate(np.asarray(starts)):
        time, memory = int(state["time"][lane]), np.asarray(state["memory"][lane], np.float64)
        fed, row, score = int(start), [], 0.0
        while len(row) < LENGTH and (end is None or end not in row):
            logits = TABLE[time % 3, fed] + memory + np.broadcast_to(bias, (LANES, VOCABULARY))[lane]
            memory, time = 0.5 * memory + SHIFT[fed], time + 1
            fed = int(choose(lane, len(row), logits))
            score += log_softmax(logits)[fed]
            row.append(fed)
        lengths.append(len(row))
        tokens.append(row + [end] * (LENGTH - len(row)))
        scores.append(score)
    return Decoded(np.array(tokens), np.array(scores), np.array(lengths))


def assert_decoded(actual: Decoded, expected: Decoded):
    assert actual.tokens.dtype == actual.lengths.dtype == jnp.int32
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    np.testing.assert_array_equal(actual.lengths, expected.lengths)
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-5, atol=1e-5)


def highest(lane, time, logits):
    return np.argmax(logits)


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("start", [3, STARTS], ids=["one start", "a start a lane"])
def test_greedy_equals_numpy(start, end):
    state = state_of(LANES)
    expected = numpy_decode(highest, state, np.broadcast_to(start, LANES), end)
    assert_decoded(greedy(step, state, start=start, end=end, max_length=LENGTH), expected)
    if end is not None:
        assert 1 <= expected.lengths.min() < expected.lengths.max()  # lanes end apart


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.3}, {"temperature": 3.0, "end": END}, {"top_k": 3, "top_p": 0.8, "end": END}],
    ids=str,
)
def test_scores_are_those_of_the_tokens_under_the_model(options):
    """Whatever they were drawn by: no temperature, no cut, nothing after the end."""
    state = state_of(LANES)
    drawn = sample(step, state, key=jax.random.key(0), start=STARTS, max_length=LENGTH, **options)
    tokens = np.asarray(drawn.tokens)
    expected = numpy_decode(lambda lane, time, _: tokens[lane, time], state, STARTS, options.get("end"))
    assert_decoded(drawn, expected)


def test_after_the_end_come_only_ends():
    """The draws before it are those of a run that never ends; what is after is not scored or counted."""
    state, key = state_of(64), jax.random.key(1)
    options = {"key": key, "start": 0, "max_length": LENGTH, "temperature": 2.0}
    endless, ended = sample(step, state, **options), sample(step, state, end=END, **options)
    assert set(np.asarray(endless.lengths)) == {LENGTH}
    assert {1, 2, 3, LENGTH} <= set(np.asarray(ended.lengths))
    for free, tokens, length in zip(*map(np.asarray, (endless.tokens, *ended[::2])), strict=True):
        np.testing.assert_array_equal(tokens[:length], free[:length])
        np.testing.assert_array_equal(tokens[length:], END)
        assert END not in tokens[: length - 1]
        assert length == LENGTH or tokens[length - 1] == END


def test_context_reaches_every_step():
    state, context = state_of(LANES), {"bias": jnp.asarray(SHIFT[:LANES])}
    decode = functools.partial(greedy, step, state, start=STARTS, max_length=LENGTH)
    expected = numpy_decode(highest, state, STARTS, bias=SHIFT[:LANES])
    assert_decoded(decode(context=context), expected)
    assert (np.asarray(decode().tokens) != expected.tokens).any()

    draw = functools.partial(sample, step, state, key=jax.random.key(0), start=STARTS, max_length=LENGTH)
    drawn = draw(context=context)
    tokens = np.asarray(drawn.tokens)
    assert_decoded(
        drawn, numpy_decode(lambda lane, time, _: tokens[lane, time], state, STARTS, bias=SHIFT[:LANES])
    )


def restricted(logits, temperature=1.0, top_k=None, top_p=None) -> np.ndarray:
    """The distribution of one draw, by the definition; of equal tokens the first is taken first."""
    probabilities = np.exp(log_softmax(np.asarray(logits, np.float64) / temperature))
    for fewest in ("k", "p"):
        order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
        if fewest == "k" and top_k is not None:
            order = order[:top_k]
        if fewest == "p" and top_p is not None:
            sums = np.cumsum(probabilities[order])
            order = order[: 1 + int(np.argmax(sums >= top_p - 1e-9))]
        kept = np.isin(np.arange(len(probabilities)), order)
        probabilities = np.where(kept, probabilities, 0) / probabilities[kept].sum()
    return probabilities


CUTS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 2},
    {"top_p": 0.7},
    {"top_k": 3, "top_p": 0.75, "temperature": 1.5},
]


@pytest.mark.parametrize("options", [{}, *CUTS], ids=str)
@pytest.mark.parametrize("one_key", [True, False], ids=["one key", "a key a lane"])
def test_pairs_of_draws_have_the_exact_frequencies(options, one_key):
    """Two steps, so that draws of different steps must be independent too; bounds are 4.5 sigma."""
    lanes = 40_000
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf, lanes, axis=0), state_of(1))
    key = jax.random.key(7) if one_key else jax.random.split(jax.random.key(8), lanes)
    drawn = sample(step, state, key=key, start=0, max_length=2, **options)
    pairs = np.asarray(drawn.tokens) @ [VOCABULARY, 1]
    frequencies = np.bincount(pairs, minlength=VOCABULARY**2).reshape(VOCABULARY, VOCABULARY) / lanes

    time, memory = int(state["time"][0]), np.asarray(state["memory"][0], np.float64)
    first = restricted(TABLE[time % 3, 0] + memory, **options)
    memory = 0.5 * memory + SHIFT[0]
    second = [restricted(row + memory, **options) for row in TABLE[(time + 1) % 3]]
    expected = first[:, None] * np.array(second)
    assert ((frequencies > 0) <= (expected > 0)).all()
    assert (np.abs(frequencies - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / lanes)).all()


FED: list[np.ndarray] = []


def recording_step(state, tokens):
    """Logits from a script; every distribution fed is kept in ``FED``."""
    if jnp.issubdtype(tokens.dtype, jnp.floating):
        jax.debug.callback(lambda tokens: FED.append(np.asarray(tokens)), tokens, ordered=True)
    time, script = state["time"], state["script"]
    return {"time": time + 1, "script": script}, script[jnp.arange(len(time)), time]


def fed_by(script: np.ndarray, **options) -> list[np.ndarray]:
    """What ``feedback="softmax"`` feeds, the start first, for logits (lanes, steps, vocabulary)."""
    state = {"time": jnp.zeros(len(script), int), "script": jnp.asarray(script)}
    options = {"key": jax.random.key(0), "start": 0, "max_length": script.shape[1], **options}
    FED.clear()
    sample(recording_step, state, feedback="softmax", **options)
    jax.effects_barrier()
    return FED.copy()


def cut(logits: np.ndarray, **options) -> np.ndarray:
    """The distributions that ``sample`` draws from, for logits (lanes, vocabulary)."""
    return fed_by(np.repeat(logits[:, None], 2, axis=1), **options)[1]


@pytest.mark.parametrize(
    ("top_k", "masses"), [(None, (1e-6, 0.3717, 0.9123, 1.0)), (4, (None, 0.3717, 1.0)), (10, (None,))]
)
def test_supports_by_brute_force(top_k, masses):
    """Exactly those tokens, with many ties and with k above the vocabulary's size."""
    logits = np.random.default_rng(3).integers(-2, 3, (200, 8)).astype(np.float32)
    logits[0] = 0  # all equal
    for top_p in masses:
        options = {"temperature": 1.3, "top_k": top_k, "top_p": top_p}
        distribution = cut(logits, **options)
        expected = np.array([restricted(row, **options) for row in logits])
        np.testing.assert_array_equal(distribution > 0, expected > 0)
        np.testing.assert_allclose(distribution, expected, rtol=1e-5)


def test_top_p_takes_the_fewest():
    """No smaller set reaches the mass, checked over every set of tokens."""
    logits = np.random.default_rng(4).normal(size=(200, 8)).astype(np.float32)
    mass = 0.6543
    for row, kept in zip(np.exp(log_softmax(logits)), cut(logits, top_p=mass) > 0, strict=True):
        sets = itertools.chain.from_iterable(itertools.combinations(row, n) for n in range(1, 9))
        assert kept.sum() == next(len(members) for members in sets if sum(members) >= mass)


def test_top_p_stops_where_the_mass_is_reached():
    distribution = cut(np.zeros((200, 8), np.float32), top_p=0.25)
    np.testing.assert_array_equal(distribution, np.tile([0.5, 0.5, 0, 0, 0, 0, 0, 0], (200, 1)))


@pytest.mark.parametrize("options", [{"temperature": 1e-5}, {"top_k": 1}, {"top_p": 1e-6}], ids=str)
def test_the_sharpest_draw_is_greedy(options):
    arguments = {"start": STARTS, "end": END, "max_length": LENGTH}
    expected = greedy(step, state_of(LANES), **arguments)
    drawn = sample(step, state_of(LANES), key=jax.random.key(0), **arguments, **options)
    jax.tree.map(np.testing.assert_array_equal, drawn, expected)


def test_no_temperature_is_too_low():
    logits = jnp.array([70.0, 40.0, 90.0, 80.0])

    def constant(state, tokens):
        return state, jnp.broadcast_to(logits, (20, 4))

    draw = functools.partial(sample, constant, jnp.zeros(20), key=jax.random.key(0), start=0, max_length=3)
    for temperature in (1e-30, 1e-37, 1e-42, 1e-300):
        np.testing.assert_array_equal(draw(temperature=temperature, top_p=0.9).tokens, 2)


def test_a_key_a_lane_makes_a_draw_independent_of_the_batch():
    state, keys = state_of(LANES), jax.random.split(jax.random.key(5), LANES)
    draw = functools.partial(sample, step, end=END, max_length=LENGTH, temperature=3.0, top_p=0.9)
    batched = draw(state, key=keys, start=STARTS)
    for lane in range(LANES):
        one = slice(lane, lane + 1)
        alone = draw(jax.tree.map(lambda leaf, one=one: leaf[one], state), key=keys[one], start=STARTS[one])
        jax.tree.map(lambda a, b, one=one: np.testing.assert_array_equal(a, b[one]), alone, batched)


def test_a_lane_with_undefined_logits_says_so_and_spoils_no_other():
    state = state_of(LANES)
    broken = state | {"memory": state["memory"].at[1].set(jnp.nan)}
    rest = np.array([0, 2, 3])
    for decode in (greedy, functools.partial(sample, key=jax.random.key(0))):
        decode = functools.partial(decode, step, start=STARTS, max_length=LENGTH)
        expected, found = decode(state), decode(broken)
        assert np.isnan(found.scores).tolist() == [False, True, False, False]
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[rest], b[rest]), found, expected)


def test_extras_are_handed_back():
    """What a step was fed, zero after the end."""

    def telling(state, tokens):
        return *step(state, tokens), {"fed": tokens + 1}

    drawn = sample(
        telling,
        state_of(LANES),
        key=jax.random.key(0),
        start=STARTS,
        end=END,
        max_length=LENGTH,
        temperature=2.0,
    )
    fed = np.concatenate([np.asarray(STARTS)[:, None], np.asarray(drawn.tokens)[:, :-1]], axis=1)
    on = np.arange(LENGTH) < np.asarray(drawn.lengths)[:, None]
    assert not on.all()
    np.testing.assert_array_equal(drawn.extras["fed"], np.where(on, fed + 1, 0))


def test_one_key_draws_differently_in_every_lane():
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf, 64, axis=0), state_of(1))
    draw = functools.partial(sample, step, state, start=0, max_length=LENGTH, temperature=3.0)
    tokens = np.asarray(draw(key=jax.random.key(0)).tokens)
    assert len(np.unique(tokens, axis=0)) == 64
    np.testing.assert_array_equal(draw(key=jax.random.key(0)).tokens, tokens)
    assert (np.asarray(draw(key=jax.random.key(1)).tokens) != tokens).any(axis=1).all()


@pytest.mark.parametrize("options", [{}, CUTS[-1]], ids=str)
def test_softmax_feedback_feeds_the_distribution_of_the_draw(options):
    script = np.random.default_rng(6).normal(size=(LANES, LENGTH, VOCABULARY)).astype(np.float32)
    start, *fed = fed_by(script, start=STARTS, **options)
    np.testing.assert_array_equal(start, np.eye(VOCABULARY)[np.asarray(STARTS)])
    expected = [[restricted(row, **options) for row in rows] for rows in script[:, :-1].swapaxes(0, 1)]
    np.testing.assert_allclose(fed, expected, rtol=1e-5)


def decoder(seed: int, hidden: int = 3, lanes: int = 2):
    """A language model's step and state, all made anew."""
    model = LanguageModel(VOCABULARY, [jaxrnn.Elman(hidden)])
    params = random_like(jax.eval_shape(model.init, jax.random.key(0)), seed)
    return jax.tree_util.Partial(model.step, params), model.initial_carry((lanes,))


def test_with_softmax_feedback_no_step_learns_which_token_came():
    """Every lane draws from one sequence of distributions, found here by hand."""
    step, carry = decoder(0, lanes=20)
    drawn = sample(step, carry, key=jax.random.key(1), start=1, max_length=4, feedback="softmax")
    assert len(np.unique(drawn.tokens, axis=0)) > 10

    fed, scores = jnp.tile(jnp.eye(VOCABULARY)[1], (20, 1)), np.zeros(20)
    for tokens in np.asarray(drawn.tokens).T:
        carry, logits = jax.jit(step)(carry, fed)
        fed = jnp.exp(log_softmax(np.asarray(logits)))
        scores += np.log(fed[0])[tokens]
    np.testing.assert_allclose(drawn.scores, scores, rtol=1e-5)


def test_softmax_feedback_in_float64(float64):
    script = np.random.default_rng(6).normal(size=(LANES, 3, VOCABULARY))
    _, *fed = fed_by(script, temperature=0.7)
    np.testing.assert_allclose(fed, np.exp(log_softmax(script / 0.7))[:, :-1].swapaxes(0, 1), rtol=1e-5)


def test_equal_models_compile_once():
    _scan.jitted.clear_cache()
    for seed in range(3):
        greedy(*decoder(seed), start=0, max_length=4)
    assert _scan.jitted._cache_size() == 1
    greedy(*decoder(0, hidden=4), start=0, max_length=4)
    assert _scan.jitted._cache_size() == 2


def test_a_step_may_be_a_method_of_what_cannot_be_hashed():
    @dataclass(frozen=True)
    class Table:
        logits: jax.Array

        def step(self, state, tokens):
            return state, self.logits[tokens]

    table = Table(jnp.eye(3)[jnp.array([1, 2, 0])])
    assert greedy(table.step, jnp.zeros(1), start=0, max_length=4).tokens.tolist() == [[1, 2, 0, 1]]


def test_other_temperatures_masses_and_keys_compile_once():
    _scan.jitted.clear_cache()
    step_and_state = decoder(0)
    for i, temperature in enumerate([0.5, 1.0, 2.0]):
        options = {"temperature": temperature, "top_p": 0.3 * (i + 1), "key": jax.random.key(i)}
        sample(*step_and_state, start=i, max_length=4, **options)
    assert _scan.jitted._cache_size() == 1


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @pytest.mark.parametrize("decode", [greedy, functools.partial(sample, key=jax.random.key(0))])
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"max_length": 0}, "max_length must be a positive integer, got 0"),
            ({"state": ()}, "every leaf of state must lead with batch; got a leaf without axes, or none"),
            ({"state": {"time": 0, "memory": np.zeros((2, 5))}}, "got a leaf without axes"),
            ({"state": {"time": np.zeros(3), "memory": np.zeros((2, 5))}}, r"the same batch, got \[2, 3\]"),
            ({"start": jnp.zeros(3, int)}, r"one token or one a lane \(4\), got shape \(3,\)"),
            ({"start": jnp.zeros((4, 1), int)}, r"one token or one a lane \(4\), got shape \(4, 1\)"),
        ],
    )
    def test_either_decoder(self, decode, changed, message):
        arguments = {"state": state_of(LANES), "start": 0, "max_length": 3, **changed}
        with pytest.raises(ValueError, match=message):
            decode(step, **arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": 0.0}, r"temperature must be above 0, got 0\.0; for its limit use greedy"),
            ({"temperature": -1.0}, r"temperature must be above 0, got -1\.0"),
            ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
            ({"top_k": 0}, "top_k must be 1 or more, got 0"),
            ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0\.0"),
            ({"top_p": 1.01}, r"top_p must lie in \(0, 1\], got 1\.01"),
            ({"top_p": float("nan")}, r"top_p must lie in \(0, 1\], got nan"),
            ({"feedback": "logits"}, 'feedback must be "token" or "softmax", got \'logits\''),
            ({"key": jax.random.split(jax.random.key(0), 3)}, r"one a lane \(4\), got shape \(3,\)"),
        ],
    )
    def test_sample(self, options, message):
        options = {"key": jax.random.key(0), **options}
        with pytest.raises(ValueError, match=message):
            sample(step, state_of(LANES), start=0, max_length=3, **options)
