"""Truncated BPTT."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training.state import init_state
from jaxrnn.training.truncated import truncated_step
from tests.table import random_params, relative_error

CELL = jaxrnn.GRU(4)
BATCH, TIME, IN = 2, 5, 3


def loss(params, carry, chunk, key):
    carry, ys = jaxrnn.unroll(CELL, params, chunk, carry)
    return jnp.mean((ys - jax.random.normal(key, ys.shape)) ** 2), carry


def start(optimizer, seed=0):
    params = random_params(CELL, "float32", IN)
    return init_state(params, optimizer, CELL.initial_carry((BATCH,)), jax.random.key(seed))


def chunks(count):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal((TIME, BATCH, IN)), jnp.float32) for _ in range(count)]


def test_step_is_gradient_descent_with_the_carry_held_constant():
    """Two steps by hand: the second chunk starts where the first ended, and no gradient crosses over."""
    optimizer = optax.sgd(0.1)
    state, key = start(optimizer), jax.random.key(0)
    params, carry = jax.tree.map(jnp.copy, (state.params, state.carry))
    step = truncated_step(loss, optimizer)
    for index, chunk in enumerate(chunks(2)):
        state, metrics = step(state, chunk)
        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(
            params, carry, chunk, jax.random.fold_in(key, index)
        )
        params, carry = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), after
        assert relative_error((state.params, state.carry), (params, carry)) < 1e-5
        assert float(metrics.loss) == pytest.approx(float(value), rel=1e-5)
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
        assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-5)
        assert int(state.step) == index + 1


def test_the_truncated_gradient_is_not_the_full_one():
    """What the edge cuts off is real: differentiating through both chunks gives another gradient."""
    params, (first, second) = random_params(CELL, "float32", IN), chunks(2)
    key = jax.random.key(0)

    def cut(params):
        _, carry = loss(jax.lax.stop_gradient(params), CELL.initial_carry((BATCH,)), first, key)
        return loss(params, carry, second, key)[0]

    def whole(params):
        _, carry = loss(params, CELL.initial_carry((BATCH,)), first, key)
        return loss(params, carry, second, key)[0]

    assert relative_error(jax.grad(cut)(params), jax.grad(whole)(params)) > 1e-3


@pytest.mark.parametrize(
    ("clip", "clipped"),
    [
        (optax.clip_by_global_norm(0.01), lambda g, norm: g * min(1, 0.01 / norm)),
        (optax.clip(0.002), lambda g, norm: np.clip(g, -0.002, 0.002)),
    ],
    ids=["norm", "value"],
)
def test_clipping(clip, clipped):
    optimizer = optax.chain(clip, optax.sgd(1.0))
    state = start(optimizer)
    params = jax.tree.map(jnp.copy, state.params)
    (chunk,) = chunks(1)
    grads = jax.grad(loss, has_aux=True)(params, state.carry, chunk, jax.random.fold_in(state.key, 0))[0]
    norm = float(optax.tree.norm(grads))
    assert norm > 0.01
    state, _ = truncated_step(loss, optimizer)(state, chunk)
    expected = jax.tree.map(lambda p, g: p - clipped(np.asarray(g), norm), params, grads)
    assert relative_error(state.params, expected) < 1e-6


def test_same_key_same_run_other_key_other_run():
    optimizer = optax.adam(0.01)
    step = truncated_step(loss, optimizer)

    def run(seed):
        state = start(optimizer, seed)
        for chunk in chunks(3):
            state, _ = step(state, chunk)
        return state.params

    assert relative_error(run(0), run(0)) == 0
    assert relative_error(run(0), run(1)) > 1e-3
