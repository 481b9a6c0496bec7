"""Sentences in which every word in turn is a blank."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from experiments.data.corpora import can_be_read
from experiments.data.examples import NO_LABEL, Examples, hold_out, report_shared
from experiments.data.pairs import NAMES
from experiments.data.sentences import documentation, read_sentences, tatoeba_english, words_of
from experiments.data.tokens import END, SPECIAL, START, UNKNOWN, encode_words, train_words
from experiments.harness.run import DIGEST
from experiments.harness.settings import Count, settings

NAMED = {"docstrings": documentation, "tatoeba": tatoeba_english}
HELD_OUT = ("valid", "test")


@settings
class DataSettings:
    """Settings of sentences."""

    data: str = "docstrings"
    """docstrings (sentences of the standard library's documentation, no download), tatoeba (everyday
    English), or a text file."""
    valid: str | None = None
    """Text file to validate on; None: a tenth of the sentences."""
    test: str | None = None
    """Text file for the final test, likewise."""
    encoding: str = "utf-8"
    """Encoding of the files, latin-1 say."""
    min_count: Count = 3
    """Words that come less often in training are unknown: read as such, and never predicted."""
    lowercase: bool = True
    """Lose upper case."""
    max_words: Count = 40
    """Longer sentences are left out, counted and reported."""


class Data(NamedTuple):
    """Examples to train on, to validate on and to test on, and the words that are known."""

    train: Examples
    valid: Examples
    test: Examples
    words: Tokenizer
    digests: dict[str, str]


def load_data(config: DataSettings, report: Callable[[str], None] = print) -> Data:
    """The sentences that the settings ask for.

    Raises:
      ValueError: for an unknown name, a file that cannot be read, or too few sentences.
    """
    own = {name: file for name in HELD_OUT if (file := getattr(config, name)) is not None}
    missing = [name for name in HELD_OUT if name not in own]
    sentences = short_enough(
        load_sentences(config.data, config.encoding), config.max_words, config.data, report
    )
    chosen = hold_out([" ".join(words) for words in sentences], missing)
    drawn = ([sentences[i] for i in part] for part in chosen)
    parts = dict(zip(["train", *missing], drawn, strict=True))
    for name, file in own.items():
        parts[name] = short_enough(
            read_sentences(Path(file), config.encoding), config.max_words, file, report
        )
    words = train_words(
        itertools.chain.from_iterable(parts["train"]),
        min_count=config.min_count,
        lowercase=config.lowercase,
    )
    if words.get_vocab_size() == len(SPECIAL):
        raise ValueError(f"no word of {config.data} comes --min-count {config.min_count} times in training")
    digests = {
        name + DIGEST: hashlib.sha256("\n".join(map(" ".join, part)).encode()).hexdigest()
        for name, part in parts.items()
    }
    texts = {name: [" ".join(sentence) for sentence in part] for name, part in parts.items()}
    for name in HELD_OUT:
        report_shared(texts["train"], texts[name], f"the {NAMES[name]} part", report)
    train, valid, test = (examples_of(parts[name], words, name, report) for name in NAMES)
    return Data(train, valid, test, words, digests)


def load_sentences(data: str, encoding: str) -> list[str]:
    """Sentences by name, or of a file."""
    if data in NAMED:
        return NAMED[data]()
    if not can_be_read(Path(data)):
        raise ValueError(f"data {data!r} is neither a file nor one of {', '.join(NAMED)}")
    return read_sentences(Path(data), encoding)


def short_enough(
    sentences: Sequence[str], max_words: int, name: str, report: Callable[[str], None]
) -> list[list[str]]:
    """The words of those sentences that are not too long, nor a single word.

    Raises:
      ValueError: if there are none.
    """
    split = [words_of(sentence) for sentence in sentences]
    kept = [words for words in split if 2 <= len(words) <= max_words]
    if not kept:
        raise ValueError(f"{name} has no sentence of 2 to --max-words {max_words} words")
    if left := len(split) - len(kept):
        report(
            f"{name}: left out {left:,} of {len(split):,} sentences, with one word or more than {max_words}"
        )
    return kept


def examples_of(
    sentences: Sequence[Sequence[str]], words: Tokenizer, name: str, report: Callable[[str], None]
) -> Examples:
    """Sentences between a start and an end, and as labels their words, but for unknown ones. Sentences
    without a known word are left out and reported.

    Raises:
      ValueError: if there are no others.
    """
    inputs, labels = [], []
    kept = [
        (sentence, ids)
        for sentence, ids in zip(sentences, encode_words(words, sentences), strict=True)
        if (ids != UNKNOWN).any()
    ]
    if not kept:
        raise ValueError(f"{name} has no word that comes often enough in training to be known")
    if left := len(sentences) - len(kept):
        report(f"{name}: left out {left:,} sentences without a known word")
    for _, ids in kept:
        inputs.append(np.concatenate([[START], ids, [END]]).astype(np.int32))
        known = np.where(ids == UNKNOWN, NO_LABEL, ids)
        labels.append(np.concatenate([[NO_LABEL], known, [NO_LABEL]]).astype(np.int32))
    return Examples(inputs, labels, [["<s>", *sentence, "</s>"] for sentence, _ in kept])
