"""What a trained classifier is used for: labels for new texts, and figures on labelled ones."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.classification.data import examples_of, load
from experiments.classification.models import Model
from experiments.classification.training import Train, build_model
from experiments.data.corpora import read_text
from experiments.data.examples import check_known
from experiments.data.labelled import Labelled, read_labelled
from experiments.data.pairs import lines_of, normalized
from experiments.data.words import Tokenizers, ids_of
from experiments.harness import fit as fitting
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.labels import (
    confusion_matrix,
    figures_of,
    judge,
    note_unknown,
    probabilities,
    worst_mistakes,
)
from experiments.harness.reports import part
from experiments.harness.settings import settings
from experiments.harness.study import check_no_study


@settings
class Predict:
    """Label the texts on standard input, one a line; a blank line stays blank."""

    run: Path
    """Folder of a trained run."""
    probabilities: bool = False
    """Also give the probability of every class: label, then CLASS=PROBABILITY, separated by tabs."""
    encoding: str = "utf-8"
    """Encoding of standard input."""


@settings
class Evaluate:
    """Measure a trained classifier on a labelled file."""

    run: Path
    """Folder of a trained run; evaluation.json is written there."""
    data: Path
    """File of label<TAB>text lines, or a CSV file with a header."""
    columns: tuple[str, str] | None = None
    """Names of the label and of the text in the header of a CSV file; None: those of the training."""
    encoding: str | None = None
    """Encoding of the file; None: that of the training."""


def load_run(folder: Path) -> tuple[Model, Any, tuple[str, ...], Tokenizers]:
    """The best model of a run, its parameters, its classes and its tokenisers."""
    check_no_study(folder)
    config = runs.load_settings(folder, Train)
    if config.data == "digits":
        raise ValueError(f"the run in {folder} reads images, not text")
    shares, tokenizers = load(folder, config.letters)
    model = build_model(config, tokenizers, tuple(shares.values()))
    return model, fitting.load(folder, config, model.init), tuple(shares), tokenizers


def predict_command(config: Predict) -> None:
    """Print a label for every line."""
    model, params, classes, tokenizers = load_run(config.run)
    lines = [normalized(line) for line in lines_of(read_text(None, newline="", encoding=config.encoding))]
    texts = [line for line in lines if line]
    unlabelled = Labelled(texts, [classes[0]] * len(texts))
    examples = examples_of(unlabelled, classes, tokenizers)
    note_unknown(map(ids_of, examples.inputs))
    found = iter(probabilities(model, params, examples) if texts else ())
    for line in lines:
        print(described(next(found), classes, config.probabilities) if line else "")


def described(found: np.ndarray, classes: tuple[str, ...], all_of_them: bool) -> str:
    """A line of output."""
    label = classes[found.argmax()]
    if not all_of_them:
        return label
    return "\t".join([label, *(f"{name}={p:.4f}" for name, p in zip(classes, found, strict=True))])


def evaluate_command(config: Evaluate) -> None:
    """Print the figures, and write them beside those of the run."""
    model, params, classes, tokenizers = load_run(config.run)
    trained = runs.load_settings(config.run, Train)
    encoding, columns = config.encoding or trained.encoding, config.columns or trained.columns
    text = read_labelled(config.data, note, encoding=encoding, columns=columns)
    check_known(text.labels, classes, str(config.data), note)
    examples = examples_of(text, classes, tokenizers)
    note_unknown(map(ids_of, examples.inputs))
    judged = judge(model, params, examples)
    found = figures_of(judged, classes)
    print(f"{len(text.texts):,} texts: accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}")
    with part("evaluation.json"):
        runs.write_json(config.run / "evaluation.json", {"data": str(config.data), **found})
    with part("evaluation_confusion_matrix.png"):
        confusion_matrix(config.run / "evaluation_confusion_matrix.png", judged, classes, config.data.name)
    with part("evaluation_mistakes.tsv"):
        worst_mistakes(config.run / "evaluation_mistakes.tsv", judged, classes, text.texts.__getitem__)
