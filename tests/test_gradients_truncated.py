"""Truncated gradients, against truncation written out with ``stop_gradient``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.gradients import explicit_terms, truncated
from tests.table import random_like, relative_error
from tests.test_gradients_methods import UNOPTIMIZED, loss_weights, total
from tests.unrolling import TIME, both_directions, problem

CELL = jaxrnn.Elman(3)


def by_stopping(cell, params, xs, carry, weights, lengths, resets, steps, reverse):
    """For each loss, the steps anew from ``steps`` before it, the carry there taken as a constant.

    One sequence after the other, the steps that it has, no mask.
    """
    initial = jax.tree.map(lambda leaf: leaf.astype(xs.dtype), cell.initial_carry())

    def one(params, b):
        order = list(range(lengths[b]))[:: -1 if reverse else 1]
        edges = [t + 1 if reverse else t for t in order]

        def run(state, i):
            begins = edges[i] < lengths[b] and resets[edges[i], b]
            return cell.step(params, initial if begins else state, xs[order[i], b])

        states = [jax.tree.map(lambda leaf: leaf[b], carry)]
        for i in range(len(order)):
            states.append(run(states[-1], i)[0])
        value = 0.0
        for end in range(len(order)):
            start = max(0, end - steps + 1)
            state = jax.lax.stop_gradient(states[start])
            for i in range(start, end + 1):
                state, y = run(state, i)
            value += jnp.vdot(weights["d_ys"][order[end], b], y)
            if end == len(order) - 1:
                last = jax.tree.map(lambda leaf: leaf[b], weights["d_carry"])
                value += sum(map(jnp.vdot, jax.tree.leaves(last), jax.tree.leaves(state)))
        return value

    def loss(params):
        return sum(one(params, b) for b in range(len(lengths)))

    return jax.jit(jax.grad(loss), compiler_options=UNOPTIMIZED)(params)


@both_directions
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.slow
def test_equals_stopping_the_gradient(steps, reverse, float64):
    """Losses at every step, ragged lengths: padding does not count as a step."""
    params, xs, carry, _, resets = problem(CELL, float64, batch_shape=(3,))
    lengths, resets = np.array([TIME, 4, 0]), np.asarray(resets)
    weights = loss_weights(CELL, xs, carry)
    expected = by_stopping(CELL, params, xs, carry, weights, lengths, resets, steps, reverse)
    actual = truncated(
        CELL, params, xs, carry, steps=steps, lengths=lengths, resets=resets, reverse=reverse, **weights
    )
    assert relative_error(actual.gradient, expected) < 1e-13


@pytest.mark.parametrize("steps", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_of_a_loss_at_the_last_step_it_is_the_sum_of_the_last_terms(steps, float64):
    params, xs, carry, _, _ = problem(CELL, float64)
    d_carry = random_like(carry, seed=12)
    terms = explicit_terms(CELL, params, xs, carry, d_carry=d_carry)
    actual = truncated(CELL, params, xs, carry, steps=steps, d_carry=d_carry)
    assert relative_error(actual.gradient, jax.tree.map(lambda leaf: leaf[-steps:].sum(0), terms)) < 1e-13


@pytest.mark.slow
def test_without_truncation_it_is_the_gradient(float64):
    """More steps than there are; the angle is zero to rounding, not to the root of it."""
    params, xs, carry, lengths, resets = problem(CELL, float64)
    weights = loss_weights(CELL, xs, carry)
    options = {"lengths": lengths, "resets": resets}

    def loss(params):
        last, ys = jaxrnn.unroll(CELL, params, xs, carry, **options)
        return total(weights, last, ys)

    actual = truncated(CELL, params, xs, carry, steps=TIME + 2, **options, **weights)
    assert relative_error(actual.gradient, jax.grad(loss)(params)) < 1e-13
    assert float(actual.angle) < 1e-12
    assert float(actual.norm_ratio) == pytest.approx(1, abs=1e-13)


@pytest.mark.slow
def test_angle_and_ratio(float64):
    """Against the arc cosine, for a truncation that matters."""
    params, xs, carry, _, _ = problem(CELL, float64)
    weights = loss_weights(CELL, xs, carry)
    short, full = (truncated(CELL, params, xs, carry, steps=steps, **weights) for steps in (1, TIME))
    a, b = (np.concatenate([np.ravel(leaf) for leaf in found.gradient]) for found in (short, full))
    norms = np.linalg.norm(a), np.linalg.norm(b)
    assert float(short.angle) == pytest.approx(np.degrees(np.arccos(a @ b / (norms[0] * norms[1]))))
    assert float(short.angle) > 5
    assert float(short.norm_ratio) == pytest.approx(norms[0] / norms[1])


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_steps_must_be_a_positive_integer(steps):
    params, xs, carry, _, _ = problem(CELL, "float32")
    with pytest.raises(ValueError, match=f"steps must be a positive integer, got {steps!r}"):
        truncated(CELL, params, xs, carry, steps=steps, d_carry=carry)
