"""Beam search against enumeration, against a plain loop over lists, and against its own scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.decoding import beam_search, forced_score, greedy
from jaxrnn.decoding.search import top_k
from tests.decoding import END, LANES, STARTS, TABLE, VOCABULARY, numpy_step, sequences, state_of, step

pytestmark = pytest.mark.slow

LENGTH = 4
LEAVES = {END: 1 + 4 + 16 + 64 + 256, None: 5**4}  # of the whole tree: none but END ends a sequence early


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def by_score(found, alpha):
    return sorted(
        ((tokens, score / penalty(len(tokens), alpha)) for tokens, score in found), key=lambda f: -f[1]
    )


def plain_beam(state, lane, start, end, max_length, beam_size, alpha):
    """Lists of hypotheses; runs to ``max_length`` whatever has been found."""
    first = (int(state["time"][lane]), np.asarray(state["memory"][lane], np.float64), start)
    live, found = [((), 0.0, first)], []
    for length in range(1, max_length + 1):
        extensions = []
        for tokens, score, (time, memory, token) in live:
            time, memory, row = numpy_step(time, memory, token)
            extensions += [
                ((*tokens, next_token), score + row[next_token], (time, memory, next_token))
                for next_token in range(VOCABULARY)
            ]
        extensions.sort(key=lambda extension: -extension[1])
        for tokens, score, _ in extensions[:beam_size]:
            if tokens[-1] == end or length == max_length:
                found.append((tokens, score))
        live = [extension for extension in extensions if extension[0][-1] != end][:beam_size]
    return by_score(found, alpha)[:beam_size]


def assert_lane(beams, lane, expected, end):
    """A lane's hypotheses, in order; nothing in the slots that are left."""
    tokens, scores, lengths = (np.asarray(part[lane]) for part in beams[:3])
    count = len(expected)
    np.testing.assert_array_equal(
        lengths, [len(hypothesis) for hypothesis, _ in expected] + [0] * (len(lengths) - count)
    )
    np.testing.assert_allclose(scores[:count], [score for _, score in expected], rtol=2e-5)
    assert (scores[count:] == -np.inf).all()
    for row, length, (hypothesis, _) in zip(tokens, lengths, expected, strict=False):
        assert tuple(row[:length]) == hypothesis
    after = np.arange(tokens.shape[1]) >= lengths[:, None]
    assert (tokens[after] == (0 if end is None else end)).all()


@pytest.mark.parametrize("end", [None, END])
def test_a_beam_of_one_is_greedy(end):
    arguments = {"start": STARTS, "end": end, "max_length": 12}
    one, best = (
        beam_search(step, state_of(LANES), beam_size=1, **arguments),
        greedy(step, state_of(LANES), **arguments),
    )
    np.testing.assert_array_equal(one.tokens[:, 0], best.tokens)
    np.testing.assert_array_equal(one.lengths[:, 0], best.lengths)
    np.testing.assert_allclose(one.scores[:, 0], best.scores, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("end", [None, END])
def test_a_beam_as_wide_as_the_tree_is_enumeration(end, alpha):
    """Every sequence, in order; and empty slots, for there are more than sequences."""
    state = state_of(LANES)
    beams = beam_search(
        step,
        state,
        start=STARTS,
        end=end,
        max_length=LENGTH,
        beam_size=LEAVES[end] + 3,
        length_penalty=alpha,
    )
    for lane, start in enumerate(STARTS.tolist()):
        everything = sequences(state, lane, start, end, LENGTH)
        assert len(everything) == LEAVES[end]
        assert_lane(beams, lane, by_score(everything, alpha), end)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("beam_size", [2, 3, 5])
def test_a_narrow_beam_is_the_plain_one(beam_size, alpha):
    """Which never stops early: so stopping loses nothing."""
    arguments = {"end": END, "max_length": 8, "beam_size": beam_size}
    for seed in range(10):
        state = state_of(LANES, seed)
        beams = beam_search(step, state, start=STARTS, length_penalty=alpha, **arguments)
        for lane, start in enumerate(STARTS.tolist()):
            assert_lane(beams, lane, plain_beam(state, lane, start, alpha=alpha, **arguments), END)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), beam_size=st.sampled_from([1, 2, 4, 7]), alpha=st.floats(0, 3))
