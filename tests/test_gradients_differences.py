"""Complex step and finite differences, against Jacobians written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.gradients import complex_step, finite_difference, random_directions
from jaxrnn.gradients.differences import AT_ONCE
from tests.table import random_params, relative_error

METHODS = {"complex step": complex_step, "finite difference": finite_difference}
both_methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
TOLERANCE = {complex_step: 4e-16, finite_difference: 1e-9}


def curve(x):
    """From three numbers to two."""
    return jnp.stack([jnp.exp(x[0]) * jnp.sin(x[1]), x[0] * x[2] ** 3])


def curve_jacobian(x):
    exp, x0, x2 = np.exp(x[0]), x[0], x[2]
    return np.array([[exp * np.sin(x[1]), exp * np.cos(x[1]), 0], [x2**3, 0, 3 * x0 * x2**2]])


@both_methods
def test_equals_a_closed_form(method, float64):
    x = np.array([0.3, -0.7, 1.1])
    actual = method(curve, x)
    assert actual.dtype == float64
    assert relative_error(actual, curve_jacobian(x)) < TOLERANCE[method]


@both_methods
def test_along_directions_it_is_the_jacobian_times_the_direction(method, float64):
    x = np.array([0.3, -0.7, 1.1])
    directions = random_directions(jax.random.key(0), x, 5)
    actual = method(curve, x, directions=directions)
    assert relative_error(actual, np.asarray(directions) @ curve_jacobian(x).T) < 10 * TOLERANCE[method]


def tree_function(x):
    h = jnp.tanh(x["layers"][0] @ x["layers"][1] + x["b"])
    return {"h": h, "sums": (jnp.sum(h * h), x["b"] * h[0])}


@both_methods
def test_of_pytrees_it_has_the_structure_of_jaxs_jacobian(method, float64):
    leaves = random_directions(jax.random.key(1), {"layers": [jnp.ones((2, 3)), jnp.ones((3, 4))]}, 1)
    x = {"layers": [leaf[0] for leaf in leaves["layers"]], "b": jnp.array(0.2)}
    actual = jax.jit(functools.partial(method, tree_function))(x)
    expected = jax.jit(jax.jacobian(tree_function))(x)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert relative_error(actual, expected) < 10 * TOLERANCE[method]


@pytest.mark.slow
@both_methods
@pytest.mark.parametrize("count", [AT_ONCE, AT_ONCE + 1])
def test_many_directions_come_in_lots(method, count, float64):
    """Of entries too: the Jacobian is diagonal."""
    x = jnp.linspace(-1, 1, count)
    slopes = np.cos(np.asarray(x))
    assert relative_error(method(jnp.sin, x), np.diag(slopes)) < TOLERANCE[method]
    directions = random_directions(jax.random.key(0), x, count)
    assert relative_error(method(jnp.sin, x, directions=directions), directions * slopes) < 1e-8


def squire_and_trapp(x):
    """The example of Squire & Trapp (1998)."""
    return x**4.5


def errors_by_step(method, steps):
    exact = 4.5 * 1.5**3.5
    step_errors = jax.jit(
        lambda steps: jax.vmap(lambda step: method(squire_and_trapp, jnp.array(1.5), step=step))(steps)
    )(jnp.array(steps))
    return np.abs(np.asarray(step_errors) - exact) / exact


def test_the_error_of_a_complex_step_is_flat(float64):
    """The step's own error is step²·|f‴/6f′|, 6e-11 at 1e-5, and below rounding from 1e-8 on."""
    errors = errors_by_step(complex_step, [10.0**-k for k in (8, 12, 20, 50, 100)])
    assert np.max(errors) < 1e-15
    (coarse,) = errors_by_step(complex_step, [1e-5])
    assert coarse == pytest.approx(3.5 * 2.5 / 6 / 1.5**2 * 1e-10, rel=1e-3)


def test_the_error_of_a_finite_difference_is_v_shaped(float64):
    """It falls with the step's square, then rises as rounding over step: a third of the digits are lost."""
    errors = errors_by_step(finite_difference, [1e-2, 1e-3, 1e-5, 1e-10, 1e-13])
    assert errors[0] == pytest.approx(100 * errors[1], rel=0.01)
    assert np.argmin(errors) == 2
    assert 1e-12 < errors[2] < 1e-9
    assert errors[3] > 1e-8
    assert errors[4] > 1e-5
    default = finite_difference(squire_and_trapp, jnp.array(1.5))
    assert float(default) == pytest.approx(4.5 * 1.5**3.5, rel=1e-9)


