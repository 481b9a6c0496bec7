"""Log-probabilities of given sequences, against a NumPy loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.decoding import forced_score
from tests.decoding import LANES, STARTS, VOCABULARY, numpy_step, state_of, step

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (LANES, 6))


def test_scores_are_sums_over_what_counts(dtype):
    """Ragged with a zero; what lies beyond the length is no token at all."""
    lengths = np.array([6, 0, 3, 1])
    state = state_of(LANES) | {"memory": state_of(LANES)["memory"].astype(dtype)}
    tokens = np.where(np.arange(6) < lengths[:, None], TOKENS, -7)
    scores = forced_score(step, state, tokens, start=STARTS, lengths=lengths)
    expected = np.zeros(LANES)
    for lane, length in enumerate(lengths):
        time, memory = int(state["time"][lane]), np.asarray(state["memory"][lane], np.float64)
        fed = int(STARTS[lane])
        for token in TOKENS[lane, :length]:
            time, memory, row = numpy_step(time, memory, fed)
            expected[lane] += row[token]
            fed = token
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, expected, rtol={"float32": 1e-5, "float64": 1e-12}[dtype])
    assert scores[1] == 0
    nothing = forced_score(step, state, np.zeros((LANES, 0), int), start=STARTS)
    np.testing.assert_array_equal(nothing, np.zeros(LANES))


def test_undefined_logits_are_reported_where_they_count():
    def breaks_at_two(state, tokens):
        state, logits = step(state, tokens)
        return state, jnp.where((state["time"] > 2)[:, None], jnp.nan, logits)

    state = state_of(LANES) | {"time": jnp.zeros(LANES, int)}
    scores = forced_score(breaks_at_two, state, TOKENS, start=STARTS, lengths=np.array([2, 3, 0, 1]))
    assert np.isnan(scores).tolist() == [False, True, False, False]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": TOKENS[0]}, r"tokens must be \(batch, time\), got shape \(6,\)"),
        ({"tokens": TOKENS[:3]}, "tokens, lengths and state must have one batch, got 3"),
        ({"tokens": TOKENS + 1}, r"tokens must lie in \[0, 5\), the vocabulary, got 5"),
        ({"lengths": np.array([1, 2, 3])}, "must have one batch"),
        ({"lengths": np.array([1, 2, 3, 7])}, r"lengths must lie in \[0, 6\], got 1 to 7"),
        ({"start": -1}, r"start must lie in \[0, 5\)"),
    ],
)
def test_bad_input(changed, message):
    arguments = {"tokens": TOKENS, "start": 0, **changed}
    with pytest.raises(ValueError, match=message):
        forced_score(step, state_of(LANES), **arguments)
