"""The contract of ``unroll``: one meaning of padding, resets, reverse and carry, however it is run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn import recurrence
from tests import reference
from tests.table import (
    CELLS,
    IN_FEATURES,
    Row,
    random_carry,
    random_like,
    random_params,
    relative_error,
)

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
TIME, BATCH = 7, 4

every_cell = pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
both_backwards = pytest.mark.parametrize("backward", ["autodiff", "bptt"])
# What compiles most runs once less.
backwards_and_dtypes = pytest.mark.parametrize(
    ("backward", "dtype"),
    [("autodiff", "float32"), ("bptt", "float32"), ("bptt", "float64")],
    indirect=["dtype"],
)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def problem(cell, dtype, batch_shape=(BATCH,), seed=0):
    """Random parameters, inputs and carry; lengths with a 0 and a full one; resets with first steps."""
    random = np.random.default_rng(seed)
    xs = jnp.asarray(random.standard_normal((TIME, *batch_shape, IN_FEATURES)), dtype)
    lengths = random.integers(0, TIME + 1, batch_shape).astype(np.int32)
    if lengths.size > 1:
        lengths.flat[0], lengths.flat[-1] = 0, TIME
    resets = random.random((TIME, *batch_shape)) < 0.3
    return (
        random_params(cell, dtype, seed=seed),
        xs,
        random_carry(cell, batch_shape, dtype, seed=seed + 1),
        jnp.asarray(lengths),
        jnp.asarray(resets),
    )


def numpy_unroll(row, params, xs, carry, lengths, resets, reverse):
    """The reference over every sequence of a batch."""
    params, xs, carry = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    initial = jax.tree.map(np.asarray, row.cell.initial_carry())
    batch_shape = xs.shape[1:-1]
    ys = np.zeros((len(xs), *batch_shape, row.cell.out_features))
    after = jax.tree.map(np.copy, carry)
    for index in np.ndindex(batch_shape):
        one, ys[(slice(None), *index)] = reference.unroll(
            row.reference,
            params,
            xs[(slice(None), *index)],
            jax.tree.map(lambda a, index=index: a[index], carry),
            initial,
            len(xs) if lengths is None else int(lengths[index]),
            np.zeros(len(xs), bool) if resets is None else resets[(slice(None), *index)],
            reverse,
            row.cell.out_features,
        )
        for leaf, value in zip(jax.tree.leaves(after), jax.tree.leaves(one), strict=True):
            leaf[index] = value
    return after, ys


@every_cell
@pytest.mark.parametrize("batch_shape", [(), (2, 2)], ids=str)
def test_any_batch_dimensions(row: Row, batch_shape, float64):
    params, xs, carry, lengths, resets = problem(row.cell, float64, batch_shape)
    expected = numpy_unroll(row, params, xs, carry, lengths, resets, False)
    actual = jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths, resets=resets)
    assert relative_error(actual, expected) < TOLERANCE[float64]


@every_cell
@both_directions
def test_equals_numpy(row: Row, reverse, dtype):
    params, xs, carry, lengths, resets = problem(row.cell, dtype)
    run = functools.partial(jaxrnn.unroll, row.cell, params, xs, reverse=reverse)
    tolerance = TOLERANCE[dtype]
    plain = numpy_unroll(row, params, xs, row.cell.initial_carry((BATCH,)), None, None, reverse)
    assert relative_error(run(), plain) < tolerance
    full = numpy_unroll(row, params, xs, carry, lengths, resets, reverse)
    assert relative_error(run(carry, lengths=lengths, resets=resets), full) < tolerance
    in_chunks = run(carry, lengths=lengths, resets=resets, remat=3)
    assert relative_error(in_chunks, full) < tolerance


@every_cell
def test_equals_a_loop_of_steps(row: Row, dtype):
    params, xs, carry, _, _ = problem(row.cell, dtype)
    step = jax.jit(row.cell.step)
    expected, ys = carry, []
    for x in xs:
        expected, y = step(params, expected, x)
        ys.append(y)
    actual = jaxrnn.unroll(row.cell, params, xs, carry)
    assert relative_error(actual, (expected, jnp.stack(ys))) < TOLERANCE[dtype]


@pytest.mark.slow
@every_cell
@backwards_and_dtypes
def test_under_jit_vmap_and_scan_unroll(row: Row, backward, dtype):
    params, xs, carry, lengths, resets = problem(row.cell, dtype)

    def run(xs, carry, lengths, resets, scan_unroll=1):
        return jaxrnn.unroll(
            row.cell, params, xs, carry, lengths=lengths, resets=resets,
            backward=backward, scan_unroll=scan_unroll,
        )  # fmt: skip

    expected = run(xs, carry, lengths, resets)
    tolerance = TOLERANCE[dtype]
    mapped = jax.jit(jax.vmap(run, in_axes=(1, 0, 0, 1), out_axes=(0, 1)))(xs, carry, lengths, resets)
    assert relative_error(mapped, expected) < tolerance
    assert relative_error(run(xs, carry, lengths, resets, scan_unroll=3), expected) < tolerance


@pytest.mark.slow
@every_cell
@backwards_and_dtypes
def test_over_devices(row: Row, backward, dtype):
    """``shard_map`` and sharded inputs on four host devices: same outputs, same gradients."""
    params, xs, _, lengths, resets = problem(row.cell, dtype)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    over_time, over_batch = PartitionSpec(None, "batch"), PartitionSpec("batch")

    def run(params, xs, lengths, resets, carry=None):
        return jaxrnn.unroll(
            row.cell, params, xs, carry, lengths=lengths, resets=resets, backward=backward, remat=3
        )

    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(), over_time, over_batch, over_time),
        out_specs=(over_batch, over_time),
    )

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_grads(run, params, xs):
        def loss(params, xs):
            after, ys = run(params, xs, lengths, resets)
            return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

        return run(params, xs, lengths, resets), jax.grad(loss, (0, 1))(params, xs)

    expected = value_and_grads(run, params, xs)
    tolerance = 5 * TOLERANCE[dtype]
    assert relative_error(value_and_grads(sharded, params, xs), expected) < tolerance
    placed = jax.device_put(xs, NamedSharding(mesh, over_time))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    actual = value_and_grads(run, params, placed)
    assert relative_error(actual, expected) < tolerance


@every_cell
@both_directions
@both_backwards
def test_padding_is_never_seen(row: Row, reverse, backward, dtype):
    """NaN at padding reaches neither output nor gradient; padding outputs and gradients are exact zeros."""
    params, xs, carry, lengths, resets = problem(row.cell, dtype)
    padding = (np.arange(TIME)[:, None] >= lengths)[..., None]

    @jax.jit
    def run(params, xs, carry):
        def loss(params, xs, carry):
            after, ys = jaxrnn.unroll(
                row.cell, params, xs, carry, lengths=lengths, resets=resets,
                reverse=reverse, backward=backward,
            )  # fmt: skip
            # The padding's outputs enter the loss, so that a leak in their gradient shows.
            return jnp.sum(jnp.cos(ys)) + sum(map(jnp.sum, jax.tree.leaves(after))), (after, ys)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)

    grads, (after, ys) = run(params, jnp.where(padding, 0, xs), carry)
    grads_nan, (after_nan, ys_nan) = run(params, jnp.where(padding, jnp.nan, xs), carry)
    assert relative_error((grads_nan, after_nan, ys_nan), (grads, after, ys)) == 0
    assert np.all(np.asarray(ys)[np.broadcast_to(padding, ys.shape)] == 0)
    assert np.all(np.asarray(grads[1])[np.broadcast_to(padding, xs.shape)] == 0)
    untouched = jax.tree.map(lambda a: a[0], (after, carry))  # the sequence of length 0
    assert relative_error(untouched[0], untouched[1]) == 0


@both_directions
def test_a_reset_at_the_edge_of_padding_and_at_the_ends(reverse):
    """Padding wins over resets; a reset at 0 drops the carry forward, and changes nothing backward."""
    cell = jaxrnn.GRU(5)
    params, xs, carry, _, _ = problem(cell, "float32", (1,))
    run = functools.partial(jaxrnn.unroll, cell, params, xs, reverse=reverse)
    lengths = jnp.array([4])
    at = lambda t: jnp.zeros((TIME, 1), bool).at[t].set(True)  # noqa: E731
    kept = run(carry, lengths=lengths)
    for t in (4, 5, TIME - 1):
        assert relative_error(run(carry, lengths=lengths, resets=at(t)), kept) < 1e-6
    first = run(carry, lengths=lengths, resets=at(0))
    expected = kept if reverse else run(lengths=lengths)
    assert relative_error(first, expected) < 1e-6


def test_resets_cut_into_independent_segments():
    cell = jaxrnn.LSTM(5)
    params, xs, _, _, _ = problem(cell, "float32", (1,))
    resets = jnp.zeros((TIME, 1), bool).at[3].set(True)
    for reverse in (False, True):
        _, ys = jaxrnn.unroll(cell, params, xs, resets=resets, reverse=reverse)
        _, head = jaxrnn.unroll(cell, params, xs[:3], reverse=reverse)
        _, tail = jaxrnn.unroll(cell, params, xs[3:], reverse=reverse)
        assert relative_error(ys, jnp.concatenate([head, tail])) < 1e-6


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    cut=st.integers(0, TIME),
    lengths=st.lists(st.integers(0, TIME), min_size=BATCH, max_size=BATCH),
    remat=st.sampled_from([None, 1, 2, TIME, 50]),
)
def test_a_sequence_may_be_cut_anywhere(cut, lengths, remat):
    """Two unrolls, the second from the first's carry, are one unroll."""
    cell = jaxrnn.LSTM(5)
    params, xs, carry, _, resets = problem(cell, "float32")
    lengths = np.array(lengths)
    whole = jaxrnn.unroll(cell, params, xs, carry, lengths=lengths, resets=resets, remat=remat)
    first, head = jaxrnn.unroll(
        cell, params, xs[:cut], carry, lengths=np.minimum(lengths, cut), resets=resets[:cut]
    )
    after, tail = jaxrnn.unroll(
        cell, params, xs[cut:], first, lengths=np.maximum(lengths - cut, 0), resets=resets[cut:]
    )
    assert relative_error((after, jnp.concatenate([head, tail])), whole) < 1e-5


