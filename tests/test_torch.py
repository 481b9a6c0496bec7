"""Outputs and gradients equal torch's: random biases, ragged batches, both directions, two layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests.table import relative_error

torch = pytest.importorskip("torch", reason="the peers extra is not installed")

pytestmark = pytest.mark.slow

TIME, BATCH, IN, HIDDEN, PROJECTION, LAYERS = 9, 4, 3, 5, 2, 2
LENGTHS = np.array([9, 7, 4, 1])  # torch cannot pack a length of 0

PEERS = {
    "elman-tanh": (jaxrnn.Elman(HIDDEN), lambda *a, **k: torch.nn.RNN(*a, nonlinearity="tanh", **k)),
    "elman-relu": (
        jaxrnn.Elman(HIDDEN, activation="relu"),
        lambda *a, **k: torch.nn.RNN(*a, nonlinearity="relu", **k),
    ),
    "lstm": (jaxrnn.LSTM(HIDDEN), torch.nn.LSTM),
    "gru": (jaxrnn.GRU(HIDDEN), torch.nn.GRU),
    "projected": (
        jaxrnn.ProjectedLSTM(HIDDEN, projection_size=PROJECTION),
        lambda *a, **k: torch.nn.LSTM(*a, proj_size=PROJECTION, **k),
    ),
}


def params_of(name, layer, suffix, attribute):
    """Ours from torch's: weights transposed; the two biases of RNN and LSTM only ever appear summed."""

    def get(part):
        tensor = getattr(layer, f"{part}_l{suffix}")
        return jnp.asarray(getattr(tensor, attribute).detach().numpy())

    w_ih, w_hh, b_ih, b_hh = get("weight_ih").T, get("weight_hh").T, get("bias_ih"), get("bias_hh")
    if name == "gru":
        return jaxrnn.GRUParams(w_ih, w_hh, b_ih, b_hh)
    # The gradient of the sum is that of either term.
    b = b_ih + b_hh if attribute == "data" else b_ih
    if name == "projected":
        return jaxrnn.ProjectedParams(w_ih, w_hh, b, get("weight_hr").T)
    kind = jaxrnn.LSTMParams if name == "lstm" else jaxrnn.ElmanParams
    return kind(w_ih, w_hh, b)


def all_params(name, layer, attribute):
    return [
        tuple(params_of(name, layer, f"{level}{direction}", attribute) for direction in ("", "_reverse"))
        for level in range(LAYERS)
    ]


@pytest.mark.parametrize("backward", ["autodiff", "bptt"])
@pytest.mark.parametrize("name", PEERS)
def test_two_bidirectional_layers_on_a_packed_batch(name, backward, float64):
    cell, make = PEERS[name]
    torch.manual_seed(0)
    layer = make(IN, HIDDEN, num_layers=LAYERS, bidirectional=True).double()
    random = np.random.default_rng(0)
    xs = random.standard_normal((TIME, BATCH, IN))
    weights = random.standard_normal((TIME, BATCH, 2 * cell.out_features))
    last_weights = {n: random.standard_normal((2 * LAYERS, BATCH, n)) for n in (PROJECTION, HIDDEN)}

    their_xs = torch.tensor(xs, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(their_xs, torch.tensor(LENGTHS))
    packed_ys, last = layer(packed)
    their_ys, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_ys)
    last = last if isinstance(last, tuple) else (last,)
    loss = (torch.sin(their_ys) * torch.tensor(weights)).sum()
    loss = loss + sum((state * torch.tensor(last_weights[state.shape[-1]])).sum() for state in last)
    loss.backward()

    def run(params, xs):
        carries = []
        for pair in params:
            both, xs = jaxrnn.bidirectional(cell, cell, pair, xs, lengths=LENGTHS, backward=backward)
            carries += both
        return xs, [jnp.stack(states) for states in zip(*carries, strict=True)]

    def our_loss(params, xs):
        ys, last = run(params, xs)
        of_last = sum(jnp.sum(state * last_weights[state.shape[-1]]) for state in last)
        return jnp.sum(jnp.sin(ys) * weights) + of_last

    params = all_params(name, layer, "data")
    outputs = jax.jit(run)(params, jnp.asarray(xs))
    expected = (their_ys.detach().numpy(), [state.detach().numpy() for state in last])
    assert relative_error(outputs, expected) < 1e-10
    grads = jax.jit(jax.grad(our_loss, (0, 1)))(params, jnp.asarray(xs))
    expected = (all_params(name, layer, "grad"), their_xs.grad.numpy())
    assert relative_error(grads, expected) < 1e-10