def test_every_score_is_that_of_its_tokens_and_none_is_above_the_best(seed, beam_size, alpha):
    state = state_of(LANES, seed)
    beams = beam_search(
        step, state, start=STARTS, end=END, max_length=LENGTH, beam_size=beam_size, length_penalty=alpha
    )
    for slot in range(beam_size):
        lengths = np.asarray(beams.lengths[:, slot])
        scores = forced_score(step, state, beams.tokens[:, slot], start=STARTS, lengths=lengths)
        used = lengths > 0
        np.testing.assert_allclose(
            beams.scores[used, slot], (scores / penalty(lengths, alpha))[used], rtol=1e-5
        )
    assert (np.diff(beams.scores) <= 0).all()
    for lane, start in enumerate(STARTS.tolist()):
        best = by_score(sequences(state, lane, start, END, LENGTH), alpha)[0][1]
        assert beams.scores[lane, 0] <= best * (1 - 1e-5)


search = functools.partial(beam_search, step, end=END, max_length=LENGTH, beam_size=3, length_penalty=0.6)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(LANES)))
def test_lanes_know_nothing_of_each_other(seed, order):
    """Alone, in another order, or beside a lane that breaks: the same results, bit for bit."""
    state, order = state_of(LANES, seed), np.array(order)
    beams = search(state, start=STARTS)
    permuted = search(jax.tree.map(lambda leaf: leaf[order], state), start=STARTS[order])
    assert_same(permuted, jax.tree.map(lambda leaf: leaf[order], beams))
    lane = order[:1]
    alone = search(jax.tree.map(lambda leaf: leaf[lane], state), start=STARTS[lane])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[lane], rtol=1e-6), alone, beams)
    broken = state | {"memory": state["memory"].at[order[0]].set(jnp.nan)}
    rest = order[1:]
    assert_same(
        *(jax.tree.map(lambda leaf: leaf[rest], found) for found in (search(broken, start=STARTS), beams))
    )


@pytest.mark.parametrize("wrong", [jnp.nan, -jnp.inf, jnp.inf])
def test_undefined_logits_are_reported_for_their_lane(wrong):
    state = state_of(LANES)
    state["memory"] = state["memory"].at[1].set(wrong)
    beams = search(state, start=STARTS)
    assert np.isnan(beams.scores[1]).all()
    assert (beams.lengths[1] == 0).all()
    assert np.isfinite(np.delete(beams.scores, 1, axis=0)).all()


def test_what_comes_after_a_lane_is_done_cannot_break_it():
    """Lane 0 ends at once and for sure; its state then turns to NaN while lane 1 goes on."""

    def ends_then_breaks(state, tokens):
        sure = jnp.where(jnp.arange(VOCABULARY) == END, 0.0, -jnp.inf)
        first = jnp.where(state["time"][:, None] == 0, sure, jnp.nan)
        return state | {"time": state["time"] + 1}, jnp.where(state["lane"][:, None] == 0, first, 0.0)

    state = {"time": jnp.zeros(2, int), "lane": jnp.arange(2)}
    beams = beam_search(ends_then_breaks, state, start=0, end=END, max_length=5, beam_size=2)
    assert beams.scores[0].tolist() == [0.0, -np.inf]
    assert beams.lengths.tolist() == [[1, 0], [5, 5]]


STEPS: list[int] = []


@pytest.mark.parametrize(("alpha", "steps"), [(0.0, 2), (5.0, 12)])
def test_a_search_stops_when_nothing_can_change(alpha, steps):
    """The end has 9/10 at every step, so that the two best have ended after two."""

    def mostly_ends(state, tokens):
        jax.debug.callback(lambda: STEPS.append(1))
        logits = jnp.log(jnp.full(VOCABULARY, 0.025).at[END].set(0.9))
        return state, jnp.broadcast_to(logits, (*tokens.shape, VOCABULARY))

    STEPS.clear()
    beams = beam_search(
        mostly_ends, jnp.zeros(3), start=0, end=END, max_length=12, beam_size=2, length_penalty=alpha
    )
    jax.effects_barrier()
    jax.block_until_ready(beams)
    assert len(STEPS) == steps
    assert (beams.lengths[:, 0] == 1).all()


