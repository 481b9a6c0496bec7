"""The cells and the unroll as NumPy loops over single sequences, written from the equations, without JAX.

Every function takes one unbatched step or sequence; nothing here knows of masks, so that padding,
resets and reverse are loops that start and end where they should.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(params, carry, x, activation):
    act = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "sigmoid": sigmoid}[activation]
    (h,) = carry
    h = act(x @ params.w_ih + h @ params.w_hh + params.b)
    return (h,), h


def lstm(params, carry, x):
    h, c = carry
    i, f, g, o = np.split(x @ params.w_ih + h @ params.w_hh + params.b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h, c), h


def gru_after(params, carry, x):
    (h,) = carry
    x_r, x_z, x_n = np.split(x @ params.w_ih + params.b_ih, 3)
    h_r, h_z, h_n = np.split(h @ params.w_hh + params.b_hh, 3)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + sigmoid(x_r + h_r) * h_n)
    h = (1 - z) * n + z * h
    return (h,), h


def gru_before(params, carry, x):
    (h,) = carry
    x_r, x_z, x_n = np.split(x @ params.w_ih + params.b_ih, 3)
    w_r, w_z, w_n = np.split(params.w_hh, 3, axis=1)
    r, z = sigmoid(x_r + h @ w_r), sigmoid(x_z + h @ w_z)
    h = (1 - z) * np.tanh(x_n + (r * h) @ w_n) + z * h
    return (h,), h


def stack(params, carry, x, steps):
    after = []
    for step, layer_params, layer_carry in zip(steps, params, carry, strict=True):
        layer_carry, x = step(layer_params, layer_carry, x)
        after.append(layer_carry)
    return tuple(after), x


def unroll(step, params, xs, carry, initial, length, resets, reverse, out_features):
    """One sequence: ``xs (time, in_features)``, ``resets (time,)``, ``length`` real steps."""
    ys = np.zeros((len(xs), out_features))
    order = range(length - 1, -1, -1) if reverse else range(length)
    for t in order:
        begins = resets[t + 1] if reverse and t + 1 < length else resets[t] and not reverse
        if begins:
            carry = initial
        carry, ys[t] = step(params, carry, xs[t])
    return carry, ys
