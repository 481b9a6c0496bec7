"""What is refused instead of being guessed, and the types that are taken: one test a promise."""

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
from jaxrnn.decoding import beam_search, ensemble, forced_score, greedy, sample
from jaxrnn.models.language_model import LanguageModel, next_token_nats, text_nats
from jaxrnn.models.scheduled import ScheduledSampling
from jaxrnn.models.seq2seq import Seq2Seq
from tests.table import CELLS, random_params, relative_error

pytestmark = pytest.mark.usefixtures("as_users_run")  # types are part of what is promised

KEY = jax.random.key(0)
TOKENS = np.array([[0, 1], [2, 3], [4, 0]])
XS = jax.random.normal(KEY, (5, 2, 3))


def language_model(layers, **options):
    model = LanguageModel(5, [jaxrnn.LSTM(4)] * layers, **options)
    return model, model.init(KEY)


def translator(layers):
    model = Seq2Seq(5, 5, [jaxrnn.GRU(4)] * layers, embedding_size=3, direction="forward")
    return model, model.init(KEY)


class TestAsManyAsThereAre:
    """Layers, directions and models are counted, whoever has more."""

    @pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (2, 1)])
    def test_layers_of_models(self, ours, theirs):
        model, params = language_model(ours)
        _, others = language_model(theirs)
        carry = model.initial_carry((2,))
        odd = [carry[0]] * theirs
        message = rf"params.layers must be a tuple of {ours}, one a cell; got {theirs} of them"
        for call in (model.apply, lambda p, t: model.step(p, carry, t[0])):
            with pytest.raises(ValueError, match=message):
                call(others, TOKENS)
        for call in (lambda c: model.apply(params, TOKENS, c), lambda c: model.step(params, c, TOKENS[0])):
            with pytest.raises(ValueError, match=f"carry must be a tuple of {ours}"):
                call(odd)
        model, _ = translator(ours)
        with pytest.raises(ValueError, match=f"params.encoder must be a tuple of {ours}"):
            model.encode(translator(theirs)[1], TOKENS)

    @pytest.mark.parametrize("count", [1, 3])
    def test_layers_and_directions_elsewhere(self, count):
        cell = jaxrnn.GRU(4)
        params, carry = random_params(cell, "float32"), cell.initial_carry((2,))
        stack = jaxrnn.Stack([cell, jaxrnn.GRU(4)])
        both = stack.init(KEY, 3)
        layers = jaxrnn.nn.StackedRNN(cell, 3, num_layers=2, rngs=nnx.Rngs(0))
        pair = jaxrnn.nn.StackedRNN(cell, 3, num_layers=1, bidirectional=True, rngs=nnx.Rngs(0))
        some = (carry,) * count
        step = lambda state, tokens: (state, jnp.zeros((1, 3)))  # noqa: E731
        calls = [
            lambda: jaxrnn.bidirectional(cell, cell, (params,) * count, XS),
            lambda: jaxrnn.bidirectional(cell, cell, (params,) * 2, XS, some),
            lambda: jaxrnn.bidirectional(cell, cell, (params,) * 2, XS, noise=(None,) * count),
            lambda: jaxrnn.unroll(stack, both, XS, some),
            lambda: jaxrnn.unroll(stack, (params,) * count, XS),
            lambda: stack.step(both, stack.initial_carry((2,)), XS[0], (None,) * count),
            lambda: stack.step_fwd(both, stack.initial_carry((2,)), XS[0], (None,) * count),
            lambda: layers(jnp.ones((2, 5, 3)), initial_carry=some),
            lambda: pair(jnp.ones((2, 5, 3)), initial_carry=(some,)),
            lambda: greedy(ensemble([step, step]), (jnp.zeros(1),) * count, start=0, max_length=2),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=rf"must be a tuple of 2, one a \w+; got {count} of them"):
                call()


@dataclass(frozen=True)
class Sharp(jaxrnn.LSTM):
    def pre_activations(self, params, h_prev, x):
        return 2 * super().pre_activations(params, h_prev, x)


class Deeper(Sharp):
    """Changes nothing itself."""


class Mixin:
    def compute_dtype(self, *operands):
        return jnp.dtype("float32")


class Mixed(Mixin, jaxrnn.GRU):
    pass


class Affine(jaxrnn.MinGRU):
    def pre_activations(self, params, x):
        return 2 * super().pre_activations(params, x)


class Vouched(Sharp):
    step_bwd = jaxrnn.LSTM.step_bwd


@dataclass(frozen=True)
class Untouched(jaxrnn.LSTM):
    """What it overrides has no part in the step."""

    forget_bias: float = 2.0

    def init(self, key, in_features, dtype=jnp.float32):
        return super().init(key, in_features, dtype)

    def initial_carry(self, batch_shape=(), dtype=jnp.float32):
        return jax.tree.map(lambda leaf: leaf + 0.5, super().initial_carry(batch_shape, dtype))

    def gates(self, params, carry, x, noise=None):
        return {}


