"""Code that reads what changes between calls: the answer is always of now."""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import jaxrnn
from jaxrnn import caching
from jaxrnn.decoding import beam_search, ensemble, forced_score, greedy, sample, stochastic_beam_search
from jaxrnn.models.language_model import LanguageModel, text_nats
from tests.table import relative_error

# Logits by token: each table leads from 0 to 1 or to 2, for ever.
TABLES = [jnp.log(jnp.eye(3)[jnp.array(to)] * 0.9 + 0.1 / 3) for to in ([1, 1, 1], [2, 2, 2])]
table = TABLES[0]


def of_module(state, tokens):
    return state, table[tokens]


def swap_module():
    global table
    table = TABLES[1]
    return of_module


def closure():
    held = TABLES[0]

    def step(state, tokens):
        return state, held[tokens]

    def change():
        nonlocal held
        held = TABLES[1]
        return step

    return step, change


class Module(nnx.Module):
    def __init__(self):
        self.table = nnx.Param(TABLES[0])

    def step(self, state, tokens):
        return state, self.table[...][tokens]

    def change(self):
        self.table.set_value(TABLES[1])
        return self.step


class Callable:
    def __init__(self):
        self.table = np.array(TABLES[0])

    def __call__(self, state, tokens):
        return state, jnp.asarray(self.table)[tokens]

    def change(self):
        self.table[...] = TABLES[1]  # in place
        return self


@dataclass(frozen=True)
class Unseen:
    """Equal to another with another table."""

    table: Any = field(compare=False)

    def step(self, state, tokens):
        return state, self.table[tokens]


class OfClass:
    table = TABLES[0]

    @classmethod
    def step(cls, state, tokens):
        return state, cls.table[tokens]

    @classmethod
    def change(cls):
        cls.table = TABLES[1]
        return cls.step


def inner_jit(held):
    inner = jax.jit(lambda tokens: held[tokens])
    return lambda state, tokens: (state, inner(tokens))


def callback(number):
    def host(tokens):
        return np.asarray(TABLES[number])[np.asarray(tokens)]

    def step(state, tokens):
        shape = jax.ShapeDtypeStruct((*tokens.shape, 3), jnp.float32)
        return state, jax.pure_callback(host, shape, tokens, vmap_method="expand_dims")

    return step


def with_table(table, state, tokens):
    return state, table[tokens]


def steps():
    """A step by its kind, and what it is after the change."""
    global table
    table = OfClass.table = TABLES[0]
    step, change = closure()
    bound, change_bound = closure()
    one, change_one = closure()
    module, thing = Module(), Callable()
    return {
        "module": (of_module, swap_module),
        "closure": (step, change),
        "nnx": (module.step, module.change),
        "callable": (thing, thing.change),
        "not compared": (Unseen(TABLES[0]).step, lambda: Unseen(TABLES[1]).step),
        "functools.partial": (
            functools.partial(with_table, TABLES[0]),
            lambda: functools.partial(with_table, TABLES[1]),
        ),
        "Partial": (Partial(bound), lambda: Partial(change_bound())),
        "ensemble": (ensemble([one, one]), lambda: ensemble([change_one()] * 2)),
        "inner jit": (inner_jit(TABLES[0]), lambda: inner_jit(TABLES[1])),
        "callback": (callback(0), lambda: callback(1)),
        "class": (OfClass.step, OfClass.change),
        "lambda": (lambda s, t: of_module(s, t), lambda: (swap_module(), lambda s, t: of_module(s, t))[1]),
    }


def state_of(kind):
    return (jnp.zeros(1), jnp.zeros(1)) if kind == "ensemble" else jnp.zeros(1)


DECODERS = {
    "greedy": lambda step, s: greedy(step, s, start=0, max_length=3).tokens[0],
    "sample": lambda step, s: sample(
        step, s, key=jax.random.key(0), start=0, max_length=3, temperature=0.01
    ).tokens[0],
    "beam": lambda step, s: beam_search(step, s, start=0, max_length=3, beam_size=2).tokens[0, 0],
    "stochastic": lambda step, s: (
        stochastic_beam_search(step, s, key=jax.random.key(3), start=0, max_length=3, beam_size=8)
        .scores[0]
        .max()
    ),
    "score": lambda step, s: forced_score(step, s, jnp.array([[1, 1, 1]]), start=0)[0],
}


@pytest.mark.parametrize("kind", sorted(steps()))
@pytest.mark.parametrize("outer", ["eager", pytest.param("jit", marks=pytest.mark.slow)])
def test_greedy_answers_with_the_weights_of_now(kind, outer):
    decode = DECODERS["greedy"]
    step, change = steps()[kind]
    for to in (1, 2):
        step = step if to == 1 else change()
        run = functools.partial(decode, step)
        if outer == "jit":
            run = jax.jit(lambda s, run=run: run(s))
        assert run(state_of(kind)).tolist() == [to] * 3


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.slow
def test_every_decoder_answers_with_the_weights_of_now(name):
    step, change = closure()
    for number, expected in enumerate(TABLES):
        actual = DECODERS[name](change() if number else step, jnp.zeros(1))
        fresh = DECODERS[name](Partial(Unseen(expected).step), jnp.zeros(1))
        assert relative_error(actual, fresh) < 1e-6


