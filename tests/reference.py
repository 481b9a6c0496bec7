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


def peephole(params, carry, x):
    h, c = carry
    i, f, g, o = np.split(x @ params.w_ih + h @ params.w_hh + params.b, 4)
    c_prev = c
    c = sigmoid(f + params.p_f * c_prev) * c_prev + sigmoid(i + params.p_i * c_prev) * np.tanh(g)
    h = sigmoid(o + params.p_o * c) * np.tanh(c)
    return (h, c), h


def coupled(params, carry, x):
    h, c = carry
    f, g, o = np.split(x @ params.w_ih + h @ params.w_hh + params.b, 3)
    c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h, c), h


def normalize(a):
    return (a - np.mean(a)) / np.sqrt(np.var(a) + 1e-5)


def layer_norm(params, carry, x):
    h, c = carry
    from_x, from_h = normalize(x @ params.w_ih), normalize(h @ params.w_hh)
    i, f, g, o = np.split(params.scale_ih * from_x + params.scale_hh * from_h + params.b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(params.scale_c * normalize(c) + params.b_c)
    return (h, c), h


def projected(params, carry, x):
    (_, c), m = lstm(params, carry, x)
    h = m @ params.w_hr
    return (h, c), h


def mgu(params, carry, x):
    (h,) = carry
    x_f, x_n = np.split(x @ params.w_ih + params.b, 2)
    w_f, w_n = np.split(params.w_hh, 2, axis=1)
    f = sigmoid(x_f + h @ w_f)
    h = (1 - f) * h + f * np.tanh(x_n + (f * h) @ w_n)
    return (h,), h


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


def min_gru(params, carry, x):
    (h,) = carry
    z, candidate = np.split(x @ params.w_ih + params.b, 2)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate
    return (h,), h


def min_lstm(params, carry, x):
    (h,) = carry
    i, f, candidate = np.split(x @ params.w_ih + params.b, 3)
    i, f = sigmoid(i), sigmoid(f)
    h = f / (i + f) * h + i / (i + f) * candidate
    return (h,), h


def residual(params, carry, x, step):
    carry, y = step(params, carry, x)
    return carry, y + x


def zoneout(params, carry, x, step, keep):
    """``keep`` of every part of the carry: a rate, or a draw for each unit."""
    after, _ = step(params, carry, x)
    after = tuple(d * old + (1 - d) * new for d, old, new in zip(keep, carry, after, strict=True))
    return after, after[0]


def variational_dropout(params, carry, x, step, mask_h=1, mask_y=1):
    h, *rest = carry
    after, y = step(params, (h * mask_h, *rest), x)
    return after, y * mask_y


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
