"""Supervised steps, and truncated BPTT."""

import contextlib
import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training.state import init_state
from jaxrnn.training.step import supervised_step, truncated_step
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


def test_a_supervised_step_is_gradient_descent_without_a_carry():
    """Two steps by hand, each with the key of its number."""

    def mean_loss(params, batch, key):
        return loss(params, None, batch, key)[0]

    optimizer, key = optax.sgd(0.1), jax.random.key(7)  # the state takes over a key of its own
    params = random_params(CELL, "float32", IN)
    state = init_state(jax.tree.map(jnp.copy, params), optimizer, (), jax.random.key(7))
    step = supervised_step(mean_loss, optimizer)
    for index, batch in enumerate(chunks(2)):
        state, metrics = step(state, batch)
        value, grads = jax.value_and_grad(mean_loss)(params, batch, jax.random.fold_in(key, index))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        assert relative_error(state.params, params) < 1e-5
        assert float(metrics.loss) == pytest.approx(float(value), rel=1e-5)
        assert float(metrics.grad_norm) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
        assert (state.carry, int(state.step)) == ((), index + 1)


def affine_loss(params, carry, chunk, key):
    """A cell without the library's: x W + b + h, and noise."""
    ys = jnp.tanh(chunk @ params["w"] + params["b"][None] + carry)
    return jnp.mean((ys - jax.random.normal(key, ys.shape, ys.dtype)) ** 2), ys


def affine(dtype="float32", place=lambda leaf, spec: leaf):
    """Parameters whole, carry and chunks split by their batch, where ``place`` places them."""
    params = {"w": jnp.full((3, 2), 0.3, dtype), "b": jnp.ones(2, dtype)}
    chunk = jnp.arange(24, dtype=dtype).reshape(8, 3) / 24
    batches = [place(leaf, jax.P("x")) for leaf in (jnp.zeros((8, 2), dtype), chunk, 2 * chunk)]
    return jax.tree.map(lambda p: place(p, jax.P()), params), batches[0], batches[1:], jax.random.key(0)


def plain_optimizer():
    schedule = optax.cosine_decay_schedule(0.1, 10)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule), optax.contrib.reduce_on_plateau()
    )


def two_steps(params, carry, chunks, key):
    optimizer = plain_optimizer()
    state, step = init_state(params, optimizer, carry, key), truncated_step(affine_loss, optimizer)
    for chunk in chunks:
        state, metrics = step(state, chunk)
    return jax.block_until_ready((state, metrics))


@functools.cache
def on_one_device(dtype):
    return two_steps(*affine(dtype))


@pytest.mark.parametrize(
    "switch",
    [
        lambda: jax.transfer_guard("disallow"),
        pytest.param(lambda: jax.numpy_rank_promotion("raise"), marks=pytest.mark.slow),
        lambda: jax.numpy_dtype_promotion("strict"),
        pytest.param(lambda: jax.debug_nans(True), marks=pytest.mark.slow),
        pytest.param(lambda: jax.check_tracer_leaks(True), marks=pytest.mark.slow),
        pytest.param(lambda: jax.disable_jit(True), marks=pytest.mark.slow),
    ],
    ids=[
        "transfer_guard",
        "rank_promotion",
        "dtype_promotion",
        "debug_nans",
        "tracer_leaks",
        "disable_jit",
    ],
)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_under_jax_s_safety_switches(switch, dtype):
    expected, given = on_one_device(dtype), affine(dtype)
    gc.freeze()  # the watch for leaks collects garbage after every trace
    with switch():
        state, metrics = two_steps(*given)
    tolerance = 1e-5 if dtype == "float32" else 0.02
    assert relative_error(state.params, expected[0].params) < tolerance
    assert float(metrics.loss) == pytest.approx(float(expected[1].loss), rel=tolerance)


def test_debug_nans_names_the_nan():
    """Not the buffers that were donated before it was found."""
    params, carry, chunks, key = affine()
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        two_steps(params, carry, [chunks[0].at[0].set(jnp.inf) * 0], key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
@pytest.mark.parametrize("current", [True, False])
def test_data_parallel_steps_are_those_of_one_device(kind, current):
    """The mesh set for all, or known by the arrays alone."""
    mesh = jax.make_mesh((4,), ("x",), (kind,))
    expected, _ = on_one_device("float32")
    given = affine(place=lambda leaf, spec: jax.device_put(leaf, jax.NamedSharding(mesh, spec)))
    with jax.set_mesh(mesh) if current else contextlib.nullcontext():
        state, metrics = two_steps(*given)
    assert relative_error(state[:3], expected[:3]) < 1e-6
    assert not state.carry.sharding.is_fully_replicated
    assert state.params["w"].sharding.is_fully_replicated
    assert metrics.loss.sharding.is_fully_replicated


@pytest.mark.slow
def test_a_recurrent_network_over_an_explicit_mesh():
    params, optimizer = random_params(CELL, "float32", IN), optax.adam(0.01)
    chunk = jnp.asarray(np.random.default_rng(0).normal(size=(TIME, 4, IN)), "float32")

    def step(place):
        own = place(jax.tree.map(jnp.copy, params), jax.P())
        carry = place(CELL.initial_carry((4,)), jax.P("x"))
        state = init_state(own, optimizer, carry, jax.random.key(0))
        return truncated_step(loss, optimizer)(state, place(chunk, jax.P(None, "x")))[0]

    expected = step(lambda tree, spec: tree)
    with jax.set_mesh(jax.make_mesh((4,), ("x",))):
        state = step(jax.device_put)
    assert relative_error(state[:3], expected[:3]) < 1e-5


def test_half_precision_with_a_gradient_whose_square_is_beyond_it():
    """The norm in float32; parameters and moments stay as they are."""
    optimizer = optax.adam(0.1)
    state = init_state(jnp.ones(4, "float16"), optimizer, (), jax.random.key(0))
    types = jax.tree.map(jnp.result_type, state)
    step = truncated_step(lambda p, c, x, k: (jnp.sum(300 * p) + x, c), optimizer)
    state, metrics = step(state, jnp.float16(0))
    assert float(metrics.grad_norm) == 600
    assert jax.tree.map(jnp.result_type, state) == types
