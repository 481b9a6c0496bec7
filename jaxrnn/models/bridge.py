"""The first carry of a decoder from a vector: S_0 = tanh(v W + b), for every part of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxrnn.cells.cell import Carry, DType
from jaxrnn.sharding import batch_product


class BridgeParams(NamedTuple):
    """From a vector to one array of a carry."""

    w: Array  # (features, n)
    b: Array  # (n,)


def bridge_shapes(carry: Carry, features: int, dtype: DType) -> Any:
    """Shapes of the ``BridgeParams`` for every leaf of a carry ``(n,)``, from a vector of ``features``."""

    def bridge(leaf: Any) -> BridgeParams:
        w: Any = jax.ShapeDtypeStruct((features, leaf.shape[-1]), dtype)
        b: Any = jax.ShapeDtypeStruct(leaf.shape[-1:], dtype)
        return BridgeParams(w, b)

    return jax.tree.map(bridge, carry)


def init_bridge(key: Key[Array, ""], shapes: Any, dtype: DType) -> Any:
    """Parameters of the shapes that ``bridge_shapes`` gives: weights LeCun normal, biases zero.

    >>> shapes = bridge_shapes((jnp.zeros(3),), features=2, dtype="float32")
    >>> init_bridge(jax.random.key(0), shapes, "float32")[0].w.shape
    (2, 3)
    """
    leaves, structure = jax.tree.flatten(shapes, is_leaf=_is_bridge)
    draw = jax.nn.initializers.lecun_normal()
    bridges = [
        BridgeParams(draw(k, shape.w.shape, dtype), jnp.zeros(shape.b.shape, dtype))
        for k, shape in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, bridges)


def bridged(bridge: Any, v: Float[Array, "*batch features"]) -> Carry:
    """The carry.

    >>> bridged((BridgeParams(jnp.ones((2, 1)), jnp.zeros(1)),), jnp.zeros((4, 2)))[0].shape
    (4, 1)
    """
    return jax.tree.map(
        lambda part: jnp.tanh(batch_product(v, part.w) + part.b), bridge, is_leaf=_is_bridge
    )


def _is_bridge(node: Any) -> bool:
    return isinstance(node, BridgeParams)