class TestADerivativeBelongsToItsStep:
    @pytest.mark.parametrize("kind", [Sharp, Deeper, Mixed, Affine])
    def test_an_override_below_it(self, kind):
        cell = kind(4)
        params = random_params(cell, "float32")
        assert not cell.has_derivative
        assert not jaxrnn.Residual(jaxrnn.Stack([cell])).has_derivative
        with pytest.raises(ValueError, match=r'"bptt" needs .*\((Sharp|Mixin|Affine)\.\w+ overrides'):
            jaxrnn.unroll(cell, params, XS, backward="bptt")

    def test_what_solves_in_parallel_belongs_to_it_too(self):
        assert jaxrnn.MinGRU(4).is_affine
        assert not Affine(4).is_affine
        with pytest.raises(ValueError, match="needs a cell that is affine"):
            jaxrnn.parallel_unroll(Affine(4), random_params(Affine(4), "float32"), XS)

    @pytest.mark.parametrize("kind", [Untouched, Vouched, jaxrnn.IRNN])
    def test_what_keeps_it(self, kind):
        assert kind(4).has_derivative


class TestShapesTypesAndRanges:
    LOGITS = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    TARGETS = np.array([[0, 1], [2, 3], [4, 0]])

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"mask": np.ones((3, 1), bool)}, r"mask must be bool .* \(3, 2\), got bool of shape \(3, 1\)"),
            ({"mask": np.ones((3, 2))}, "mask must be bool .* got float"),
            ({"mask": np.ones((3, 2), int)}, "mask must be bool .* got int"),
            ({"targets": TARGETS[:, :1]}, r"targets must have .* \(3, 2\), got \(3, 1\)"),
            ({"targets": TARGETS.astype(float)}, "targets must be integers"),
            ({"targets": TARGETS + 1}, r"targets must lie in \[0, 5\), the vocabulary, got 5"),
            ({"targets": TARGETS - 1}, r"targets must lie in \[0, 5\), the vocabulary, got -1"),
            ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ],
    )
    def test_losses(self, changed, message):
        arguments = {"logits": self.LOGITS, "targets": self.TARGETS, **changed}
        with pytest.raises(ValueError, match=message):
            next_token_nats(**arguments)

    def test_a_target_outside_is_nan_under_jit_and_may_be_anything_where_it_does_not_count(self):
        nats = jax.jit(lambda *a: next_token_nats(*a)[0])
        for wrong in (-1, 5):
            targets, mask = self.TARGETS.copy(), np.ones((3, 2), bool)
            targets[1, 1], mask[1, 1] = wrong, False
            assert jnp.isnan(nats(self.LOGITS, targets))
            expected = nats(self.LOGITS, self.TARGETS, mask)
            assert (
                nats(self.LOGITS, targets, mask)
                == expected
                == next_token_nats(self.LOGITS, targets, mask)[0]
            )

    @pytest.mark.parametrize("options", [{}, {"embedding_size": 3}], ids=["one-hot", "embedding"])
    def test_tokens_of_models(self, options):
        model, params = language_model(1, **options)
        carry = model.initial_carry((2,))
        pair, pair_params = translator(1)
        encoded = pair.encode(pair_params, TOKENS)
        for wrong, message in (
            (TOKENS + 1, r"tokens must lie in \[0, 5\), the vocabulary, got 5"),
            (TOKENS - 1, r"tokens must lie in \[0, 5\), the vocabulary, got -1"),
            (TOKENS * 1.0, "tokens must be integers, got float"),
        ):
            calls = [
                lambda t: model.apply(params, t),
                lambda t: pair.encode(pair_params, t),
                lambda t: pair.logits(pair_params, encoded, t),
            ]
            if "float" not in message:
                calls += [
                    lambda t: model.step(params, carry, t[[0, 2]].T.ravel()[:2] if t.min() < 0 else t[2]),
                    lambda t: text_nats(model, params, t.ravel()),
                ]
            for call in calls:
                with pytest.raises(ValueError, match=message.replace("tokens", r"\w+")):
                    call(wrong)
            if "float" not in message:
                _, logits = jax.jit(model.apply)(params, wrong)
                assert np.isnan(np.asarray(logits)).any(-1).any(-1).sum() == 1 + (wrong.min() < 0) * 2
        beyond = np.where(np.arange(3)[:, None] < [3, 1], TOKENS, -100)
        actual = model.apply(params, beyond, lengths=jnp.array([3, 1]))[1]
        expected = model.apply(params, TOKENS, lengths=jnp.array([3, 1]))[1]
        assert relative_error(actual, expected) == 0

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"start": 1.0}, "start must be integers, got float"),
            ({"start": jnp.array([0.0])}, "start must be integers, got float32"),
            ({"end": 1.0}, "end must be an integer, got 1.0"),
            ({"end": True}, "end must be an integer, got True"),
            ({"max_length": 2.0}, "max_length must be a positive integer, got 2.0"),
            ({"max_length": True}, "max_length must be a positive integer, got True"),
        ],
    )
    def test_decoders(self, changed, message):
        step = lambda state, tokens: (state, jnp.eye(3)[tokens])  # noqa: E731
        options = {"start": 0, "max_length": 2, **changed}
        for decode in (greedy, lambda *a, **k: beam_search(*a, beam_size=2, **k)):
            with pytest.raises(ValueError, match=message):
                decode(step, jnp.zeros(1), **options)
        for name in ("tokens", "lengths"):
            given = {"tokens": np.zeros((1, 2), int), "lengths": np.array([2])}
            given[name] = given[name] * 1.0
            with pytest.raises(ValueError, match=f"{name} must be integers, got float"):
                forced_score(step, jnp.zeros(1), given["tokens"], start=0, lengths=given["lengths"])

    @pytest.mark.parametrize("lengths", [[7, 3], [5, 3]])
    def test_reversed_outputs_take_lengths_as_unroll_does(self, lengths):
        layer = jaxrnn.nn.RNN(jaxrnn.LSTM(4), 3, rngs=nnx.Rngs(0))
        xs = jnp.moveaxis(XS, 0, 1)
        expected = layer(xs, seq_lengths=jnp.array([5, 3]), reverse=True)
        traced = nnx.jit(lambda layer, n: layer(xs, seq_lengths=n, reverse=True))
        assert relative_error(traced(layer, jnp.array(lengths)), expected) < 1e-6
        assert relative_error(layer(xs, seq_lengths=np.array([5, 3]), reverse=True), expected) == 0


