"""Contents of a checkpoint: named leaves, their validation and restoration, and JSON records."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from jax.sharding import AbstractMesh, NamedSharding, Sharding, SingleDeviceSharding

_LEAVES = (jax.Array, np.ndarray, np.generic, int, float, complex)
_KINDS = (np.bool_, np.integer, np.floating, np.complexfloating)


def named_leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    """Leaves by their path, spelled alike for a state and for what is stored of it."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_names(path): leaf for path, leaf in leaves}


def storable(tree: Any) -> Any:
    """The tree with its numbers as arrays.

    Raises:
      ValueError: names the leaf that could not be restored.
    """
    seen: dict[str, str] = {}  # a leaf is stored under its path joined by dots

    def check(path: Any, leaf: Any) -> Any:
        names = _names(path)
        name, spelled = "/".join(names), jax.tree_util.keystr(path)
        if (other := seen.setdefault(".".join(names), spelled)) != spelled:
            raise ValueError(f"the leaves {other} and {spelled} would be stored under one name")
        if re.search(r"[\ud800-\udfff]", name):
            raise ValueError(f"the leaf {name!r} should have a name that UTF-8 can spell")
        if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, _LEAVES):
            raise ValueError(f"{name} should be an array or a number, got {type(leaf).__name__}")
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(f"{name} was deleted: a later step has taken over its memory")
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if not _is_key(array.dtype) and not _is_numeric(array.dtype):
            raise ValueError(f"{name} should be of a numeric type that can be stored, got {array.dtype}")
        if array.size == 0:
            raise ValueError(f"{name} should have elements, got shape {array.shape}")
        return array

    return jax.tree_util.tree_map_with_path(check, tree)


