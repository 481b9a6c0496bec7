"""A model of words that reads their letters, too, so that one never seen before still says something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.data.tokens import PAD
from experiments.data.words import Words
from jaxrnn.cells.cell import Cell
from jaxrnn.models.encoder import Encoder
from jaxrnn.models.sequence import Pool, SequenceModel, SequenceModelParams
from jaxrnn.models.tokens import embed, init_embedding


class SpelledModelParams(NamedTuple):
    """Parameters of a model of words with their letters."""

    embedding: Array  # (words, embedding_size)
    spelling: SequenceModelParams
    reader: SequenceModelParams


@dataclass(frozen=True)
class SpelledModel:
    """A sequence model of words, each as its embedding and what a second network reads in its letters.

    Ling et al. 2015, "Finding function in form: compositional character models for open vocabulary word
    representation". Equations, for a word w with the letters a_1..a_n::

        s_w = [→cell(a_1..a_n); ←cell(a_1..a_n)] W + b       what each has once it has read the word
        x_w = [E[w]; s_w]
        logits = ``reader`` on x_1..x_T
    """

    spelling: SequenceModel
    reader: SequenceModel
    words: int
    embedding_size: int

    def init(self, key: Array) -> SpelledModelParams:
        """Draw the parameters."""
        key_embedding, key_spelling, key_reader = jax.random.split(key, 3)
        return SpelledModelParams(
            init_embedding(key_embedding, self.words, self.embedding_size, jnp.float32),
            self.spelling.init(key_spelling),
            self.reader.init(key_reader),
        )

    def apply(
        self, params: SpelledModelParams, inputs: Words, *, lengths: Array, key: Array | None = None
    ) -> Array:
        """The logits ``(batch, classes)``, or of every step ``(time, batch, classes)``."""
        keys = (None, None) if key is None else jax.random.split(key)
        vectors = self._vectors(params, inputs, keys[0])
        return self.reader.apply(params.reader, vectors, lengths=lengths, key=keys[1])

    def record(
        self, params: SpelledModelParams, inputs: Words, *, lengths: Array
    ) -> tuple[Array, tuple[Any, ...]]:
        """``apply``, and what the layers that read the words held at every step."""
        return self.reader.record(params.reader, self._vectors(params, inputs, None), lengths=lengths)

    def _vectors(self, params: SpelledModelParams, inputs: Words, key: Array | None) -> Array:
        """What the reader reads of every word, ``(time, batch, features)``."""
        ids, letters = jnp.asarray(inputs.ids), jnp.moveaxis(jnp.asarray(inputs.letters), -1, 0)
        letter_counts = jnp.sum(letters != PAD, axis=0)
        spelled = self.spelling.apply(params.spelling, letters, lengths=letter_counts, key=key)
        return jnp.concatenate([embed(params.embedding, ids), spelled], axis=-1)


def spelled_model(
    vocabularies: Mapping[str, int],
    classes: int,
    *,
    letter_cell: Cell,
    letter_size: int,
    cells: Sequence[Cell],
    embedding_size: int,
    pool: Pool,
    **options: Any,
) -> SpelledModel:
    """A ``SpelledModel`` by its sizes.

    Args:
      vocabularies: how many "letters" and "words" there are.
      classes: how many labels there are.
      letter_cell: reads a word's letters, in both directions.
      letter_size: of a letter's embedding.
      cells: read the words.
      embedding_size: of a word's embedding.
      pool: as in ``SequenceModel``.
      options: of the ``Encoder`` of words.
    """
    letters = Encoder(
        [letter_cell],
        vocabulary_size=vocabularies["letters"],
        embedding_size=letter_size,
        direction="bidirectional",
        backward="bptt",
    )
    spelling = SequenceModel(letters, letters.out_features, pool="last")
    words = Encoder(cells, in_features=embedding_size + spelling.out_features, **options)
    reader = SequenceModel(words, classes, pool=pool)
    return SpelledModel(spelling, reader, vocabularies["words"], embedding_size)
