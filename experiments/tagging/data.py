"""Sequences with a label at every step by the settings of a run: characters, frames, or words."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from experiments.data import gestures, python_tokens, scenes
from experiments.data.corpora import can_be_read, library_files
from experiments.data.examples import Examples, check_known, hold_out, report_shared
from experiments.data.pairs import NAMES
from experiments.data.tokens import encode, load_tokenizer, save_tokenizer, train_tokenizer
from experiments.data.words import Words
from experiments.harness.run import DIGEST, read_json, write_json
from experiments.harness.settings import Count, settings
from experiments.tagging.words import examples_of_words, tagged_text, vocabularies_of

Kind = Literal["characters", "frames", "words"]
NAMED: dict[str, Kind] = {
    "python": "characters",
    "scenes": "frames",
    "gesture_phase": "frames",
    "ud_en_ewt": "words",
}
HELD_OUT = ("valid", "test")
PYTHON_CHARACTERS = 3_000_000  # of the standard library
PIECE = 256  # characters
SCENES = {"train": 2000, "valid": 200, "test": 500}
SCENE_FRAMES = 50
VIDEO_PIECE, VIDEO_STRIDE = 128, 32  # frames of the pieces of a video that are trained on


@settings
class DataSettings:
    """Settings of data with a label at every step."""

    data: str = "python"
    """python (the standard library's source, no download), scenes (drawn, no download), gesture_phase,
    ud_en_ewt, or a file: CoNLL-U, or a word and its tag a line and blank lines between sentences."""
    valid: str | None = None
    """File to validate on, likewise; None: the set's own, or a tenth of a file's sentences."""
    test: str | None = None
    """File for the final test, likewise."""
    encoding: str = "utf-8"
    """Encoding of the files, latin-1 say."""
    min_count: Count = 2
    """Words that come less often in training are unknown ones, of which the letters alone tell."""
    lowercase: bool = True
    """Words lose upper case; their letters keep it."""


class Data(NamedTuple):
    """Examples to train on, to validate on and to test on, and what their numbers stand for."""

    train: Examples
    valid: Examples
    test: Examples
    classes: tuple[str, ...]
    tokenizers: dict[str, Tokenizer]  # "letters" and, of words, ``vocabularies_of``
    features: int  # of frames
    digests: dict[str, str]


def kind_of(data: str) -> Kind:
    """What the steps of a data set are; those of a file are words."""
    return NAMED.get(data, "words")


def load_data(config: DataSettings, report: Callable[[str], None] = print) -> Data:
    """The examples that the settings ask for.

    Raises:
      ValueError: for an unknown name, or files that do not fit.
    """
    if config.data not in NAMED and not can_be_read(Path(config.data)):
        raise ValueError(f"data {config.data!r} is neither a file nor one of {', '.join(NAMED)}")
    if kind_of(config.data) == "words":
        return _words(config, report)
    if given := [f"--{part}" for part in HELD_OUT if getattr(config, part) is not None]:
        raise ValueError(f"{config.data} has parts of its own; {' and '.join(given)} are for words")
    return {"python": _python, "scenes": _scenes, "gesture_phase": _gesture_phase}[config.data]()


def _python() -> Data:
    """Files of the standard library, whole ones held out, in pieces."""
    files = library_files()
    sizes = itertools.accumulate(map(len, files.values()))
    names = [name for name, size in zip(files, sizes, strict=True) if size <= PYTHON_CHARACTERS]
    parts = [[p for i in part for p in _pieces(files[names[i]])] for part in hold_out(names, HELD_OUT)]
    letters = train_tokenizer(
        [piece.text for piece in parts[0]], "char", vocabulary_size=1, min_count=1, lowercase=False
    )
    examples = [examples_of_python(part, letters) for part in parts]
    return _data(examples, python_tokens.CLASSES, {"letters": letters})


def _pieces(source: str) -> Iterator[python_tokens.Piece]:
    """Those of a file that ``tokenize`` of the running Python takes; else none."""
    try:
        yield from python_tokens.pieces(source, PIECE)
    except SyntaxError:
        return


def examples_of_python(pieces: Iterable[python_tokens.Piece], letters: Tokenizer) -> Examples:
    """Characters as ids, and the class of each."""
    pieces = list(pieces)
    texts = [piece.text for piece in pieces]
    return Examples(encode(letters, texts), [piece.classes for piece in pieces], texts)


def _scenes() -> Data:
    """Scenes drawn by a seed of their own."""
    random = np.random.default_rng(0)
    parts = []
    for count in SCENES.values():
        drawn = [scenes.draw(random, SCENE_FRAMES) for _ in range(count)]
        events = [scene.events for scene in drawn]
        parts.append(_frames([scene.frames for scene in drawn], events, scenes.EVENTS))
    return _data(parts, scenes.EVENTS, {}, features=scenes.SIZE**2)


def _gesture_phase() -> Data:
    """Whole videos held out; those to train on in overlapping pieces."""
    train, valid, test = (
        [gestures.video(name) for name in names]
        for names in (gestures.TRAINING, gestures.VALIDATION, gestures.TEST)
    )
    pieces = [piece for video in train for piece in gestures.pieces(video, VIDEO_PIECE, VIDEO_STRIDE)]
    classes = tuple(gestures.PHASES.values())
    examples = [
        _frames([video.frames for video in part], [video.phases for video in part], classes)
        for part in (pieces, valid, test)
    ]
    return _data(examples, classes, {}, features=gestures.FEATURES)


def _frames(frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], classes: Sequence[str]) -> Examples:
    """Frames, of which a person reads what happens at each."""
    return Examples(frames, labels, [[classes[label] for label in each] for each in labels])


def _words(config: DataSettings, report: Callable[[str], None]) -> Data:
    own = {name: getattr(config, name) for name in HELD_OUT}
    text = tagged_text(config.data, own, config.encoding, report)
    classes = tuple(sorted(set(itertools.chain.from_iterable(text.train.tags))))
    if len(classes) < 2:
        raise ValueError(f"{config.data} has one tag only, {classes[0]!r}; there is nothing to learn")
    tokenizers = vocabularies_of(text.train, min_count=config.min_count, lowercase=config.lowercase)
    sentences = {name: [" ".join(words) for words in part.words] for name, part in text._asdict().items()}
    for name in HELD_OUT:
        where, tags = f"the {NAMES[name]} part", getattr(text, name).tags
        check_known(itertools.chain.from_iterable(tags), classes, where, report)
        report_shared(sentences["train"], sentences[name], where, report)
    parts = [examples_of_words(part, classes, tokenizers) for part in text]
    return _data(parts, classes, tokenizers)


def _data(
    parts: Sequence[Examples],
    classes: tuple[str, ...],
    tokenizers: dict[str, Tokenizer],
    features: int = 0,
) -> Data:
    train, valid, test = parts
    digests = {}
    for name, part in zip(NAMES, parts, strict=True):
        digest = hashlib.sha256()
        for leaf in [*part.inputs, *part.labels]:
            for array in leaf if isinstance(leaf, Words) else (leaf,):
                digest.update(array.tobytes())
        digests[name + DIGEST] = digest.hexdigest()
    return Data(train, valid, test, classes, tokenizers, features, digests)


def save(data: Data, folder: Path) -> None:
    """Write what a run needs beside its parameters: ``classes.json``, and what is known of its text."""
    write_json(folder / "classes.json", data.classes)
    for name, tokenizer in data.tokenizers.items():
        save_tokenizer(tokenizer, folder / f"{name}.json")


def load(folder: Path, kind: Kind) -> tuple[tuple[str, ...], dict[str, Tokenizer]]:
    """What ``save`` wrote.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    classes = tuple(read_json(folder / "classes.json"))
    names = {"characters": ["letters"], "words": ["letters", "words", "seen"], "frames": []}[kind]
    return classes, {name: load_tokenizer(folder / f"{name}.json") for name in names}
