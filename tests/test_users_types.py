"""Cells, numbers and keys as users have them: what is taken, and what is refused with a reason."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nn
from jaxrnn import gradients
from jaxrnn.attention import Additive, AttentionDecoder
from jaxrnn.cells.adapted import as_cell
from jaxrnn.decoding import beam_search, sample
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.scheduled_sampling import ScheduledSampling
from jaxrnn.models.seq2seq import Seq2Seq
from tests.table import random_params, relative_error

pytestmark = pytest.mark.usefixtures("as_users_run")  # types are part of what is promised

KEY = jax.random.key(0)
TOKENS = np.array([[0, 1], [2, 3], [4, 0]])
XS = jax.random.normal(KEY, (5, 2, 3))


class TestAnyObjectIsACell:
    class Duck:
        def __init__(self, n=4):
            self.out_features = n

        def init(self, key, in_features, dtype="float32"):
            return {"w": jax.random.normal(key, (in_features, self.out_features), dtype)}

        def initial_carry(self, batch_shape=(), dtype="float32"):
            return jnp.zeros((*batch_shape, self.out_features), dtype)

        def step(self, params, h, x, noise=None):
            h = jnp.tanh(h + x @ params["w"])
            return h, h

    @pytest.mark.slow
    def test_wherever_a_cell_is_taken(self, float64):
        duck, params = self.Duck(), {"w": jax.random.normal(KEY, (3, 4))}
        xs, h, ys = XS.astype("float64"), jnp.zeros((2, 4)), []
        for x in xs:
            h = jnp.tanh(h + x @ params["w"])
            ys.append(h)
        expected = jnp.stack(ys)
        assert relative_error(jaxrnn.unroll(duck, params, xs)[1], expected) < 1e-12
        assert relative_error(jaxrnn.unroll(jaxrnn.Stack([duck]), (params,), xs)[1], expected) < 1e-12
        assert (
            relative_error(
                gradients.rtrl(duck, params, xs, d_ys=expected)[0],
                jax.grad(lambda p: jnp.vdot(expected, jaxrnn.unroll(duck, p, xs)[1]))(params),
            )
            < 1e-12
        )
        assert gradients.check(duck, params, xs).agrees

    @pytest.mark.slow
    def test_in_models_and_modules(self):
        model = LanguageModel(5, [self.Duck(), jaxrnn.GRU(4)])
        assert model.apply(model.init(KEY), TOKENS)[1].shape == (3, 2, 5)
        pair = Seq2Seq(5, 5, [self.Duck(4)], embedding_size=3, attention=Additive(2))
        params = pair.init(KEY)
        assert pair.logits(params, pair.encode(params, TOKENS), TOKENS).shape == (3, 2, 5)
        layer = jaxrnn.nn.StackedRNN(self.Duck(), 3, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
        assert layer(jnp.ones((2, 5, 3))).shape == (2, 5, 8)

    def test_what_is_none_says_why(self):
        @dataclass
        class Loose(self.Duck, jaxrnn.Cell):
            n: int = 4

        class Stepless:
            init = initial_carry = out_features = None

        for wrong, message in (
            (Loose(), "must be hashable, and .* make Loose a frozen dataclass"),
            (Stepless(), "is no cell: it has no init, initial_carry, out_features, step"),
            (jaxrnn.LSTM, r"got the class LSTM; make one: LSTM\(\.\.\.\)"),
            (None, "None is no cell"),
        ):
            for take in (
                as_cell,
                lambda c: jaxrnn.unroll(c, {}, XS),
                lambda c: jaxrnn.Stack([c]),
                lambda c: jaxrnn.Residual(c),
                lambda c: AttentionDecoder(c, Additive(2), memory_features=3, size=3),
                lambda c: ScheduledSampling(c, 3),
                lambda c: LanguageModel(5, [c]),
                lambda c: Seq2Seq(5, 5, [c]),
                lambda c: jaxrnn.nn.RNN(c, 3, rngs=nnx.Rngs(0)),
            ):
                with pytest.raises(TypeError, match=message):
                    take(wrong)

    @pytest.mark.slow
    def test_wrappers_ask_what_is_inside(self):
        """A decoder's params hold a memory too, which only its own check knows of."""
        decoder = AttentionDecoder(jaxrnn.GRU(4), Additive(5), memory_features=6, size=4)
        weights = decoder.init(KEY, 4)
        params = (weights, decoder.memory(weights, jnp.ones((2, 7, 6))))
        below = jaxrnn.GRU(4)
        for cell, with_memory in (
            (jaxrnn.Stack([below, decoder]), (random_params(below, "float32"), params)),
            (jaxrnn.Stack([jaxrnn.Stack([below, jaxrnn.Residual(decoder)])]), None),
        ):
            given = ((random_params(below, "float32"), params),) if with_memory is None else with_memory
            assert jaxrnn.unroll(cell, given, XS)[1].shape == (5, 2, 4)
        nested = AttentionDecoder(jaxrnn.Stack([below]), Additive(5), memory_features=6, size=4)
        weights = nested.init(KEY, 3)
        short = weights._replace(cell=())
        with pytest.raises(ValueError, match=r"params"):
            nested.step(
                (short, nested.memory(weights, jnp.ones((2, 7, 6)))), nested.initial_carry((2,)), XS[0]
            )


