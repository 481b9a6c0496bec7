"""Data parallelism over the host's devices: every core of a CPU, or every GPU."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Below this many sequences a device, waiting for the others costs more than they help.
LEAST_SEQUENCES_PER_DEVICE = 8


def use_all_cores() -> None:
    """Make every core a JAX device; before JAX starts, and without effect where there is a GPU."""
    jax.config.update("jax_num_cpu_devices", cores())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch_mesh(batch_size: int) -> Mesh:
    """A mesh with one axis, ``batch``, over as many devices as divide the batch and pay off."""
    most = min(len(jax.devices()), max(1, batch_size // LEAST_SEQUENCES_PER_DEVICE))
    count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    return jax.make_mesh((count,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_one_device(params: Any) -> Any:
    """One copy of replicated parameters: reading one stream, or writing, has nothing to split."""
    return jax.device_put(params, jax.devices()[0])


def lanes(batch: Any) -> int:
    """The sequences of a batch, side by side after time in every leaf, but leading in vectors.

    >>> lanes({"tokens": jax.numpy.zeros((7, 3)), "rate": jax.numpy.zeros(())})
    3
    """
    shapes = [jax.numpy.shape(leaf) for leaf in jax.tree.leaves(batch)]
    return next((shape[min(1, len(shape) - 1)] for shape in shapes if shape), 1)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """The sequences of a batch split over the devices; numbers are copied to all."""

    def place(leaf: Any) -> Any:
        rank = jax.numpy.ndim(leaf)
        return shard(leaf, mesh, axis=min(1, rank - 1)) if rank else replicate(leaf, mesh)

    return jax.tree.map(place, batch)


def shard(tree: Any, mesh: Mesh, axis: int) -> Any:
    """The given axis of every leaf split over the devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "batch")))
