"""Texts as characters or words, and their parts."""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.data.corpora import CORPORA, STANDARD_LIBRARY, RemoteFile, fetch, load_text
from experiments.data.sentences import words_of
from experiments.harness.run import DIGEST
from experiments.harness.settings import Count, settings
from jaxrnn.data.text import Vocabulary, split_in_order

Unit = Literal["character", "word"]
BROWN = RemoteFile(
    "brown.zip",
    "https://raw.githubusercontent.com/nltk/nltk_data/"
    "5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora/brown.zip",
    "9b275f9b3b95d7bd66ccfb7cd259f445a13bbe5d1f4107aba09fd3e8364bafa6",
)
# Of 500 samples of American English printed in 1961 (Francis & Kučera), as Bengio et al. 2003 split them.
BROWN_PARTS = (800_000, 1_000_000)
# Karpathy et al. 2015 read War and Peace in so many streams side by side; the last tenth of each is for the
# test, the one before for validation.
STREAMS = 100
RARE = "\N{REPLACEMENT CHARACTER}"  # stands for all rare words


@settings
class DataSettings:
    """Settings of texts."""

    corpus: str = STANDARD_LIBRARY
    """stdlib (the running Python's standard library), tiny_shakespeare, war_and_peace, brown (words), or a
    UTF-8 file."""
    unit: Unit = "character"
    """What a file is cut into, characters or words."""
    min_count: Count = 4
    """Words that come less often in the corpus are one and the same."""


class Data(NamedTuple):
    """The parts of a text as numbers, and what they stand for."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    tokens: tuple[str, ...]
    unit: Unit
    digests: dict[str, str]


def load_data(config: DataSettings) -> Data:
    """The text that the settings name.

    Raises:
      ValueError: for what is no text, or too short a one.
    """
    corpus = config.corpus
    if corpus == "brown":
        words = brown()
        tokens, ids = numbered(words, config.min_count)
        train, valid, test = np.split(ids, BROWN_PARTS)
        return Data(train, valid, test, tokens, "word", {"corpus" + DIGEST: BROWN.digest})
    text = load_text(corpus)
    digests = {"corpus" + DIGEST: hashlib.sha256(text.encode()).hexdigest()}
    if config.unit == "word" and corpus not in (STANDARD_LIBRARY, *CORPORA):
        tokens, ids = numbered(words_of(text), config.min_count)
    else:
        if corpus == "war_and_peace":
            text = "\ufeff" + text.replace("\n", "\r\n")
        vocabulary = Vocabulary.of(text)
        tokens, ids = vocabulary.characters, vocabulary.encode(text)
    unit = config.unit if tokens[0] == RARE else "character"
    if corpus == "war_and_peace":
        train, valid, test = in_streams(ids)
    elif corpus == "tiny_shakespeare":  # nanoGPT's validation part is the test
        train, valid, test = split_in_order(ids, 0.09, 0.1)
    else:
        train, valid, test = split_in_order(ids, 0.05, 0.05)
    if min(len(valid), len(test)) < 2:
        raise ValueError(f"{corpus} has {len(ids):,} {unit}s, too few to hold a twentieth out twice")
    return Data(train, valid, test, tokens, unit, digests)


def in_streams(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test part: eight, one and one tenth of each of ``STREAMS`` pieces.

    >>> [part[:2].tolist() for part in in_streams(np.arange(1000))]
    [[0, 1], [8, 18], [9, 19]]
    """
    streams = ids[: len(ids) // STREAMS * STREAMS].reshape(STREAMS, -1)
    ends = [streams.shape[1] * tenths // 10 for tenths in (8, 9)]
    train, valid, test = (part.ravel() for part in np.split(streams, ends, axis=1))
    return train, valid, test


def numbered(words: Sequence[str], min_count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The words that come often enough, after ``RARE``, and the numbers of all.

    >>> numbered(["a", "b", "a"], min_count=2)[1].tolist()
    [1, 0, 1]
    """
    distinct, ids, counts = np.unique(words, return_inverse=True, return_counts=True)
    often = counts >= min_count
    return (RARE, *distinct[often].tolist()), np.where(often, np.cumsum(often), 0)[ids].astype(np.int32)


def brown() -> list[str]:
    """The words of the Brown corpus, its files in the order of their names."""
    with zipfile.ZipFile(fetch("brown", BROWN)) as archive:
        files = sorted(name for name in archive.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name))
        texts = [archive.read(name).decode("ascii") for name in files]
    return [tagged.rsplit("/", 1)[0] for text in texts for tagged in text.split()]