def test_extras_and_context_follow_every_hypothesis():
    """Each step hands out what it was fed and the memory it saw: those of its hypothesis, no other's."""
    context = {"bias": jnp.asarray(TABLE[0, :LANES])}

    def telling(state, tokens, context):
        after, logits = step(state, tokens, context)
        return after, logits, {"fed": tokens, "memory": state["memory"]}

    state = state_of(LANES)
    arguments = {"start": STARTS, "end": END, "max_length": 6, "context": context}
    beams = beam_search(telling, state, beam_size=4, **arguments)
    tokens, lengths = np.asarray(beams.tokens), np.asarray(beams.lengths)
    assert len(np.unique(lengths)) > 2
    on = np.arange(6) < lengths[..., None]
    starts = np.broadcast_to(np.asarray(STARTS)[:, None, None], (LANES, 4, 1))
    fed = np.concatenate([starts, tokens[..., :-1]], axis=-1)
    np.testing.assert_array_equal(beams.extras["fed"], np.where(on, fed, 0))
    for lane, slot in np.ndindex(LANES, 4):
        time, memory = 0, np.asarray(state["memory"][lane], np.float64)
        for t in range(lengths[lane, slot]):
            np.testing.assert_allclose(beams.extras["memory"][lane, slot, t], memory, rtol=1e-5, atol=1e-6)
            time, memory, _ = numpy_step(time, memory, fed[lane, slot, t])
    assert (np.asarray(beams.extras["memory"])[~on] == 0).all()
    for slot in range(4):
        scores = forced_score(
            telling, state, tokens[:, slot], start=STARTS, lengths=lengths[:, slot], context=context
        )
        np.testing.assert_allclose(beams.scores[:, slot], scores, rtol=1e-5)
    alone = greedy(telling, state, **arguments)
    one = beam_search(telling, state, beam_size=1, **arguments)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        alone.extras,
        jax.tree.map(lambda leaf: leaf[:, 0], one.extras),
    )


def test_impossible_tokens_leave_slots_unused():
    """Two tokens are possible, and one of them ends: three sequences of up to three tokens."""
    logits = jnp.where(jnp.isin(jnp.arange(VOCABULARY), jnp.array([1, END])), 0.0, -jnp.inf)

    def two(state, tokens):
        return state, jnp.broadcast_to(logits, (*tokens.shape, VOCABULARY))

    beams = beam_search(two, jnp.zeros(1), start=0, end=END, max_length=2, beam_size=5)
    np.testing.assert_allclose(jnp.exp(beams.scores[0]), [0.5, 0.25, 0.25, 0, 0], rtol=1e-6)
    assert beams.lengths[0].tolist() == [1, 2, 2, 0, 0]
    assert beams.tokens[0, 3:].tolist() == [[END, END]] * 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 7]), st.sampled_from([2, 50, 1000]))
def test_the_largest_of_long_rows(seed, count, distinct):
    """Equal to ``jax.lax.top_k``, with many ties and impossible values too."""
    random = np.random.default_rng(seed)
    values = random.integers(0, distinct, (3, 1000)).astype(np.float32)
    values[random.random(values.shape) < random.choice([0.1, 0.5])] = -np.inf
    values[1] = -np.inf
    values[1, 7] = 1
    found, expected = top_k(jnp.asarray(values), count), jax.lax.top_k(jnp.asarray(values), count)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(*(np.where(f[0] > -np.inf, f[1], -1) for f in (found, expected)))


def test_dtypes(dtype):
    state = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim == 2 else leaf, state_of(LANES))
    assert search(state, start=STARTS).scores.dtype == dtype
    if dtype == "float64":
        beams = beam_search(step, state, start=STARTS, end=END, max_length=LENGTH, beam_size=LEAVES[END])
        for lane, start in enumerate(STARTS.tolist()):
            expected = [score for _, score in by_score(sequences(state, lane, start, END, LENGTH), 0)]
            np.testing.assert_allclose(beams.scores[lane], expected, rtol=1e-12)


def test_a_float32_model_where_float64_is_on(float64):
    assert search(state_of(LANES), start=STARTS).scores.dtype == "float32"


