"""The hand-derived derivative against ``jax.grad``: every parameter, every input, the initial carry."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests.table import CELLS, IN_FEATURES, Row, random_carry, random_like, random_params, relative_error
from tests.test_recurrence import BATCH, both_directions, every_cell, problem

TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


def gradients(run, arguments):
    """Gradients of a loss in which every output and every leaf of the carry has a weight of its own."""

    def loss(*arguments):
        outputs = jax.tree.leaves(run(*arguments))
        weights = random_like(outputs, seed=7)
        return sum(jnp.sum(jnp.sin(y) * w) for y, w in zip(outputs, weights, strict=True))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))(*arguments)


def assert_agree(run, arguments, dtype):
    """``run(backward, *arguments)`` has the same gradients in both modes."""
    expected = gradients(functools.partial(run, "autodiff"), arguments)
    actual = gradients(functools.partial(run, "bptt"), arguments)
    assert relative_error(actual, expected) < TOLERANCE[dtype]
    return actual


@every_cell
def test_plain(row: Row, dtype):
    params, xs, carry, _, _ = problem(row.cell, dtype)

    def run(backward, params, xs, carry):
        return jaxrnn.unroll(row.cell, params, xs, carry, backward=backward)

    grads = assert_agree(run, (params, xs, carry), dtype)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))


@every_cell
@both_directions
@pytest.mark.parametrize("remat", [None, 3])
def test_ragged_with_resets(row: Row, reverse, remat, dtype):
    """Lengths 0 and full, resets, and chunks that do not divide the time."""
    params, xs, carry, lengths, resets = problem(row.cell, dtype)

    def run(backward, params, xs, carry):
        return jaxrnn.unroll(
            row.cell, params, xs, carry, lengths=lengths, resets=resets,
            reverse=reverse, backward=backward, remat=remat,
        )  # fmt: skip

    assert_agree(run, (params, xs, carry), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("row", CELLS[:4], ids=lambda row: row.name)
def test_bidirectional_two_layers(row: Row, dtype):
    params, xs, _, lengths, _ = problem(row.cell, dtype)
    wide = 2 * row.cell.out_features
    layers = (
        (params, random_params(row.cell, dtype, seed=3)),
        tuple(random_params(row.cell, dtype, wide, seed) for seed in (4, 5)),
    )

    def run(backward, layers, xs):
        for params in layers:
            carries, xs = jaxrnn.bidirectional(
                row.cell, row.cell, params, xs, lengths=lengths, backward=backward
            )
        return carries, xs

    assert_agree(run, (layers, xs), dtype)


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("batch_shape", [(), (2, 2)], ids=str)
def test_any_batch_dimensions(row: Row, batch_shape, float64):
    params, xs, carry, lengths, resets = problem(row.cell, float64, batch_shape)

    def run(backward, params, xs, carry):
        return jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths, resets=resets, backward=backward)

    assert_agree(run, (params, xs, carry), float64)


@pytest.mark.slow
@every_cell
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
@every_cell
def test_against_central_differences(row: Row, float64):
    """Neither autodiff nor the scan's transpose is involved; relu's kink is far enough away."""
    params, xs, carry, lengths, resets = problem(row.cell, float64)

    @functools.partial(jax.jit, static_argnames="backward")
    def loss(params, xs, carry, backward="autodiff"):
        after, ys = jaxrnn.unroll(
            row.cell, params, xs, carry, lengths=lengths, resets=resets, backward=backward
        )
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

    grads = jax.grad(functools.partial(loss, backward="bptt"), (0, 1, 2))(params, xs, carry)
    for seed in range(3):
        direction = random_like((params, xs, carry), seed=seed)
        step = 1e-5

        def moved(sign, direction=direction, step=step):
            return jax.tree.map(lambda a, d: a + sign * step * d, (params, xs, carry), direction)

        expected = (loss(*moved(1)) - loss(*moved(-1))) / (2 * step)
        actual = sum(map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(direction)))
        assert float(actual) == pytest.approx(float(expected), rel=1e-7, abs=1e-7)


def test_forward_mode_raises_jaxs_own_error():
    cell = jaxrnn.LSTM(5)
    params, xs, _, _, _ = problem(cell, "float32")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda xs: jaxrnn.unroll(cell, params, xs, backward="bptt")[1], (xs,), (xs,))


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
def test_bfloat16_compute(row: Row, backward):
    """Weight gradients within 1 % of float64 after 512 steps: they are summed in the parameters' dtype."""

    def make(dtype):
        layers = getattr(row.cell, "cells", (row.cell,))
        layers = [dataclasses.replace(layer, hidden_size=32, dtype=dtype) for layer in layers]
        return jaxrnn.Stack(layers) if len(layers) > 1 else layers[0]

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def grad(cell, dtype, params, xs):
        def loss(params):
            _, ys = jaxrnn.unroll(cell, params, xs, backward=backward)
            return jnp.mean(jnp.square(ys.astype(dtype)))

        return jax.grad(loss)(params)

    xs = np.random.default_rng(0).standard_normal((512, BATCH, IN_FEATURES)).astype(np.float32)
    drawn = make(None).init(jax.random.key(0), IN_FEATURES)
    biased = random_like(drawn, 0, scale=0.15)
    params = jax.tree.map(lambda w, b: w if w.ndim == 2 else b, drawn, biased)
    # Weights that bfloat16 holds: what differs is then the computation alone.
    params = jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), params)
    actual = grad(make("bfloat16"), "float32", params, xs)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: a.astype(np.float64), (params, xs))
        expected = grad(make(None), "float64", *exact)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == "float32"
        # Biases sum what partly cancels; the bound that is promised is for the weights.
        assert relative_error(a, b) < (0.01 if a.ndim == 2 else 0.02)


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
@every_cell
def test_bfloat16_parameters(row: Row):
    """Parameters narrower than the inputs: gradients in the parameters' dtype, and as autodiff's."""
    params = random_params(row.cell, "bfloat16")
    _, xs, carry, lengths, _ = problem(row.cell, "float32")

    def run(backward, params, xs, carry):
        return jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths, backward=backward)

    expected = gradients(functools.partial(run, "autodiff"), (params, xs, carry))
    actual = gradients(functools.partial(run, "bptt"), (params, xs, carry))
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