def test_gradients_reach_what_a_closure_reads():
    def score(logits):
        return forced_score(lambda s, t: (s, logits[t]), jnp.zeros(1), jnp.array([[1, 2]]), start=0)[0]

    def by_hand(logits):
        log_p = jax.nn.log_softmax(logits)
        return log_p[0, 1] + log_p[1, 2]

    actual = (jax.value_and_grad(score)(TABLES[0]), jax.jit(jax.grad(score))(TABLES[0]))
    expected = (jax.value_and_grad(by_hand)(TABLES[0]), jax.grad(by_hand)(TABLES[0]))
    assert relative_error(actual, expected) < 1e-6


def test_a_closure_compiles_once_while_its_trace_stays_the_same():
    caching._evaluate.clear_cache()
    for scale in (1.0, 2.0, 3.0):
        logits = scale * TABLES[0]
        greedy(lambda s, t, logits=logits: (s, logits[t]), jnp.zeros(1), start=0, max_length=3)
    assert caching._evaluate._cache_size() == 1


def test_what_comes_back_has_the_callers_own_structure():
    for name in "ab":
        found = greedy(
            lambda s, t, name=name: (s, TABLES[0][t], {name: t}), jnp.zeros(1), start=0, max_length=2
        )
        assert list(found.extras) == [name]


class Holder:
    """A cell that compares by identity, with an array and a number in it."""

    out_features = 3

    def __init__(self, w, scale):
        self.w, self.scale = w, scale

    def init(self, key, in_features, dtype="float32"):
        return ()

    def initial_carry(self, batch_shape=(), dtype="float32"):
        return jnp.zeros((*batch_shape, 3), dtype)

    def step(self, params, carry, x, noise=None):
        h = jnp.tanh(carry + self.scale * (x @ self.w))
        return h, h


@dataclass(frozen=True)
class Frozen(Holder, jaxrnn.Cell):
    """Compares by value, but not by all that it holds."""

    scale: float
    w: Any = field(compare=False)

    def check(self, params, carry, x):
        pass


def by_hand(w, scale, xs):
    h, ys = np.zeros(3), []
    for x in np.asarray(xs):
        h = np.tanh(h + scale * (x @ np.asarray(w)))
        ys.append(h)
    return np.stack(ys)


XS = jax.random.normal(jax.random.key(0), (4, 2))
W = jax.random.normal(jax.random.key(1), (2, 2, 3))


@pytest.mark.usefixtures("as_users_run")
def test_a_cell_that_changes():
    cell = Holder(W[0], 1.0)
    model = LanguageModel(2, [cell])
    params, nats = model.init(jax.random.key(0)), []
    for w, scale in ((W[0], 1.0), (W[1], 1.0), (W[1], 2.0)):
        cell.w, cell.scale = w, scale
        assert relative_error(jaxrnn.unroll(cell, (), XS)[1], by_hand(w, scale, XS)) < 1e-5
        nats.append(text_nats(model, params, np.array([0, 1, 1, 0]))[0])
        with_new = LanguageModel(2, [Holder(w, scale)])
        assert nats[-1] == pytest.approx(text_nats(with_new, params, np.array([0, 1, 1, 0]))[0])
    assert len(set(nats)) == 3


def test_equal_cells_that_hold_different_arrays():
    for w in W:
        cell = Frozen(1.0, w)
        assert relative_error(jaxrnn.unroll(cell, (), XS)[1], by_hand(w, 1.0, XS)) < 1e-5


class Reversing(Holder):
    """Its derivative depends on a number that its value does not show."""

    def step(self, params, carry, x, noise=None):
        scale = self.scale

        @jax.custom_vjp
        def turn(x):
            return x

        turn.defvjp(lambda x: (x, None), lambda _, d: (-scale * d,))
        h = turn(x @ self.w)
        return h, h


@pytest.mark.usefixtures("as_users_run")
def test_a_derivative_of_the_users_own_that_changes():
    cell = Reversing(W[0], 1.0)
    for scale in (1.0, 5.0):
        cell.scale = scale
        grad = jax.grad(lambda xs: jaxrnn.unroll(cell, (), xs)[1].sum())(XS)
        expected = np.broadcast_to(-scale * np.asarray(W[0]).sum(1), XS.shape)
        assert relative_error(grad, expected) < 1e-5


@pytest.mark.usefixtures("as_users_run")
def test_what_is_a_value():
    model = LanguageModel(5, [jaxrnn.LSTM(4), jaxrnn.Zoneout(jaxrnn.GRU(4))])
    assert caching.is_value(model)
    assert caching.is_value(Partial(model.step, jnp.ones(3)))
    assert not caching.is_value(Partial(of_module))
    assert not caching.is_value(Frozen(1.0, W[0]))
    assert not caching.is_value(LanguageModel(5, [Holder(W[0], 1.0)]))
