"""Every cell of the table against the NumPy loop and the contract; one step, no time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cells.cell import Cell
from tests.table import CELLS, IN_FEATURES, Row, random_carry, random_params, relative_error

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}

every_cell = pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)


@every_cell
@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_step_equals_numpy(row: Row, batch_shape, dtype):
    params = random_params(row.cell, dtype)
    carry = random_carry(row.cell, batch_shape, dtype)
    x = np.random.default_rng(2).standard_normal((*batch_shape, IN_FEATURES)).astype(dtype)
    after, y = jax.jit(row.cell.step)(params, carry, x)
    assert y.shape == (*batch_shape, row.cell.out_features)
    assert jax.tree.structure(after) == jax.tree.structure(carry)

    as_float64 = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, carry, x))
    for index in np.ndindex(batch_shape):
        one = jax.tree.map(lambda a, index=index: a[index], as_float64[1])
        expected = row.reference(as_float64[0], one, as_float64[2][index])
        actual = jax.tree.map(lambda a, index=index: a[index], (after, y))
        assert relative_error(actual, expected) < TOLERANCE[dtype]


@every_cell
def test_step_keeps_the_carrys_dtypes(row: Row, dtype):
    params = random_params(row.cell, dtype)
    for carry_dtype in ("bfloat16", "float32"):
        carry = jax.tree.map(lambda a, d=carry_dtype: a.astype(d), row.cell.initial_carry((2,), dtype))
        after, y = jax.jit(row.cell.step)(params, carry, jnp.ones((2, IN_FEATURES), dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(carry_dtype)}
        assert y.dtype == dtype


@every_cell
def test_complex_step_is_the_derivative(row: Row, float64):
    """Every method of ``step`` takes complex input; the imaginary part is the directional derivative."""
    params, carry = random_params(row.cell, float64), random_carry(row.cell, (2,), float64)
    x = jax.random.normal(jax.random.key(3), (2, IN_FEATURES))
    arguments = (params, carry, x)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size) + 1.0).reshape(a.shape), arguments)
    step = jax.jit(row.cell.step)
    _, expected = jax.jvp(step, arguments, direction)
    moved = step(*jax.tree.map(lambda a, d: a + 1e-30j * d, arguments, direction))
    assert relative_error(jax.tree.map(lambda a: a.imag / 1e-30, moved), expected) < 1e-13


@every_cell
def test_init(row: Row, dtype):
    init = jax.jit(row.cell.init, static_argnums=(1, 2))
    params = init(jax.random.key(0), IN_FEATURES, dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    again = init(jax.random.key(0), IN_FEATURES, dtype)
    other = init(jax.random.key(1), IN_FEATURES, dtype)
    assert relative_error(again, params) == 0
    assert relative_error(other, params) > 0.1
    half = init(jax.random.key(0), IN_FEATURES, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}


@every_cell
def test_cells_are_values(row: Row):
    twin = dataclasses.replace(row.cell)
    assert twin == row.cell
    assert hash(twin) == hash(row.cell)


@every_cell
def test_initial_carry_has_a_buffer_per_leaf(row: Row):
    leaves = jax.tree.leaves(row.cell.initial_carry((2,)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_recurrent_weights_start_orthogonal_and_biases_zero_but_for_the_forget_gate():
    params = jaxrnn.LSTM(6, forget_bias=2.0).init(jax.random.key(0), 4)
    for gate in jnp.split(params.w_hh, 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(6), atol=1e-6)
    np.testing.assert_array_equal(params.b, np.repeat([0, 2, 0, 0], 6))


def test_lecun_normal_input_weights():
    w_ih = jaxrnn.Elman(400).init(jax.random.key(0), 100).w_ih
    assert float(jnp.std(w_ih)) == pytest.approx(0.1, rel=0.02)


def test_chrono_spans_the_memory_asked_for():
    b = jaxrnn.LSTM(1000, forget_bias=jaxrnn.Chrono(100)).init(jax.random.key(0), 2).b
    b_i, b_f, rest = b[:1000], b[1000:2000], b[2000:]
    np.testing.assert_array_equal(b_i, -b_f)
    span = jnp.exp(b_f)
    assert 1 <= float(span.min()) < 2
    assert 97 < float(span.max()) <= 99
    assert float(span.mean()) == pytest.approx(50, rel=0.1)  # uniform, not log-uniform
    np.testing.assert_array_equal(rest, 0)


def test_gates_are_those_of_the_step(float64):
    cell = jaxrnn.LSTM(5)
    params, carry = random_params(cell, float64), random_carry(cell, (2,), float64)
    x = jnp.ones((2, IN_FEATURES))
    gates = cell.gates(params, carry, x)
    after, y = cell.step(params, carry, x)
    np.testing.assert_allclose(after.c, gates["f"] * carry.c + gates["i"] * gates["g"], rtol=1e-14)
    np.testing.assert_allclose(y, gates["o"] * jnp.tanh(after.c), rtol=1e-14)

    gru = jaxrnn.GRU(5)
    params, carry = random_params(gru, float64), random_carry(gru, (2,), float64)
    gates = gru.gates(params, carry, x)
    _, y = gru.step(params, carry, x)
    np.testing.assert_allclose(y, (1 - gates["z"]) * gates["n"] + gates["z"] * carry.h, rtol=1e-14)


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @pytest.mark.parametrize("size", [0, -1, 2.5, True])
    @pytest.mark.parametrize("make", [jaxrnn.Elman, jaxrnn.LSTM, jaxrnn.GRU])
    def test_size(self, make, size):
        with pytest.raises(ValueError, match=f"hidden_size must be a positive integer, got {size}"):
            make(size)

    def test_options(self):
        with pytest.raises(ValueError, match=r"activation must be one of tanh, sigmoid, relu, got 'gelu'"):
            jaxrnn.Elman(3, activation="gelu")
        with pytest.raises(ValueError, match=r"reset must be .* got 'never'"):
            jaxrnn.GRU(3, reset="never")
        with pytest.raises(ValueError, match="Stack needs at least one cell"):
            jaxrnn.Stack([])
        with pytest.raises(ValueError, match="longest_span must be an integer of 3 or more, got 2"):
            jaxrnn.Chrono(2)

    def test_step(self):
        cell = jaxrnn.LSTM(5)
        params, carry = cell.init(jax.random.key(0), 3), cell.initial_carry((2,))
        with pytest.raises(ValueError, match=r"leaf \.w_ih should have shape \(4, 20\), got \(3, 20\)"):
            cell.step(params, carry, jnp.ones((2, 4)))
        with pytest.raises(ValueError, match=r"leaf \.h should have shape \(7, 5\), got \(2, 5\)"):
            cell.step(params, carry, jnp.ones((7, 3)))
        with pytest.raises(ValueError, match=r"expects x as floating-point .* got int32"):
            cell.step(params, carry, jnp.ones((2, 3), int))
        with pytest.raises(ValueError, match=r"expected the structure .*LSTMCarry.* got .*ElmanCarry"):
            cell.step(params, jaxrnn.Elman(5).initial_carry((2,)), jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"expected the structure .*GRUParams.* got .*LSTMParams"):
            jaxrnn.GRU(5).step(params, carry, jnp.ones((2, 3)))

    def test_a_cell_without_its_parts_says_which(self):
        class Empty(Cell):
            pass

        with pytest.raises(NotImplementedError, match="Empty does not define init"):
            Empty().init(jax.random.key(0), 3)
        assert not Empty().has_derivative
        assert not jaxrnn.Stack([jaxrnn.LSTM(2), Empty()]).has_derivative
