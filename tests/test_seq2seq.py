"""The sequence-to-sequence model and its attention decoder against NumPy loops over single sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import GRU, LSTM, Elman, Stack, unroll
from jaxrnn.attention import Additive, AttentionDecoder, Dot, General
from jaxrnn.decoding import forced_score
from jaxrnn.gradients import finite_difference
from jaxrnn.models.decoder import DecoderParams
from jaxrnn.models.losses import cross_entropy
from jaxrnn.models.seq2seq import Seq2Seq
from tests.models import as_float64, numpy_decoder, numpy_encoder
from tests.table import random_like

SOURCE, TARGET, BATCH, START = 6, 5, 4, 1
SOURCE_WORDS, TARGET_WORDS = 7, 9
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([6, 3, 0, 1]), np.array([2, 5, 3, 0])
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

MODELS = {
    "plain": Seq2Seq(SOURCE_WORDS, TARGET_WORDS, [GRU(4)], embedding_size=3, direction="forward"),
    "reversed lstm": Seq2Seq(
        SOURCE_WORDS,
        TARGET_WORDS,
        [LSTM(4), LSTM(4)],
        embedding_size=3,
        direction="reversed",
        backward="bptt",
    ),
    "bidirectional": Seq2Seq(SOURCE_WORDS, TARGET_WORDS, [GRU(3), GRU(2)], [LSTM(4)], embedding_size=3),
    "additive": Seq2Seq(
        SOURCE_WORDS,
        TARGET_WORDS,
        [GRU(4), GRU(4)],
        embedding_size=3,
        attention=Additive(5),
        readout_size=2,
    ),
    "general": Seq2Seq(
        SOURCE_WORDS, TARGET_WORDS, [LSTM(4)], embedding_size=3, attention=General(), input_feeding=False
    ),
    "dot tied": Seq2Seq(
        TARGET_WORDS,
        TARGET_WORDS,
        [Elman(4)],
        [GRU(4)],
        embedding_size=3,
        direction="reversed",
        attention=Dot(),
        tied="all",
    ),
}


@pytest.fixture(
    params=[name if name == "additive" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def model(request):
    return MODELS[request.param]


def random_params(model, dtype, seed=0):
    return random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), dtype)), seed)


def sentences(model):
    """Source and target ids (time, batch) and what the decoder is fed."""
    random = np.random.default_rng(3)
    source = random.integers(0, model.source_vocabulary, (SOURCE, BATCH))
    target = random.integers(0, model.target_vocabulary, (TARGET, BATCH))
    return source, target, np.concatenate([np.full((1, BATCH), START), target[:-1]])


def numpy_logits(model, params, source, fed):
    """Logits and attention weights of one sentence."""
    params = as_float64(params)
    vectors = params.source_embedding[source]
    states, ys = numpy_encoder(model.encoder, params.encoder, vectors, len(source))
    target_embedding = params.source_embedding if model.tied == "all" else params.target_embedding
    decoder_params = DecoderParams(target_embedding, params.decoder, params.w_out, params.b_out)
    return numpy_decoder(model.decoder, decoder_params, first_states(model, params, states), ys, fed)


def first_states(model, params, states):
    """The decoder's state before its first step: the encoder's last, or through the bridge."""
    if params.bridge is None:
        return states
    flat = np.concatenate(jax.tree.leaves(states))
    bridges = jax.tree.leaves(params.bridge, is_leaf=lambda node: hasattr(node, "w"))
    parts = iter([np.tanh(flat @ bridge.w + bridge.b) for bridge in bridges])
    return [
        tuple(next(parts) for _ in jax.tree.leaves(cell.initial_carry())) for cell in model.decoder_cells
    ]


def teacher_forced(
    model, params, source, fed, source_lengths=SOURCE_LENGTHS, target_lengths=TARGET_LENGTHS
):
    encoded = model.encode(params, source, lengths=source_lengths)
    return model.logits(params, encoded, fed, lengths=target_lengths)


def test_equals_numpy(model, dtype):
    params, (source, _, fed) = random_params(model, dtype), sentences(model)
    assert (params.w_out is None) == (model.tied != "none")
    assert (params.target_embedding is None) == (model.tied == "all")
    encoded = model.encode(params, source, lengths=SOURCE_LENGTHS)
    logits = model.logits(params, encoded, fed, lengths=TARGET_LENGTHS)
    assert logits.dtype == dtype
    step = jax.jit(model.step)
    for lane, (source_length, target_length) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        expected, alphas = numpy_logits(
            model, params, source[:source_length, lane], fed[:target_length, lane]
        )
        found = logits[:target_length, lane]
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        carry = jax.tree.map(lambda leaf, lane=lane: leaf[lane : lane + 1], encoded.carry)
        memory = jax.tree.map(lambda leaf, lane=lane: leaf[lane : lane + 1], encoded.memory)
        for time in range(target_length):  # step by step, as decoders do
            carry, row, weights = step(params, carry, fed[time, lane : lane + 1], memory)
            np.testing.assert_allclose(row[0], expected[time], rtol=tolerance, atol=tolerance)
            if model.attention is None:
                assert weights is None
                continue
            assert (weights[0, source_length:] == 0).all()
            np.testing.assert_allclose(
                weights[0, :source_length], alphas[time], rtol=tolerance, atol=tolerance
            )
            assert float(weights.sum()) == pytest.approx(float(source_length > 0), rel=1e-6)


@pytest.mark.slow
def test_a_padded_batch_costs_what_its_sentences_cost(model, float64):
    params, (source, target, fed) = random_params(model, float64), sentences(model)

    @jax.jit
    @jax.value_and_grad
    def nats(params, source, fed, target, source_lengths, target_lengths):
        logits = teacher_forced(model, params, source, fed, source_lengths, target_lengths)
        mask = jnp.arange(len(target))[:, None] < target_lengths
        return cross_entropy(logits, target, mask, label_smoothing=0.3)[0]

    lanes = (1,)  # the others cost nothing; a shape takes long to compile
    target_lengths = np.where(np.isin(np.arange(BATCH), lanes), TARGET_LENGTHS, 0)
    whole = nats(params, source, fed, target, SOURCE_LENGTHS, target_lengths)
    # Whatever stands at padding: other words there change nothing.
    spoilt = np.where(np.arange(SOURCE)[:, None] < SOURCE_LENGTHS, source, 0)
    again = nats(params, spoilt, fed, target, SOURCE_LENGTHS, target_lengths)
    singles = []
    for lane in lanes:
        s, t = SOURCE_LENGTHS[lane], TARGET_LENGTHS[lane]
        cut = (source[:s, lane : lane + 1], fed[:t, lane : lane + 1], target[:t, lane : lane + 1])
        singles.append(nats(params, *cut, np.array([s]), np.array([t])))
    summed = jax.tree.map(lambda *leaves: sum(leaves), *singles)
    for found in (whole, again):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, summed)


def test_teacher_forced_scores_equal_forced_score(model, dtype):
    params, (source, target, fed) = random_params(model, dtype), sentences(model)
    encoded = model.encode(params, source, lengths=SOURCE_LENGTHS)
    logits = model.logits(params, encoded, fed, lengths=TARGET_LENGTHS)
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), target[..., None], axis=-1)[..., 0]
    expected = np.sum(np.where(np.arange(TARGET)[:, None] < TARGET_LENGTHS, log_p, 0), axis=0)
    step = jax.tree_util.Partial(model.step, params)
    scores = forced_score(
        step, encoded.carry, target.T, start=START, lengths=TARGET_LENGTHS, context=encoded.memory
    )
    np.testing.assert_allclose(scores, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("input_feeding", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("attention", "features"), [(Additive(3), 5), (General(), 5), (Dot(), 4)])
@pytest.mark.slow
def test_gradients_of_the_attention_decoder(attention, features, input_feeding, float64):
    """By weights, memory, inputs and first carry, with ragged targets and sources, one of each empty."""
    cell = AttentionDecoder(
        Stack([GRU(3), LSTM(4)]), attention, memory_features=features, size=2, input_feeding=input_feeding
    )
    weights = random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), 3, float64)), 0)
    carry = random_like(jax.eval_shape(lambda: cell.initial_carry((3,), float64)), 1)
    random = np.random.default_rng(2)
    values, xs = random.normal(size=(3, 4, features)), random.normal(size=(5, 3, 3))

    @jax.jit
    def loss(arguments):
        weights, values, xs, carry = arguments
        memory = cell.memory(weights, values, jnp.array([4, 0, 2]))
        last, ys = unroll(cell, (weights, memory), xs, carry, lengths=jnp.array([5, 3, 0]))
        return jnp.sum(jnp.sin(3 * ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))

    arguments = (weights, jnp.asarray(values), jnp.asarray(xs), carry)
    found, expected = jax.grad(loss)(arguments), finite_difference(loss, arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)
    assert (found[1][0] != 0).all()
    assert (found[1][1] == 0).all()
    assert (found[1][2] == 0).all()  # its target is empty


@pytest.mark.slow
def test_it_learns_to_reverse():
    """Attention and a plain decoder learn to write three digits backward, by their gradients alone."""
    random = np.random.default_rng(0)
    source = random.integers(2, 5, (3, 64))
    target = source[::-1]
    fed = np.concatenate([np.full((1, 64), START), target[:-1]])
    for attention in (None, Additive(8)):
        model = Seq2Seq(5, 5, [GRU(12)], embedding_size=8, attention=attention)
        params, optimizer = model.init(jax.random.key(0)), optax.adam(3e-2)

        def loss(params, model=model):
            logits = model.logits(params, model.encode(params, source), fed)
            return cross_entropy(logits, target)[0] / target.size

        @jax.jit
        def update(params, state, loss=loss, optimizer=optimizer):
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, value

        state = optimizer.init(params)
        for _ in range(150):
            params, state, value = update(params, state)
        assert float(value) < 0.05


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("source_embedding", r"source_embedding should have shape \(7, 3\), got \(9, 3\)"),
        ("target_embedding", r"target_embedding should have shape \(9, 3\), got \(11, 3\)"),
        ("encoder", "params.encoder must be a tuple of 2, one a cell; got 3 of them"),
        ("bridge", r"bridge.* should have shape \(10, 4\), got \(12, 4\)"),
        ("w_out", r"w_out should have shape \(4, 9\), got \(6, 9\)"),
        ("b_out", r"b_out should have shape \(9,\), got \(11,\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(field, message):
    model = MODELS["bidirectional"]
    params = random_params(model, "float32")
    encoded = jax.eval_shape(lambda p: model.encode(p, np.ones((2, 1), int)), params)

    def longer(leaf):
        return jnp.concatenate([leaf, leaf[:2]])

    value = getattr(params, field)
    if field == "encoder":
        wrong = (*value, value[-1])
    elif field == "bridge":
        wrong = jax.tree.map(lambda b: longer(b) if b.ndim == 2 else b, value)
    else:
        wrong = longer(value)
    params = params._replace(**{field: wrong})
    for call in (
        lambda: model.encode(params, np.ones((2, 1), int)),
        lambda: model.logits(params, encoded, np.ones((2, 1), int)),
        lambda: model.step(params, encoded.carry, np.ones(1, int)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.slow
def test_bad_input():
    plain, params = MODELS["plain"], random_params(MODELS["plain"], "float32")
    encoded = jax.eval_shape(plain.encode, params, np.ones((2, 1), int))
    with pytest.raises(ValueError, match="tokens must be integers, got float32"):
        plain.encode(params, jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="give a key"):
        plain.logits(params, encoded, np.ones((2, 1), int), sampling_rate=0.5)
    for options, message in (
        (
            {"direction": "sideways"},
            "direction must be one of forward, reversed, bidirectional, got 'sideways'",
        ),
        ({"cells": []}, "at least one cell each, got none"),
        ({"tied": "output"}, r"readout of embedding_size \(3\), got 4"),
        (
            {"tied": "all", "attention": General()},
            "one vocabulary for source and target, got 7 and 9 tokens",
        ),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"embedding_size": 0}, "embedding_size must be a positive integer, got 0"),
        ({"readout_size": 0}, "readout_size must be a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Seq2Seq(
                **{"source_vocabulary": 7, "target_vocabulary": 9, "cells": [GRU(4)], "embedding_size": 3}
                | options
            )
    cell = AttentionDecoder(GRU(4), Additive(5), memory_features=6, size=3)
    weights = cell.init(jax.random.key(0), in_features=2)
    memory = cell.memory(weights, jnp.ones((1, 7, 6)))
    carry, x = cell.initial_carry((1,)), jnp.ones((1, 2))
    with pytest.raises(ValueError, match=r"params of an AttentionDecoder are \(weights, memory\), got"):
        cell.step(weights, carry, x)
    with pytest.raises(ValueError, match=r"values should have shape \(2, 7, 6\), got \(1, 7, 6\)"):
        cell.step((weights, memory), cell.initial_carry((2,)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="needs a hand-derived derivative, and AttentionDecoder"):
        unroll(cell, (weights, memory), jnp.ones((3, 1, 2)), backward="bptt")
    with pytest.raises(ValueError, match="queries and memories of equal features, got 4 and 6"):
        AttentionDecoder(GRU(4), Dot(), memory_features=6, size=3).init(jax.random.key(0), 2)