class TestTypesThatUsersHave:
    @pytest.mark.parametrize("number", [np.float32, np.float64, np.float16, jnp.float32, jnp.bfloat16])
    def test_numbers(self, number):
        half, two = number(0.5), number(2)
        assert jaxrnn.LSTM(4, forget_bias=two) == jaxrnn.LSTM(4, forget_bias=2.0)
        assert hash(jaxrnn.Zoneout(jaxrnn.LSTM(4), rate_h=half, rate_c=half)) == hash(
            jaxrnn.Zoneout(jaxrnn.LSTM(4), rate_h=0.5, rate_c=0.5)
        )
        assert jaxrnn.VariationalDropout(jaxrnn.LSTM(4), rate_h=half, rate_y=half).rate_y == 0.5
        assert jaxrnn.IRNN(4, scale=half) == jaxrnn.IRNN(4, scale=0.5)
        assert LanguageModel(5, [jaxrnn.GRU(4)], dropout=half) == LanguageModel(
            5, [jaxrnn.GRU(4)], dropout=0.5
        )
        step = lambda state, tokens: (state, jnp.eye(3)[tokens])  # noqa: E731
        options = {"key": KEY, "start": np.int64(0), "end": np.int8(1), "max_length": np.int32(3)}
        drawn = sample(step, jnp.zeros(2), temperature=half, top_p=half, top_k=jnp.int32(2), **options)
        assert drawn.tokens.shape == (2, 3)
        found = beam_search(
            step, jnp.zeros(2), start=0, end=1, max_length=3, beam_size=np.int64(2), length_penalty=half
        )
        assert found.tokens.shape == (2, 2, 3)

    @pytest.mark.parametrize("size", [np.int64(4), np.int32(4), jnp.int32(4)])
    def test_sizes(self, size):
        assert jaxrnn.LSTM(size) == jaxrnn.LSTM(4)
        projected = jaxrnn.ProjectedLSTM(size, projection_size=size)
        assert projected == jaxrnn.ProjectedLSTM(4, projection_size=4)
        assert jaxrnn.Chrono(size) == jaxrnn.Chrono(4)
        assert LanguageModel(size, [jaxrnn.GRU(4)]) == LanguageModel(4, [jaxrnn.GRU(4)])

    def test_traced_temperature_and_mass(self):
        step = lambda state, tokens: (state, jnp.tile(jnp.arange(6.0), (50, 1)))  # noqa: E731

        @jax.jit
        def draw(temperature, top_p):
            options = {"temperature": temperature, "top_p": top_p}
            return sample(step, jnp.zeros(50), key=KEY, start=0, max_length=2, **options).tokens

        for temperature, top_p in ((0.7, 0.8), (1e-30, 0.5), (3.0, 1e-30)):
            options = {"temperature": temperature, "top_p": top_p}
            expected = sample(step, jnp.zeros(50), key=KEY, start=0, max_length=2, **options).tokens
            assert np.array_equal(draw(temperature, top_p), expected)

    @pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
    @pytest.mark.slow
    def test_a_key_a_lane_makes_lanes_independent(self, implementation):
        keys = jax.random.split(jax.random.key(3, impl=implementation), 4)
        step = lambda state, tokens: (state, jnp.zeros((len(tokens), 50)))  # noqa: E731

        def draw(lanes):
            return sample(step, jnp.zeros(len(lanes)), key=keys[lanes], start=0, max_length=5).tokens

        together = draw(np.arange(4))
        for lanes in ([2], [3, 1]):
            assert np.array_equal(draw(np.array(lanes)), together[np.array(lanes)])
        assert len(np.unique(together, axis=0)) == 4

    @pytest.mark.parametrize("half", ["bfloat16", "float16"])
    @pytest.mark.slow
    def test_half_precision_stays(self, half):
        model = LanguageModel(5, [jaxrnn.GRU(4), jaxrnn.VariationalDropout(jaxrnn.Elman(4))], dropout=0.5)
        params = model.init(KEY, half)
        carry, logits = model.apply(params, TOKENS, key=KEY)
        assert {leaf.dtype for leaf in jax.tree.leaves((carry, logits))} == {jnp.dtype(half)}
        pair = Seq2Seq(5, 5, [jaxrnn.GRU(4)], embedding_size=4, attention=Additive(3), dropout=0.5)
        params = pair.init(KEY, half)
        encoded = pair.encode(params, TOKENS, lengths=jnp.array([3, 0]), key=KEY)
        logits = pair.logits(params, encoded, TOKENS, key=KEY, sampling_rate=0.5)
        floats = [leaf for leaf in jax.tree.leaves((encoded, logits)) if leaf.dtype != bool]
        assert {leaf.dtype for leaf in floats} == {jnp.dtype(half)}
        grads = jax.grad(lambda p: pair.encode(p, TOKENS).memory.values.sum())(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(half)}
