"""Encoders of images: a small convolutional network trained with the rest, or features that are given."""

import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from experiments.captioning.efficientnet import FEATURES

EncoderName = Literal["small", "efficientnet_lite0"]
SIDE = 64  # pixels a side of what the small encoder reads
CHANNELS = (16, 32, 64, 128)  # of its convolutions, each of which halves the sides
KERNELS = (3, 3, 3, 2)  # pixels a side of their kernels
GRID = SIDE // 2 ** len(CHANNELS)  # places a side of what it gives
SIZES = {"small": CHANNELS[-1], "efficientnet_lite0": FEATURES}  # features of every place


class SmallEncoder(nnx.Module):
    """Four convolutions of stride 2 on pixels and their coordinates.

    A place stands for 16 × 16 pixels and sees 23 × 23, and by the coordinates (Liu et al. 2018, "An
    intriguing failing of convolutional neural networks and the CoordConv solution") tells where they are.
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        sizes = (3 + 2, *CHANNELS)
        self.convolutions = nnx.List(
            nnx.Conv(before, after, (kernel, kernel), strides=2, rngs=rngs)
            for kernel, (before, after) in zip(KERNELS, itertools.pairwise(sizes), strict=True)
        )

    def __call__(self, images: Array) -> Array:
        """A grid ``(batch, GRID², CHANNELS[-1])`` of images ``(batch, SIDE, SIDE, 3)`` of uint8."""
        line = jnp.linspace(-1, 1, SIDE)
        coordinates = jnp.broadcast_to(
            jnp.stack(jnp.meshgrid(line, line), axis=-1), (*images.shape[:-1], 2)
        )
        x = jnp.concatenate([images / 127.5 - 1, coordinates], axis=-1)
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return x.reshape(len(x), -1, x.shape[-1])


def init_encoder(name: EncoderName, key: Array) -> Any:
    """The parameters that are trained."""
    if name == "efficientnet_lite0":
        return {}
    return nnx.to_pure_dict(nnx.state(SmallEncoder(rngs=nnx.Rngs(key))))


def grid_of(name: EncoderName, params: Any, inputs: Array) -> Array:
    """The grid ``(batch, places, features)`` of what the encoder reads: images, or given features."""
    if name == "efficientnet_lite0":
        return jnp.asarray(inputs, jnp.float32)
    graph, state = _small()
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(inputs)


def _small() -> tuple[Any, Any]:
    """Structure of the small encoder, and the shapes of its state."""
    return nnx.split(nnx.eval_shape(lambda: SmallEncoder(rngs=nnx.Rngs(0))))
