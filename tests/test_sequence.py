"""Sequence models against NumPy loops over single sequences; padding, dropout, gradients, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import GRU, LSTM, Elman
from jaxrnn.models import Encoder, SequenceModel
from jaxrnn.models.losses import cross_entropy
from tests.models import as_float64, numpy_encoder
from tests.table import random_like, relative_error

TIME, BATCH, WORDS, CLASSES = 6, 4, 7, 3
LENGTHS = np.array([4, 0, 6, 1])
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
ENCODERS = {
    "forward": Encoder([LSTM(4), GRU(3)], vocabulary_size=WORDS, embedding_size=2),
    "reversed": Encoder([GRU(4)], vocabulary_size=WORDS, direction="reversed", backward="bptt"),
    "bidirectional": Encoder([GRU(3), LSTM(2)], in_features=5, direction="bidirectional", backward="bptt"),
}
POOLS = ("last", "mean", "max", "each")


def drawn(encoder, dtype="float32"):
    random = np.random.default_rng(0)
    if encoder.in_features is None:
        return random.integers(0, WORDS, (TIME, BATCH)).astype(np.int32)
    return random.standard_normal((TIME, BATCH, encoder.in_features)).astype(dtype)


def params_of(model, dtype="float32"):
    return random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), dtype)), 1)


def numpy_logits(model, params, inputs, length):
    """One sequence, from the equations."""
    encoder = model.encoder
    if encoder.in_features is None:
        table = np.eye(WORDS) if params.encoder.embedding is None else params.encoder.embedding
        inputs = table[inputs]
    _, ys = numpy_encoder(encoder, params.encoder.layers, inputs, length)
    if model.pool == "each":
        return ys @ params.w_out + params.b_out
    ys, half = ys[:length], ys.shape[1] // 2
    if not length:
        vector = np.zeros(ys.shape[1])
    elif model.pool == "mean":
        vector = ys.mean(axis=0)
    elif model.pool == "max":
        vector = ys.max(axis=0)
    else:
        vector = {
            "forward": ys[-1],
            "reversed": ys[0],
            "bidirectional": np.concatenate([ys[-1, :half], ys[0, half:]]),
        }[encoder.direction]
    return vector @ params.w_out + params.b_out


@pytest.mark.parametrize("direction", ENCODERS)
@pytest.mark.parametrize("pool", POOLS)
def test_equals_numpy(direction, pool, dtype):
    model = SequenceModel(ENCODERS[direction], CLASSES, pool=pool)
    params, inputs = params_of(model, dtype), drawn(model.encoder, dtype)
    logits = np.asarray(model.apply(params, inputs, lengths=LENGTHS))
    assert logits.dtype == dtype
    exact = as_float64(params)
    for lane, length in enumerate(LENGTHS):
        expected = numpy_logits(model, exact, inputs[:, lane], length)
        np.testing.assert_allclose(
            logits[:, lane] if pool == "each" else logits[lane],
            expected,
            rtol=TOLERANCE[dtype],
            atol=TOLERANCE[dtype],
        )
    whole = model.apply(params, inputs)
    full = model.apply(params, inputs, lengths=np.full(BATCH, TIME))
    assert relative_error(whole, full) < TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction", "pool"),
    [("bidirectional", "last"), ("reversed", "mean"), ("forward", "max"), ("bidirectional", "each")],
)
def test_padding_takes_no_part(direction, pool, float64):
    """Loss and gradients of a ragged batch are the sums of its sequences' alone; at padding stands NaN."""
    model = SequenceModel(ENCODERS[direction], CLASSES, pool=pool)
    params, inputs = params_of(model, float64), drawn(model.encoder, float64)
    steps = np.arange(TIME)[:, None] < LENGTHS
    spoilt = inputs if inputs.ndim == 2 else np.where(steps[..., None], inputs, np.nan)
    targets = np.random.default_rng(1).integers(0, CLASSES, (TIME, BATCH) if pool == "each" else BATCH)

    @jax.jit
    @jax.value_and_grad
    def loss(params, inputs, targets, lengths):
        logits = model.apply(params, inputs, lengths=lengths)
        mask = jnp.arange(len(inputs))[:, None] < lengths if pool == "each" else None
        return cross_entropy(logits, targets, mask)[0]

    whole = loss(params, spoilt, targets, LENGTHS)
    alone, shortest = [], min(length for length in LENGTHS if length)
    for lane, length in enumerate(LENGTHS):  # one without any padding; a shape takes long to compile
        one, until = slice(lane, lane + 1), length if length == shortest else TIME
        target = targets[:until, one] if pool == "each" else targets[one]
        alone.append(loss(params, inputs[:until, one], target, LENGTHS[one]))
    assert relative_error(whole, jax.tree.map(lambda *leaves: sum(leaves), *alone)) < 1e-11


