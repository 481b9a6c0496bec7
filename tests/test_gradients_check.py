"""Does ``check`` pass what is right, find what is wrong, and say what is at fault?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.gradients import GradientError, check, compare
from tests.table import random_params
from tests.unrolling import TIME, problem

BY_VALUES = ("complex_step", "finite_difference")  # of the function, without a rule of differentiation
FORWARD = ("rtrl", "explicit_terms")
EXACT = ("autodiff", "bptt", "loop", "explicit_terms", "rtrl", "complex_step")


def small_problem(cell, time=3, batch=2, in_features=2):
    params = random_params(cell, "float64", in_features)
    xs = np.random.default_rng(5).standard_normal((time, batch, in_features))
    return params, jnp.asarray(xs)


def disagreeing(report):
    return {comparison.method for comparison in report.comparisons if not comparison.agrees}


class TestWhatIsRight:
    @pytest.mark.slow
    def test_an_lstm_with_every_option(self, float64):
        cell = jaxrnn.LSTM(2)
        params, xs, carry, lengths, resets = problem(cell, float64)
        options = {"lengths": lengths, "resets": resets, "reverse": True}
        report = check(cell, params, xs, carry, key=jax.random.key(3), remat=3, **options)
        errors = report.max_errors()
        assert report.agrees
        assert tuple(errors) == (*EXACT, "finite_difference")
        assert max(errors[method] for method in EXACT) < 1e-14
        assert 0 < errors["finite_difference"] < 1e-7
        leaves = [comparison.leaf for comparison in report.comparisons if comparison.method == "loop"]
        params_and_carry = ["params.w_ih", "params.w_hh", "params.b", "xs", "carry.h", "carry.c"]
        assert leaves == [*params_and_carry, "ys", "last_carry.h", "last_carry.c"]

    @pytest.mark.parametrize(("batch_shape", "lengths"), [((), 2), ((2,), [3, 2])])
    @pytest.mark.slow
    def test_lengths_as_numbers_and_lists(self, batch_shape, lengths, float64):
        params, xs = small_problem(jaxrnn.Elman(2))
        xs = xs[:, 0] if batch_shape == () else xs
        leave_out = set(EXACT) - {"bptt", "loop"}
        assert check(jaxrnn.Elman(2), params, xs, lengths=lengths, leave_out=leave_out).agrees

    @pytest.mark.slow
    def test_noise_along_directions(self, float64):
        cell = jaxrnn.Zoneout(jaxrnn.LSTM(2))
        params, xs, _, lengths, _ = problem(cell, float64)
        noise = cell.noise(jax.random.key(1), TIME, xs.shape[1:-1])
        noise = jax.tree.map(lambda leaf: leaf.astype(float64), noise)
        report = check(cell, params, xs, noise=noise, lengths=lengths, directions=3)
        assert report.max_errors().keys() == {*EXACT, "finite_difference"} - {"rtrl"}

    @pytest.mark.slow
    def test_a_large_cell_along_directions(self, float64):
        cell = jaxrnn.GRU(90)
        params, xs = small_problem(cell)
        with pytest.raises(ValueError, match="give directions=N"):
            check(cell, params, xs)
        report = check(cell, params, xs, directions=2)
        along = [c for c in report.comparisons if c.leaf == "along directions"]
        assert {c.method for c in along} == {*EXACT, "finite_difference"} - {"rtrl", "explicit_terms"}
        assert max(c.error for c in along) < 1e-6

    def test_methods_can_be_left_out(self, float64):
        cell = jaxrnn.Elman(2)
        report = check(cell, *small_problem(cell), leave_out=[*BY_VALUES, *FORWARD])
        assert list(report.max_errors()) == ["autodiff", "bptt", "loop"]

    @pytest.mark.slow
    def test_no_real_step(self, float64):
        """Nothing to differentiate, and nothing to complain of."""
        cell = jaxrnn.Elman(2)
        report = check(
            cell, *small_problem(cell), lengths=np.zeros(2, int), leave_out=[*BY_VALUES, *FORWARD]
        )
        assert set(report.max_errors().values()) == {0.0}


@dataclasses.dataclass(frozen=True)
class Own(jaxrnn.Cell):
    """A user's cell, without a hand-derived derivative: h = tanh([x h] W)."""

    size: int

    @property
    def out_features(self):
        return self.size

    def init(self, key, in_features, dtype="float32"):
        return {"w": jax.random.normal(key, (in_features + self.size, self.size), dtype)}

    def initial_carry(self, batch_shape=(), dtype="float32"):
        return jnp.zeros((*batch_shape, self.size), dtype)

    def step(self, params, carry, x, noise=None):
        h = jnp.tanh(jnp.concatenate([x, carry], axis=-1) @ params["w"])
        return h, h


