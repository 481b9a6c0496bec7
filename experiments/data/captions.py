"""Pictures with captions, by name or from a file."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from experiments.data.corpora import RemoteFile, data_directory, fetch, read_text
from experiments.data.examples import hold_out
from experiments.data.images import Picture, picture_of_file, pictures_of_zip, size_of_file
from experiments.data.pairs import lines_of, normalized


class Captioned(NamedTuple):
    """Pictures and the captions of each, one or more."""

    pictures: list[Picture]
    captions: list[list[str]]


class CaptionedParts(NamedTuple):
    """Examples to train on, to choose the model by, and to measure it on."""

    train: Captioned
    valid: Captioned
    test: Captioned
    test_name: str = "test"


FLICKR8K = "flickr8k"
FLICKR8K_VALID = 500
_RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
# Hodosh et al. 2013, "Framing image description as a ranking task": Flickr users' photographs with five
# captions each; for research and education.
FLICKR8K_PHOTOGRAPHS = RemoteFile(
    "Flickr8k_Dataset.zip", f"{_RELEASE}Flickr8k_Dataset.zip", "f18a1e2920de5bd84dae7cf08ec78978", "md5"
)
FLICKR8K_TEXT = RemoteFile(
    "Flickr8k_text.zip", f"{_RELEASE}Flickr8k_text.zip", "bf6c1abcb8e4a833b7f922104de18627", "md5"
)
# Members of that archive, which may also lie in the data directory by themselves: their SHA-256.
FLICKR8K_TEXT_FILES = {
    "Flickr8k.token.txt": "1e1f3a371ba1a1bf742e6930521c037e046b2bf3fcc2390ba8405e0301ed7689",
    "Flickr_8k.trainImages.txt": "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
    "Flickr_8k.devImages.txt": "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
    "Flickr_8k.testImages.txt": "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
}
FLICKR8K_SIZES = {"train": 6_000, "dev": 1_000, "test": 1_000}
# The same photographs squashed to 224 x 224: a few megabytes, taken where they lie in the data directory.
SMALL_TRAIN_DEV, SMALL_TEST = "flickr8k_224_train_dev.zip", "flickr8k_224_test.zip"
_FOLDER = "Flicker8k_Dataset"  # spelt so in the archives


def flickr8k(report: Callable[[str], None]) -> CaptionedParts:
    """Flickr8k without its test photographs: 5,500 to train on and 500 for validation, chosen from the
    training photographs by the digests of their names; the 1,000 of the dev list are the test.

    Args:
      report: is told before a gigabyte is downloaded, where no photographs lie in the data directory.

    Raises:
      ValueError: for what cannot be downloaded, or is damaged.
    """
    captions = _flickr8k_captions()
    names, dev = _flickr8k_names("train"), _flickr8k_names("dev")
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(order[:FLICKR8K_VALID])
    pictures = _flickr8k_pictures([*names, *dev], SMALL_TRAIN_DEV, report)
    return CaptionedParts(
        _captioned([name for name in names if name not in held_out], pictures, captions),
        _captioned([name for name in names if name in held_out], pictures, captions),
        _captioned(dev, pictures, captions),
        "dev",
    )


def flickr8k_test(report: Callable[[str], None]) -> Captioned:
    """The 1,000 test photographs of Flickr8k, for the last measurement of a model; else as ``flickr8k``."""
    names = _flickr8k_names("test")
    return _captioned(names, _flickr8k_pictures(names, SMALL_TEST, report), _flickr8k_captions())


def _captioned(
    names: Sequence[str], pictures: Mapping[str, Picture], captions: Mapping[str, list[str]]
) -> Captioned:
    if missing := [name for name in names if name not in captions]:
        raise ValueError(f"{FLICKR8K} is damaged: no caption of {missing[0]}, and {len(missing)} in all")
    return Captioned([pictures[name] for name in names], [captions[name] for name in names])


def _flickr8k_lines(file: str) -> list[str]:
    if (data_directory() / FLICKR8K / file).exists():
        own = RemoteFile(file, FLICKR8K_TEXT.url, FLICKR8K_TEXT_FILES[file])
        content = fetch(FLICKR8K, own).read_bytes()
    else:
        with zipfile.ZipFile(fetch(FLICKR8K, FLICKR8K_TEXT)) as archive:
            members = {PurePosixPath(member).name: member for member in archive.namelist()}
            if file not in members:
                raise ValueError(f"{FLICKR8K} is damaged: {FLICKR8K_TEXT.file} lacks {file}")
            content = archive.read(members[file])
    return [line for line in lines_of(content.decode("utf-8")) if line.strip()]


def _flickr8k_names(part: str) -> list[str]:
    names = [line.strip() for line in _flickr8k_lines(f"Flickr_8k.{part}Images.txt")]
    if len(names) != FLICKR8K_SIZES[part]:
        raise ValueError(
            f"{FLICKR8K} is damaged: expected {FLICKR8K_SIZES[part]:,} {part} photographs, "
            f"got {len(names):,}"
        )
    return names


def _flickr8k_captions() -> dict[str, list[str]]:
    """Of every photograph; one of a name that no list has (``...jpg.1``) stays unused."""
    captions: dict[str, list[str]] = {}
    for line in _flickr8k_lines("Flickr8k.token.txt"):
        number, _, caption = line.partition("\t")
        captions.setdefault(number.partition("#")[0], []).append(normalized(caption))
    return captions


def _flickr8k_pictures(
    names: Sequence[str], small: str, report: Callable[[str], None]
) -> dict[str, Picture]:
    folder = data_directory() / FLICKR8K
    path = folder / small
    if not path.exists():
        if not (folder / FLICKR8K_PHOTOGRAPHS.file).exists():
            report(f"{FLICKR8K}: the photographs, a gigabyte, are downloaded to {folder}")
        path = fetch(FLICKR8K, FLICKR8K_PHOTOGRAPHS)
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    members = [f"{_FOLDER}/{name}" for name in names]
    if missing := [member for member in members if member not in there]:
        raise ValueError(
            f"{path} is damaged: it lacks {len(missing):,} of {len(members):,} photographs, the first "
            f"{missing[0]}"
        )
    pictures = pictures_of_zip(path, members)
    return {name: picture._replace(name=name) for name, picture in zip(names, pictures, strict=True)}


def read_captions(path: Path, report: Callable[[str], None], encoding: str | None = None) -> Captioned:
    """The pictures of a file and their captions.

    Args:
      path: lines ``path<TAB>caption``, paths as seen from the file's folder; several lines with one path
        are captions of one picture. Blank lines are skipped.
      report: is told what is left out: blank captions, and pictures that are no images by their headers or
        have no other caption.
      encoding: of the file.

    Raises:
      ValueError: for what cannot be read, a line without a tab or a path, or no picture.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines_of(read_text(path, newline="", encoding=encoding)), start=1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or not name.strip():
            got = "no path before the tab" if tab else "no tab"
            raise ValueError(f"{path}, line {number}: expected path<TAB>caption, got {got}")
        # As written, not as found, so that the same pictures are held out wherever the folder lies.
        captions.setdefault(Path(name.strip()).as_posix(), []).append(normalized(caption))
    return _whole(path, captions, report)


