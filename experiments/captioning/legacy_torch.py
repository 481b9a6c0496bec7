"""Tensors in torch's file format of before 2020, read without torch; nothing in a file is run."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which such files begin
_DTYPES = {"torch.FloatStorage": "<f4", "torch.LongStorage": "<i8"}
_REBUILD = "torch._utils._rebuild_tensor_v2"
_KNOWN = {"collections.OrderedDict": OrderedDict, _REBUILD: lambda *arguments: arguments, **_DTYPES}

Shape = tuple[int, ...]
Tensors = dict[str, np.ndarray]


class _TensorUnpickler(pickle.Unpickler):
    """Reads a tensor as the arguments that rebuild it, with its storage's key first, and runs no code."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[str, int]] = {}  # key -> dtype and count of values

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise ValueError(f"it names {module}.{name}, which no tensor needs")
        return _KNOWN[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or view is not None or dtype not in _DTYPES.values():
            raise ValueError(f"it refers to {pid!r}, expected a whole storage")
        self.storages[key] = dtype, count
        return key


def _view(storage: np.ndarray, offset: int, size: Shape, stride: Shape, *_: Any) -> np.ndarray:
    """A part of a storage, by the arguments of ``torch._utils._rebuild_tensor_v2``."""
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if min(offset, 0, *size, *stride) < 0 or (all(size) and last >= len(storage)):
        raise ValueError(f"a tensor of shape {size} with strides {stride} goes beyond its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def _read(file: BinaryIO) -> Tensors:
    """The tensors of a file; if it is not as expected, any exception."""
    magic, protocol, system = (_TensorUnpickler(file).load() for _ in range(3))
    if (magic, protocol, system["little_endian"]) != (_MAGIC, _PROTOCOL, True):
        raise ValueError("it begins otherwise")
    unpickler = _TensorUnpickler(file)
    tensors = unpickler.load()
    storages = {}
    for key in _TensorUnpickler(file).load():
        dtype, count = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != count:
            raise ValueError(f"storage {key} is not one of {count} values")
        storages[key] = np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype, count)
    if file.read(1):
        raise ValueError("it goes on after its last storage")
    return {name: _view(storages[key], *arguments) for name, (key, *arguments) in tensors.items()}


def read_legacy_tensors(path: Path) -> Tensors:
    """The tensors of a ``state_dict``, by name, in the format of ``torch.save`` before torch 1.6.

    Raises:
      ValueError: if the file is anything else, or is damaged. Nothing in it is run.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except Exception as error:  # a pickle with a fault can raise any
            raise ValueError(f"{path} is not a file of tensors in torch's old format: {error}") from error
