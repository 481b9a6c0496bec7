"""The encoder and the decoder as NumPy loops over single sequences, in float64, from their equations."""

import functools

import jax
import numpy as np

from jaxrnn import GRU, LSTM, Elman
from jaxrnn.attention import Additive, Dot, General
from tests import reference

STEPS = {
    GRU: reference.gru_after,
    LSTM: reference.lstm,
    Elman: functools.partial(reference.elman, activation="tanh"),
}


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def zeros(cell):
    return tuple(np.zeros(leaf.shape) for leaf in jax.tree.leaves(cell.initial_carry()))


def numpy_encoder(encoder, layers, ys, length, carry=None, resets=None):
    """Last states of every layer, a list of both directions where there are two, and outputs of the top."""
    resets, states = np.zeros(len(ys), bool) if resets is None else resets, []
    for layer, (cell, params) in enumerate(zip(encoder.cells, layers, strict=True)):
        both = encoder.direction == "bidirectional"
        first = None if carry is None else carry[layer] if both else [carry[layer]]
        found = [
            reference.unroll(
                STEPS[type(cell)],
                own,
                ys,
                zeros(cell) if first is None else first[way],
                zeros(cell),
                length,
                resets,
                reverse=way == 1 or encoder.direction == "reversed",
                out_features=cell.out_features,
            )
            for way, own in enumerate(params if both else [params])
        ]
        ys = np.concatenate([out for _, out in found], axis=-1)
        states.append([state for state, _ in found] if both else found[0][0])
    return states, ys


def numpy_decoder(decoder, params, states, memory, fed, condition=(), before=()):
    """Logits and attention weights of one sequence; ``memory`` is a list of vectors, and ``before`` one of
    the inputs before the first token.
    """
    states, w_out = list(states), params.embedding.T if params.w_out is None else params.w_out
    weights = params.cell.cell if decoder.attention else params.cell
    readout, logits, alphas = np.zeros(decoder.cell.out_features), [], []
    for y in [*before, *(np.concatenate([params.embedding[token], condition]) for token in fed)]:
        if decoder.attention and decoder.input_feeding:
            y = np.concatenate([y, readout])
        for layer, cell in enumerate(decoder.cells):
            states[layer], y = STEPS[type(cell)](weights[layer], states[layer], y)
        if decoder.attention:
            alpha = attention_weights(decoder.attention, params.cell.attention, y, memory)
            context = sum(
                (a * v for a, v in zip(alpha, memory, strict=True)), np.zeros(decoder.memory_features)
            )
            if decoder.gate:
                context = context / (1 + np.exp(-(y @ params.cell.gate.w + params.cell.gate.b)))
            readout = y = np.tanh(np.concatenate([context, y]) @ params.cell.w_c)
            alphas.append(alpha)
        logits.append(y @ w_out + params.b_out)
    logits = np.array(logits).reshape(-1, decoder.vocabulary_size)
    return logits[len(before) :], alphas[len(before) :]


def attention_weights(attention, params, h, memory):
    """Softmax of the scores of one query."""
    scores = []
    for vector in memory:
        match attention:
            case Additive():
                scores.append(np.tanh(h @ params.w_query + vector @ params.w_key) @ params.v)
            case General():
                scores.append(h @ (vector @ params.w_key))
            case Dot():
                scores.append(h @ vector)
    return np.exp(scores) / np.sum(np.exp(scores))
