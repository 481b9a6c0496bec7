"""What a trained model of blanks is used for: words for blanks, and bits of a text."""

from pathlib import Path

from experiments.cloze.data import examples_of, short_enough
from experiments.cloze.filling import blanked, fill
from experiments.cloze.training import Train, described, leave_mistakes, load_run, measured, read
from experiments.data.corpora import read_text
from experiments.data.pairs import lines_of
from experiments.data.sentences import BLANK, read_sentences
from experiments.data.tokens import encode_words
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.labels import note_unknown
from experiments.harness.reports import part
from experiments.harness.settings import Count, settings


@settings
class Fill:
    """Print words for the blank, ___, of each sentence on standard input, one a line: word, probability,
    next word, its probability and so on, separated by tabs, the most probable first; a blank line stays
    blank.
    """

    run: Path
    """Folder of a trained run."""
    best: Count = 5
    """Words for each blank."""
    encoding: str = "utf-8"
    """Encoding of standard input."""


@settings
class Evaluate:
    """Measure a trained model on all words of a text."""

    run: Path
    """Folder of a trained run; evaluation.json is written there."""
    data: Path
    """Text file."""
    encoding: str | None = None
    """Encoding of the file; None: that of the training."""
    max_words: Count | None = None
    """Longer sentences are left out, counted and reported; None: as in training."""


def fill_command(config: Fill) -> None:
    """Print the best words for every blank."""
    model, params, words = load_run(config.run)
    lines = [line.strip() for line in lines_of(read_text(None, newline="", encoding=config.encoding))]
    sentences = [blanked(line, f"line {n}") for n, line in enumerate(lines, start=1) if line]
    note_unknown(encode_words(words, [[w for w in s if w != BLANK] for s in sentences]))
    found = iter(fill(model, params, words, sentences, config.best) if sentences else ())
    for line in lines:
        print("\t".join(f"{word}\t{p:.4f}" for word, p in next(found)) if line else "")


def evaluate_command(config: Evaluate) -> None:
    """Print the figures, and write them beside those of the run."""
    model, params, words = load_run(config.run)
    trained = runs.load_settings(config.run, Train)
    read_from = read_sentences(config.data, config.encoding or trained.encoding)
    sentences = short_enough(read_from, config.max_words or trained.max_words, str(config.data), note)
    examples = examples_of(sentences, words, str(config.data), note)
    found = read(model, params, examples)
    print(described(found))
    with part("evaluation.json"):
        runs.write_json(config.run / "evaluation.json", {"data": str(config.data), **measured(found)})
    leave_mistakes(config.run, found, examples, words, name="evaluation_")