@pytest.mark.slow
def test_dropout_needs_a_key_and_is_drawn_from_it():
    encoder = dataclasses.replace(ENCODERS["forward"], dropout=0.5)
    for pool in POOLS:
        model = SequenceModel(encoder, CLASSES, pool=pool)
        params, inputs = params_of(model), drawn(encoder)
        run = [model.apply(params, inputs, key=key) for key in (None, *map(jax.random.key, (0, 0, 1)))]
        plain = SequenceModel(ENCODERS["forward"], CLASSES, pool=pool).apply(params, inputs)
        np.testing.assert_array_equal(run[0], plain)
        np.testing.assert_array_equal(run[1], run[2])
        assert np.abs(run[1] - run[0]).max() > 0.01
        assert np.abs(run[1] - run[3]).max() > 0.01


def test_variational_dropout_drops_the_same_outputs_at_every_step():
    """Seen where the encoder's outputs are alike at all steps: so are the logits."""
    encoder = Encoder([Elman(4)], in_features=2, dropout=0.5, variational=True)
    model = SequenceModel(encoder, CLASSES, pool="each")
    params = params_of(model)
    layer = params.encoder.layers[0]
    layer = layer._replace(w_hh=0 * layer.w_hh)
    params = params._replace(encoder=params.encoder._replace(layers=(layer,)))
    logits = model.apply(params, jnp.ones((TIME, 1, 2)), key=jax.random.key(0))
    np.testing.assert_allclose(logits, jnp.broadcast_to(logits[0], logits.shape), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
def test_any_batch_dimensions_and_lengths_in_a_list():
    model = SequenceModel(ENCODERS["bidirectional"], CLASSES)
    params, xs = params_of(model), drawn(model.encoder)
    expected = model.apply(params, xs, lengths=LENGTHS)
    assert relative_error(model.apply(params, xs, lengths=LENGTHS.tolist()), expected) == 0
    alone = model.apply(params, xs[:, 0], lengths=np.int32(LENGTHS[0]))
    assert relative_error(alone, expected[0]) < 1e-5
    square = model.apply(params, xs.reshape(TIME, 2, 2, -1), lengths=LENGTHS.reshape(2, 2))
    assert relative_error(square.reshape(BATCH, -1), expected) < 1e-5


@pytest.mark.usefixtures("as_users_run")
def test_bad_input():
    encoder = ENCODERS["forward"]
    with pytest.raises(ValueError, match="out_features must be a positive integer, got 0"):
        SequenceModel(encoder, 0)
    with pytest.raises(ValueError, match="pool must be one of last, mean, max, each, got 'sum'"):
        SequenceModel(encoder, CLASSES, pool="sum")
    model = SequenceModel(encoder, CLASSES)
    params = params_of(model)
    other = params_of(SequenceModel(encoder, CLASSES + 1))
    with pytest.raises(ValueError, match=r"params\.w_out should have shape \(3, 3\), got \(3, 4\)"):
        model.apply(other, drawn(encoder))
    with pytest.raises(ValueError, match="vocabulary"):
        model.apply(params, np.full((TIME, BATCH), WORDS))
