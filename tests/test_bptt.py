"""The hand-derived derivative against ``jax.grad``: every parameter, every input, the initial carry."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests.table import CELLS, Row, random_carry, random_like, random_params, relative_error
from tests.unrolling import (
    BATCH,
    assert_agree,
    five_cells,
    problem,
    unroll_with_grads,
    weighted,
)

TWO_WAYS = [row for row in CELLS if row.name in {"elman", "elman-relu", "elman-sigmoid", "lstm"}]


@pytest.mark.slow
@pytest.mark.parametrize("row", TWO_WAYS, ids=lambda row: row.name)
def test_bidirectional_two_layers(row: Row, float64):
    params, xs, _, lengths, _ = problem(row.cell, float64)
    wide = 2 * row.cell.out_features
    layers = (
        (params, random_params(row.cell, float64, seed=3)),
        tuple(random_params(row.cell, float64, wide, seed) for seed in (4, 5)),
    )

    def run(backward, layers, xs):
        for params in layers:
            carries, xs = jaxrnn.bidirectional(
                row.cell, row.cell, params, xs, lengths=lengths, backward=backward
            )
        return carries, xs

    assert_agree(run, (layers, xs), float64)


@pytest.mark.slow
@five_cells
def test_second_order(row: Row, float64):
    """Reverse over reverse through the analytic rule equals reverse over forward through the scan."""
    params, xs, carry, lengths, _ = problem(row.cell, float64)
    direction = random_like(params, seed=8)

    def loss(params, backward):
        after, ys = jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths, backward=backward)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

    @jax.jit
    def by_reverse(params):
        def slope(params):
            grads = jax.grad(loss)(params, "bptt")
            return sum(map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(direction)))

        return jax.grad(slope)(params)

    @jax.jit
    def by_forward(params):
        return jax.jvp(lambda p: jax.grad(loss)(p, "autodiff"), (params,), (direction,))[1]

    assert relative_error(by_reverse(params), by_forward(params)) < 1e-11


@pytest.mark.slow
@five_cells
def test_against_central_differences(row: Row, float64):
    """Neither autodiff nor the scan's transpose is involved; relu's kink is far enough away."""
    params, xs, carry, lengths, resets = problem(row.cell, float64)
    run = functools.partial(unroll_with_grads, row.cell, lengths=lengths, resets=resets, backward="bptt")
    _, grads = run(params, xs, carry)
    step = 1e-5
    for seed in range(3):
        direction = random_like((params, xs, carry), seed=seed)

        def loss(moved, direction=direction):
            outputs, _ = run(*jax.tree.map(lambda a, d: a + moved * d, (params, xs, carry), direction))
            return float(weighted(outputs))

        expected = (loss(step) - loss(-step)) / (2 * step)
        actual = sum(map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(direction)))
        assert float(actual) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_forward_mode_raises_jaxs_own_error():
    cell = jaxrnn.LSTM(5)
    params, xs, _, _, _ = problem(cell, "float32")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda xs: jaxrnn.unroll(cell, params, xs, backward="bptt")[1], (xs,), (xs,))


def resized(cell, size, dtype):
    """The cell with ``size`` hidden units in ``dtype``; so are those that it stacks or wraps."""
    changes = {
        "hidden_size": lambda _: size,
        "dtype": lambda _: dtype,
        "cell": lambda inner: resized(inner, size, dtype),
        "cells": lambda inner: tuple(resized(layer, size, dtype) for layer in inner),
    }
    changes = {name: change for name, change in changes.items() if hasattr(cell, name)}
    return dataclasses.replace(
        cell, **{name: change(getattr(cell, name)) for name, change in changes.items()}
    )


@pytest.mark.slow
@five_cells
def test_float32_is_no_less_accurate_than_autodiff(row: Row):
    """After 200 steps no error against float64 is above four times the plain scan's; with ``remat`` too."""
    params32 = jax.tree.map(np.asarray, row.cell.init(jax.random.key(0), 3))

    def grad(backward, remat, dtype):
        with jax.enable_x64(dtype == "float64"):
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), params32)
            xs = np.random.default_rng(0).standard_normal((200, BATCH, 3)).astype(dtype)

            def loss(params, xs):
                _, ys = jaxrnn.unroll(row.cell, params, xs, backward=backward, remat=remat)
                return jnp.mean(ys**2)

            return jax.tree.map(np.asarray, jax.grad(loss, argnums=(0, 1))(params, jnp.asarray(xs)))

    exact = grad("autodiff", None, "float64")
    plain, ours = (
        jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), found, exact))
        for found in (grad("autodiff", None, "float32"), grad("bptt", 14, "float32"))
    )
    assert max(ours) <= 4 * max(plain)


