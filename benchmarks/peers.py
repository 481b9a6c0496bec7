"""One recurrent layer in every library, as that library's users write it.

A layer takes inputs (time, batch, features) and gives the outputs of every step; its train step is the
gradient of mean(y²) by all weights and by the inputs. What a library lacks is left out (``None``).
"""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxrnn
from experiments.harness.devices import batch_mesh, replicate, shard
from jaxrnn.cells.table import CELLS

PeerCell = Literal["lstm", "gru", "elman"]  # names in the table of cells that other libraries have, too


class Size(NamedTuple):
    """The size of a problem."""

    batch: int
    time: int
    in_features: int
    hidden: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Layer(NamedTuple):
    """A layer with its weights and inputs; each call waits for what it returns."""

    forward: Callable[[], Any]  # outputs
    train: Callable[[], Any]  # gradients by the weights, and by the inputs


class Problem(NamedTuple):
    """The problem given to every library."""

    cell: PeerCell
    size: Size
    xs: np.ndarray  # (time, batch, in_features), float32
    params: Any  # ours; torch gets the same


def problem(cell: PeerCell, size: Size) -> Problem:
    """Random inputs, weights and non-zero biases."""
    key, key_bias = jax.random.split(jax.random.key(0))
    params = CELLS[cell](size.hidden).init(key, size.in_features)
    biases = {name: leaf for name, leaf in params._asdict().items() if name.startswith("b")}
    draws = jax.random.normal(key_bias, (len(biases), 4 * size.hidden))
    params = params._replace(
        **{
            name: leaf + 0.1 * draw[: len(leaf)]
            for (name, leaf), draw in zip(biases.items(), draws, strict=True)
        }
    )
    xs = np.random.default_rng(0).standard_normal((size.time, size.batch, size.in_features), np.float32)
    return Problem(cell, size, xs, params)


def _jax_layer(apply: Callable[[Any, Any], Array], params: Any, xs: Any) -> Layer:
    """``apply(params, xs)`` gives the outputs."""
    forward = jax.jit(apply)
    train = jax.jit(jax.grad(lambda params, xs: jnp.mean(apply(params, xs) ** 2), argnums=(0, 1)))
    return Layer(
        lambda: jax.block_until_ready(forward(params, xs)),
        lambda: jax.block_until_ready(train(params, xs)),
    )


def jaxrnn_layer(given: Problem, *, backward: Any, sharded: bool = False) -> Layer:
    """Ours; ``sharded`` splits the batch over the host's devices."""
    cell = CELLS[given.cell](given.size.hidden)
    params, xs = given.params, jnp.asarray(given.xs)
    if sharded:
        mesh = batch_mesh(given.size.batch)
        params, xs = replicate(params, mesh), shard(xs, mesh, axis=1)
    return _jax_layer(lambda p, x: jaxrnn.unroll(cell, p, x, backward=backward)[1], params, xs)


def flax_linen(given: Problem) -> Layer:
    """``flax.linen.RNN``."""
    from flax import linen

    cells = {"lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell, "elman": linen.SimpleCell}
    layer: Any = linen.RNN(cells[given.cell](given.size.hidden), time_major=True)
    xs = jnp.asarray(given.xs)
    return _jax_layer(layer.apply, layer.init(jax.random.key(0), xs), xs)


def flax_nnx(given: Problem) -> Layer:
    """``flax.nnx.RNN``."""
    from flax import nnx

    cells: dict[str, Any] = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}
    cell = cells[given.cell](given.size.in_features, given.size.hidden, rngs=nnx.Rngs(0))
    rngs, shape = nnx.Rngs(0), (given.size.batch, given.size.in_features)
    initial = cell.initialize_carry(shape, rngs)  # within jit it would want to draw from rngs
    split: Any = nnx.split(nnx.RNN(cell, time_major=True), nnx.Param, ...)
    definition, params, rest = split

    def apply(params: Any, xs: Any) -> Any:
        return nnx.merge(definition, params, rest)(xs, initial_carry=initial)

    return _jax_layer(apply, params, jnp.asarray(given.xs))


