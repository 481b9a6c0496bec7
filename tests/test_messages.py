"""Messages for arguments that do not fit: in the user's words, and naming the right call."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.attention import AttentionDecoder, General
from jaxrnn.checks import check_like, describe
from tests.table import random_params

pytestmark = pytest.mark.usefixtures("as_users_run")
TIME, BATCH, IN = 7, 4, 3
CELL = jaxrnn.LSTM(5)
PARAMS = random_params(CELL, "float32", IN)
XS = jnp.ones((TIME, BATCH, IN))
BATCH_FIRST = jnp.ones((BATCH, TIME, IN))
LAYOUT = "xs is time-major (time, batch, features); "


def raises(message, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


class Pair(NamedTuple):
    a: object
    b: object


class Scaled(jaxrnn.Cell):
    """y = the first parameter times x; its parameters are one array of as many numbers as it likes."""

    out_features = IN

    def init(self, key, in_features, dtype=jnp.float32):
        return jnp.ones(2, dtype)

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        return ()

    def step(self, params, carry, x, noise=None):
        return carry, params[0] * x


ONE, TWO = jnp.ones(1), jnp.ones(2)


class TestCheckLike:
    @pytest.mark.parametrize(
        ("expected", "got", "message"),
        [
            (Pair(ONE, TWO), Pair(ONE, ONE), "p.b should have shape (2,), got (1,)"),
            (ONE, 1.0, "p should have shape (1,), got ()"),
            (ONE, ONE.astype(int), "p should be floating-point, got int32"),
            (({"w": ONE},), ({"w": ONE.astype(bool)},), "p[0]['w'] should be floating-point, got bool"),
            (Pair(ONE, TWO), (ONE, TWO), "p should be Pair(a, b), got a tuple of 2"),
            (Pair(ONE, TWO), ONE, "p should be Pair(a, b), got an array"),
            (Pair(ONE, None), Pair(ONE, TWO), "p.b should be None, got an array"),
            (
                (Pair(ONE, [TWO]),),
                (Pair(ONE, [TWO, ONE]),),
                "p[0].b should be a list of 1, got a list of 2",
            ),
            ({"a": ONE}, {"b": ONE}, "p should be a dict with the keys 'a', got a dict with the keys 'b'"),
            ({"a": ONE}, {}, "p should be a dict with the keys 'a', got an empty dict"),
        ],
    )
    def test_the_first_difference_by_its_name(self, expected, got, message):
        with raises(message):
            check_like("p", expected, got)
        with raises(f"{message}; told so"):
            check_like("p", expected, got, because="told so")

    def test_structures_that_differ_in_nothing_that_has_a_name(self):
        one, two = jax.tree_util.Partial(min, ONE), jax.tree_util.Partial(max, ONE)
        with pytest.raises(ValueError, match=r"^p should be PyTreeDef.*min.*, got PyTreeDef.*max"):
            check_like("p", one, two)

    def test_what_fits(self):
        check_like("p", Pair(ONE, {"w": TWO, "n": None}), Pair(np.ones(1), {"n": None, "w": TWO}))
        for got in (ONE, ONE.astype(int)):
            check_like("p", jax.ShapeDtypeStruct((1,), jnp.int32), got)
        check_like("p", jnp.ones(1, "float32"), jnp.ones(1, "bfloat16"))

    def test_dtypes(self):
        with raises("p.a should be float32, got bfloat16"):
            check_like("p", Pair(ONE, TWO), Pair(ONE.astype("bfloat16"), TWO), same_dtype=True)

    def test_descriptions(self):
        assert describe(CELL.initial_carry()) == "LSTMCarry(h, c)"
        assert [describe(x) for x in (None, 3, (), [ONE], np.ones(2))] == [
            "None",
            "int",
            "a tuple of 0",
            "a list of 1",
            "an array",
        ]


class TestBatchFirst:
    def test_lengths(self):
        with raises(f"{LAYOUT}lengths has 4 entries but xs has batch 7"):
            jaxrnn.unroll(CELL, PARAMS, BATCH_FIRST, lengths=[7, 5, 0, 7])
        with raises(
            "xs is time-major (time, *batch, features); lengths has 4 entries but xs has batch shape (2, 4)"
        ):
            jaxrnn.unroll(CELL, PARAMS, jnp.ones((TIME, 2, BATCH, IN)), lengths=jnp.ones(4, int))

    def test_lengths_of_a_memory_which_has_no_time(self):
        decoder = AttentionDecoder(CELL, General(), memory_features=6, size=3)
        weights = decoder.init(jax.random.key(0), IN)
        with raises(
            "the memory is (*batch, source, features); lengths has 3 entries but the memory has batch 2"
        ):
            decoder.memory(weights, jnp.ones((2, 7, 6)), jnp.ones(3, int))

    @pytest.mark.parametrize("backward", ["autodiff", "bptt"])
    def test_carry(self, backward):
        with raises(f"{LAYOUT}carry has batch 4 but xs has batch 7"):
            jaxrnn.unroll(CELL, PARAMS, BATCH_FIRST, CELL.initial_carry((BATCH,)), backward=backward)
        # Where it would not fit that either, the field is named.
        with raises("carry.h should have shape (7, 5), got (4, 6); the batch shape is (7,)"):
            jaxrnn.unroll(CELL, PARAMS, BATCH_FIRST, jaxrnn.LSTM(6).initial_carry((BATCH,)))

    def test_resets(self):
        with raises(f"{LAYOUT}resets must have shape (4, 7), got (7, 4)"):
            jaxrnn.unroll(CELL, PARAMS, BATCH_FIRST, resets=jnp.ones((TIME, BATCH), bool))

    def test_parallel_unroll(self):
        cell = jaxrnn.MinGRU(5)
        with raises(f"{LAYOUT}lengths has 4 entries but xs has batch 7"):
            jaxrnn.parallel_unroll(
                cell, random_params(cell, "float32", IN), BATCH_FIRST, lengths=[7, 5, 0, 7]
            )

    def test_under_jit(self):
        run = jax.jit(lambda lengths: jaxrnn.unroll(CELL, PARAMS, BATCH_FIRST, lengths=lengths))
        with pytest.raises(ValueError, match="lengths has 4 entries but xs has batch 7"):
            run(jnp.ones(BATCH, int))


class TestArgumentsOutOfPlace:
    @pytest.mark.parametrize("kind", [list, tuple])
    def test_cells_in_place_of_a_cell(self, kind):
        cells = kind([CELL, jaxrnn.GRU(5)])
        for call in (
            lambda: jaxrnn.unroll(cells, PARAMS, XS),
            lambda: jaxrnn.Residual(cells),
            lambda: jaxrnn.Stack([cells]),
        ):
            with raises(f"expected a cell, got a {kind.__name__} of 2; use Stack([...])", TypeError):
                call()

    @pytest.mark.parametrize("as_given", [lambda p: p, lambda p: (p, p), lambda p: p._asdict()])
    def test_params_and_xs_swapped(self, as_given):
        cell, params = CELL, as_given(PARAMS)
        with raises("params and xs are swapped: the order is (cell, params, xs)", TypeError):
            jaxrnn.unroll(cell, XS, params)

    def test_parameters_in_the_place_of_xs_alone(self):
        with pytest.raises(ValueError, match="inhomogeneous"):
            jaxrnn.unroll(CELL, PARAMS, PARAMS)

    @pytest.mark.parametrize("kind", [list, tuple, np.ndarray.tolist])
    def test_steps_by_themselves_are_no_swap(self, kind):
        """Where parameters are one array too, as those of this cell."""
        cell, xs = jaxrnn.Residual(Scaled()), kind(np.ones((TIME, BATCH, IN), "float32"))
        _, ys = jaxrnn.unroll(cell, jnp.full(2, 0.5), xs)
        np.testing.assert_array_equal(ys, np.full((TIME, BATCH, IN), 1.5))

    def test_params_of_another_cell_or_size(self):
        with raises(
            "params should be LSTMParams(w_ih, w_hh, b), got MinimalParams(w_ih, b); inputs have 3 features"
        ):
            jaxrnn.unroll(CELL, random_params(jaxrnn.MinGRU(5), "float32", IN), XS)
        with raises("params.w_ih should have shape (2, 20), got (3, 20); inputs have 2 features"):
            jaxrnn.unroll(CELL, PARAMS, XS[..., :2])


@pytest.mark.parametrize("kind", [jaxrnn.Zoneout, jaxrnn.VariationalDropout])
def test_noisy_cells_say_that_they_are_deterministic_without_noise(kind):
    cell = kind(CELL)
    assert "Without noise the cell is deterministic" in kind.__doc__
    first, second = (jaxrnn.unroll(cell, PARAMS, XS)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    noise = cell.noise(jax.random.key(0), TIME, (BATCH,))
    assert not np.array_equal(jaxrnn.unroll(cell, PARAMS, XS, noise=noise)[1], first)