def test_traced_lengths_are_clipped():
    cell = jaxrnn.Elman(5)
    params, xs, carry, _, _ = problem(cell, "float32", (2,))
    run = jax.jit(lambda lengths: jaxrnn.unroll(cell, params, xs, carry, lengths=lengths))
    expected = jaxrnn.unroll(cell, params, xs, carry, lengths=jnp.array([0, TIME]))
    assert relative_error(run(jnp.array([-3, TIME + 9])), expected) == 0


def test_lengths_of_a_narrow_type():
    cell = jaxrnn.Elman(5)
    params = random_params(cell, "float32")
    xs = jnp.ones((300, 1, IN_FEATURES))
    carry, _ = jaxrnn.unroll(cell, params, xs, lengths=np.array([100], np.int8))
    assert relative_error(carry, jaxrnn.unroll(cell, params, xs[:100])[0]) < 1e-6


def test_no_time_at_all():
    cell = jaxrnn.LSTM(5)
    params, xs, carry, _, _ = problem(cell, "float32")
    for backward in ("autodiff", "bptt"):
        after, ys = jaxrnn.unroll(cell, params, xs[:0], carry, backward=backward, remat=2)
        assert ys.shape == (0, BATCH, 5)
        assert relative_error(after, carry) == 0


@every_cell
def test_equal_cells_compile_once(row: Row):
    """In eager use too: a cell is a value, and only its value decides."""
    params, xs, carry, lengths, _ = problem(row.cell, "float32")
    jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths)
    before = recurrence._unroll._cache_size()
    jaxrnn.unroll(dataclasses.replace(row.cell), params, xs + 1, carry, lengths=lengths * 0)
    assert recurrence._unroll._cache_size() == before
    jaxrnn.unroll(row.cell, params, xs[:2], carry)
    assert recurrence._unroll._cache_size() == before + 1


