"""Every cell of the table against the NumPy loop and the contract; one step, no time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cells.cell import Cell
from tests import reference
from tests.table import CELLS, IN_FEATURES, Row, random_carry, random_like, random_params, relative_error

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}

every_cell = pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name, scope="module")


@every_cell
def test_step_equals_numpy(row: Row, dtype):
    """With any batch dimensions."""
    params = random_params(row.cell, dtype)
    random = np.random.default_rng(2)
    problems = [
        (
            random_carry(row.cell, shape, dtype),
            jnp.asarray(random.standard_normal((*shape, IN_FEATURES)), dtype),
        )
        for shape in [(), (2,), (2, 3)]
    ]
    steps = jax.jit(lambda params, problems: [row.cell.step(params, *problem) for problem in problems])
    for (carry, x), (after, y) in zip(problems, steps(params, problems), strict=True):
        batch_shape = x.shape[:-1]
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
        after, y = jax.eval_shape(row.cell.step, params, carry, jnp.ones((2, IN_FEATURES), dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(carry_dtype)}
        assert y.dtype == dtype


@every_cell
def test_complex_step_is_the_derivative(row: Row, float64):
    """Every method of ``step`` takes complex input; the imaginary part is the directional derivative."""
    params, carry = random_params(row.cell, float64), random_carry(row.cell, (2,), float64)
    x = random_like(jnp.zeros((2, IN_FEATURES), float64), 3)
    arguments = (params, carry, x)
    direction = random_like(arguments, 4)

    @jax.jit
    def derivatives(arguments, direction):
        _, expected = jax.jvp(row.cell.step, arguments, direction)
        moved = row.cell.step(*jax.tree.map(lambda a, d: a + 1e-30j * d, arguments, direction))
        return jax.tree.map(lambda a: a.imag / 1e-30, moved), expected

    actual, expected = derivatives(arguments, direction)
    assert relative_error(actual, expected) < 1e-13


@every_cell
def test_init(row: Row, float64):
    for dtype in ("bfloat16", "float32", "float64"):
        params = jax.eval_shape(lambda dtype=dtype: row.cell.init(jax.random.key(0), IN_FEATURES, dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    init = jax.jit(lambda key: row.cell.init(key, IN_FEATURES))
    params = init(jax.random.key(0))
    assert relative_error(init(jax.random.key(0)), params) == 0
    assert relative_error(init(jax.random.key(1)), params) > 0.1


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
    cell = jaxrnn.LSTM(1000, forget_bias=jaxrnn.Chrono(100))
    b = jax.jit(lambda key: cell.init(key, 2).b)(jax.random.key(0))  # without its large weights
    b_i, b_f, rest = b[:1000], b[1000:2000], b[2000:]
    np.testing.assert_array_equal(b_i, -b_f)
    span = jnp.exp(b_f)
    assert 1 <= float(span.min()) < 2
    assert 97 < float(span.max()) <= 99
    assert float(span.mean()) == pytest.approx(50, rel=0.1)  # uniform, not log-uniform
    np.testing.assert_array_equal(rest, 0)


@pytest.mark.slow
def test_irnn_starts_as_an_elman_that_keeps_its_state():
    cell = jaxrnn.IRNN(4, scale=0.5)
    params = cell.init(jax.random.key(0), 3)
    np.testing.assert_array_equal(params.w_hh, 0.5 * np.eye(4))
    np.testing.assert_array_equal(params.b, 0)
    assert cell.activation == "relu"
    assert dataclasses.replace(cell, hidden_size=5) == jaxrnn.IRNN(5, scale=0.5)
    assert cell != jaxrnn.IRNN(4)
    carry = jaxrnn.ElmanCarry(h=jnp.arange(4.0))
    after, _ = jaxrnn.IRNN(4).step(params._replace(w_hh=2 * params.w_hh), carry, jnp.zeros(3))
    np.testing.assert_array_equal(after.h, carry.h)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_largest_slope_is_that_of_the_activation(activation, float64):
    cell = jaxrnn.Elman(1, activation=activation)
    params = jaxrnn.ElmanParams(w_ih=jnp.ones((1, 1)), w_hh=jnp.zeros((1, 1)), b=jnp.zeros(1))

    def act(z):
        return cell.step(params, jaxrnn.ElmanCarry(h=jnp.zeros(1)), z[None])[1][0]

    slopes = jax.vmap(jax.grad(act))(jnp.linspace(-3, 3, 601))
    assert float(slopes.max()) == pytest.approx(cell.largest_slope, rel=1e-12)
    assert jaxrnn.LSTM(1).largest_slope is None


@pytest.mark.slow
def test_projections_start_orthonormal():
    params = jaxrnn.ProjectedLSTM(6, projection_size=4).init(jax.random.key(0), 3)
    np.testing.assert_allclose(params.w_hr.T @ params.w_hr, np.eye(4), atol=1e-6)
    for gate in jnp.split(params.w_hh, 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-6)


@pytest.mark.slow
def test_the_forget_bias_is_that_of_the_forget_gate_in_every_lstm():
    key = jax.random.key(0)
    cells = [
        jaxrnn.PeepholeLSTM(6, forget_bias=2.0),
        jaxrnn.LayerNormLSTM(6, forget_bias=2.0),
        jaxrnn.ProjectedLSTM(6, projection_size=4, forget_bias=2.0),
    ]
    for cell in cells:
        np.testing.assert_array_equal(cell.init(key, 3).b, np.repeat([0, 2, 0, 0], 6))
    np.testing.assert_array_equal(
        jaxrnn.CoupledLSTM(6, forget_bias=2.0).init(key, 3).b, np.repeat([2, 0, 0], 6)
    )
    b = jaxrnn.CoupledLSTM(1000, forget_bias=jaxrnn.Chrono(100)).init(key, 3).b
    assert 97 < float(jnp.exp(b[:1000]).max()) <= 99
    np.testing.assert_array_equal(b[1000:], 0)


@pytest.mark.slow
def test_layer_norm_does_not_see_the_scale_of_its_products():
    cell = jaxrnn.LayerNormLSTM(5)
    params = cell.init(jax.random.key(0), IN_FEATURES)
    carry, x = random_carry(cell, (2,), "float32"), 100 * jnp.ones((2, IN_FEATURES))
    _, y = cell.step(params, carry, x)
    _, same = cell.step(params._replace(w_ih=7 * params.w_ih), carry, x)
    np.testing.assert_allclose(same, y, rtol=1e-4)
    _, zero = cell.step(params, cell.initial_carry((2,)), jnp.zeros_like(x))  # variance 0
    assert np.all(np.isfinite(zero))


@every_cell
def test_gates_lie_between_0_and_1(row: Row):
    params, carry = random_params(row.cell, "float32"), random_carry(row.cell, (2,), "float32")
    gates = row.cell.gates(params, carry, jnp.ones((2, IN_FEATURES)))
    for gate in gates.values():
        assert gate.shape[:-1] == (2,)
        assert np.all((gate > 0) & (gate < 1))


def lstm_gates(z):
    i, f, _, o = np.split(z, 4)
    return {"i": i, "f": f, "o": o}


def peephole_gates(p, h, c, x, c_after):
    z = lstm_gates(x @ p.w_ih + h @ p.w_hh + p.b)
    return {"i": z["i"] + p.p_i * c, "f": z["f"] + p.p_f * c, "o": z["o"] + p.p_o * c_after}


def coupled_gates(p, h, c, x, c_after):
    f, _, o = np.split(x @ p.w_ih + h @ p.w_hh + p.b, 3)
    return {"i": -f, "f": f, "o": o}  # 1 − σ(f) = σ(−f)


def layer_norm_gates(p, h, c, x, c_after):
    from_x, from_h = reference.normalize(x @ p.w_ih), reference.normalize(h @ p.w_hh)
    return lstm_gates(p.scale_ih * from_x + p.scale_hh * from_h + p.b)


def gru_gates(p, h, c, x, c_after):
    r, z, _ = np.split(x @ p.w_ih + p.b_ih + h @ p.w_hh + p.b_hh, 3)
    return {"r": r, "z": z}


# The pre-activations of every gate, from (params, h, c, x, c after the step).
GATES = [
    (jaxrnn.Elman(5), lambda *_: {}),
    (jaxrnn.LSTM(5), lambda p, h, c, x, _: lstm_gates(x @ p.w_ih + h @ p.w_hh + p.b)),
    (jaxrnn.PeepholeLSTM(5), peephole_gates),
    (jaxrnn.CoupledLSTM(5), coupled_gates),
    (jaxrnn.LayerNormLSTM(5), layer_norm_gates),
    (
        jaxrnn.ProjectedLSTM(5, projection_size=4),
        lambda p, h, c, x, _: lstm_gates(x @ p.w_ih + h @ p.w_hh + p.b),
    ),
    (jaxrnn.GRU(5), gru_gates),
    (jaxrnn.MGU(5), lambda p, h, c, x, _: {"f": np.split(x @ p.w_ih + h @ p.w_hh + p.b, 2)[0]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "expected"), GATES, ids=lambda value: type(value).__name__)
def test_gates_are_those_of_the_equations(cell, expected, float64):
    params, carry = random_params(cell, float64), random_carry(cell, (), float64)
    x = jnp.asarray(np.random.default_rng(2).standard_normal(IN_FEATURES))
    after, _ = cell.step(params, carry, x)
    c, c_after = getattr(carry, "c", None), getattr(after, "c", None)
    pre_activations = expected(*jax.tree.map(np.asarray, (params, carry.h, c, x, c_after)))
    gates = cell.gates(params, carry, x)
    assert gates.keys() == pre_activations.keys()
    for name, gate in gates.items():
        np.testing.assert_allclose(gate, reference.sigmoid(pre_activations[name]), rtol=1e-14)


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @pytest.mark.parametrize("size", [0, -1, 2.5, True])
    @pytest.mark.parametrize("make", [jaxrnn.Elman, jaxrnn.LSTM, jaxrnn.GRU, jaxrnn.MGU, jaxrnn.IRNN])
    def test_size(self, make, size):
        with pytest.raises(ValueError, match=f"hidden_size must be a positive integer, got {size}"):
            make(size)

    def test_options(self):
        with pytest.raises(ValueError, match=r"activation must be one of tanh, sigmoid, relu, got 'gelu'"):
            jaxrnn.Elman(3, activation="gelu")
        with pytest.raises(ValueError, match=r"reset must be .* got 'never'"):
            jaxrnn.GRU(3, reset="never")
        for scale in (0, -1.0, float("nan"), float("inf"), True, "1"):
            with pytest.raises(ValueError, match=f"scale must be a positive number, got {scale!r}"):
                jaxrnn.IRNN(3, scale=scale)
        with pytest.raises(ValueError, match="projection_size must be a positive integer, got 0"):
            jaxrnn.ProjectedLSTM(3, projection_size=0)
        for make in (jaxrnn.LSTM, jaxrnn.PeepholeLSTM, jaxrnn.CoupledLSTM, jaxrnn.LayerNormLSTM):
            with pytest.raises(ValueError, match=r"forget_bias must be a number or .* got 'one'"):
                make(3, forget_bias="one")
        with pytest.raises(ValueError, match="Stack needs at least one cell"):
            jaxrnn.Stack([])
        with pytest.raises(ValueError, match="longest_span must be an integer of 3 or more, got 2"):
            jaxrnn.Chrono(2)

    def test_step(self):
        cell = jaxrnn.LSTM(5)
        params, carry = cell.init(jax.random.key(0), 3), cell.initial_carry((2,))
        with pytest.raises(
            ValueError, match=r"^params\.w_ih should have shape \(4, 20\), got \(3, 20\); .* 4 features"
        ):
            cell.step(params, carry, jnp.ones((2, 4)))
        with pytest.raises(
            ValueError, match=r"^carry\.h should have shape \(7, 5\), got \(2, 5\); .* \(7,\)"
        ):
            cell.step(params, carry, jnp.ones((7, 3)))
        with pytest.raises(ValueError, match=r"expects x as floating-point .* got int32"):
            cell.step(params, carry, jnp.ones((2, 3), int))
        with pytest.raises(ValueError, match=r"^carry should be LSTMCarry\(h, c\), got ElmanCarry\(h\)"):
            cell.step(params, jaxrnn.Elman(5).initial_carry((2,)), jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"params should be GRUParams\(.*, b_hh\), got LSTMParams\("):
            jaxrnn.GRU(5).step(params, carry, jnp.ones((2, 3)))

    def test_a_cell_without_its_parts_says_which(self):
        class Empty(Cell):
            pass

        with pytest.raises(NotImplementedError, match="Empty does not define init"):
            Empty().init(jax.random.key(0), 3)
        assert not Empty().has_derivative
        assert not jaxrnn.Stack([jaxrnn.LSTM(2), Empty()]).has_derivative
