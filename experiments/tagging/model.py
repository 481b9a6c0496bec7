"""Models of a label at every step: of characters or frames, and of words with their letters."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.data.tokens import PAD
from experiments.harness.labels import drop_words
from experiments.harness.settings import Count, Fraction, settings
from experiments.tagging.words import Words
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.encoder import Direction, Encoder
from jaxrnn.models.sequence import SequenceModel, SequenceModelParams
from jaxrnn.models.tokens import embed, init_embedding


@settings
class ModelSettings:
    """Settings of a model with an output at every step."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    layers: Count = 1
    """Cells on top of each other."""
    hidden_size: Count = 128
    """Hidden units of each layer and direction."""
    direction: Direction = "bidirectional"
    """How the network reads: forward, reversed or bidirectional."""
    embedding_size: Count = 64
    """Size of the learned embedding of characters, or of words."""
    letter_size: Count = 32
    """Size of the learned embedding of a word's letters."""
    spelling_size: Count = 64
    """Hidden units, in each direction, of the network that reads a word's letters."""
    dropout: Fraction = 0.1
    """Probability that a feature is dropped: at the input, between layers, and at the output."""
    word_dropout: Fraction = 0.1
    """Probability that a word is taken for an unknown one in training, and its letters have to do."""


class WordTaggerParams(NamedTuple):
    """Parameters of a tagger of words."""

    embedding: Array  # (words, embedding_size)
    spelling: Any  # EncoderParams
    tagger: SequenceModelParams


@dataclass(frozen=True)
class WordTagger:
    """A label for every word, from its embedding and its letters, as the words around it suggest.

    Ling et al. 2015, "Finding function in form: compositional character models for open vocabulary word
    representation". Equations, for a word w with the letters a_1..a_n::

        s_w = [→LSTM(a_1..a_n); ←LSTM(a_1..a_n)] W + b       what each has once it has read the word
        x_w = [E[w]; s_w]
        logits = ``tagger`` on x_1..x_T
    """

    spelling: SequenceModel
    tagger: SequenceModel
    words: int
    embedding_size: int
    word_dropout: float

    def init(self, key: Array) -> WordTaggerParams:
        """Draw the parameters."""
        key_embedding, key_spelling, key_tagger = jax.random.split(key, 3)
        return WordTaggerParams(
            init_embedding(key_embedding, self.words, self.embedding_size, jnp.float32),
            self.spelling.init(key_spelling),
            self.tagger.init(key_tagger),
        )

    def apply(
        self, params: WordTaggerParams, inputs: Words, *, lengths: Array, key: Array | None = None
    ) -> Array:
        """The logits ``(time, batch, classes)``."""
        ids, letters = jnp.asarray(inputs.ids), jnp.moveaxis(jnp.asarray(inputs.letters), -1, 0)
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        spelled = self.spelling.apply(
            params.spelling, letters, lengths=jnp.sum(letters != PAD, axis=0), key=keys[0]
        )
        if keys[1] is not None:
            ids = drop_words(keys[1], ids, self.word_dropout)
        vectors = jnp.concatenate([embed(params.embedding, ids), spelled], axis=-1)
        return self.tagger.apply(params.tagger, vectors, lengths=lengths, key=keys[2])


Model = SequenceModel | WordTagger


def build_model(config: ModelSettings, classes: int, vocabularies: dict[str, int], features: int) -> Model:
    """The model that the settings ask for.

    Args:
      config: the settings.
      classes: how many labels there are.
      vocabularies: the sizes of those of "letters" and "words", as far as there are.
      features: of a frame; 0 where the steps are no frames.
    """
    common: dict[str, Any] = {"direction": config.direction, "dropout": config.dropout, "backward": "bptt"}
    cells = [CELLS[config.cell](config.hidden_size)] * config.layers
    if features:
        return SequenceModel(Encoder(cells, in_features=features, **common), classes, pool="each")
    if "words" not in vocabularies:
        of_letters: dict[str, Any] = {
            "vocabulary_size": vocabularies["letters"],
            "embedding_size": config.embedding_size,
        }
        return SequenceModel(Encoder(cells, **of_letters, **common), classes, pool="each")
    letters = Encoder(
        [CELLS[config.cell](config.spelling_size)],
        vocabulary_size=vocabularies["letters"],
        embedding_size=config.letter_size,
        direction="bidirectional",
        backward="bptt",
    )
    spelling = SequenceModel(letters, 2 * config.spelling_size, pool="last")
    tagger = Encoder(cells, in_features=config.embedding_size + spelling.out_features, **common)
    return WordTagger(
        spelling,
        SequenceModel(tagger, classes, pool="each"),
        vocabularies["words"],
        config.embedding_size,
        config.word_dropout,
    )