def test_default_carry_and_outputs_follow_the_dtypes():
    params = random_params(jaxrnn.LSTM(5), "bfloat16")
    xs = jnp.ones((3, 2, IN_FEATURES), "bfloat16")
    carry, ys = jaxrnn.unroll(jaxrnn.LSTM(5), params, xs)
    assert (carry.h.dtype, carry.c.dtype, ys.dtype) == ("bfloat16", "float32", "bfloat16")
    params = random_params(jaxrnn.LSTM(5), "float32")
    carry, ys = jaxrnn.unroll(jaxrnn.LSTM(5), params, xs)
    assert (carry.h.dtype, carry.c.dtype, ys.dtype) == ("float32", "float32", "float32")
    carry, ys = jaxrnn.unroll(jaxrnn.LSTM(5, dtype="bfloat16"), params, xs)
    assert (carry.h.dtype, carry.c.dtype, ys.dtype) == ("float32", "float32", "bfloat16")


@every_cell
def test_bidirectional_is_two_unrolls(row: Row, dtype):
    params, xs, carry, lengths, resets = problem(row.cell, dtype)
    second = random_params(row.cell, dtype, seed=5)
    options = {"lengths": lengths, "resets": resets}
    carries, ys = jaxrnn.bidirectional(row.cell, row.cell, (params, second), xs, (carry, carry), **options)
    forward = jaxrnn.unroll(row.cell, params, xs, carry, **options)
    backward = jaxrnn.unroll(row.cell, second, xs, carry, reverse=True, **options)
    expected = ((forward[0], backward[0]), jnp.concatenate([forward[1], backward[1]], axis=-1))
    assert relative_error((carries, ys), expected) == 0