class TestExtremesOfSampling:
    LOGITS = jnp.array([0.0, -jnp.inf, -3e38, 3e38, -jnp.inf])
    VALUES = (1e-300, 1e-45, 1e-10, 1.0, 1e38, 1e300, float("inf"))

    @pytest.mark.parametrize("temperature", VALUES)
    @pytest.mark.parametrize("top_k", [None, 1, 4, 5])
    @pytest.mark.parametrize("top_p", [None, 1e-300, 0.5, 0.9999999999])
    def test_what_is_impossible_is_never_drawn(self, temperature, top_k, top_p):
        step = lambda state, tokens: (state, jnp.tile(self.LOGITS, (200, 1)))  # noqa: E731
        options = {"top_k": top_k, "top_p": top_p, "temperature": temperature}
        drawn = sample(step, jnp.zeros(200), key=KEY, start=0, max_length=1, **options).tokens
        drawn = set(np.asarray(drawn).ravel())
        assert drawn <= {0, 2, 3}
        if temperature < 1e38 or top_k == 1:
            assert drawn == {3}
        elif top_p == 1e-300:
            assert len(drawn) == 1
        elif temperature > 1e38 and top_p != 0.5:  # flat, but for what is impossible
            assert drawn == {0, 2, 3}

    @pytest.mark.parametrize("scale", [1e3, 1e300])
    def test_beyond_float32(self, float64, scale):
        logits = scale * jnp.array([1.0, 2.0, 3.0]) - jnp.array([0.0, jnp.inf, 0.0])
        step = lambda state, tokens: (state, jnp.tile(logits, (50, 1)))  # noqa: E731
        drawn = sample(step, jnp.zeros(50), key=KEY, start=0, max_length=1, temperature=scale)
        assert set(np.asarray(drawn.tokens).ravel()) == {0, 2}
        assert np.all(np.isfinite(drawn.scores))


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
                lambda c: AttentionDecoder(c, Additive(2), 3, 3),
                lambda c: ScheduledSampling(c, 3),
                lambda c: LanguageModel(5, [c]),
                lambda c: Seq2Seq(5, 5, [c]),
                lambda c: jaxrnn.nn.RNN(c, 3, rngs=nnx.Rngs(0)),
            ):
                with pytest.raises(TypeError, match=message):
                    take(wrong)

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
        assert hash(jaxrnn.Zoneout(jaxrnn.LSTM(4), half, half)) == hash(
            jaxrnn.Zoneout(jaxrnn.LSTM(4), 0.5, 0.5)
        )
        assert jaxrnn.VariationalDropout(jaxrnn.LSTM(4), half, half).rate_y == 0.5
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
        assert jaxrnn.ProjectedLSTM(size, size) == jaxrnn.ProjectedLSTM(4, 4)
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


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_every_cell_vouches_for_its_derivative(row):
    assert row.cell.has_derivative
    assert as_cell(row.cell) is row.cell
