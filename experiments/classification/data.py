"""Labelled sequences by the settings of a run: texts as token ids, images as rows."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments.data.corpora import can_be_read
from experiments.data.examples import Examples, check_known, numbers_of, report_shared
from experiments.data.labelled import Labelled, LabelledText, read_labelled, split, sst, trec
from experiments.data.order_sentences import order_sentences
from experiments.data.pairs import NAMES
from experiments.data.sentences import words_of
from experiments.data.tokens import encode_words, load_tokenizer, save_tokenizer
from experiments.data.words import Tokenizers, encoded, vocabularies
from experiments.harness.run import DIGEST, read_json, write_json
from experiments.harness.settings import Count, settings

NAMED = ("order", "digits", "trec", "sst")
HELD_OUT = ("valid", "test")


@settings
class DataSettings:
    """Settings of labelled data."""

    data: str = "order"
    """order (sentences, no download), digits (scikit-learn's images), trec, sst, or a file: lines of
    label<TAB>text, or a CSV file with a header."""
    valid: str | None = None
    """File to validate on, likewise; None: the set's own, or a tenth of a file's texts."""
    test: str | None = None
    """File for the final test, likewise."""
    columns: tuple[str, str] = ("label", "text")
    """Names of the label and of the text in the header of CSV files."""
    encoding: str = "utf-8"
    """Encoding of the files, latin-1 say."""
    classes: Literal[2, 5] = 2
    """Of sst: negative and positive, or five from very negative to very positive."""
    phrases: bool = True
    """Train on every labelled phrase of sst, not on its sentences alone."""
    min_count: Count = 2
    """Words that come less often in training are unknown ones."""
    lowercase: bool = True
    """Words lose upper case; their letters keep it."""
    letters: bool = False
    """A second network reads the letters of every word, so that one never seen before says something."""


class Data(NamedTuple):
    """Examples to train on, to validate on and to test on, and what their numbers stand for."""

    train: Examples
    valid: Examples
    test: Examples
    classes: tuple[str, ...]
    tokenizers: Tokenizers  # none for feature vectors
    digests: dict[str, str]

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each class in training."""
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        return tuple((counts / counts.sum()).tolist())

    @property
    def features(self) -> int:
        """The size of feature vectors; 0 for words."""
        return 0 if self.tokenizers else self.train.inputs[0].shape[-1]


def load_data(config: DataSettings, report: Callable[[str], None] = print) -> Data:
    """The examples that the settings ask for.

    Raises:
      ValueError: for an unknown name, files that do not fit, or a single class.
    """
    if config.data == "digits":
        if given := [f"--{name}" for name in HELD_OUT if getattr(config, name) is not None]:
            raise ValueError(f"digits has parts of its own; {' and '.join(given)} are for text")
        if config.letters:
            raise ValueError("digits are images without words; --letters are for text")
        return digits()
    text = load_labelled(config, report)
    classes = tuple(sorted(set(text.train.labels)))
    if len(classes) < 2:
        raise ValueError(f"{config.data} has one class only, {classes[0]!r}; there is nothing to learn")
    words = list(itertools.chain.from_iterable(map(words_of, text.train.texts)))
    tokenizers = vocabularies(words, min_count=config.min_count, lowercase=config.lowercase)
    if not config.letters:
        del tokenizers["letters"]
    for name in HELD_OUT:
        check_known(getattr(text, name).labels, classes, f"the {NAMES[name]} part", report)
        report_shared(text.train.texts, getattr(text, name).texts, f"the {NAMES[name]} part", report)
    train, valid, test = (examples_of(part, classes, tokenizers) for part in text)
    digests = {
        name + DIGEST: hashlib.sha256(repr(part).encode()).hexdigest()
        for name, part in text._asdict().items()
    }
    return Data(train, valid, test, classes, tokenizers, digests)


def load_labelled(config: DataSettings, report: Callable[[str], None]) -> LabelledText:
    """The texts and labels of all parts."""

    def read(file: str) -> Labelled:
        return read_labelled(Path(file), report, encoding=config.encoding, columns=config.columns)

    own = {name: read(file) for name in HELD_OUT if (file := getattr(config, name)) is not None}
    if config.data == "order":
        text = order_sentences()
    elif config.data == "trec":
        text = trec(report)
    elif config.data == "sst":
        text = sst(config.classes, config.phrases)
    elif can_be_read(Path(config.data)):
        missing = [name for name in HELD_OUT if name not in own]
        train, *rest = split(read(config.data), missing)
        text = LabelledText(**{"train": train, **own, **dict(zip(missing, rest, strict=True))})
    else:
        raise ValueError(f"data {config.data!r} is neither a file nor one of {', '.join(NAMED)}")
    return text._replace(**own)


def examples_of(text: Labelled, classes: Sequence[str], tokenizers: Tokenizers) -> Examples:
    """Texts as word ids, with their letters where there is a tokeniser of those; labels as numbers."""
    sentences = [words_of(sentence) for sentence in text.texts]
    inputs = (
        encoded(sentences, tokenizers)
        if "letters" in tokenizers
        else encode_words(tokenizers["words"], sentences)
    )
    return Examples(inputs, numbers_of(text.labels, classes), text.texts)


def digits() -> Data:
    """1,797 images of digits as eight rows of eight grey values from 0 to 1; a fifth each for validation
    and test.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images, labels = (loaded.images / 16).astype(np.float32), loaded.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))  # whatever the seed of a run
    held_out = len(images) // 5
    valid, test, train = (
        Examples(list(images[part]), labels[part], [f"image {i}" for i in part])
        for part in np.split(order, [held_out, 2 * held_out])
    )
    digest = {"digits" + DIGEST: hashlib.sha256(images.tobytes()).hexdigest()}
    return Data(train, valid, test, tuple("0123456789"), {}, digest)


def save(data: Data, folder: Path) -> None:
    """Write what a run needs beside its parameters: ``classes.json`` and, of texts, vocabularies."""
    shares = dict(zip(data.classes, data.shares, strict=True))
    write_json(folder / "classes.json", shares)
    for name, tokenizer in data.tokenizers.items():
        save_tokenizer(tokenizer, folder / f"{name}.json")


def load(folder: Path, letters: bool) -> tuple[dict[str, float], Tokenizers]:
    """What ``save`` wrote of a text: the share of every class in training, and the tokenisers.

    Raises:
      ValueError: if a file is missing or damaged.
    """
    shares = read_json(folder / "classes.json")
    names = ("letters", "words") if letters else ("words",)
    return shares, {name: load_tokenizer(folder / f"{name}.json") for name in names}
