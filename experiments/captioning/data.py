"""Pictures with captions by the settings of a run: what the encoder reads, and token ids."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
from tokenizers import Tokenizer

from experiments.captioning.encoders import SIDE, EncoderName
from experiments.captioning.features import Inputs, cached, compute, read_pixels
from experiments.captioning.metrics import plain
from experiments.data.batches import TrainingBatches, buckets_of, lengths_of, teacher_forcing
from experiments.data.captions import (
    Captioned,
    CaptionedParts,
    digest,
    flickr8k,
    read_captions,
    split,
    take,
)
from experiments.data.corpora import can_be_read
from experiments.data.drawn_pictures import drawn_pictures
from experiments.data.images import Picture
from experiments.data.tokens import encode, train_tokenizer
from experiments.harness.run import DIGEST
from experiments.harness.settings import Count, settings

NAMED = ("scenes", "flickr8k")
HELD_OUT = ("valid", "test")
BUCKETS = 4
VALIDATION_LANES = 128


@settings
class DataSettings:
    """Settings of pictures with captions."""

    data: str = "scenes"
    """scenes (drawn, no download), flickr8k, or a file of path<TAB>caption lines, paths as seen from its
    folder; a picture with several lines has several captions."""
    valid: str | None = None
    """File to validate on, likewise; None: the set's own, or a tenth of a file's pictures."""
    test: str | None = None
    """File to measure on at the end, likewise."""
    encoding: str = "utf-8"
    """Encoding of the files."""
    lowercase: bool = True
    """Captions lose upper case and punctuation, as in the papers on captioning."""
    min_count: Count = 2
    """Words that come less often in training are unknown ones, which are never written."""
    max_length: Count = 40
    """Words of the longest caption: longer ones are not trained on, but counted, nor written."""
    encoder: EncoderName = "small"
    """What sees the images: small, a convolutional network trained with the rest on 64 x 64 pixels, or
    efficientnet_lite0, pretrained on photographs and left as it is."""
    features: str | None = None
    """Folder in which features of efficientnet_lite0 are kept; None: the user's cache."""


class Part(NamedTuple):
    """Pictures that could be read, with their captions, and what the encoder reads of them."""

    captioned: Captioned
    inputs: np.ndarray  # (pictures, rows, ...): images, or features (pictures, places, features)


class Example(NamedTuple):
    """A picture by its number, and one of its captions."""

    picture: int
    ids: np.ndarray


class Data(NamedTuple):
    """What is trained on, what chooses the model, and what it is measured on."""

    train: Part
    valid: Part
    test: Part
    test_name: str
    tokenizer: Tokenizer
    digests: dict[str, str]


class Batch(NamedTuple):
    """Captions side by side, each with its picture; lanes left over have length 0."""

    inputs: np.ndarray  # (rows, batch, ...): the encoder's, with the batch second, as in the others
    fed: np.ndarray  # (time, batch): the start token, then the caption
    targets: np.ndarray  # (time, batch): the caption, then the end token
    lengths: np.ndarray  # (batch,), the end token included


def load_parts(config: DataSettings, report: Callable[[str], None]) -> CaptionedParts:
    """The parts of a data set, their pictures not yet read.

    Raises:
      ValueError: for an unknown name, or files that do not fit.
    """

    def read(file: str) -> Captioned:
        return read_captions(Path(file), report, config.encoding)

    own = {name: read(file) for name in HELD_OUT if (file := getattr(config, name)) is not None}
    if config.data == "scenes":
        parts = drawn_pictures()
    elif config.data == "flickr8k":
        parts = flickr8k(report)
    elif can_be_read(Path(config.data)):
        missing = [name for name in HELD_OUT if name not in own]
        train, *rest = split(read(config.data), missing)
        held_out = {**own, **dict(zip(missing, rest, strict=True))}
        parts = CaptionedParts(train, held_out["valid"], held_out["test"])
    else:
        raise ValueError(f"data {config.data!r} is neither a file nor one of {', '.join(NAMED)}")
    test_name = "test" if "test" in own else parts.test_name
    return CaptionedParts(
        parts.train, own.get("valid", parts.valid), own.get("test", parts.test), test_name
    )