def _whole(path: Path, captions: Mapping[str, list[str]], report: Callable[[str], None]) -> Captioned:
    """The pictures that can be read and have a caption; what is left out is reported."""
    found, bare, errors = Captioned([], []), [], []
    for name, of_picture in captions.items():
        file = path.parent / name
        try:
            size_of_file(file)
        except ValueError as error:
            errors.append(str(error))
            continue
        if kept := [caption for caption in of_picture if caption]:
            found.pictures.append(picture_of_file(file)._replace(name=name))
            found.captions.append(kept)
        else:
            bare.append(name)
    if blank := sum(not caption for of_picture in captions.values() for caption in of_picture):
        report(f"{path}: {blank:,} blank captions are left out")
    if bare:
        report(f"{path}: {len(bare):,} pictures have no other caption and are left out, first {bare[0]}")
    left_out = f"{len(errors):,} of {len(captions):,} pictures cannot be read"
    if not found.pictures:
        raise ValueError(
            f"{path} holds no picture with a caption"
            + (f"; {left_out}, first {errors[0]}" if errors else "")
        )
    if errors:
        report(f"{path}: {left_out} and are left out, first {errors[0]}")
    return found


def split(captioned: Captioned, parts: Sequence[str]) -> tuple[Captioned, ...]:
    """What is left to train on, then each of ``parts``, as ``hold_out`` of the pictures' names."""
    names = [picture.name for picture in captioned.pictures]
    return tuple(take(captioned, indices) for indices in hold_out(names, parts))


def take(captioned: Captioned, indices: Iterable[int]) -> Captioned:
    """Some of the pictures with their captions, in the order given."""
    indices = list(indices)
    return Captioned([captioned.pictures[i] for i in indices], [captioned.captions[i] for i in indices])


def digest(captioned: Captioned) -> str:
    """SHA-256 of the names and captions; pixels are not read."""
    rows = [[picture.name, *of] for picture, of in zip(*captioned, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