@pytest.mark.slow
@five_cells
def test_bfloat16_compute(row: Row):
    """Weight gradients within 1 % of float64 after 512 steps: they are summed in the parameters' dtype."""
    size = 8
    exact_cell, cell = (resized(row.cell, size, dtype) for dtype in (None, "bfloat16"))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def grad(cell, backward, params, xs):
        def loss(params):
            _, ys = jaxrnn.unroll(cell, params, xs, backward=backward)
            return jnp.mean(jnp.square(ys.astype(xs.dtype)))

        return jax.grad(loss)(params)

    xs = np.random.default_rng(0).standard_normal((512, BATCH, size)).astype(np.float32)
    drawn = jax.jit(exact_cell.init, static_argnums=1)(jax.random.key(0), size)
    biased = random_like(drawn, 0, scale=0.15)
    params = jax.tree.map(lambda w, b: w if w.ndim == 2 else b, drawn, biased)
    # Weights that bfloat16 holds: what differs is then the computation alone.
    params = jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), params)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs))
        expected = grad(exact_cell, "autodiff", *exact)
    for backward in ("autodiff", "bptt"):
        actual = grad(cell, backward, params, xs)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert a.dtype == "float32"
            # Biases sum what partly cancels; the bound that is promised is for the weights.
            assert relative_error(a, b) < (0.01 if a.ndim == 2 else 0.02)


@pytest.mark.slow
def test_the_gradient_of_a_long_padded_batch_is_that_of_its_sequences():
    """Gradients of a ragged batch equal the sum over its sequences run alone, without padding."""
    cell = jaxrnn.GRU(5)
    params, xs, _, lengths, _ = problem(cell, "float32")

    def loss(params, xs, lengths=None):
        _, ys = jaxrnn.unroll(cell, params, xs, lengths=lengths, backward="bptt")
        return jnp.sum(jnp.sin(ys))

    together = jax.grad(loss)(params, xs, lengths)
    alone = [jax.grad(loss)(params, xs[: int(n), b : b + 1]) for b, n in enumerate(lengths) if n]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *alone)
    assert relative_error(together, expected) < 1e-5


@pytest.mark.slow
@five_cells
def test_bfloat16_parameters(row: Row):
    """Parameters narrower than the inputs: gradients in the parameters' dtype, and as autodiff's."""
    params = random_params(row.cell, "bfloat16")
    _, xs, carry, lengths, _ = problem(row.cell, "float32")

    _, expected = unroll_with_grads(row.cell, params, xs, carry, lengths)
    _, actual = unroll_with_grads(row.cell, params, xs, carry, lengths, backward="bptt")
    assert jax.tree.map(lambda a: a.dtype, actual) == jax.tree.map(lambda a: a.dtype, expected)
    assert relative_error(actual, expected) < 0.02  # autodiff rounds at every step


def test_initial_carry_of_other_dtype_keeps_its_gradient_dtype():
    cell = jaxrnn.LSTM(5)
    params, xs, _, _, _ = problem(cell, "float32")
    carry = random_carry(cell, (BATCH,), "bfloat16")
    for backward in ("autodiff", "bptt"):
        grad = jax.grad(lambda c, b=backward: jnp.sum(jaxrnn.unroll(cell, params, xs, c, backward=b)[1]))(
            carry
        )
        assert grad.h.dtype == "bfloat16"
        assert grad.c.dtype == "float32"