def load_data(config: DataSettings, report: Callable[[str], None] = print) -> Data:
    """The data that the settings ask for; what cannot be read is left out and reported.

    Raises:
      ValueError: as ``load_parts``; and where a part has nothing that can be read.
    """
    parts = load_parts(config, report)
    tokenizer = train_tokenizer(
        [text for of in parts.train.captions for text in texts(of, config)],
        "word",
        vocabulary_size=1,
        min_count=config.min_count,
        lowercase=False,
    )
    digests = {name + DIGEST: digest(getattr(parts, name)) for name in ("train", *HELD_OUT)}
    train, valid, test = (read_part(part, config, report) for part in parts[:3])
    return Data(train, valid, test, parts.test_name, tokenizer, digests)


def texts(captions: Sequence[str], config: DataSettings) -> list[str]:
    """Captions as the model is to write them."""
    return [plain(caption) for caption in captions] if config.lowercase else list(captions)


def read_part(part: Captioned, config: DataSettings, report: Callable[[str], None]) -> Part:
    """A part with what the encoder reads of its pictures; those that cannot be read are reported.

    Raises:
      ValueError: if none can be.
    """
    inputs = inputs_of(part.pictures, config)
    if inputs.errors:
        left_out = f"{len(inputs.errors):,} of {len(part.pictures):,} pictures cannot be read"
        if not inputs.kept:
            raise ValueError(f"{left_out}, first: {inputs.errors[0]}")
        report(f"{left_out} and are left out, first: {inputs.errors[0]}")
    return Part(take(part, inputs.kept), inputs.values)


def inputs_of(pictures: Sequence[Picture], config: DataSettings, *, keep: bool = True) -> Inputs:
    """What the encoder of a run reads of pictures; features are kept on disk, and looked up there."""
    if config.encoder == "small":
        return read_pixels(pictures, SIDE)
    if not keep:
        return compute(pictures)
    default = pooch.os_cache("jaxrnn") / "features"
    return cached(pictures, default if config.features is None else Path(config.features))


def examples_of(
    part: Part, tokenizer: Tokenizer, config: DataSettings, report: Callable[[str], None]
) -> list[Example]:
    """Every caption with its picture; too long ones are left out and reported.

    Raises:
      ValueError: if all are.
    """
    captions = [texts(of, config) for of in part.captioned.captions]
    ids = encode(tokenizer, [text for of in captions for text in of])
    pictures = (picture for picture, of in enumerate(captions) for _ in of)
    examples = [Example(picture, of) for picture, of in zip(pictures, ids, strict=True)]
    kept = [example for example in examples if len(example.ids) <= config.max_length]
    if left_out := len(examples) - len(kept):
        longer = f"{left_out:,} of {len(examples):,} captions exceed --max-length {config.max_length} words"
        if not kept:
            raise ValueError(longer)
        report(f"{longer} and are left out")
    return kept


def training_batches(
    part: Part, examples: Sequence[Example], batch_size: int, seed: int
) -> TrainingBatches:
    """Endless shuffled batches, each of captions of like length."""
    sizes = [(len(example.ids) + 1,) for example in examples]
    return TrainingBatches(
        sizes,
        buckets_of(sizes, BUCKETS),
        batch_size,
        seed,
        lambda indices, bucket: collate(part, [examples[i] for i in indices], bucket[0], len(indices)),
    )


def batches_in_order(part: Part, examples: Sequence[Example]) -> list[Callable[[], Batch]]:
    """What makes each batch of every caption once, the longest first."""
    order = sorted(examples, key=lambda example: -len(example.ids))
    groups = [order[i : i + VALIDATION_LANES] for i in range(0, len(order), VALIDATION_LANES)]
    time = max(len(example.ids) for example in order) + 1
    return [functools.partial(collate, part, group, time, VALIDATION_LANES) for group in groups]


def collate(part: Part, examples: Sequence[Example], time: int, lanes: int) -> Batch:
    """Captions side by side; a lane that is left over sees the first picture."""
    ids = [example.ids for example in examples]
    fed, targets = teacher_forcing(ids, time, lanes)
    lengths = lengths_of(ids, lanes)
    lengths[: len(ids)] += 1
    pictures = [example.picture for example in examples]
    return Batch(
        beside(part.inputs, [*pictures, *pictures[:1] * (lanes - len(ids))]), fed, targets, lengths
    )


def beside(inputs: np.ndarray, pictures: Sequence[int]) -> np.ndarray:
    """What the encoder reads of some pictures, the batch second."""
    return np.moveaxis(inputs[np.asarray(pictures)], 0, 1)
