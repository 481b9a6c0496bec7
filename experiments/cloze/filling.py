"""Words for a blank, and sentences that show what each side of it tells."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from experiments.cloze.model import BlankModel
from experiments.data.examples import Batch, Examples, batches_in_order
from experiments.data.sentences import BLANK, words_of
from experiments.data.tokens import END, SPECIAL, START, encode_words, tokens_of
from jaxrnn.caching import by_value

SHOWN = 3  # answers a sentence
PLANE = "This is a ___ which can fly with 12 people."
EVERYDAY = (
    "She poured me a ___ of hot coffee.",
    "He put on his ___ because it was raining.",
    "The ___ barked at me all night.",
    "I went to the ___ to have my teeth checked.",
    "We have to ___ up early tomorrow morning.",
    "He ___ his bicycle to school every day.",
    "I am looking ___ to seeing you again.",
    "She has been studying English ___ three years.",
    "My ___ is younger than I am.",
    "You should ___ care of your health.",
)
DOCUMENTATION = (
    "Return a ___ of the dictionary.",
    "Raise a ___ if the key is not found.",
    "Return ___ if the object is a directory, False otherwise.",
    "If the file does not ___, it is created.",
    "Open the ___ and return a file object.",
    "Wait ___ the thread terminates.",
    "The default ___ is None.",
    "Called when the connection is ___ or closed.",
    "The optional ___ specifies the size of the buffer.",
    "Convert a ___ to an integer.",
)


def sentences_for(data: str) -> Sequence[str]:
    """The textbook's sentence, and ten like it in the language of the data."""
    return (PLANE, *(DOCUMENTATION if data == "docstrings" else EVERYDAY))


def blanked(line: str, where: str) -> list[str]:
    """The words of a sentence with one blank.

    Raises:
      ValueError: for no blank, several, or nothing beside it.
    """
    words = words_of(line)
    if words.count(BLANK) != 1:
        raise ValueError(f"{where}: expected one blank, {BLANK}, got {words.count(BLANK)}: {line[:60]!r}")
    if len(words) == 1:
        raise ValueError(f"{where}: expected words beside the blank, got none")
    return words


def fill(
    model: BlankModel, params: Any, words: Tokenizer, sentences: Sequence[Sequence[str]], best: int
) -> list[list[tuple[str, float]]]:
    """The most probable words for the blank of each sentence, and their probabilities; of those that the
    vocabulary has.
    """
    places = [1 + list(sentence).index(BLANK) for sentence in sentences]
    inputs = [np.array([START, *ids, END], np.int32) for ids in encode_words(words, sentences)]
    examples = Examples(inputs, np.array(places, np.int32), sentences)
    found: dict[int, list[tuple[str, float]]] = {}
    known = tokens_of(words)
    for indices, batch in batches_in_order(examples):
        rows = np.asarray(_at_blank(model, params, batch))
        for index, row in zip(indices, rows, strict=False):
            order = np.argsort(-row, kind="stable")[:best]
            found[index] = [(known[n], float(row[n])) for n in order if row[n] > 0]
    return [found[index] for index in range(len(sentences))]


@functools.partial(by_value, static_argnames=("model",))
def _at_blank(model: BlankModel, params: Any, batch: Batch) -> jax.Array:
    """The probabilities of the words that a blank may be, ``(lanes, vocabulary)``."""
    logits = model.apply(params, batch.inputs, lengths=batch.lengths)
    lanes = np.arange(logits.shape[1])
    return jax.nn.softmax(logits[batch.labels, lanes].at[:, : len(SPECIAL)].set(-np.inf))


def answers(model: BlankModel, params: Any, words: Tokenizer, lines: Sequence[str]) -> list[str]:
    """Lines with a blank, and the best words for it."""
    sentences = [blanked(line, "sentence") for line in lines]
    return [
        f"{line}  {', '.join(f'{word} {p:.2f}' for word, p in found)}"
        for line, found in zip(lines, fill(model, params, words, sentences, SHOWN), strict=True)
    ]
