"""Attention against NumPy loops; padding; gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.attention import Additive, Dot, General, attend
from jaxrnn.gradients import finite_difference
from tests.table import random_like

BATCH, SOURCE, QUERY, MEMORY = 3, 5, 4, 6
MASK = np.arange(SOURCE) < np.array([5, 2, 0])[:, None]
KINDS = {"additive": (Additive(7), MEMORY), "general": (General(), MEMORY), "dot": (Dot(), QUERY)}


@pytest.fixture(params=KINDS)
def given(request, dtype):
    """Attention, its parameters, a query and a memory, all random."""
    attention, features = KINDS[request.param]
    params = random_like(
        jax.eval_shape(lambda key: attention.init(key, QUERY, features, dtype), jax.random.key(0)), 0
    )
    random = np.random.default_rng(1)
    query = jnp.asarray(random.normal(size=(BATCH, QUERY)), dtype)
    return attention, params, query, jnp.asarray(random.normal(size=(BATCH, SOURCE, features)), dtype)


def score(attention, params, query: np.ndarray, vector: np.ndarray) -> float:
    """One score, by its definition."""
    match attention:
        case Additive():
            return float(np.tanh(query @ params.w_query + vector @ params.w_key) @ params.v)
        case General():
            return float(query @ (vector @ params.w_key))
        case _:
            return float(query @ vector)


def run(attention, params, query, memory, mask=None):
    return attend(attention.scores(params, query, attention.keys(params, memory)), memory, mask)


def test_equals_numpy(given, dtype):
    attention, params, query, memory = given
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, query, memory))
    context, weights = run(*given, jnp.asarray(MASK))
    assert context.dtype == weights.dtype == dtype
    expected_weights, expected = np.zeros((BATCH, SOURCE)), np.zeros(memory.shape[::2])
    for lane, length in enumerate(MASK.sum(1)):
        if length:
            scores = [score(attention, wide[0], wide[1][lane], wide[2][lane, j]) for j in range(length)]
            expected_weights[lane, :length] = np.exp(scores) / np.sum(np.exp(scores))
            expected[lane] = expected_weights[lane] @ wide[2][lane]
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(weights, expected_weights, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(context, expected, rtol=tolerance, atol=tolerance)


def test_padding_gets_exactly_nothing_and_gives_nothing(given, dtype):
    attention, params, query, memory = given
    expected, _ = run(*given, jnp.asarray(MASK))
    spoilt = jnp.where(MASK[..., None], memory, jnp.nan)
    context, weights = run(attention, params, query, spoilt, jnp.asarray(MASK))
    np.testing.assert_array_equal(context, expected)
    assert (weights[~MASK] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), [1, 1, 0], rtol=1e-6)


def test_no_score_is_too_high():
    context, weights = attend(jnp.array([1e4, -1e4, 1e4, -jnp.inf]), jnp.eye(4))
    assert weights.tolist() == context.tolist() == [0.5, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_gradients_against_finite_differences(kind, float64):
    attention, features = KINDS[kind]
    shape = jax.eval_shape(lambda key: attention.init(key, QUERY, features, float64), jax.random.key(0))
    random = np.random.default_rng(1)
    query, memory = random.normal(size=(BATCH, QUERY)), random.normal(size=(BATCH, SOURCE, features))
    arguments = (random_like(shape, 0), jnp.asarray(query), jnp.asarray(memory))

    @jax.jit
    def loss(arguments):
        context, weights = run(attention, *arguments, jnp.asarray(MASK))
        return jnp.sum(jnp.sin(context)) + jnp.sum(weights**2)

    found, expected = jax.grad(loss)(arguments), finite_difference(loss, arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), found, expected)
    assert (found[2][~MASK] == 0).all()


@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    with pytest.raises(ValueError, match="size must be a positive integer, got 0"):
        Additive(0)
    with pytest.raises(
        ValueError, match="queries and memories of equal features, got 3 and 5; General and"
    ):
        Dot().init(jax.random.key(0), 3, 5)