def specs(tree: Any) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape and dtype of every leaf as stored."""
    return {path: _spec(leaf) for path, leaf in named_leaves(tree).items()}


def misfit(saved: Any, like: Any) -> str | None:
    """Message naming the first saved leaf that does not fit that of ``like``; None if all fit."""
    leaves = named_leaves(like)
    for path, leaf in leaves.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) and not isinstance(leaf, _LEAVES):
            kinds = "an array, a number or a shape and type"
            return f"like: {'/'.join(path)} should be {kinds}, got {type(leaf).__name__}"
    stored, expected = specs(saved), specs(like)
    for path in [*expected, *stored]:
        want, got = (of[path].shape if path in of else "nothing" for of in (expected, stored))
        if want != got:
            return f"{'/'.join(path)} should have shape {want}, got {got}"
    found, asked = _numbered(saved), _numbered(like)
    for path in [*asked, *found]:
        if path not in asked or path not in found:
            want, got = ("an empty container" if path in of else "nothing" for of in (asked, found))
            return f"{'/'.join(path)} should be {want}, got {got}"
        for depth, (want, got) in enumerate(zip(asked[path], found[path], strict=True)):
            if want != got:
                names = {True: "a list or tuple", False: "a dict, or of named fields"}
                return f"{'/'.join(path[:depth])} should be {names[want]}, got {names[got]}"
    for path, want in expected.items():
        got = stored[path].dtype
        if not any(jnp.issubdtype(want.dtype, kind) and jnp.issubdtype(got, kind) for kind in _KINDS):
            return f"{'/'.join(path)} should be {_dtype(leaves[path])}, got {got}"
    return None


def target(saved: Any, like: Any) -> Any:
    """Restore target: dtypes as saved, placement as in ``like``."""
    stored = specs(saved)

    def ask(path: Any, leaf: Any) -> Any:
        spec, sharding = stored[_names(path)], _sharding(leaf)
        if spec.dtype == np.uint32:  # a typed key perhaps, which comes as such on a device alone
            sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
        elif sharding is None or spec.dtype != _dtype(leaf):
            return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(ask, like)


def as_like(loaded: Any, like: Any) -> Any:
    """The loaded tree with the types and placement of ``like``.

    Raises:
      ValueError: names the leaf whose values or keys are of another type.
    """

    def convert(path: Any, leaf: Any, value: Any) -> Any:
        dtype, sharding = _dtype(leaf), _sharding(leaf)
        name = "/".join(_names(path))
        if _is_key(value.dtype) or _is_key(dtype):
            if value.dtype != dtype:
                raise ValueError(f"{name} should be {dtype}, got {value.dtype}")
            return value if sharding else _anywhere(value)
        if value.dtype != dtype:
            value = _cast(name, np.asarray(value), dtype)
        if isinstance(leaf, np.ndarray):
            return np.array(value)
        if isinstance(leaf, np.generic | int | float | complex):
            return type(leaf)(np.asarray(value)[()])
        if sharding and isinstance(value, jax.Array):
            return value
        return jax.device_put(np.asarray(value), sharding)

    return jax.tree_util.tree_map_with_path(convert, like, loaded)


def same(a: Any, b: Any) -> bool:
    """Whether two trees of arrays of one structure are the same to the last bit.

    Of several processes, each tells of the parts that it has.
    """

    def bits(leaf: Any) -> bytes:
        leaf = jax.random.key_data(leaf) if _is_key(leaf.dtype) else leaf
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return b"".join(np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards)
        return np.asarray(jax.device_get(leaf)).tobytes()

    return all(bits(x) == bits(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def check_record(record: Any) -> None:
    """Raise ValueError unless a record comes back from JSON as it was; NaN and infinities do."""
    if not isinstance(record, dict):
        raise ValueError(f"record should be a dict, got {type(record).__name__}")
    try:
        _check_json("record", record)
    except RecursionError as error:
        raise ValueError("record is nested too deeply, or holds itself") from error
    try:
        json.loads(json.dumps(record))
    except ValueError as error:  # integers of thousands of digits
        raise ValueError(f"record cannot be read again as JSON: {error}") from error


def _check_json(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} should have strings as keys, which JSON keeps, got {key!r}")
            _check_json(f"{name}[{key!r}]", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(f"{name}[{index}]", item)
    elif not (value is None or isinstance(value, str | int | float)):
        kinds = "a dict, list, str, int, float, bool or None, which JSON keeps"
        raise ValueError(f"{name} should be {kinds}, got {type(value).__name__} {value!r:.60}")


def _names(path: Any) -> tuple[str, ...]:
    return tuple(
        str(next(getattr(key, a) for a in ("name", "key", "idx") if hasattr(key, a))) for key in path
    )


def _numbered(tree: Any) -> dict[tuple[str, ...], tuple[bool, ...]]:
    """Of every leaf and empty container, which parts of its path are places in a sequence, not names."""
    kinds = (jax.tree_util.SequenceKey, jax.tree_util.FlattenedIndexKey)
    paths, _ = zip(*jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_bare)[0], strict=True)
    return {_names(path): tuple(isinstance(key, kinds) for key in path) for path in paths}


def _is_bare(tree: Any) -> bool:
    """Whether it is a leaf or an empty container."""
    return not jax.tree_util.treedef_children(jax.tree.structure(tree))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a leaf as stored; those of the data of typed keys."""
    if _is_key(_dtype(leaf)):
        return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(np.shape(leaf), _dtype(leaf))


def _sharding(leaf: Any) -> Sharding | None:
    """Where a leaf must be; None where it is on no device, or has not been placed by anyone."""
    if isinstance(leaf, jax.Array):
        data = jax.random.key_data(leaf) if _is_key(leaf.dtype) else leaf
        return leaf.sharding if data.committed else None
    sharding = getattr(leaf, "sharding", None)
    if not (isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh)):
        return sharding
    if (mesh := jax.sharding.get_mesh()).empty:  # jax.eval_shape keeps the axes and forgets the devices
        raise ValueError("like is split over a mesh that is not set: restore within jax.set_mesh")
    return NamedSharding(mesh, sharding.spec)


def _is_key(dtype: Any) -> bool:
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _is_numeric(dtype: Any) -> bool:
    try:
        tensorstore.dtype(dtype.name)
    except (TypeError, ValueError):
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in _KINDS)


def _cast(name: str, value: np.ndarray, dtype: Any) -> np.ndarray:
    """Floating-point numbers rounded, integers only where they stay what they are."""
    with np.errstate(all="ignore"):
        cast = value.astype(dtype)
    whole = np.isfinite if jnp.issubdtype(dtype, jnp.inexact) else np.asarray
    if not np.array_equal(whole(cast), whole(value)):
        raise ValueError(f"{name} should be {dtype}, got {value.dtype} beyond its range")
    return cast


def _anywhere(keys: jax.Array) -> jax.Array:
    """The same keys, committed to no device."""
    data = jax.device_put(np.asarray(jax.random.key_data(keys)))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))
