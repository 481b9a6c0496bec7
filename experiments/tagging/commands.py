"""What a trained model is used for: tags for new text, and figures on tagged text."""

import itertools
from pathlib import Path

import numpy as np

from experiments.data.corpora import read_text
from experiments.data.examples import Examples, check_known
from experiments.data.pairs import lines_of
from experiments.data.python_tokens import Piece, pieces
from experiments.data.tagged import read_tagged
from experiments.data.words import encoded
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.labels import judge, note_unknown, probabilities
from experiments.harness.reports import part
from experiments.harness.settings import settings
from experiments.tagging.data import PIECE, Data, examples_of_python, kind_of
from experiments.tagging.training import described, leave_mistakes, load_run, measured
from experiments.tagging.words import examples_of_words


@settings
class Tag:
    """Tag the text on standard input. Of words: a sentence a line, its words between spaces; a word and its
    tag a line come out, and a blank line after each sentence. Of Python source: characters of one class
    that follow each other, and their class.
    """

    run: Path
    """Folder of a trained run."""
    encoding: str = "utf-8"
    """Encoding of standard input."""


@settings
class Evaluate:
    """Measure a trained model on a tagged file."""

    run: Path
    """Folder of a trained run; evaluation.json is written there."""
    data: Path
    """File as in training: CoNLL-U, a word and its tag a line, or Python source."""
    encoding: str | None = None
    """Encoding of the file; None: that of the training."""


def tag_command(config: Tag) -> None:
    """Print a tag for every word, or every run of characters."""
    model, params, trained, data = load_run(config.run)
    text = read_text(None, encoding=config.encoding)
    if kind_of(trained.data) == "characters":
        examples = examples_of_python(python_pieces(text), data.tokenizers["letters"])
        found = np.concatenate(probabilities(model, params, examples))
        tags = [data.classes[number] for number in found.argmax(axis=-1)]
        for name, group in itertools.groupby(zip(text, tags, strict=True), key=lambda step: step[1]):
            print(f"{escaped(''.join(character for character, _ in group))}\t{name}")
        return
    sentences = [line.split() for line in lines_of(text)]
    words = [sentence for sentence in sentences if sentence]
    labels = [np.zeros(len(sentence), np.int32) for sentence in words]
    examples = Examples(encoded(words, data.tokenizers) if words else [], labels, words)
    note_unknown([words.ids for words in examples.inputs])
    found_tags = iter(probabilities(model, params, examples) if words else ())
    for sentence in sentences:
        numbers = next(found_tags).argmax(axis=-1) if sentence else ()
        print("\n".join([*(f"{w}\t{data.classes[n]}" for w, n in zip(sentence, numbers, strict=True)), ""]))


def python_pieces(text: str) -> list[Piece]:
    """A text in the pieces that a model is trained on; in one, where it is not, or not yet, Python."""
    try:
        return list(pieces(text, PIECE))
    except SyntaxError:
        return [Piece(text, np.zeros(len(text), np.int32))]


def escaped(text: str) -> str:
    r"""A text on one line without tabs: ``\n``, ``\t`` and ``\\`` stand for what would break it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def evaluate_command(config: Evaluate) -> None:
    """Print the figures, and write them beside those of the run."""
    model, params, trained, data = load_run(config.run)
    kind = kind_of(trained.data)
    read = python_file if kind == "characters" else word_file
    examples = read(config.data, config.encoding or trained.encoding, data)
    judged = judge(model, params, examples)
    found = measured(judged, examples, data.classes, data.tokenizers)
    print(f"{len(judged.labels):,} {kind}: {described(found)}")
    with part("evaluation.json"):
        runs.write_json(config.run / "evaluation.json", {"data": str(config.data), **found})
    title = config.data.name
    leave_mistakes(config.run, judged, examples, data.classes, kind, title, name="evaluation_")


def python_file(path: Path, encoding: str, data: Data) -> Examples:
    """A file of Python source, and the class of every character."""
    source = read_text(path, encoding=encoding)
    try:
        found = list(pieces(source, PIECE))
    except SyntaxError as error:
        raise ValueError(f"{path} is not Python source: {error.msg}, line {error.lineno}") from error
    return examples_of_python(found, data.tokenizers["letters"])


def word_file(path: Path, encoding: str, data: Data) -> Examples:
    """A file of tagged sentences."""
    text = read_tagged(path, note, encoding)
    tags = itertools.chain.from_iterable(text.tags)
    check_known(tags, data.classes, str(path), note)
    return examples_of_words(text, data.classes, data.tokenizers)
