"""Images of files, of archives and of arrays, decoded when they are asked for, and their pixels."""

import hashlib
import io
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

MOST_PIXELS_A_SIDE = 10_000
# A larger JPEG may be decoded at a half, a quarter or an eighth of its size, but not below this a side:
# twelve million pixels take a third of the time, and what is squashed to far less hardly changes.
ENOUGH_PIXELS_A_SIDE = 1_024
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = 255
_MOST_16_BIT = 2**16 - 1
# Filters of warnings belong to the whole process: one thread at a time may change and restore them.
_OPENING = threading.Lock()


class Picture(NamedTuple):
    """A name, what decodes the image: upright, RGB, of any size; and what it is decoded from."""

    name: str
    load: Callable[[], Image.Image]
    content: Callable[[], bytes]

    def digest(self) -> bytes:
        """SHA-256 of the content; of nothing where there is none to be read, and ``load`` raises, too."""
        try:
            return hashlib.sha256(self.content()).digest()
        except (OSError, ValueError):
            return hashlib.sha256().digest()


def picture_of_file(path: Path) -> Picture:
    """The image in a file: PNG, JPEG, or whatever else Pillow opens.

    ``load`` raises a ValueError for what is no file, no image, damaged, or has more than
    ``MOST_PIXELS_A_SIDE``.
    """

    def load() -> Image.Image:
        with _open_file(path) as file:
            return _decoded(file, str(path))

    return Picture(str(path), load, path.read_bytes)


def size_of_file(path: Path) -> tuple[int, int]:
    """Width and height by the header of an image's file; nothing is decoded, or turned.

    Raises:
      ValueError: for what is no file, no image, or has more than ``MOST_PIXELS_A_SIDE``.
    """
    with _open_file(path) as file, _opened(file, str(path)) as image:
        return image.size


def pictures_of_zip(path: Path, members: Iterable[str]) -> list[Picture]:
    """Images in a zip archive, which is opened once, when the first is loaded, whatever the thread.

    ``load`` raises a ValueError as that of a file does, or for an archive without the member.
    """
    archive = _Archive(path)

    def of(member: str) -> Picture:
        def content() -> bytes:
            return archive.read(member)

        return Picture(member, lambda: _decoded(io.BytesIO(content()), f"{path}: {member}"), content)

    return [of(member) for member in members]


def picture_of_array(name: str, array: np.ndarray) -> Picture:
    """The image of an array ``(height, width, 3)`` of uint8.

    >>> pixels(picture_of_array("black", np.zeros((2, 3, 3), np.uint8)), 4).shape
    (4, 4, 3)

    Raises:
      ValueError: for another array.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"{name}: expected an array (height, width, 3) of uint8, got {array.shape} of {array.dtype}"
        )
    return Picture(name, lambda: Image.fromarray(array), array.tobytes)


def pixels(picture: Picture, size: int) -> np.ndarray:
    """The image squashed, not cropped, to ``(size, size, 3)`` of uint8; as it is if it has that size.

    Raises:
      ValueError: for what cannot be decoded.
    """
    # Bicubic over all the pixels that become one, so that small ones are smooth; a copy at that size.
    return np.array(picture.load().resize((size, size), Image.Resampling.BICUBIC))


class _Archive:
    """A zip archive that any thread may read from."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._archive: zipfile.ZipFile | None = None

    def read(self, member: str) -> bytes:
        try:
            with self._lock:
                if self._archive is None:
                    self._archive = zipfile.ZipFile(self._path)
                return self._archive.read(member)
        except KeyError as error:
            raise ValueError(f"{self._path}: expected {member} in the archive, got: none") from error
        except Exception as error:  # OSError, BadZipFile, and what decompressors raise for damaged data
            raise ValueError(f"{self._path}: expected a whole zip archive, got: {error}") from error


def _open_file(path: Path) -> IO[bytes]:
    try:
        if path.is_file():  # a pipe would wait for its writer
            return path.open("rb")
        got = "a folder" if path.is_dir() else "something else" if path.exists() else "no file there"
    except OSError as error:  # no permission, or a name too long, say
        got = error.strerror or str(error)
    raise ValueError(f"{path}: expected an image file, got: {got}")


def _opened(file: IO[bytes], name: str) -> Image.Image:
    """The image by its header, not yet decoded."""
    most = f"expected at most {MOST_PIXELS_A_SIDE:,} pixels a side"
    if not file.read(1):
        raise ValueError(f"{name}: expected an image, PNG or JPEG, say, got: an empty file")
    file.seek(0)
    try:
        with _OPENING, warnings.catch_warnings():
            # At a number of pixels that our own limit lets pass; twice that is an error to Pillow.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {most}, got: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected an image, PNG or JPEG, say, got: something else") from error
    except Exception as error:  # formats raise anything for a damaged header
        raise ValueError(f"{name}: expected a whole image, got: {error}") from error
    if max(image.size) > MOST_PIXELS_A_SIDE:
        raise ValueError(f"{name}: {most}, got {image.width:,} × {image.height:,}")
    return image


def _decoded(file: IO[bytes], name: str) -> Image.Image:
    with _opened(file, name) as image:
        try:
            image.draft(image.mode, (ENOUGH_PIXELS_A_SIDE, ENOUGH_PIXELS_A_SIDE))  # of JPEG alone
            image.load()
            turn = _TURNS.get(_orientation(image))
            rgb = _rgb(image)
        except Exception as error:  # formats raise anything for damaged data
            raise ValueError(f"{name}: expected a whole image, got: {error}") from error
        return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged tag turns nothing
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; what is transparent lets white through."""
    if image.mode.startswith("I"):
        return _of_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range no file tells")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 bits as levels of 8; Pillow's own conversion clips them."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > _MOST_16_BIT:
        raise ValueError(f"grey levels from {levels.min():,} to {levels.max():,}, not of 16 bits")
    scaled = (levels * _WHITE + _MOST_16_BIT // 2) // _MOST_16_BIT
    scaled[levels == image.info.get("transparency", -1)] = _WHITE
    return Image.fromarray(scaled.astype(np.uint8))
