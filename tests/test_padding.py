"""Where nothing is valid nothing is NaN: gradients of a padded batch are those of its sequences alone."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import gradients
from jaxrnn.attention import Additive, AttentionDecoder, Dot
from jaxrnn.cells.wrapped import WrappedCell
from jaxrnn.decoding import forced_score
from tests.table import random_like, random_params, relative_error

TIME, IN = 5, 3
LENGTHS = np.array([3, 0, 5, 1])


@dataclass(frozen=True)
class OnSphere(WrappedCell):
    """The cell sees x / ‖x‖ only: no derivative at 0. Its own one is written by hand, for "bptt"."""

    def step_fwd(self, params, carry, x, noise=None):
        norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
        carry, y, residuals = self.cell.step_fwd(params, carry, x / norm, noise)
        return carry, y, (x / norm, norm, residuals)

    def step_bwd(self, params, carry_before, residuals, d_carry, d_y):
        return self.cell.step_bwd(params, carry_before, residuals[2], d_carry, d_y)

    def input_grads(self, params, residuals, deltas):
        unit, norm, inner = residuals
        d_unit = self.cell.input_grads(params, inner, deltas)
        return (d_unit - unit * jnp.sum(unit * d_unit, axis=-1, keepdims=True)) / norm

    def param_grads(self, params, xs, carries_before, residuals, deltas):
        return self.cell.param_grads(params, residuals[0], carries_before, residuals[2], deltas)


@dataclass(frozen=True)
class Countdown(jaxrnn.Cell):
    """Reads log x², and divides by the steps that are left, of which there are none at padding."""

    out_features = 4
    gru = jaxrnn.GRU(4)

    def init(self, key, in_features, dtype=jnp.float32):
        return self.gru.init(key, in_features, dtype)

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        return jnp.ones(batch_shape, dtype), self.gru.initial_carry(batch_shape, dtype)

    def step(self, params, carry, x, noise=None):
        left, carry = carry
        carry, y = self.gru.step(params, carry, jnp.log(x * x) / left[..., None])
        return (left - 1, carry), y


def grads_of_each_sequence(cell, params, xs, carry, options):
    """What the loss and its gradients are without padding: one sequence after the other."""

    def loss(params):
        total = 0.0
        for lane, length in enumerate(LENGTHS):
            alone = jax.tree.map(lambda leaf, lane=lane: leaf[lane], carry)
            if length:
                _, ys = jaxrnn.unroll(cell, params, xs[:length, lane], alone, **options)
                total = total + jnp.sum(ys**2)
        return total

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    "reverse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forward", "reverse"]
)
@pytest.mark.parametrize("remat", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("cell", "backward"),
    [
        (OnSphere(jaxrnn.LSTM(4)), "autodiff"),
        (OnSphere(jaxrnn.LSTM(4)), "bptt"),
        pytest.param(jaxrnn.Stack([OnSphere(jaxrnn.GRU(4))]), "bptt", marks=pytest.mark.slow),
        pytest.param(Countdown(), "autodiff", marks=pytest.mark.slow),
    ],
    ids=["sphere", "sphere-bptt", "stack-bptt", "countdown"],
)
def test_unroll(cell, backward, remat, reverse, float64):
    params = random_params(cell, "float64", IN)
    xs = random_like(jnp.zeros((TIME, len(LENGTHS), IN)), 1)
    carry = cell.initial_carry((len(LENGTHS),), "float64")
    if cell == Countdown():
        carry = (jnp.asarray(LENGTHS, "float64"), carry[1])
    options = {"backward": backward, "reverse": reverse}
    expected = grads_of_each_sequence(cell, params, xs, carry, options)
    nowhere = np.arange(TIME)[:, None] >= LENGTHS
    for filling in (0.0, np.nan):

        def loss(params, filled):
            ragged = {"lengths": jnp.asarray(LENGTHS), "remat": remat, **options}
            _, ys = jaxrnn.unroll(cell, params, filled, carry, **ragged)
            return jnp.sum(ys**2)

        filled = jnp.where(nowhere[..., None], filling, xs)
        value, (d_params, d_xs) = jax.value_and_grad(loss, (0, 1))(params, filled)
        assert relative_error((value, d_params), expected) < 1e-12
        assert np.all(np.asarray(d_xs)[nowhere] == 0)


@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.slow
def test_the_carry_of_an_empty_sequence_and_noise_at_padding_may_be_anything(backward, reverse, dtype):
    cell = jaxrnn.Zoneout(jaxrnn.LSTM(4), rate_h=0.5, rate_c=0.5)
    params, count = random_params(cell, dtype, IN), len(LENGTHS)
    xs = random_like(jnp.zeros((TIME, count, IN), dtype), 1)
    carry = random_like(jax.eval_shape(lambda: cell.initial_carry((count,), dtype)), 2)
    noise = cell.noise(jax.random.key(0), TIME, (count,))
    nowhere = jnp.arange(TIME)[:, None] >= LENGTHS
    resets = jnp.zeros((TIME, count), bool).at[0, 0].set(True)

    def grads(carry, noise):
        def loss(params, xs, carry):
            options = {"lengths": jnp.asarray(LENGTHS), "backward": backward, "reverse": reverse}
            last, ys = jaxrnn.unroll(cell, params, xs, carry, noise=noise, resets=resets, **options)
            return jnp.sum(ys**2) + sum(jnp.sum(leaf[0] ** 2) for leaf in last)

        return jax.grad(loss, (0, 1, 2))(params, xs, carry)

    spoilt_carry = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), carry)
    spoilt_noise = jax.tree.map(lambda leaf: jnp.where(nowhere[..., None], jnp.nan, leaf), noise)
    assert relative_error(grads(spoilt_carry, spoilt_noise), grads(carry, noise)) < 1e-6


@dataclass(frozen=True)
class LogOfRest(jaxrnn.GRU):
    """Reads log(1 − x), for which 1 is what 0 is for others, of features that must not be all alike."""

    def step(self, params, carry, x, noise=None):
        x = jnp.log(1 - x)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return super().step(params, carry, x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True)))


@pytest.mark.parametrize(
    ("cell", "backward"),
    [
        (OnSphere(jaxrnn.LSTM(4)), "autodiff"),
        (OnSphere(jaxrnn.LSTM(4)), "bptt"),
        (LogOfRest(4), "autodiff"),
    ],
)
@pytest.mark.slow
def test_a_batch_of_nothing(cell, backward):
    params, nothing = random_params(cell, "float32", IN), jnp.zeros(2, int)

    def loss(params, xs):
        last, ys = jaxrnn.unroll(cell, params, xs, lengths=nothing, backward=backward)
        return jnp.sum(ys) + sum(map(jnp.sum, last))

    for xs in (jnp.full((TIME, 2, IN), jnp.nan), jnp.zeros((0, 2, IN))):
        value, grads = jax.value_and_grad(loss)(params, xs)
        assert float(value) == 0
        assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_under_vmap_weights_are_shared():
    """A length a sequence, mapped over: the weights' gradient is one product, with no copy a sequence."""
    cell = OnSphere(jaxrnn.GRU(4))
    params, lengths = random_params(cell, "float32", IN), jnp.asarray(LENGTHS)
    xs = random_like(jnp.zeros((len(LENGTHS), TIME, IN)), 1)

    def loss(params):
        run = jax.vmap(lambda x, n: jaxrnn.unroll(cell, params, x, lengths=n)[1])
        return jnp.sum(run(xs, lengths) ** 2)

    def batched(params):
        return jnp.sum(jaxrnn.unroll(cell, params, jnp.moveaxis(xs, 0, 1), lengths=lengths)[1] ** 2)

    assert relative_error(jax.grad(loss)(params), jax.grad(batched)(params)) < 1e-6
    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert f"f32[{len(LENGTHS)},{IN},12]" not in text


