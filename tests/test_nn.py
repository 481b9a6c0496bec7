"""The NNX modules: the unroll behind them, called as ``flax.nnx.RNN`` is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.nn import RNN, Bidirectional, StackedRNN
from tests.table import random_like, relative_error

pytestmark = pytest.mark.slow

BATCH, TIME, IN, HIDDEN = 3, 6, 2, 4
LENGTHS = jnp.array([6, 0, 3])


def inputs(seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((BATCH, TIME, IN)), jnp.float32)


def values(module):
    return jax.tree.map(lambda p: p[...], module.params, is_leaf=lambda p: isinstance(p, nnx.Param))


def test_equals_unroll_in_both_layouts():
    layer = RNN(jaxrnn.LSTM(HIDDEN), IN, rngs=nnx.Rngs(0))
    xs = jnp.moveaxis(inputs(), 1, 0)
    carry, ys = jaxrnn.unroll(layer.cell, values(layer), xs, lengths=LENGTHS)
    got = layer(inputs(), seq_lengths=LENGTHS, return_carry=True)
    assert relative_error(got, (carry, jnp.moveaxis(ys, 0, 1))) == 0
    got = layer(xs, seq_lengths=LENGTHS, return_carry=True, time_major=True)
    assert relative_error(got, (carry, ys)) == 0
    start = random_like(carry, 1)
    got = layer(xs, initial_carry=start, time_major=True)
    assert relative_error(got, jaxrnn.unroll(layer.cell, values(layer), xs, start)[1]) == 0


@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize("lengths", [None, jnp.array([6, 2, 3])], ids=["full", "ragged"])
def test_same_call_as_flax(keep_order, lengths):
    """Flax's LSTM with our weights, over all call arguments (it has no meaning for length 0)."""
    ours = RNN(jaxrnn.LSTM(HIDDEN), IN, rngs=nnx.Rngs(0))
    theirs = nnx.RNN(nnx.OptimizedLSTMCell(IN, HIDDEN, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    params = random_like(values(ours), 3)
    ours.params = nnx.data(jax.tree.map(nnx.Param, params))
    theirs.cell.dense_i.kernel[...] = params.w_ih
    theirs.cell.dense_h.kernel[...] = params.w_hh
    theirs.cell.dense_h.bias[...] = params.b
    for reverse in (False, True):
        options = {"seq_lengths": lengths, "reverse": reverse, "keep_order": keep_order}
        carry, ys = ours(inputs(), return_carry=True, **options)
        (c, h), expected = theirs(inputs(), return_carry=True, **options)
        real = np.arange(TIME) < np.broadcast_to(TIME if lengths is None else lengths, BATCH)[:, None]
        np.testing.assert_allclose(ys[real], expected[real], atol=1e-6)
        assert not ys[~real].any()
        np.testing.assert_allclose(carry.h, h, atol=1e-6)
        np.testing.assert_allclose(carry.c, c, atol=1e-6)


def test_bidirectional_equals_the_function():
    rngs = nnx.Rngs(0)
    layer = Bidirectional(RNN(jaxrnn.GRU(HIDDEN), IN, rngs=rngs), RNN(jaxrnn.GRU(HIDDEN), IN, rngs=rngs))
    params = (values(layer.forward_rnn), values(layer.backward_rnn))
    assert relative_error(params[0], params[1]) > 0.1
    xs = jnp.moveaxis(inputs(), 1, 0)
    cell = layer.forward_rnn.cell
    carries, ys = jaxrnn.bidirectional(cell, cell, params, xs, lengths=LENGTHS)
    got = layer(xs, seq_lengths=LENGTHS, return_carry=True, time_major=True)
    assert relative_error(got, (carries, ys)) == 0
    again = layer(xs, initial_carry=carries, time_major=True)
    expected = jaxrnn.bidirectional(cell, cell, params, xs, carries)[1]
    assert relative_error(again, expected) == 0


def test_stack_is_layer_after_layer():
    stack = StackedRNN(
        jaxrnn.LSTM(HIDDEN), IN, num_layers=2, bidirectional=True, dropout=0.5, rngs=nnx.Rngs(0)
    )
    stack.eval()
    first, second = stack.layers
    carry_1, ys = first(inputs(), seq_lengths=LENGTHS, return_carry=True)
    carry_2, ys = second(ys, seq_lengths=LENGTHS, return_carry=True)
    got = stack(inputs(), seq_lengths=LENGTHS, return_carry=True)
    assert relative_error(got, ((carry_1, carry_2), ys)) == 0
    resumed = stack(inputs(), initial_carry=got[0], return_carry=True)
    carry_1, ys = first(inputs(), initial_carry=carry_1, return_carry=True)
    carry_2, ys = second(ys, initial_carry=carry_2, return_carry=True)
    assert relative_error(resumed, ((carry_1, carry_2), ys)) == 0


def test_dropout_between_layers_only():
    stack = StackedRNN(jaxrnn.Elman(HIDDEN), IN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0, dropout=1))
    ones, twos = stack(inputs()), stack(inputs())
    assert relative_error(ones, twos) > 1e-2
    single = StackedRNN(jaxrnn.Elman(HIDDEN), IN, num_layers=1, dropout=0.5, rngs=nnx.Rngs(0, dropout=1))
    assert relative_error(single(inputs()), single(inputs())) == 0
    stack.eval()
    assert relative_error(stack(inputs()), stack(inputs())) == 0


def test_train_with_nnx_jit_and_grad():
    """Both backward modes under ``nnx.jit`` and ``nnx.grad``; only parameters get gradients."""
    grads = []
    for backward in ("autodiff", "bptt"):
        layer = StackedRNN(
            jaxrnn.GRU(HIDDEN), IN, num_layers=2, backward=backward, remat=4, rngs=nnx.Rngs(0)
        )
        grads.append(nnx.jit(nnx.grad(lambda m: jnp.mean(m(inputs(), seq_lengths=LENGTHS) ** 2)))(layer))
    assert len(jax.tree.leaves(grads[0])) == 8
    assert relative_error(grads[1], grads[0]) < 1e-5


def test_noise_comes_from_its_own_stream():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Noisy(jaxrnn.Elman):
        def noise(self, key, time, batch_shape=()):
            return jax.random.normal(key, (time, *batch_shape, 1))

        def step(self, params, carry, x, noise=None):
            return super().step(params, carry, x if noise is None else x + noise)

    layer = RNN(Noisy(HIDDEN), IN, rngs=nnx.Rngs(0, noise=1))
    assert relative_error(layer(inputs()), layer(inputs())) > 1e-3
    by_default = RNN(Noisy(HIDDEN), IN, rngs=nnx.Rngs(0))  # one stream for everything, as in nnx.Dropout
    assert relative_error(by_default(inputs()), by_default(inputs())) > 1e-3


def test_eval_draws_no_noise():
    """As in ``nnx.Dropout``: ``eval`` and ``train`` reach every layer; a view changes itself alone."""
    make = functools.partial(StackedRNN, jaxrnn.Zoneout(jaxrnn.Elman(HIDDEN)), IN, num_layers=2)
    stack, silent = make(rngs=nnx.Rngs(0, noise=1)), make(rngs=nnx.Rngs(0, noise=1))
    silent.eval()
    run = nnx.jit(lambda stack: stack(inputs()))
    expected = run(silent)
    assert relative_error(run(stack), expected) > 1e-3
    assert relative_error(run(nnx.view(stack, deterministic=True)), expected) < 1e-6
    assert relative_error(run(stack), expected) > 1e-3
    stack.eval()
    assert relative_error(run(stack), expected) < 1e-6
    stack.train()
    assert relative_error(run(stack), run(stack)) > 1e-3


@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    rngs = nnx.Rngs(0)
    layer = RNN(jaxrnn.LSTM(HIDDEN), IN, rngs=rngs)
    with pytest.raises(ValueError, match="two modules, got the same one"):
        Bidirectional(layer, layer)
    with pytest.raises(ValueError, match="in_features must be a positive integer, got 0"):
        RNN(jaxrnn.LSTM(HIDDEN), 0, rngs=rngs)
    with pytest.raises(ValueError, match="num_layers must be a positive integer, got 0"):
        StackedRNN(jaxrnn.LSTM(HIDDEN), IN, num_layers=0, rngs=rngs)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1.0"):
        StackedRNN(jaxrnn.LSTM(HIDDEN), IN, num_layers=1, dropout=1.0, rngs=rngs)
    with pytest.raises(ValueError, match=r"lengths must lie in \[0, 6\]"):
        layer(inputs(), seq_lengths=jnp.array([7, 1, 1]))
