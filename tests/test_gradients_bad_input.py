"""What the gradient methods, and ``check`` above all, say to cells and arguments that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.gradients import check, explicit_terms, flow, rtrl, truncated
from tests.table import random_carry, random_params
from tests.test_gradients_check import BY_VALUES, FORWARD, Own, small_problem
from tests.unrolling import problem

pytestmark = pytest.mark.usefixtures("as_users_run")


def narrow(leaf):
    return leaf.astype("float32")


def first(leaf):
    return leaf[..., :1]


class Broken(jaxrnn.Elman):
    """An Elman network whose ``step`` stays as it is, whatever a test makes of ``step_fwd``."""

    def step(self, params, carry, x, noise=None):
        carry, y, _ = jaxrnn.Elman.step_fwd(self, params, carry, x, noise)
        return carry, y


def broken(method, change):
    """The cell whose ``method`` returns what ``change`` makes of its results."""
    parts = {name: getattr(Broken, name) for name in ("step", "step_fwd", "step_bwd")}
    original = getattr(Broken, method)

    def changed(*arguments):
        results = original(*arguments)
        return change(*results) if method in parts else change(results)

    return type("Broken", (Broken,), parts | {method: changed})(2)


def fails(*results):
    return jnp.ones((2, 3)) @ jnp.ones((2, 3))


BROKEN = {
    "step-count": ("step", lambda carry, y: carry, "step should return 2 results, got ElmanCarry"),
    "step-structure": (
        "step",
        lambda carry, y: (carry.h, y),
        r"step: carry should be ElmanCarry\(h\), got an array$",
    ),
    "step-dtype": (
        "step",
        lambda carry, y: (jax.tree.map(narrow, carry), y),
        r"step: carry\.h should be float64, got float32",
    ),
    "step-shape": (
        "step",
        lambda carry, y: (jax.tree.map(first, carry), y),
        r"step: carry\.h should have shape \(2, 2\), got \(2, 1\)",
    ),
    "step-y": (
        "step",
        lambda carry, y: (carry, first(y)),
        r"step: y should have shape \(2, 2\), got \(2, 1\)",
    ),
    "step-fails": ("step", fails, r"step fails: dot_general.*contracting"),
    "step_fwd-count": (
        "step_fwd",
        lambda carry, y, residuals: (carry, y),
        "step_fwd should return 3 results, got",
    ),
    "step_fwd-structure": (
        "step_fwd",
        lambda carry, y, residuals: ((carry,), y, residuals),
        r"step_fwd: carry should be ElmanCarry\(h\), got a tuple of 1",
    ),
    "step_fwd-dtype": (
        "step_fwd",
        lambda carry, y, residuals: (jax.tree.map(narrow, carry), y, residuals),
        r"step_fwd: carry\.h should be float64, got float32",
    ),
    "step_fwd-y": (
        "step_fwd",
        lambda carry, y, residuals: (carry, y[0], residuals),
        r"step_fwd: y should have shape \(2, 2\), got \(2,\)",
    ),
    "step_bwd-count": ("step_bwd", lambda d_carry, delta: d_carry, "step_bwd should return 2 results, got"),
    "step_bwd-structure": (
        "step_bwd",
        lambda d_carry, delta: (d_carry.h, delta),
        r"step_bwd: d_carry should be ElmanCarry\(h\), got an array",
    ),
    "step_bwd-shape": (
        "step_bwd",
        lambda d_carry, delta: (jax.tree.map(first, d_carry), delta),
        r"step_bwd: d_carry\.h should have shape \(2, 2\), got \(2, 1\)",
    ),
    "step_bwd-dtype": (
        "step_bwd",
        lambda d_carry, delta: (jax.tree.map(narrow, d_carry), delta),
        r"step_bwd: d_carry\.h should be float64, got float32",
    ),
    "step_bwd-delta": (
        "step_bwd",
        lambda d_carry, delta: (d_carry, first(delta)),
        "input_grads fails: dot_general",
    ),
    "input_grads-shape": (
        "input_grads",
        lambda d_xs: first(d_xs),
        r"input_grads: d_xs should have shape \(2, 2\), got \(2, 1\)",
    ),
    "input_grads-structure": (
        "input_grads",
        lambda d_xs: (d_xs,),
        r"input_grads: d_xs should be an array, got a tuple of 1",
    ),
    "param_grads-structure": (
        "param_grads",
        lambda grads: tuple(grads),
        r"param_grads: d_params should be ElmanParams\(w_ih, w_hh, b\), got a tuple of 3",
    ),
    "param_grads-shape": (
        "param_grads",
        lambda grads: grads._replace(b=first(grads.b)),
        r"param_grads: d_params\.b should have shape \(2,\), got \(1,\)",
    ),
    "param_grads-dtype": (
        "param_grads",
        lambda grads: grads._replace(w_hh=narrow(grads.w_hh)),
        r"param_grads: d_params\.w_hh should be float64, got float32",
    ),
}


@pytest.mark.parametrize(("method", "change", "match"), BROKEN.values(), ids=BROKEN)
def test_a_cell_that_breaks_the_contract(method, change, match, float64):
    cell = broken(method, change)
    params, xs = small_problem(cell)
    with pytest.raises(ValueError, match=rf"^Broken\(hidden_size=2.*\)\.{match}"):
        check(cell, params, xs)


class TestCheck:
    def raises(self, match, cell, *arguments, **options):
        with pytest.raises(ValueError, match=match):
            check(cell, *arguments, **options)

    def test_an_integer_parameter(self, float64):
        class WithCount(Own):
            def init(self, key, in_features, dtype="float32"):
                return super().init(key, in_features, dtype) | {"count": jnp.ones(2, int)}

        cell = WithCount(2)
        params = cell.init(jax.random.key(0), 2, float64)
        expected = (
            r"WithCount\(size=2\): params\['count'\] is int64, and no method differentiates what is not "
            "real floating-point; keep it in the cell's configuration"
        )
        self.raises(expected, cell, params, jnp.ones((3, 2, 2)))

    def test_a_parameter_that_is_not_used(self, float64):
        class WithBias(Own):
            def init(self, key, in_features, dtype="float32"):
                return super().init(key, in_features, dtype) | {"bias": jnp.zeros(2, dtype)}

        cell = WithBias(2)
        expected = (
            r"WithBias\(size=2\): no method \(autodiff, loop\) finds a gradient for "
            r"params\['bias'\]; does step use it\?"
        )
        self.raises(expected, cell, *small_problem(cell), leave_out=[*BY_VALUES, *FORWARD])

    def test_float32(self):
        cell = Own(2)
        params, xs = cell.init(jax.random.key(0), 2), jnp.ones((3, 2, 2))
        expected = (
            r"params\['w'\] is float32, .* in float64: call "
            r"jax\.config\.update\(\"jax_enable_x64\", True\) first, and make params with "
            r"cell\.init\(key, in_features, \"float64\"\)"
        )
        self.raises(expected, cell, params, xs)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: leaf.astype("float64"), params)
            self.raises("xs is float32", cell, params, xs)
            carry = cell.initial_carry((2,))
            self.raises("carry is float32", cell, params, xs.astype("float64"), carry)

    def test_too_large_to_move_every_entry(self, float64):
        cell = Own(100)
        expected = (
            r"have 20,502 entries, whose influence on 200 numbers of the carry takes 32,803,200 bytes; "
            r"above 20,000 give directions=N, to move along N random directions instead"
        )
        self.raises(expected, cell, *small_problem(cell, time=1, in_features=101))

    @pytest.mark.parametrize("directions", [0, 2.0, True])
    def test_directions(self, directions, float64):
        expected = f"directions must be a positive integer, got {directions}"
        self.raises(expected, Own(2), *small_problem(Own(2)), directions=directions)

    def test_methods_that_are_not_known(self, float64):
        expected = "leave_out: known are autodiff, bptt, loop, explicit_terms, .*, got bppt, cs"
        self.raises(expected, Own(2), *small_problem(Own(2)), leave_out=["cs", "bppt", "rtrl"])

    def test_what_unroll_refuses(self, float64):
        cell = Own(2)
        params, xs = small_problem(cell)
        expected = r"lengths must lie in \[0, 3\] .*, got values from 1 to 4"
        self.raises(expected, cell, params, xs, lengths=np.array([1, 4]))
        self.raises("resets must be bool", cell, params, xs, resets=jnp.ones((3, 2), int))
        self.raises("remat must be a positive integer, got 0", cell, params, xs, remat=0)

    def test_no_step(self, float64):
        params, _ = small_problem(Own(2))
        for shape in ((0, 2, 2), (3,)):
            expected = rf"with one step or more, got shape \({', '.join(map(str, shape))},?\)"
            self.raises(expected, Own(2), params, jnp.ones(shape))


METHODS = {
    "rtrl": rtrl,
    "explicit_terms": explicit_terms,
    "flow": flow,
    "truncated": lambda *arguments, **options: truncated(*arguments, steps=2, **options),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestMethods:
    cell = jaxrnn.Elman(5)

    def raises(self, match, method, **options):
        params, xs, carry, _, _ = problem(self.cell, "float32")
        with pytest.raises(ValueError, match=match):
            method(self.cell, params, xs, carry, **options)

    def test_an_empty_loss(self, method):
        self.raises("the loss is empty: give its gradient d_ys, d_carry or both", method)

    def test_weights_that_do_not_fit_the_outputs(self, method):
        ys = jnp.ones((7, 4, 5))
        self.raises(r"d_ys should have shape \(7, 4, 5\), got \(7, 4\)", method, d_ys=ys[..., 0])
        self.raises("d_ys should be floating-point, got int32", method, d_ys=ys.astype(int))
        self.raises(r"d_carry should be ElmanCarry\(h\), got an array", method, d_carry=ys[0])
        other = random_carry(self.cell, (3,), "float32")
        self.raises(r"d_carry\.h should have shape \(4, 5\), got \(3, 5\)", method, d_carry=other)

    def test_what_unroll_refuses(self, method):
        lengths = np.array([0, 8, 1, 1])
        self.raises(r"lengths must lie in \[0, 7\]", method, d_ys=jnp.ones((7, 4, 5)), lengths=lengths)
        with pytest.raises(ValueError, match=r"params should be ElmanParams\(.*, got GRUParams\("):
            method(
                self.cell, random_params(jaxrnn.GRU(5), "float32"), jnp.ones((7, 4, 3)), d_ys=jnp.ones(1)
            )


NEEDED = {
    # 20 numbers in the carries of a batch of 4, 45 parameters, 7 steps, 4 bytes each
    "rtrl": (20 * (45 + 5) * 4, "the influence matrix of RTRL", "use a smaller hidden size or batch, or"),
    "explicit_terms": (7 * 45 * 4, "the terms of 7 steps", "use a shorter sequence, or jax.grad"),
    "flow": (
        7 * 4 * 25 * 4,
        "7 Jacobians of 4 carries with 5 numbers",
        "use a shorter sequence, a smaller",
    ),
    "truncated": (2 * 20 * 4, "2 gradients of the carry", "use fewer steps or a smaller batch"),
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_would_not_fit_in_memory(name):
    cell = jaxrnn.Elman(5)
    params, xs, carry, _, _ = problem(cell, "float32")
    needed, what, instead = NEEDED[name]
    limit = needed - 1
    expected = rf"^{what} would take {needed:,} bytes, and the limit is {limit:,}; {instead}"
    with pytest.raises(ValueError, match=expected):
        METHODS[name](cell, params, xs, carry, d_carry=carry, memory_limit=limit)


def test_contract_names_the_cell_as_it_is_configured(float64):
    cell = dataclasses.replace(broken("step", fails), activation="relu")
    with pytest.raises(ValueError, match="activation='relu'"):
        check(cell, *small_problem(cell))