@pytest.mark.slow
def test_noise_that_sequences_share():
    """It may be anything past the end of the longest."""

    @dataclass(frozen=True)
    class Scaled(jaxrnn.GRU):
        def step(self, params, carry, x, noise=None):
            return super().step(params, carry, x * jnp.sqrt(noise))

    cell, lengths = Scaled(4), jnp.array([3, 1])
    params, xs = random_params(cell, "float32", IN), jnp.ones((TIME, 2, IN))
    noise = jnp.ones((TIME, IN)).at[3:].set(jnp.nan)

    def loss(params, noise):
        return jnp.sum(jaxrnn.unroll(cell, params, xs, lengths=lengths, noise=noise)[1] ** 2)

    assert (
        relative_error(jax.grad(loss)(params, noise), jax.grad(loss)(params, jnp.ones((TIME, IN)))) < 1e-6
    )


@dataclass(frozen=True)
class LogMinGRU(jaxrnn.MinGRU):
    """Linear in its carry, and reads log x², which has no value at 0."""

    def linear_step(self, params, xs):
        return super().linear_step(params, jnp.log(xs * xs))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.slow
def test_parallel_unroll(reverse, float64):
    cell = LogMinGRU(4)
    params = random_params(cell, "float64", IN)
    xs = random_like(jnp.zeros((TIME, len(LENGTHS), IN)), 1)
    carry = random_like(jax.eval_shape(lambda: cell.initial_carry((len(LENGTHS),), "float64")), 2)

    def loss(params, xs, lengths, carry):
        _, ys = jaxrnn.parallel_unroll(cell, params, xs, carry, lengths=lengths, reverse=reverse)
        return jnp.sum(ys**2)

    def alone(params):
        lanes = [(xs[:n, b], jax.tree.map(lambda leaf, b=b: leaf[b], carry)) for b, n in enumerate(LENGTHS)]
        return sum(loss(params, x, None, c) for x, c in lanes if len(x))

    filled = jnp.where(np.arange(TIME)[:, None, None] >= LENGTHS[:, None], 0.0, xs)
    spoilt = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), carry)
    actual = jax.value_and_grad(loss)(params, filled, jnp.asarray(LENGTHS), spoilt)
    assert relative_error(actual, jax.value_and_grad(alone)(params)) < 1e-12


