"""Models of a label at every step: of characters or frames, and of words with their letters."""

from typing import Any

from experiments.harness.settings import Count, Fraction, settings
from experiments.harness.spelling import SpelledModel, spelled_model
from jaxrnn.cells.table import CELLS, CellName
from jaxrnn.models.encoder import Direction, Encoder
from jaxrnn.models.sequence import SequenceModel


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


Model = SequenceModel | SpelledModel


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
    return spelled_model(
        vocabularies,
        classes,
        letter_cell=CELLS[config.cell](config.spelling_size),
        letter_size=config.letter_size,
        cells=cells,
        embedding_size=config.embedding_size,
        pool="each",
        **common,
    )