@dataclasses.dataclass(frozen=True)
class NotEvenACell:
    """What is asked of a cell that inherits nothing."""

    out_features: int
    has_derivative = False
    init, initial_carry, step = Own.init, Own.initial_carry, Own.step

    @property
    def size(self):
        return self.out_features

    def check(self, params, carry, x):
        pass


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("cell", [Own(2), pytest.param(NotEvenACell(2), marks=pytest.mark.slow)], ids=str)
@pytest.mark.slow
def test_a_users_own_cell(cell, float64):
    report = check(cell, *small_problem(cell), lengths=np.array([3, 2]))
    assert report.max_errors().keys() == {*EXACT, "finite_difference"} - {"bptt"}
    assert str(report).startswith(f"{cell}\nrelative error  autodiff  loop  ")


class ForgetsTheSlope(jaxrnn.Elman):
    def step_bwd(self, params, carry_before, residuals, d_carry, d_y):
        delta = d_carry.h + d_y
        return jaxrnn.ElmanCarry(delta @ params.w_hh.T), delta


class ForgetsTheLastBias(jaxrnn.Elman):
    def param_grads(self, *arguments):
        grads = super().param_grads(*arguments)
        return grads._replace(b=grads.b.at[-1].set(0))


class DoublesInputGrads(jaxrnn.Elman):
    def input_grads(self, *arguments):
        return 2 * super().input_grads(*arguments)


class PassesTooMuchOn(jaxrnn.Elman):
    """Right at every single step and wrong over two: a gradient that ought to stay in the carry's unit."""

    def step_bwd(self, *arguments):
        d_before, delta = super().step_bwd(*arguments)
        return jaxrnn.ElmanCarry(d_before.h[..., ::-1]), delta


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("wrong", "leaf", "place"),
        [
            (ForgetsTheLastBias, "params.b", (1,)),
            pytest.param(DoublesInputGrads, "xs", None, marks=pytest.mark.slow),
            pytest.param(ForgetsTheSlope, None, None, marks=pytest.mark.slow),
            pytest.param(PassesTooMuchOn, None, None, marks=pytest.mark.slow),
        ],
    )
    def test_a_wrong_derivative_is_named(self, wrong, leaf, place, float64):
        cell = wrong(2)
        with pytest.raises(GradientError) as caught:
            check(cell, *small_problem(cell), leave_out=[*BY_VALUES, *FORWARD])
        report = caught.value.report
        assert disagreeing(report) == {"bptt"}
        assert report.worst.method == "bptt"
        assert report.worst.leaf == (leaf or report.worst.leaf)
        assert report.worst.place == (place or report.worst.place)
        assert str(caught.value) == str(report)
        where = f"{report.worst.leaf}[{', '.join(map(str, report.worst.place))}]"
        assert f"DISAGREEMENT (!): {report.worst.error:.1e}, bptt, at {where}; tolerance" in str(report)

    @pytest.mark.slow
    def test_wrong_automatic_differentiation(self, float64):
        """Whatever differentiates the step finds the same wrong number; values of the function do not."""

        class StopsTheGradient(Own):
            def step(self, params, carry, x, noise=None):
                return super().step(params, jax.lax.stop_gradient(carry), x)

        cell = StopsTheGradient(2)
        with pytest.raises(GradientError) as caught:
            check(cell, *small_problem(cell), leave_out=FORWARD)
        assert disagreeing(caught.value.report) >= {"finite_difference", "complex_step"}

    def test_not_a_number(self, float64):
        """The square root of a negative number: a selection hides its value, not its derivative."""

        class Root(Own):
            def step(self, params, carry, x, noise=None):
                z = jnp.concatenate([x, carry], axis=-1) @ params["w"]
                h = jnp.where(z.real > 0, jnp.sqrt(z), 0)
                return h, h

        cell = Root(2)
        with pytest.raises(GradientError, match=r"DISAGREEMENT \(!\): inf, autodiff, at params\['w'\]"):
            check(cell, *small_problem(cell), leave_out=["finite_difference", *FORWARD])

    def test_the_tolerance_is_kept(self, float64):
        cell = Own(2)
        with pytest.raises(GradientError, match="tolerance of exact methods 1e-20"):
            check(cell, *small_problem(cell), leave_out=[*BY_VALUES, *FORWARD], tolerance=1e-20)