@pytest.mark.slow
def test_other_gradient_methods(float64):
    """Real-time recurrent learning, the terms of the sum, and truncation, on a cell that 0 spoils."""
    cell = OnSphere(jaxrnn.Elman(2))
    params = random_params(cell, "float64", IN)
    xs = random_like(jnp.zeros((TIME, len(LENGTHS), IN)), 1)
    d_ys = random_like(jnp.zeros((TIME, len(LENGTHS), 2)), 2)
    lengths = jnp.asarray(LENGTHS)

    def loss(params):
        return jnp.vdot(d_ys, jaxrnn.unroll(cell, params, xs, lengths=lengths)[1])

    expected = jax.grad(loss)(params)
    options = {"d_ys": d_ys, "lengths": lengths}
    by_rtrl, _ = gradients.rtrl(cell, params, xs, **options)
    terms = gradients.explicit_terms(cell, params, xs, **options)
    whole = gradients.truncated(cell, params, xs, steps=TIME, **options).gradient
    for actual in (by_rtrl, jax.tree.map(lambda leaf: leaf.sum(0), terms), whole):
        assert relative_error(actual, expected) < 1e-12


@pytest.mark.parametrize("attention", [Additive(3), Dot()])
@pytest.mark.slow
def test_the_memory_of_an_attention_decoder(attention):
    """What lies at padding of a memory reaches no gradient, though keys are made of it."""
    decoder = AttentionDecoder(jaxrnn.GRU(4), attention, memory_features=4, size=3)
    weights = random_params(decoder, "float32", 2)
    values = random_like(jnp.zeros((2, 4, 4)), 1)
    xs = random_like(jnp.zeros((3, 2, 2)), 2)
    lengths = jnp.array([4, 2])

    def loss(weights, values):
        params = (weights, decoder.memory(weights, values, lengths))
        return jnp.sum(jaxrnn.unroll(decoder, params, xs)[1] ** 2)

    expected = jax.grad(loss)(weights, values)
    assert relative_error(jax.grad(loss)(weights, values.at[1, 2:].set(jnp.nan)), expected) < 1e-6


@pytest.mark.slow
def test_forced_scores(dtype):
    """A model that has nothing to say after the third token, and a state of nobody that is NaN."""
    table = random_like(jnp.zeros((4, 4), dtype), 0)
    tokens, lengths = jnp.array([[1, 2, 0, 3], [3, 1, 2, 2], [0, 0, 0, 0]]), jnp.array([2, 3, 0])

    def scores(table, state, tokens, lengths=None):
        def step(state, tokens):
            return state - 1, table[tokens] * jnp.sqrt(state)

        return forced_score(step, state, tokens, start=0, lengths=lengths)

    state = jnp.array([[3.0], [3.0], [jnp.nan]], dtype)
    actual = jax.value_and_grad(lambda t: scores(t, state, tokens, lengths).sum())(table)
    alone = [(state[b : b + 1], tokens[b : b + 1, :n]) for b, n in ((0, 2), (1, 3))]
    expected = jax.value_and_grad(lambda t: sum(scores(t, *a)[0] for a in alone))(table)
    assert relative_error(actual, expected) < (1e-12 if dtype == "float64" else 1e-5)