def test_extras_keep_their_dtypes():
    def telling(state, tokens):
        return *step(state, tokens), {"odd": tokens % 2 == 1, "token": tokens.astype("int8")}

    for decode in (greedy, functools.partial(beam_search, beam_size=2)):
        extras = decode(telling, state_of(LANES), start=0, end=END, max_length=3).extras
        assert {name: leaf.dtype.name for name, leaf in extras.items()} == {"odd": "bool", "token": "int8"}


def test_a_penalty_may_give_a_beam_of_one_another_answer_than_greedy():
    """The token 1 repeats for ever, and its long sequence passes the short one that ended."""
    table = jnp.log(jnp.array([[0.5, 0.4, 0.1], [1e-9, 1.0, 1e-9], [0.4, 0.3, 0.3]]))

    def step(state, tokens):
        return state, table[tokens]

    arguments = {"start": 0, "end": 0, "max_length": 8}
    assert greedy(step, jnp.zeros(1), **arguments).lengths.tolist() == [1]
    short = beam_search(step, jnp.zeros(1), beam_size=1, **arguments)
    long = beam_search(step, jnp.zeros(1), beam_size=1, length_penalty=1.0, **arguments)
    assert (short.lengths.item(), long.lengths.item()) == (1, 8)


def test_within_jit_and_without_lanes():
    @jax.jit
    def decode(state):
        return search(state, start=np.array(STARTS))

    assert_same(decode(state_of(LANES)), search(state_of(LANES), start=STARTS))
    assert search(state_of(0), start=0).tokens.shape == (0, 3, LENGTH)


def test_half_precision_logits_are_scored_in_float32():
    def half(state, tokens):
        state, logits = step(state, tokens)
        return state, logits.astype(jnp.bfloat16)

    assert beam_search(half, state_of(2), start=0, max_length=3, beam_size=2).scores.dtype == jnp.float32


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"beam_size": 0}, "beam_size must be a positive integer, got 0"),
            ({"max_length": -1}, "max_length must be a positive integer, got -1"),
            ({"length_penalty": -0.1}, r"length_penalty must lie in \[0, 10\], got -0\.1"),
            ({"length_penalty": float("nan")}, r"length_penalty must lie in \[0, 10\], got nan"),
            ({"end": VOCABULARY}, r"end must lie in \[0, 5\), the vocabulary, got 5"),
            ({"start": VOCABULARY}, r"start must lie in \[0, 5\), the vocabulary, got 5"),
            ({"start": jnp.array([0, 1, -1, 2])}, r"start must lie in \[0, 5\), the vocabulary, got -1"),
            ({"context": jnp.zeros(3)}, r"must lead with the batch of state, 4; got shape \(3,\)"),
        ],
    )
    def test_arguments(self, changed, message):
        arguments = {"start": 0, "max_length": 3, "beam_size": 2, **changed}
        with pytest.raises(ValueError, match=message):
            beam_search(step, state_of(LANES), **arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda state, logits: (state, logits[:, :, None]),
                r"\(4, vocabulary\), got float32 of shape \(4, 5, 1\)",
            ),
            (lambda state, logits: (state, logits[0]), r"got float32 of shape \(5,\)"),
            (lambda state, logits: (state, logits > 0), r"got bool of shape \(4, 5\)"),
            (
                lambda state, logits: (state["memory"], logits),
                "state like .*: state should be a dict with the keys 'time', 'memory', got an array",
            ),
            (
                lambda state, logits: (state | {"memory": state["memory"][:, :2]}, logits),
                r"state like the one it got: state\['memory'\] should have shape \(4, 5\), got \(4, 2\)",
            ),
            (
                lambda state, logits: (state | {"time": state["time"] * 1.0}, logits),
                r"state\['time'\] should be int32, got float32",
            ),
            (lambda state, logits: (state, logits, jnp.zeros(3)), r"lead with the lanes, 4; got \(3,\)"),
            (lambda state, logits: (state, logits, 0, 0), r"\(state, logits, extras\), got 4 results"),
            (lambda state, logits: logits, r"step must return \(state, logits\) or .*, got "),
        ],
    )
    @pytest.mark.parametrize("decode", [greedy, functools.partial(beam_search, beam_size=2)])
    def test_steps(self, decode, change, message):
        with pytest.raises(ValueError, match=message):
            decode(lambda *given: change(*step(*given)), state_of(LANES), start=0, max_length=3)