def haiku(given: Problem) -> Layer:
    """``haiku.dynamic_unroll``."""
    import haiku

    cells = {"lstm": haiku.LSTM, "gru": haiku.GRU, "elman": haiku.VanillaRNN}

    def function(xs: Any) -> Any:
        core = cells[given.cell](given.size.hidden)
        return haiku.dynamic_unroll(core, xs, core.initial_state(given.size.batch))[0]

    layer: Any = haiku.without_apply_rng(haiku.transform(function))
    xs = jnp.asarray(given.xs)
    return _jax_layer(layer.apply, layer.init(jax.random.key(0), xs), xs)


def equinox(given: Problem) -> Layer | None:
    """A cell of Equinox in ``lax.scan``, as its documentation has it; it has no Elman cell."""
    import equinox

    if given.cell == "elman":
        return None
    make = equinox.nn.LSTMCell if given.cell == "lstm" else equinox.nn.GRUCell
    cell = make(given.size.in_features, given.size.hidden, key=jax.random.key(0))
    params, static = equinox.partition(cell, equinox.is_array)
    zeros = jnp.zeros((given.size.batch, given.size.hidden))
    initial: Any = (zeros, zeros) if given.cell == "lstm" else zeros

    def apply(params: Any, xs: Any) -> Any:
        step = jax.vmap(equinox.combine(params, static))

        def body(state: Any, x: Any) -> Any:
            state = step(x, state)
            return state, state[0] if given.cell == "lstm" else state

        return jax.lax.scan(body, initial, xs)[1]

    return _jax_layer(apply, params, jnp.asarray(given.xs))


def keras(given: Problem) -> Layer:
    """A layer of Keras on JAX, which takes (batch, time, features)."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layers = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "elman": keras.layers.SimpleRNN}
    layer = layers[given.cell](given.size.hidden, return_sequences=True)
    xs = jnp.asarray(given.xs.swapaxes(0, 1))
    layer.build(xs.shape)
    rest = [variable.value for variable in layer.non_trainable_variables]
    params = [variable.value for variable in layer.trainable_variables]
    return _jax_layer(lambda params, xs: layer.stateless_call(params, rest, xs)[0], params, xs)


def torch(given: Problem) -> Layer:
    """``torch.nn.LSTM`` and its like, with our weights; its two biases stand for our one."""
    import torch

    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}
    layer = layers[given.cell](given.size.in_features, given.size.hidden)
    p = given.params
    b, b_hh = (p.b_ih, p.b_hh) if given.cell == "gru" else (p.b, jnp.zeros_like(p.b))
    ours = {"weight_ih_l0": p.w_ih.T, "weight_hh_l0": p.w_hh.T, "bias_ih_l0": b, "bias_hh_l0": b_hh}
    layer.load_state_dict({name: torch.tensor(np.asarray(leaf)) for name, leaf in ours.items()})
    xs = torch.tensor(given.xs, requires_grad=True)

    def forward() -> Any:
        with torch.no_grad():
            return layer(xs)[0].numpy()

    def train() -> Any:
        layer.zero_grad()
        xs.grad = None
        layer(xs)[0].square().mean().backward()
        grads = {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}
        w_ih, w_hh, b = grads["weight_ih_l0"].T, grads["weight_hh_l0"].T, grads["bias_ih_l0"]
        biases = (b, grads["bias_hh_l0"]) if given.cell == "gru" else (b,)
        return type(p)(w_ih, w_hh, *biases), np.asarray(xs.grad)

    return Layer(forward, train)


LIBRARIES: dict[str, Callable[[Problem], Layer | None]] = {
    "jaxrnn bptt": functools.partial(jaxrnn_layer, backward="bptt"),
    "jaxrnn autodiff": functools.partial(jaxrnn_layer, backward="autodiff"),
    "jaxrnn bptt, sharded": functools.partial(jaxrnn_layer, backward="bptt", sharded=True),
    "jaxrnn autodiff, sharded": functools.partial(jaxrnn_layer, backward="autodiff", sharded=True),
    "torch": torch,
    "flax.linen": flax_linen,
    "flax.nnx": flax_nnx,
    "haiku": haiku,
    "equinox": equinox,
    "keras": keras,
}
