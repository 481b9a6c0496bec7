"""Words as a model reads them: a number for those that it knows, and the letters of all."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from experiments.data.tokens import PAD, UNKNOWN, encode, encode_words, train_tokenizer, train_words

MOST_LETTERS = 16  # the last ones of a longer word
Tokenizers = Mapping[str, Tokenizer]  # from ``vocabularies``


class Words(NamedTuple):
    """Words as a model reads them."""

    ids: Any  # (time, ...) int32
    letters: Any  # (time, ..., MOST_LETTERS) int32, PAD after the last


def vocabularies(words: Sequence[str], *, min_count: int, lowercase: bool) -> dict[str, Tokenizer]:
    """The "letters" of the words in training, and the "words" that have an embedding."""
    return {
        "letters": train_tokenizer(set(words), "char", vocabulary_size=1, min_count=1, lowercase=False),
        "words": train_words(words, min_count=min_count, lowercase=lowercase),
    }


def encoded(sentences: Sequence[Sequence[str]], tokenizers: Tokenizers) -> list[Words]:
    """Words as ids and letters."""
    distinct = sorted(set(itertools.chain.from_iterable(sentences)))
    spelled = {}
    for word, ids in zip(distinct, encode(tokenizers["letters"], distinct), strict=True):
        last = ids[-MOST_LETTERS:]
        spelled[word] = np.pad(last, (0, MOST_LETTERS - len(last)), constant_values=PAD)
    numbers = encode_words(tokenizers["words"], sentences)
    return [
        Words(of, np.array([spelled[word] for word in words], np.int32).reshape(-1, MOST_LETTERS))
        for of, words in zip(numbers, sentences, strict=True)
    ]


def ids_of(inputs: Any) -> Any:
    """The numbers of words, without their letters; anything else as it is."""
    return inputs.ids if isinstance(inputs, Words) else inputs


def drop_words(key: jax.Array, inputs: Any, rate: float) -> Any:
    """Words, each with a probability taken for an unknown one, whose letters, if there are any, have to do:
    a model learns what those mean.
    """
    if isinstance(inputs, Words):
        return inputs._replace(ids=drop_words(key, inputs.ids, rate))
    ids = jnp.asarray(inputs)
    return jnp.where(jax.random.bernoulli(key, rate, ids.shape), UNKNOWN, ids)
