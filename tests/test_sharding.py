"""Batches spread over four devices: by the compiler, by the types of arrays, and by hand."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn.attention import Additive
from jaxrnn.decoding import beam_search, forced_score, greedy, sample, stochastic_beam_search
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.losses import cross_entropy
from jaxrnn.models.seq2seq import Seq2Seq
from tests.table import CELLS, IN_FEATURES, Row, random_carry, random_params, relative_error

TIME, BATCH, VOCABULARY = 5, 8, 6
LENGTHS = np.array([5, 0, 3, 5, 1, 2, 4, 5])
# Those whose derivatives multiply in ways of their own; the others share these.
OWN = {"lstm", "gru-before", "min-lstm", "layer-norm", "stack"}
some_cells = pytest.mark.parametrize("row", [r for r in CELLS if r.name in OWN], ids=lambda row: row.name)
in_kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])


@contextlib.contextmanager
def mesh(kind):
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(kind,))):
        yield


def spread(tree, axis=0):
    return jax.tree.map(lambda leaf: jax.device_put(leaf, P(*[None] * axis, "data")), tree)


def is_spread(leaf, axis=0):
    return leaf.sharding.spec[axis] == "data"


def problem(cell):
    random = np.random.default_rng(0)
    xs = jnp.asarray(random.standard_normal((TIME, BATCH, IN_FEATURES)), jnp.float32)
    resets = jnp.asarray(random.random((TIME, BATCH)) < 0.3)
    return random_params(cell, "float32"), xs, random_carry(cell, (BATCH,), "float32"), resets


def unroll_grads(cell, params, xs, carry, options):
    def loss(params, xs, carry):
        last, ys = jaxrnn.unroll(cell, params, xs, carry, **options)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((last, ys))), ys

    argnums = (0, 1) if carry is None else (0, 1, 2)
    return jax.value_and_grad(loss, argnums, has_aux=True)(params, xs, carry)


@pytest.mark.slow
@some_cells
def test_unroll_in_explicit_axes(row: Row):
    """Ragged, with resets, in chunks from end to start: as on one device."""
    params, xs, carry, resets = problem(row.cell)
    options = {"reverse": True, "remat": 2, "backward": "bptt"}
    lengths = jnp.asarray(LENGTHS)
    expected = unroll_grads(row.cell, params, xs, carry, {**options, "lengths": lengths, "resets": resets})
    with mesh(AxisType.Explicit):
        options |= {"lengths": spread(lengths), "resets": spread(resets, 1)}
        actual = jax.jit(lambda *a: unroll_grads(row.cell, *a, options))(
            params, spread(xs, 1), spread(carry)
        )
        assert relative_error(actual, expected) < 1e-5
        assert is_spread(actual[0][1], 1)


@in_kinds
@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.slow
def test_unroll_outside_of_jit(given, backward, kind):
    cell = jaxrnn.LSTM(5)
    params, xs, carry, _ = problem(cell)
    carry = carry if given else None
    expected = unroll_grads(cell, params, xs, carry, {"backward": backward})
    with mesh(kind):
        actual = unroll_grads(cell, params, spread(xs, 1), spread(carry), {"backward": backward})
        assert relative_error(actual, expected) < 1e-5
        assert is_spread(actual[0][1], 1)


@in_kinds
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.slow
def test_parallel_unroll(kind, reverse):
    cell = jaxrnn.MinLSTM(5)
    params, xs, carry, resets = problem(cell)
    options = {"lengths": jnp.asarray(LENGTHS), "resets": resets}
    expected = jaxrnn.parallel_unroll(cell, params, xs, carry, **options, reverse=reverse)
    with mesh(kind):
        there = {"lengths": spread(options["lengths"]), "resets": spread(resets, 1)}
        actual = jaxrnn.parallel_unroll(
            cell, params, spread(xs, 1), spread(carry), **there, reverse=reverse
        )
        assert relative_error(actual, expected) < 1e-5
        assert is_spread(actual[1], 1)


def language_model(size=4):
    cells = [jaxrnn.LSTM(size), jaxrnn.VariationalDropout(jaxrnn.LSTM(size))]
    model = LanguageModel(VOCABULARY, cells, embedding_size=size, tied=True, dropout=0.3, backward="bptt")
    return model, model.init(jax.random.key(0))


def translator(size=4):
    model = Seq2Seq(
        VOCABULARY, VOCABULARY, [jaxrnn.GRU(size)], embedding_size=4, attention=Additive(3), dropout=0.3
    )
    return model, model.init(jax.random.key(0))


def language_loss(model, params, tokens, mask, lengths, key):
    _, logits = model.apply(params, tokens, lengths=lengths, key=key)
    nats, count = cross_entropy(logits, tokens, mask, label_smoothing=0.1)
    return nats / count.astype(nats.dtype)


def translation_loss(model, params, tokens, mask, lengths, key):
    encoded = model.encode(params, tokens, lengths=lengths, key=key)
    rate = jnp.float32(0.5)
    logits = model.logits(params, encoded, tokens, lengths=lengths, key=key, sampling_rate=rate)
    nats, count = cross_entropy(logits, tokens, mask)
    return nats / count.astype(nats.dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "loss"),
    [(language_model, language_loss), (translator, translation_loss)],
    ids=["language", "translation"],
)
def test_models_in_explicit_axes(build, loss):
    model, params = build()
    tokens = jax.random.randint(jax.random.key(1), (TIME, BATCH), 0, VOCABULARY)
    mask, key = jnp.arange(TIME)[:, None] < LENGTHS, jax.random.key(2)
    run = jax.jit(jax.value_and_grad(lambda *a: loss(model, *a)))
    expected = run(params, tokens, mask, jnp.asarray(LENGTHS), key)
    with mesh(AxisType.Explicit):
        arguments = (spread(tokens, 1), spread(mask, 1), spread(jnp.asarray(LENGTHS)), key)
        actual = jax.jit(jax.value_and_grad(lambda *a: loss(model, *a)))(params, *arguments)
        assert relative_error(actual, expected) < 1e-5


def decoders(step, context=None):
    """Each as a function of state, a key a lane, given tokens and their lengths."""
    common = {"start": 0, "context": context}
    more = {**common, "end": 1, "max_length": 4}
    return {
        "greedy": lambda s, k, t, n: greedy(step, s, **more)[:3],
        "sample": lambda s, k, t, n: sample(step, s, key=k, top_k=4, top_p=0.9, **more)[:3],
        "softmax": lambda s, k, t, n: sample(step, s, key=k, feedback="softmax", **more)[:3],
        "beam": lambda s, k, t, n: beam_search(step, s, beam_size=3, **more)[:3],
        "stochastic": lambda s, k, t, n: stochastic_beam_search(step, s, key=k, beam_size=2, **more)[:5],
        "score": lambda s, k, t, n: forced_score(step, s, t, lengths=n, **common),
    }


def decoding_problem(size=4):
    model, params = language_model(size)
    carry = random_carry(jaxrnn.Stack([*model.cells]), (BATCH,), "float32")
    keys = jax.random.split(jax.random.key(3), BATCH)
    tokens = jax.random.randint(jax.random.key(4), (BATCH, 3), 0, 4)
    return jax.tree_util.Partial(model.step, params), carry, keys, tokens, tokens[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(decoders(None)))
def test_decoders(name):
    """Whatever kind of axis: the same tokens, scores within rounding, batch still spread."""
    step, *arguments = decoding_problem()
    expected = decoders(step)[name](*arguments)
    for kind in [AxisType.Explicit] + [AxisType.Auto] * (name in ("greedy", "beam")):
        with mesh(kind):
            actual = decoders(step)[name](*spread(arguments))
            assert relative_error(actual, expected) < 1e-5
            assert is_spread(jax.tree.leaves(actual)[0])
    with mesh(AxisType.Auto):
        by_hand = jax.shard_map(decoders(step)[name], in_specs=P("data"), out_specs=P("data"))
        assert relative_error(by_hand(*arguments), expected) < 1e-5


@pytest.mark.slow
def test_gradients_under_shard_map():
    """Replicated weights get the sum over devices, through a model and through the scores of a decoder."""
    model, params = language_model()
    _, carry, _, tokens, _ = decoding_problem()

    def score(params, carry, tokens):
        return forced_score(jax.tree_util.Partial(model.step, params), carry, tokens, start=0)

    def total(scores):
        return lambda params, *rest: jnp.sum(scores(params, *rest))

    expected = jax.jit(jax.grad(total(score)))(params, carry, tokens)
    with mesh(AxisType.Auto):
        by_hand = jax.shard_map(score, in_specs=(P(), P("data"), P("data")), out_specs=P("data"))
        actual = jax.jit(jax.grad(total(by_hand)))(params, carry, tokens)
        assert relative_error(actual, expected) < 1e-5
