"""Batches, and large parameters, over all devices: every core of a CPU or every GPU of every process."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Below this many sequences a device, waiting for the others costs more than they help.
LEAST_SEQUENCES_PER_DEVICE = 8


class Split(NamedTuple):
    """How the parameters of a model lie on devices."""

    devices: int = 1  # over which those that are split are, each part beside the others of one process
    specs: Any = PartitionSpec()  # of every parameter, over the axis "model"; or one for all


WHOLE = Split()  # a copy on every device


def use_all_cores() -> None:
    """Make every core a JAX device; before JAX starts, and without effect where there is a GPU, or
    ``JAX_NUM_CPU_DEVICES`` says how many.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cores())


def share_cores(processes: int) -> None:
    """Let this process use its part of the cores of a machine that several share; before JAX starts."""
    each = max(1, cores() // processes)
    os.environ.setdefault("PJRT_NPROC", str(each))  # XLA's threads, which otherwise are in each other's way
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        devices = min(each, jax.config.jax_num_cpu_devices)  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", devices)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def training_mesh(batch_size: int, count: int | None, model: int = 1) -> Mesh:
    """The mesh of a training: over ``count`` devices, or by default as ``batch_mesh``.

    Raises:
      ValueError: if there are not so many, or they, or the processes, do not divide the batch.
    """
    there, processes = len(jax.devices()), jax.process_count()
    if count is not None and count > there:
        raise ValueError(f"devices must be at most the {there} that there are, got {count}")
    if count is not None and count % processes:
        raise ValueError(f"devices must be a multiple of the {processes} processes, got {count}")
    each = count // processes if count else len(jax.local_devices())
    if model > each:
        raise ValueError(f"model_devices must be at most the {each} devices of a process, got {model}")
    if count and each % model:
        raise ValueError(f"model_devices must divide the {each} devices of a process, got {model}")
    least = count // model if count else processes
    if batch_size % least:
        below, of_devices = batch_size // least * least, "devices" if model == 1 else "groups of devices"
        what = of_devices if count else "processes"
        fits = f"{below} or {below + least}" if below else str(least)
        raise ValueError(f"batch_size must divide by the {least} {what}: {fits}, got {batch_size}")
    if count is None:
        return batch_mesh(batch_size, model)
    return _mesh(each // model, model, everywhere=True)


def batch_mesh(batch_size: int, model: int = 1, *, together: bool = True) -> Mesh:
    """A mesh with the axes ``batch``, as long as divides the batch and pays off, and ``model``.

    Of several processes each takes part with as many devices, if they work on it ``together`` and divide
    the batch; else this one has all of it to itself.
    """
    processes = jax.process_count()
    if not together or batch_size % processes:
        processes = 1
    pay_off = batch_size // (LEAST_SEQUENCES_PER_DEVICE * processes)
    most = min(len(jax.local_devices()) // model, max(1, pay_off))
    each = max(n for n in range(1, most + 1) if batch_size % (n * processes) == 0)
    return _mesh(each, model, everywhere=processes > 1)


def _mesh(each: int, model: int, *, everywhere: bool) -> Mesh:
    """Over so many times ``model`` devices of each process, or of this one."""
    numbers = range(jax.process_count()) if everywhere else [jax.process_index()]
    devices = [device for number in numbers for device in jax.local_devices(number)[: each * model]]
    shape, axes = (len(devices) // model, model), ("batch", "model")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 2, devices=devices)


def spread(tree: Any) -> bool:
    """Whether some of a tree's arrays are those of several processes."""
    return any(
        isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy on every device."""
    return _place(tree, NamedSharding(mesh, PartitionSpec()))


def split_params(params: Any, mesh: Mesh, split: Split) -> Any:
    """Parameters on the devices of a mesh, each with its part of what is split, and a copy of the rest."""
    return jax.tree.map(
        lambda spec, part: _place(part, NamedSharding(mesh, spec)),
        split.specs,
        params,
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def replicate_rest(tree: Any, mesh: Mesh) -> Any:
    """A copy on every device of all that does not lie on the mesh already."""

    def place(leaf: Any) -> Any:
        there = isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == mesh
        return leaf if there else replicate(leaf, mesh)

    return jax.tree.map(place, tree)


def _place(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process has, as those of a mesh, for which each gives the part of its devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(_of_this_process(tree), sharding)

    def place(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set:
            return jax.device_put(leaf, sharding)
        leaf = _of_this_process(leaf)
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree)


def _of_this_process(tree: Any) -> Any:
    """Arrays of several processes, each of which has all their parts, as arrays of this one."""

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        whole = np.empty(leaf.shape, leaf.dtype)
        for part in leaf.addressable_shards:
            whole[part.index] = part.data
        return whole

    return jax.tree.map(own, tree)


def on_one_device(params: Any) -> Any:
    """One copy of the parameters: reading one stream, or writing, has nothing to split."""
    return jax.device_put(_of_this_process(params), jax.local_devices()[0])


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


def own_lanes(batch_size: int) -> slice:
    """The sequences of a batch that this process gives, of all that train together."""
    each = batch_size // jax.process_count()
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def join_batch(own: Any, mesh: Mesh) -> Any:
    """A batch of which every process has its ``own_lanes``, split as ``shard_batch`` does."""

    def place(leaf: Any) -> Any:
        rank = jax.numpy.ndim(leaf)
        if not rank:
            return replicate(leaf, mesh)
        where = NamedSharding(mesh, PartitionSpec(*[None] * min(1, rank - 1), "batch"))
        return jax.make_array_from_process_local_data(where, leaf)

    return jax.tree.map(place, own)


def shard(tree: Any, mesh: Mesh, axis: int) -> Any:
    """The given axis of every leaf split over the devices."""
    return _place(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "batch")))