@both_methods
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.slow
def test_narrow_floats(method, dtype):
    """Without float64; the imaginary step is not lost in float16, whose smallest number is 6e-8."""
    x = jnp.asarray([0.25, -0.75, 1.0], dtype)
    tolerance = {"float32": 1e-6, "float16": 2e-2, "bfloat16": 0.1}[dtype]
    if method is finite_difference:
        tolerance = max(tolerance**0.5, 0.01)
    assert relative_error(method(curve, x), curve_jacobian(np.asarray(x, np.float64))) < tolerance


@both_methods
def test_numbers_of_python(method):
    assert float(method(jnp.exp, 0.0)) == pytest.approx(1, rel=1e-4)


@pytest.mark.slow
def test_at_relus_kink_the_slope_is_zero(float64):
    """By complex step and by hand; a finite difference sees the mean of both sides."""
    cell = jaxrnn.Elman(2, activation="relu")
    params = random_params(cell, float64)._replace(b=jnp.zeros(2))

    def outputs(x, backward="autodiff"):
        return jaxrnn.unroll(cell, params, x, backward=backward)[1]

    x = jnp.zeros((1, 3))
    np.testing.assert_array_equal(complex_step(outputs, x), np.zeros((1, 2, 1, 3)))
    by_hand = jax.jacrev(functools.partial(outputs, backward="bptt"))(x)
    np.testing.assert_array_equal(by_hand, np.zeros((1, 2, 1, 3)))
    assert relative_error(finite_difference(outputs, x)[0, :, 0], params.w_ih.T / 2) < 1e-9


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    @both_methods
    def test_what_is_not_real_floating_point(self, method):
        with pytest.raises(ValueError, match=r"\['n'\] should be real floating-point, got int32"):
            method(lambda x: x["a"], {"a": jnp.ones(2), "n": jnp.arange(3)})
        with pytest.raises(ValueError, match="x should be real floating-point, got complex64"):
            method(jnp.exp, jnp.ones(2, complex))

    @both_methods
    def test_a_jacobian_that_would_not_fit(self, method):
        expected = (
            r"the Jacobian of 1,000 results by 1,000 arguments would take 4,000,000 bytes, and the "
            r"limit is 3,999,999; give directions=random_directions\(key, x, count\) instead"
        )
        with pytest.raises(ValueError, match=expected):
            method(jnp.exp, jnp.ones(1000), memory_limit=3_999_999)

    @both_methods
    @pytest.mark.parametrize("step", [0.0, -1e-3, float("nan")])
    def test_a_step_that_is_not_positive(self, method, step):
        with pytest.raises(ValueError, match=f"step must be above 0, got {step}"):
            method(jnp.exp, jnp.ones(2), step=step)

    def test_a_step_too_short_for_the_dtype(self):
        with pytest.raises(ValueError, match=r"step must be 1\.2e-38 or more.*, got 1e-100"):
            complex_step(jnp.exp, jnp.ones(2), step=1e-100)

    @pytest.mark.parametrize(
        "drops", [jnp.abs, lambda x: x > 0, lambda x: x.real], ids=["abs", ">", "real"]
    )
    def test_a_function_that_drops_the_imaginary_part(self, drops):
        with pytest.raises(
            ValueError, match=r"keeps complex numbers, .* shape \(2,\) came back as .*: abs"
        ):
            complex_step(drops, jnp.ones(2))

    @both_methods
    def test_directions_unlike_x(self, method):
        def along(directions):
            return method(lambda x: x["a"] * x["b"], {"a": jnp.ones(3), "b": 1.0}, directions=directions)

        with pytest.raises(
            ValueError, match="directions should be a dict with the keys 'a', 'b', got an array"
        ):
            along(jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"\['a'\] should have shape \(2, 3\), got \(2, 4\)"):
            along({"a": jnp.ones((2, 4)), "b": jnp.ones(2)})
        with pytest.raises(ValueError, match=r"\['b'\] should have shape \(3,\), got \(2,\)"):
            along({"a": jnp.ones((3, 3)), "b": jnp.ones(2)})
