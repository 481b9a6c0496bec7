"""What is recorded of a layer, against loops in NumPy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.attention import Additive
from jaxrnn.diagnostics import integrated_gradients, record
from jaxrnn.models.seq2seq import Seq2Seq
from tests.table import random_like, relative_error
from tests.unrolling import TIME, TOLERANCE, both_directions, five_cells, problem


def numpy_signals(row, params, xs, carry, lengths, resets, reverse):
    """Carries and gates of every step of every sequence; zero at padding, as the outputs."""
    params, xs, carry = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    leaves, structure = jax.tree.flatten(carry)
    initial = jax.tree.map(np.asarray, row.cell.initial_carry())
    before, after = [[np.zeros((TIME, *leaf.shape)) for leaf in leaves] for _ in range(2)]
    for lane, length in enumerate(lengths):
        now = structure.unflatten([leaf[lane] for leaf in leaves])
        for t in reversed(range(length)) if reverse else range(length):
            starts_anew = t + 1 < length and resets[t + 1, lane] if reverse else resets[t, lane]
            given = initial if starts_anew else now
            now, _ = row.reference(params, given, xs[t, lane])
            now = structure.unflatten(jax.tree.leaves(now))
            for kept, tree in ((before, given), (after, now)):
                for leaf, value in zip(kept, jax.tree.leaves(tree), strict=True):
                    leaf[t, lane] = value
    # The gates' own tests are elsewhere: here it matters which carry and input they are given.
    given = jax.tree.map(jnp.asarray, (params, structure.unflatten(before), xs))
    real = np.arange(TIME)[:, None, None] < lengths[:, None]
    gates = {name: np.where(real, gate, 0) for name, gate in row.cell.gates(*given).items()}
    return structure.unflatten(after), gates


@five_cells
@both_directions
def test_every_step_is_that_of_a_loop(row, reverse, dtype):
    params, xs, carry, lengths, resets = problem(row.cell, dtype)
    options = {"lengths": lengths, "resets": resets, "reverse": reverse}
    after, ys, signals = record(row.cell, params, xs, carry, **options)
    expected_after, expected_ys = jaxrnn.unroll(row.cell, params, xs, carry, **options)
    assert relative_error((after, ys), (expected_after, expected_ys)) < TOLERANCE[dtype]
    with jax.enable_x64(True):
        expected = numpy_signals(row, params, xs, carry, *map(np.asarray, (lengths, resets)), reverse)
    assert relative_error(signals, expected) < TOLERANCE[dtype]


def test_chunks_continue_each_other(float64):
    cell = jaxrnn.LSTM(5)
    params, xs, carry, _, resets = problem(cell, float64)
    whole = record(cell, params, xs, carry, resets=resets)
    middle, *first = record(cell, params, xs[:3], carry, resets=resets[:3])
    last, *second = record(cell, params, xs[3:], middle, resets=resets[3:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    assert relative_error((last, *joined), whole) < 1e-15


def test_a_cell_of_ones_own_is_recorded_without_gates():
    class Counter(jaxrnn.Cell):
        out_features = 1

        def init(self, key, in_features, dtype=jnp.float32):
            return jnp.ones(1, dtype)

        def initial_carry(self, batch_shape=(), dtype=jnp.float32):
            return jnp.zeros((*batch_shape, 1), dtype)

        def step(self, params, carry, x, noise=None):
            return carry + params, carry

    carry, ys, signals = record(Counter(), jnp.ones(1), jnp.zeros((3, 2, 1)), lengths=jnp.array([3, 1]))
    assert carry[:, 0].tolist() == [3, 1]
    assert signals.gates == {}
    assert signals.carry[..., 0].T.tolist() == [[1, 2, 3], [1, 0, 0]]
    assert ys[..., 0].T.tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("attention", [pytest.param(None, marks=pytest.mark.slow), Additive(4)])
@pytest.mark.slow
def test_both_parts_of_a_translator(attention, dtype):
    """Logits as ever; the decoder's states are those of its own steps; h = o tanh(c) in every layer."""
    cells = [jaxrnn.LSTM(5), jaxrnn.LSTM(5)]
    model = Seq2Seq(6, 7, cells, embedding_size=3, direction="bidirectional", attention=attention)
    params = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), dtype)), 1)
    random, lengths, of_target = np.random.default_rng(0), np.array([4, 0, 3]), np.array([5, 2, 0])
    source, fed = random.integers(0, 6, (4, 3)), random.integers(0, 7, (5, 3))
    logits, reading, writing = model.record(params, source, fed, source_lengths=lengths, lengths=of_target)
    encoded = model.encode(params, source, lengths=lengths)
    real = np.arange(5)[:, None] < of_target
    expected = model.logits(params, encoded, fed, lengths=of_target)
    assert relative_error(logits, expected) < TOLERANCE[dtype]
    carry = encoded.carry
    for t, tokens in enumerate(fed):
        carry, _, _ = model.step(params, carry, tokens, encoded.memory)
        for layer, state in zip(writing, carry.cell if attention else carry, strict=True):
            found = jax.tree.map(lambda leaf, t=t: leaf[t][real[t]], layer.carry)
            stepped = jax.tree.map(lambda leaf, t=t: leaf[real[t]], state)
            assert relative_error(found, stepped) < TOLERANCE[dtype]
    for layer in [*writing, *(way for both in reading for way in both)]:
        products = layer.gates["o"] * jnp.tanh(layer.carry.c)
        assert relative_error(layer.carry.h, products) < TOLERANCE[dtype]
        assert np.asarray(layer.gates["f"]).any()


def test_bad_input_is_refused_as_by_unroll():
    cell = jaxrnn.GRU(3)
    params = cell.init(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="lengths must"):
        record(cell, params, jnp.zeros((4, 1, 2)), lengths=jnp.array([5]))


def test_integrated_gradients_of_a_polynomial(float64):
    """∫ 3 (x′ + α d)² dα · d = (x² + x x′ + x′²) d."""
    random = np.random.default_rng(0)
    x, start = random.standard_normal((2, 4, 3))
    found = integrated_gradients(lambda x: jnp.sum(x**3), jnp.asarray(x), jnp.asarray(start), points=2)
    np.testing.assert_allclose(found, (x**2 + x * start + start**2) * (x - start), rtol=1e-12)


def test_integrated_gradients_add_up_to_what_the_inputs_changed(dtype):
    cell = jaxrnn.GRU(5)
    params, xs, carry, _, _ = problem(cell, dtype)

    def output(xs):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, carry, backward="bptt")[1][-1, :, 0])

    found = integrated_gradients(output, xs, jnp.zeros_like(xs))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.sum(), output(xs) - output(0 * xs), rtol=10 * TOLERANCE[dtype])
    with pytest.raises(ValueError, match="points must be a positive integer, got 0"):
        integrated_gradients(output, xs, xs, points=0)
