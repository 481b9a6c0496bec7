"""What an encoder reads of pictures: their pixels, or features by a pretrained network, kept on disk."""

import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.captioning.efficientnet import FEATURES, WEIGHTS_SHA256, load_pretrained
from experiments.data.images import Picture, pixels
from experiments.harness.progress import counted
from experiments.harness.run import read_json
from jaxrnn.training import files

SIDE, PLACES = 224, 7 * 7  # pixels a side of what the pretrained network reads, and vectors that it gives
BATCH = 32
THREADS = 2  # that decode images while the network computes


class Inputs(NamedTuple):
    """What an encoder reads of those pictures that can be read."""

    values: np.ndarray  # (pictures kept, ...)
    kept: list[int]  # which pictures
    errors: list[str]  # of the others


def read_pixels(pictures: Sequence[Picture], side: int) -> Inputs:
    """Pixels ``(pictures, side, side, 3)`` of uint8."""
    return _joined(f"reading {len(pictures):,} images", _chunks(pictures, side), len(pictures))


def compute(pictures: Sequence[Picture]) -> Inputs:
    """Features ``(pictures, PLACES, FEATURES)`` of float16 by the pretrained network."""
    chunks = (chunk._replace(values=_features(chunk.values)) for chunk in _chunks(pictures, SIDE))
    return _joined(f"computing features of {len(pictures):,} images", chunks, len(pictures))


def cached(pictures: Sequence[Picture], folder: Path) -> Inputs:
    """``compute``, from a file in a folder if it holds what the same weights gave of the same pictures.

    Raises:
      ValueError: if the file is damaged.
    """
    content = hashlib.sha256(WEIGHTS_SHA256.encode())
    for picture in pictures:
        content.update(picture.digest())
    path = folder / f"{content.hexdigest()[:32]}.npy"
    about = path.with_suffix(".json")
    if not about.is_file():
        _fill(pictures, path, about)
    record = read_json(about)
    try:
        values = np.load(path, mmap_mode="r")[: len(record["kept"])]
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}; remove {about}, and try again") from error
    return Inputs(values, record["kept"], record["errors"])


def _fill(pictures: Sequence[Picture], path: Path, about: Path) -> None:
    """Compute the features of all pictures; ``about``, written last, tells that they are whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # others may fill the cache, too
    try:
        kept, errors = _compute_into(temporary, pictures)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    about_them = {"weights_sha256": WEIGHTS_SHA256, "kept": kept, "errors": errors}
    files.write_text(about, json.dumps(about_them, indent=2) + "\n")


def _compute_into(path: Path, pictures: Sequence[Picture]) -> tuple[list[int], list[str]]:
    """Write features to a file; which pictures could be read, and what is wrong with the others."""
    values = np.lib.format.open_memmap(path, "w+", np.float16, (len(pictures), PLACES, FEATURES))
    kept: list[int] = []
    errors: list[str] = []
    with counted(f"computing features of {len(pictures):,} images", stderr=True) as on_batch:
        for chunk in _chunks(pictures, SIDE):
            values[len(kept) : len(kept) + len(chunk.kept)] = _features(chunk.values)
            kept += chunk.kept
            errors += chunk.errors
            on_batch(len(kept) + len(errors), len(pictures))
    values.flush()
    return kept, errors


def _chunks(pictures: Sequence[Picture], side: int) -> Iterator[Inputs]:
    """Pixels of a few pictures after the other, decoded ahead of who asks."""

    def read(picture: Picture) -> np.ndarray | str:
        try:
            return pixels(picture, side)
        except ValueError as error:
            return str(error)

    starts = range(0, len(pictures), BATCH)
    with ThreadPoolExecutor(THREADS) as pool:
        pending = [pool.map(read, pictures[start : start + BATCH]) for start in starts[:1]]
        for start in starts:
            if start + BATCH < len(pictures):
                pending.append(pool.map(read, pictures[start + BATCH : start + 2 * BATCH]))
            read_now = list(pending.pop(0))
            good = [index for index, image in enumerate(read_now) if not isinstance(image, str)]
            values = np.array([read_now[index] for index in good], np.uint8).reshape(-1, side, side, 3)
            errors = [image for image in read_now if isinstance(image, str)]
            yield Inputs(values, [start + index for index in good], errors)


def _joined(description: str, of: Iterable[Inputs], total: int) -> Inputs:
    chunks = []
    with counted(description, stderr=True) as on_batch:
        for chunk in of:
            chunks.append(chunk)
            on_batch(min(len(chunks) * BATCH, total), total)
    values = np.concatenate([chunk.values for chunk in chunks])
    kept = [index for chunk in chunks for index in chunk.kept]
    return Inputs(values, kept, [error for chunk in chunks for error in chunk.errors])


def _features(images: np.ndarray) -> np.ndarray:
    """Those of at most BATCH images, filled up to as many, so that one size is compiled."""
    filled = np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)
    filled[: len(images)] = images
    return np.asarray(_network()(filled), np.float16)[: len(images)]


@functools.cache
def _network() -> Callable[[np.ndarray], Any]:
    """The compiled network, made when it is first needed."""
    network = load_pretrained()
    return jax.jit(lambda images: network.features(images).reshape(-1, PLACES, FEATURES))
