"""Words as a model of tags reads them: a number for those that it knows, and the letters of all."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from experiments.data.examples import Examples, numbers_of
from experiments.data.tagged import Tagged, TaggedText, read_tagged, split, ud_en_ewt
from experiments.data.tokens import PAD, UNKNOWN, encode, encode_words, train_tokenizer, train_words

MOST_LETTERS = 16  # the last ones of a longer word
Tokenizers = Mapping[str, Tokenizer]  # from ``vocabularies``


class Words(NamedTuple):
    """Words as a model reads them."""

    ids: Any  # (time, ...) int32
    letters: Any  # (time, ..., MOST_LETTERS) int32, PAD after the last


def tagged_text(
    data: str, files: Mapping[str, str | None], encoding: str, report: Callable[[str], None]
) -> TaggedText:
    """The sentences of ``ud_en_ewt`` or of a file; ``files`` are those of single parts, by name."""
    own = {
        name: read_tagged(Path(file), report, encoding) for name, file in files.items() if file is not None
    }
    if data == "ud_en_ewt":
        return ud_en_ewt(report)._replace(**own)
    missing = [name for name in files if name not in own]
    train, *rest = split(read_tagged(Path(data), report, encoding), missing)
    return TaggedText(**{"train": train, **own, **dict(zip(missing, rest, strict=True))})


def vocabularies(text: Tagged, *, min_count: int, lowercase: bool) -> dict[str, Tokenizer]:
    """The "letters" of the words in training, the "words" that have an embedding, and all "seen" ones."""
    words = list(itertools.chain.from_iterable(text.words))
    return {
        "letters": train_tokenizer(set(words), "char", vocabulary_size=1, min_count=1, lowercase=False),
        "words": train_words(words, min_count=min_count, lowercase=lowercase),
        "seen": train_words(words, min_count=1, lowercase=lowercase),
    }


def unseen(sentences: Sequence[Sequence[str]], tokenizers: Tokenizers) -> np.ndarray:
    """Of every word, sentence by sentence, whether training has it nowhere."""
    return np.concatenate(encode_words(tokenizers["seen"], sentences)) == UNKNOWN


def examples_of_words(text: Tagged, classes: Sequence[str], tokenizers: Tokenizers) -> Examples:
    """Words as ids and letters, and tags as numbers."""
    labels = [numbers_of(tags, classes) for tags in text.tags]
    return Examples(encoded(text.words, tokenizers), labels, text.words)


def encoded(sentences: Sequence[Sequence[str]], tokenizers: Tokenizers) -> list[Words]:
    """Words as ids and letters."""
    distinct = sorted(set(itertools.chain.from_iterable(sentences)))
    spelled = {}
    for word, ids in zip(distinct, encode(tokenizers["letters"], distinct), strict=True):
        last = ids[-MOST_LETTERS:]
        spelled[word] = np.pad(last, (0, MOST_LETTERS - len(last)), constant_values=PAD)
    numbers = encode_words(tokenizers["words"], sentences)
    return [
        Words(of, np.array([spelled[word] for word in words], np.int32))
        for of, words in zip(numbers, sentences, strict=True)
    ]
