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
from tests.table import CELLS, IN_FEATURES, Row, random_like, random_params, relative_error
from tests.unrolling import (
    BATCH,
    BATCH_SHAPE,
    CHUNK,
    GRADIENT_TOLERANCE,
    TIME,
    TOLERANCE,
    WRAPPED,
    both_backwards,
    both_directions,
    every_cell,
    five_cells,
    modes,
    numpy_unroll,
    problem,
    unroll_with_grads,
    with_grads,
)

# Both directions and dtypes on the five cells; of the others a direction for each dtype.
every_case = pytest.mark.parametrize(
    ("row", "reverse", "dtype"),
    [
        pytest.param(row, reverse, dtype, id=f"{row.name}-{'reverse' if reverse else 'forward'}-{dtype}")
        for row in CELLS
        for dtype in ("float32", "float64")
        for reverse in (False, True)
        if row.name in WRAPPED or reverse == (dtype == "float64")
    ],
    indirect=["dtype"],
)


@every_case
def test_ragged_with_resets(row: Row, reverse, dtype):
    """In every mode the outputs of the NumPy loops, and the gradients of ``jax.grad`` through the scan."""
    arguments = problem(row.cell, dtype, BATCH_SHAPE[dtype])
    expected = numpy_unroll(row, *arguments, reverse)
    _, expected_grads = unroll_with_grads(row.cell, *arguments, reverse=reverse)
    for mode in modes(row, reverse, dtype):
        outputs, grads = unroll_with_grads(row.cell, *arguments, reverse=reverse, **mode)
        assert relative_error(outputs, expected) < TOLERANCE[dtype]
        assert relative_error(grads, expected_grads) < GRADIENT_TOLERANCE[dtype]


@every_case
def test_padding_is_never_seen(row: Row, reverse, dtype):
    """NaN at padding reaches neither output nor gradient; padding outputs and gradients are exact zeros."""
    params, xs, carry, lengths, resets = problem(row.cell, dtype, BATCH_SHAPE[dtype])
    padding = np.moveaxis(np.asarray(lengths)[..., None] <= np.arange(TIME), -1, 0)
    xs_nan = jnp.where(padding[..., None], jnp.nan, xs)
    for mode in modes(row, reverse, dtype):
        run = functools.partial(unroll_with_grads, row.cell, reverse=reverse, **mode)
        (after, ys), grads = run(params, xs, carry, lengths, resets)
        assert relative_error(run(params, xs_nan, carry, lengths, resets), ((after, ys), grads)) == 0
        assert not np.asarray(ys)[padding].any()
        assert not np.asarray(grads[1])[padding].any()
        empty = (0,) * lengths.ndim  # the sequence of length 0
        for leaf, untouched in zip(jax.tree.leaves(after), jax.tree.leaves(carry), strict=True):
            np.testing.assert_array_equal(leaf[empty], untouched[empty])


@every_cell
def test_plain(row: Row, float64):
    """Neither lengths nor resets nor carry: other code runs than with masks that are all True."""
    params, xs, *_ = problem(row.cell, float64)
    for reverse in (False, True) if row.name in WRAPPED else (False,):
        expected = numpy_unroll(row, params, xs, row.cell.initial_carry((BATCH,)), None, None, reverse)
        outputs, expected_grads = unroll_with_grads(row.cell, params, xs, reverse=reverse)
        assert relative_error(outputs, expected) < TOLERANCE[float64]
        outputs, grads = unroll_with_grads(
            row.cell, params, xs, reverse=reverse, backward="bptt", remat=CHUNK if reverse else None
        )
        assert relative_error(outputs, expected) < TOLERANCE[float64]
        assert relative_error(grads, expected_grads) < GRADIENT_TOLERANCE[float64]
        assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))


@every_cell
def test_equals_a_loop_of_steps(row: Row, float64):
    params, xs, *_ = problem(row.cell, float64)
    carry, ys = row.cell.initial_carry((BATCH,), float64), []
    for x in xs:
        carry, y = row.cell.step(params, carry, x)
        ys.append(y)
    outputs, _ = unroll_with_grads(row.cell, params, xs)
    assert relative_error(outputs, (carry, jnp.stack(ys))) < TOLERANCE[float64]


@pytest.mark.slow
@five_cells
@both_backwards
def test_under_vmap_and_scan_unroll(row: Row, backward, float64):
    """A batch is its sequences, each without batch dimensions; gradients of parameters are their sum."""
    arguments = problem(row.cell, float64)
    run = functools.partial(unroll_with_grads, row.cell, backward=backward, scan_unroll=3)
    mapped = jax.jit(jax.vmap(run, in_axes=(None, 1, 0, 0, 1), out_axes=((0, 1), (0, 1, 0))))
    outputs, (d_params, *d_others) = mapped(*arguments)
    grads = (jax.tree.map(lambda leaf: np.sum(leaf, axis=0), d_params), *d_others)
    expected, expected_grads = unroll_with_grads(row.cell, *arguments, backward=backward)
    assert relative_error(outputs, expected) < TOLERANCE[float64]
    assert relative_error(grads, expected_grads) < GRADIENT_TOLERANCE[float64]


@pytest.mark.slow
@five_cells
@both_backwards
def test_over_devices(row: Row, backward, float64):
    """``shard_map`` and sharded inputs on four host devices: same outputs, same gradients."""
    params, xs, _, lengths, resets = problem(row.cell, float64)
    mode = {"backward": backward, "remat": CHUNK}
    carry = row.cell.initial_carry((BATCH,), float64)
    expected, (*expected_grads, _) = unroll_with_grads(row.cell, params, xs, carry, lengths, resets, **mode)
    mesh = jax.make_mesh((BATCH,), ("batch",), axis_types=(AxisType.Auto,))
    over_time, over_batch = PartitionSpec(None, "batch"), PartitionSpec("batch")

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), over_time, over_batch, over_time),
        out_specs=(over_batch, over_time),
    )
    def sharded(params, xs, lengths, resets):
        return jaxrnn.unroll(row.cell, params, xs, lengths=lengths, resets=resets, **mode)

    run = jax.jit(with_grads(lambda params, xs: sharded(params, xs, lengths, resets)))
    assert relative_error(run(params, xs), (expected, expected_grads)) < 5 * TOLERANCE[float64]
    if backward == "bptt":  # without shard_map, the compiler alone splits what autodiff does
        xs = jax.device_put(xs, NamedSharding(mesh, over_time))
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        actual, (*grads, _) = unroll_with_grads(row.cell, params, xs, None, lengths, resets, **mode)
        assert relative_error((actual, grads), (expected, expected_grads)) < 5 * TOLERANCE[float64]


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


@five_cells
def test_equal_cells_compile_once(row: Row):
    """In eager use too: a cell is a value, and only its value decides."""
    params, xs, carry, lengths, _ = problem(row.cell, "float32")
    jaxrnn.unroll(row.cell, params, xs, carry, lengths=lengths)
    before = recurrence._unroll.jitted._cache_size()
    jaxrnn.unroll(dataclasses.replace(row.cell), params, xs + 1, carry, lengths=lengths * 0)
    assert recurrence._unroll.jitted._cache_size() == before
    jaxrnn.unroll(row.cell, params, xs[:2], carry)
    assert recurrence._unroll.jitted._cache_size() == before + 1


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


@five_cells
def test_bidirectional_is_two_unrolls(row: Row):
    params, xs, carry, lengths, resets = problem(row.cell, "float32")
    second = random_params(row.cell, "float32", seed=5)
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
