"""JAX's own safety switches: with each on, everything that runs through time or decodes still does."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.models.language_model import LanguageModel
from tests.table import CELLS, IN_FEATURES, random_params, relative_error
from tests.test_sharding import (
    decoders,
    decoding_problem,
    language_loss,
    language_model,
    translation_loss,
    translator,
)

SWITCHES = {
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "debug_nans": lambda: jax.debug_nans(True),
    "tracer_leaks": lambda: jax.check_tracer_leaks(True),
    "disable_jit": lambda: jax.disable_jit(),
}
WATCH_TRACES = {"rank_promotion", "dtype_promotion", "tracer_leaks"}
TIME, BATCH = 4, 3
LENGTHS = jnp.array([4, 0, 2])
# Cells in whose equations ranks or dtypes meet in all the ways there are.
MIXED = {"layer-norm", "gru-before", "min-lstm", "stack", "zoneout"}
every_switch = pytest.mark.parametrize("switch", SWITCHES)


def size_of(switch):
    """Hidden units; two switches watch the first call, which is traced, so that none may come before."""
    return {"transfer_guard": 11, "tracer_leaks": 13}.get(switch, 4)


def under(switch, function, *arguments, expected=None):
    """A switch that watches traces lets the function be traced; under another it returns what it does with
    none, or ``expected()``.
    """
    if switch in WATCH_TRACES:
        gc.freeze()  # the watch for leaks collects garbage after every trace
        with SWITCHES[switch]():
            jax.eval_shape(function, *arguments)
        return
    with SWITCHES[switch]():
        actual = jax.block_until_ready(function(*arguments))
    expected = function(*arguments) if expected is None else expected()
    assert relative_error(actual, expected) < 1e-2  # bfloat16, compiled or not


@pytest.mark.parametrize("switch", ["rank_promotion", "dtype_promotion"])
@pytest.mark.parametrize("row", [row for row in CELLS if row.name in MIXED], ids=lambda row: row.name)
@pytest.mark.slow
def test_cells(row, switch):
    """In bfloat16, which meets float32 in c: forward and the derivative by hand, with every option."""
    params = random_params(row.cell, "bfloat16")
    xs = jax.random.normal(jax.random.key(0), (TIME, BATCH, IN_FEATURES), "bfloat16")
    resets = jnp.zeros((TIME, BATCH), bool).at[1, 0].set(True)
    noise = row.cell.noise(jax.random.key(1), TIME, (BATCH,))
    options = {"lengths": LENGTHS, "resets": resets, "noise": noise, "reverse": True, "remat": 3}

    def loss(params):
        return jnp.sum(jaxrnn.unroll(row.cell, params, xs, backward="bptt", **options)[1] ** 2)

    under(switch, jax.jit(jax.grad(loss)), params)
    if row.cell.has_linear_step:
        under(switch, lambda p, x: jaxrnn.parallel_unroll(row.cell, p, x, lengths=LENGTHS)[1], params, xs)


@every_switch
@pytest.mark.slow
def test_unroll(switch):
    for cell in (jaxrnn.LSTM(size_of(switch)), jaxrnn.GRU(size_of(switch))):
        under(
            switch,
            lambda p, x, n, cell=cell: jaxrnn.unroll(cell, p, x, lengths=n)[1],
            random_params(cell, "float32"),
            jnp.ones((TIME, BATCH, IN_FEATURES)),
            LENGTHS,
        )


def losses(size):
    """A function of a loss of each model, and its arguments."""
    tokens = jax.random.randint(jax.random.key(1), (TIME, BATCH), 0, 6)
    mask, key = jnp.arange(TIME)[:, None] < LENGTHS, jax.random.key(2)
    language, params = language_model(size)
    pair, pair_params = translator(size)

    def both(params, pair_params, *arguments):
        return language_loss(language, params, *arguments), translation_loss(pair, pair_params, *arguments)

    return jax.jit(both), (params, pair_params, tokens, mask, LENGTHS, key)


def decoder(size, name):
    """A decoder as a function, and its arguments."""
    step, *arguments = decoding_problem(size)
    return decoders(step)[name], arguments


@functools.cache
def without(make, *options):
    function, arguments = make(*options)
    return function(*arguments)


@pytest.mark.parametrize("switch", list(SWITCHES)[:-1])  # without jit they take long
@pytest.mark.slow
def test_models(switch):
    """Their derivatives are those of unroll."""
    function, arguments = losses(size_of(switch))
    under(switch, function, *arguments, expected=lambda: without(losses, size_of(switch)))


@every_switch
@pytest.mark.parametrize("name", ["sample", "beam", "score"])
@pytest.mark.slow
def test_decoders(name, switch):
    function, arguments = decoder(size_of(switch), name)
    under(switch, function, *arguments, expected=lambda: without(decoder, size_of(switch), name))


@pytest.mark.parametrize("switch", ["dtype_promotion"])
@pytest.mark.slow
def test_what_is_drawn_and_begun(switch):
    key = jax.random.key(0)
    for cell in (jaxrnn.VariationalDropout(jaxrnn.LSTM(4)), jaxrnn.Zoneout(jaxrnn.LSTM(4))):
        under(switch, lambda cell=cell: cell.noise(key, TIME, (BATCH,)))
        under(switch, lambda cell=cell: cell.initial_carry((BATCH,), "bfloat16"))
        under(switch, lambda cell=cell: cell.init(key, 3, "bfloat16"))
    under(switch, lambda: LanguageModel(5, [jaxrnn.LSTM(4)]).init(key, "bfloat16"))


def test_debug_nans_still_finds_one():
    cell = jaxrnn.GRU(4)
    params = random_params(cell, "float32")
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        jaxrnn.unroll(cell, params, jnp.full((TIME, BATCH, IN_FEATURES), np.nan))


@pytest.mark.slow
def test_the_same_lengths_with_float64_and_without():
    """A constant in a trace, then given again where integers are narrower."""
    cell, lengths = jaxrnn.Elman(2), np.array([3, 0])

    def last(xs):
        return jaxrnn.unroll(cell, cell.init(jax.random.key(0), 2), xs, lengths=lengths)[0].h

    for wide in (True, False, True):
        with jax.enable_x64(wide):
            xs = jnp.ones((4, 2, 2))
            np.testing.assert_allclose(jax.jit(last)(xs), last(xs), rtol=1e-6)
