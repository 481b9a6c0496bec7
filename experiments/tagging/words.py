"""Tagged words: their sentences by the settings of a run, and as examples."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from experiments.data.examples import Examples, numbers_of
from experiments.data.tagged import Tagged, TaggedText, read_tagged, split, ud_en_ewt
from experiments.data.tokens import UNKNOWN, encode_words, train_words
from experiments.data.words import Tokenizers, encoded, vocabularies


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


def vocabularies_of(text: Tagged, *, min_count: int, lowercase: bool) -> dict[str, Tokenizer]:
    """Those of ``vocabularies``, and all "seen" words of training."""
    words = list(itertools.chain.from_iterable(text.words))
    return {
        **vocabularies(words, min_count=min_count, lowercase=lowercase),
        "seen": train_words(words, min_count=1, lowercase=lowercase),
    }


def unseen(sentences: Sequence[Sequence[str]], tokenizers: Tokenizers) -> np.ndarray:
    """Of every word, sentence by sentence, whether training has it nowhere."""
    return np.concatenate(encode_words(tokenizers["seen"], sentences)) == UNKNOWN


def examples_of_words(text: Tagged, classes: Sequence[str], tokenizers: Tokenizers) -> Examples:
    """Words as ids and letters, and tags as numbers."""
    labels = [numbers_of(tags, classes) for tags in text.tags]
    return Examples(encoded(text.words, tokenizers), labels, text.words)
