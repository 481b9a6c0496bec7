"""What is refused instead of being guessed: one test a promise."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nn
from jaxrnn.attention import Additive, AttentionDecoder, attend
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.dense import DenseCell
from jaxrnn.decoding import beam_search, ensemble, forced_score, greedy, sample
from jaxrnn.models.language_model import LanguageModel, text_nats
from jaxrnn.models.losses import cross_entropy
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
    @pytest.mark.slow
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


@dataclass(frozen=True)
class Doubling(DenseCell):
    def pre_activations(self, params, h_prev, x):
        return 2 * super().pre_activations(params, h_prev, x)


@dataclass(frozen=True)
class Diamond(jaxrnn.LSTM, Doubling):
    """Its override comes after LSTM, which it reaches all the same."""


@dataclass(frozen=True)
class Field(jaxrnn.LSTM):
    pre_activations: Callable = field(default=lambda p, h, x: Sharp(4).pre_activations(p, h, x))


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
    @pytest.mark.parametrize("kind", [Sharp, Deeper, Mixed, Affine, Diamond, Field])
    def test_an_override_below_it(self, kind):
        cell = kind(4)
        params = random_params(cell, "float32")
        assert not cell.has_derivative
        assert not jaxrnn.Residual(jaxrnn.Stack([cell])).has_derivative
        with pytest.raises(
            ValueError, match=r'"bptt" needs .*\((Sharp|Mixin|Affine|Doubling|Field)\.\w+ overrides'
        ):
            jaxrnn.unroll(cell, params, XS, backward="bptt")

    def test_an_override_in_the_instance(self):
        cell = jaxrnn.LSTM(4)
        assert cell.has_derivative
        object.__setattr__(cell, "pre_activations", Sharp(4).pre_activations)
        assert not cell.has_derivative

    def test_what_solves_in_parallel_belongs_to_it_too(self):
        assert jaxrnn.MinGRU(4).has_linear_step
        assert not Affine(4).has_linear_step
        with pytest.raises(ValueError, match="needs a cell that is linear"):
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
            cross_entropy(**arguments)

    def test_a_target_outside_is_nan_under_jit_and_may_be_anything_where_it_does_not_count(self):
        nats = jax.jit(lambda *a: cross_entropy(*a)[0])
        for wrong in (-1, 5):
            targets, mask = self.TARGETS.copy(), np.ones((3, 2), bool)
            targets[1, 1], mask[1, 1] = wrong, False
            assert jnp.isnan(nats(self.LOGITS, targets))
            expected = nats(self.LOGITS, self.TARGETS, mask)
            assert (
                nats(self.LOGITS, targets, mask) == expected == cross_entropy(self.LOGITS, targets, mask)[0]
            )

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_ids_of_narrow_and_wide_types(self):
        model = LanguageModel(256, [jaxrnn.GRU(4)])
        params = model.init(KEY)
        tokens = np.array([[255], [3]])
        expected = model.apply(params, tokens)[1]
        for ids in (tokens.astype(np.uint8), tokens.astype(np.uint16), tokens.tolist()):
            for apply in (
                (model.apply, jax.jit(model.apply)) if not isinstance(ids, list) else (model.apply,)
            ):
                assert relative_error(apply(params, ids)[1], expected) < 1e-6
        logits, below = jnp.zeros((1, 200)), jnp.array([-1], jnp.int8)
        assert jnp.isnan(jax.jit(lambda t: cross_entropy(logits, t)[0])(below))
        step = lambda state, tokens: (state, jnp.eye(3)[tokens])  # noqa: E731
        for start in (2**32, np.int64(2**32 + 1), -(2**32)):
            with pytest.raises(ValueError, match="start must lie in"):
                greedy(step, jnp.zeros(1), start=start, max_length=2)
        scores = jax.jit(lambda t: forced_score(step, jnp.zeros(1), t, start=0))
        assert jnp.isnan(scores(jnp.array([[1, -1]])))
        assert jnp.isnan(scores(jnp.array([[1, 3]])))
        assert jnp.isfinite(scores(jnp.array([[1, 2]])))
        assert greedy(step, jnp.zeros(1), start=[1], max_length=2).tokens.tolist() == [[1, 1]]

    @pytest.mark.parametrize("kind", ["uint8", "int8", "uint32", "int32"])
    def test_traced_lengths_of_any_type_are_clipped(self, kind):
        cell, most = jaxrnn.GRU(4), np.iinfo(kind).max
        params = random_params(cell, "float32")
        run = jax.jit(lambda n: jaxrnn.unroll(cell, params, XS, lengths=n)[1])
        expected = run(jnp.array([5, 2]))
        assert relative_error(run(jnp.array([most, 2], kind)), expected) == 0

    @pytest.mark.slow
    def test_memories_and_masks(self):
        decoder = AttentionDecoder(jaxrnn.GRU(4), Additive(5), memory_features=6, size=3)
        weights, values = decoder.init(KEY, 4), jnp.ones((2, 7, 6))
        for lengths, message in (
            ([5.5, 3.0], "lengths must be integers"),
            ([9, 3], r"lengths must lie in \[0, 7\] \(the time axis of the memory\)"),
            ([3], r"lengths has 1 entry but the memory has batch 2"),
        ):
            with pytest.raises(ValueError, match=message):
                decoder.memory(weights, values, lengths)
        for mask, message in (
            (jnp.ones((1, 7), bool), "mask must have the positions of scores"),
            (jnp.ones((2, 7), int), "mask must be bool, got int32"),
        ):
            with pytest.raises(ValueError, match=message):
                attend(jnp.ones((2, 7)), values, mask)
        with pytest.raises(ValueError, match="memory must have the positions of scores"):
            attend(jnp.ones((2, 6)), values)
        pair, params = translator(1)
        encoded = pair.encode(params, TOKENS)
        for rate in (-0.1, 1.5, float("nan")):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
                pair.logits(params, encoded, TOKENS, key=KEY, sampling_rate=rate)
        _, others = language_model(1, embedding_size=4, tied=True)
        model, own = language_model(1)
        for wrong in (others, own._replace(b_out=jnp.zeros(6)), own._replace(w_out=jnp.zeros((4, 6)))):
            with pytest.raises(ValueError, match=r"^params\."):
                model.apply(wrong, TOKENS)

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
    @pytest.mark.slow
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


@pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name)
def test_every_cell_vouches_for_its_derivative(row):
    assert row.cell.has_derivative
    assert as_cell(row.cell) is row.cell