class TestCompare:
    def errors(self, report):
        return {c.method: c.error for c in report.comparisons}

    def test_the_reference_is_the_median(self):
        """The one that is wrong stands out; those that are right are not blamed."""
        right, wrong = {"w": np.array([2.0, -4.0])}, {"w": np.array([2.0, -4.4])}
        report = compare("", {"a": wrong, "b": right, "c": right})
        assert self.errors(report) == pytest.approx({"a": 0.1, "b": 0, "c": 0})
        assert (report.worst.method, report.worst.place, disagreeing(report)) == ("a", (1,), {"a"})

    @pytest.mark.parametrize(("apart", "agree"), [(0.9e-3, True), (1.1e-3, False)])
    def test_two_that_differ_share_the_tolerance(self, apart, agree):
        report = compare("", {"a": {"w": np.ones(2)}, "b": {"w": np.full(2, 1 + apart)}}, tolerance=1e-3)
        assert report.agrees is agree
        assert disagreeing(report) == (set() if agree else {"a", "b"})

    def test_where_the_reference_is_zero_so_must_all_be(self):
        zero, tiny = {"w": np.zeros(2)}, {"w": np.array([0.0, 1e-300])}
        report = compare("", {"a": zero, "b": zero, "c": tiny})
        assert self.errors(report) == {"a": 0, "b": 0, "c": np.inf}

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_disagrees(self, value):
        """With itself too."""
        good, bad = {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, value])}
        report = compare("", {"a": good, "b": good, "c": bad})
        assert (disagreeing(report), report.worst.place) == ({"c"}, (1,))
        assert disagreeing(compare("", {"a": bad, "b": bad})) == {"a", "b"}

    def test_a_method_that_is_not_exact_keeps_its_bounds(self):
        """It is no part of the reference; the entry that is worst within its own bound is named."""
        exact, rough = {"w": np.array([1.0, 100.0])}, {"w": np.array([1.01, 100.5])}
        gradients = {"a": exact, "rough": rough}
        assert compare("", gradients, bounds={"rough": {"w": np.array([0.02, 1.0])}}).agrees
        report = compare("", gradients, bounds={"rough": {"w": np.array([0.005, 1.0])}})
        assert (disagreeing(report), report.worst.place) == ({"rough"}, (0,))
        assert self.errors(report) == pytest.approx({"a": 0, "rough": 0.005})

    def test_the_worst_is_a_disagreement(self):
        """Not the largest error, which a rough method may have within its bounds."""
        exact, rough = {"w": np.ones(1)}, {"w": np.full(1, 1.1)}
        gradients = {"a": exact, "b": exact, "wrong": {"w": np.full(1, 1.001)}, "rough": rough}
        report = compare("", gradients, bounds={"rough": {"w": np.ones(1)}})
        assert (disagreeing(report), report.worst.method) == ({"wrong"}, "wrong")

    def test_as_a_table(self):
        grads = {"params": {"w": np.array([[1.0, 2.0]]), "b": np.ones(1)}, "xs": np.ones(3)}
        wrong = {"params": {"w": np.array([[1.0, 2.5]]), "b": np.ones(1)}}
        report = compare("Own(size=1)", {"autodiff": grads, "loop": grads, "rtrl": wrong}, tolerance=1e-9)
        assert str(report).splitlines() == [
            "Own(size=1)",
            "relative error  autodiff  loop     rtrl",
            "params['b']     0.0e+00   0.0e+00  0.0e+00",
            "params['w']     0.0e+00   0.0e+00  2.5e-01 !",
            "xs              0.0e+00   0.0e+00  -",
            "DISAGREEMENT (!): 2.5e-01, rtrl, at params['w'][0, 1]; tolerance of exact methods 1e-09",
        ]

    def test_a_scalar_and_nothing(self):
        report = compare("none", {"a": {"w": np.ones(()), "nothing": np.ones((0, 2))}})
        assert str(report).splitlines() == [
            "none",
            "relative error  a",
            "w               0.0e+00",
            "nothing         0.0e+00",
            "all agree; largest error: 0.0e+00, a, at w; tolerance of exact methods 1e-12",
        ]

    def test_what_cannot_be_compared(self):
        with pytest.raises(
            ValueError, match=r"w of b should have shape \(2,\), got \(3,\); compared with a"
        ):
            compare("", {"a": {"w": np.ones(2)}, "b": {"w": np.ones(3)}})
        with pytest.raises(
            ValueError, match=r"w of b should be a dict with .* 'x', got a dict with .* 'y'; compared"
        ):
            compare("", {"a": {"w": {"x": np.ones(2)}}, "b": {"w": {"y": np.ones(2)}}})
        with pytest.raises(ValueError, match="there are no gradients to compare"):
            compare("", {})
