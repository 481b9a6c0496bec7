"""A text to train on, one to validate on, and one for the final test."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.corpora import load_text, read_text
from experiments.harness.run import DIGEST
from jaxrnn.data.text import Vocabulary, split_in_order


class Parts(NamedTuple):
    """The corpus, its characters, the ids of each part, and what tells the texts from others."""

    text: str
    vocabulary: Vocabulary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    digests: dict[str, str]


def load_parts(corpus: str, *, files: Mapping[str, str | None], fractions: Mapping[str, float]) -> Parts:
    """The parts of a corpus.

    Args:
      corpus: as ``load_text`` takes it.
      files: by ``valid`` and ``test``, a text of its own for that part, or None.
      fractions: by the same names, what else the corpus gives up at its end.

    Raises:
      ValueError: if a text cannot be read, or has characters that the corpus lacks, or
        nothing is left to train on.
    """
    texts = {"corpus": load_text(corpus)}
    vocabulary = Vocabulary.of(texts["corpus"])
    cut = [fraction if files[name] is None else 0.0 for name, fraction in fractions.items()]
    train, *rest = split_in_order(vocabulary.encode(texts["corpus"]), *cut)
    parts = dict(zip(fractions, rest, strict=True))
    for name, file in files.items():
        if file is not None:
            texts[name] = read_text(Path(file))
            try:
                parts[name] = vocabulary.encode(texts[name])
            except ValueError as error:
                raise ValueError(f"--{name} {file}: {error}") from error
    digests = {name + DIGEST: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return Parts(texts["corpus"], vocabulary, train, parts["valid"], parts["test"], digests)


def check_held_out(
    parts: Parts, corpus: str, *, files: Mapping[str, str | None], fractions: Mapping[str, float]
) -> None:
    """Raise ValueError unless each held-out part has a character to predict and one before it."""
    for name, fraction in fractions.items():
        ids = getattr(parts, name)
        if len(ids) < 2:
            characters = "1 character" if len(ids) == 1 else f"{len(ids)} characters"
            what = f"{corpus} leaves {characters} for --{name}-fraction {fraction}"
            if files[name] is not None:
                what = f"--{name} {files[name]} holds {characters}"
            raise ValueError(f"{what}, and at least 2 are needed")