def test_noise_reaches_each_step_and_gets_no_gradient():
    """A cell that adds its noise to the input, as a user would write it: one ``step``, no derivative."""

    @dataclasses.dataclass(frozen=True)
    class Noisy(jaxrnn.Elman):
        def step(self, params, carry, x, noise=None):
            return super().step(params, carry, x if noise is None else x + noise)

    cell = Noisy(5)
    params, xs, carry, lengths, _ = problem(cell, "float32")
    noise = random_like(xs, seed=9)
    for remat in (None, 3):
        actual = jaxrnn.unroll(cell, params, xs, carry, lengths=lengths, noise=noise, remat=remat)
        expected = jaxrnn.unroll(jaxrnn.Elman(5), params, xs + noise, carry, lengths=lengths)
        assert relative_error(actual, expected) < 1e-6
    assert not cell.has_derivative  # the step is no longer the one that was derived
    reverse = jaxrnn.unroll(cell, params, xs, carry, noise=noise, reverse=True)
    expected = jaxrnn.unroll(jaxrnn.Elman(5), params, xs + noise, carry, reverse=True)
    assert relative_error(reverse, expected) < 1e-6
    stack = jaxrnn.Stack([cell, jaxrnn.Elman(5)])
    both = (params, random_params(jaxrnn.Elman(5), "float32", 5))
    _, ys = jaxrnn.unroll(stack, both, xs, noise=(noise, None))
    _, hidden = jaxrnn.unroll(jaxrnn.Elman(5), both[0], xs + noise)
    assert relative_error(ys, jaxrnn.unroll(jaxrnn.Elman(5), both[1], hidden)[1]) < 1e-6
    grad = jax.grad(lambda n: jnp.sum(jaxrnn.unroll(cell, params, xs, noise=n)[1]))(noise)
    assert np.all(np.asarray(grad) == 0)
