"""Labelled text: sentences and their classes, by name or from files."""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.data.corpora import RemoteFile, fetch, read_text
from experiments.data.examples import hold_out
from experiments.data.pairs import NAMES, lines_of, normalized


class Labelled(NamedTuple):
    """Texts and their labels, line by line."""

    texts: Sequence[str]
    labels: Sequence[str]


class LabelledText(NamedTuple):
    """Examples to train on, to choose the model by, and to measure it on."""

    train: Labelled
    valid: Labelled
    test: Labelled


_TREC = "https://raw.githubusercontent.com/FreedomIntelligence/qnn/77f549372d4371e7f2d52e77bc18df5096dd4779/data/TREC/"
# Li & Roth 2002, "Learning question classifiers": six classes of questions; Latin-1.
TREC = {
    "train": RemoteFile(
        "train_5500.label",
        f"{_TREC}train_5500.label",
        "8bd6e79493f43bbd22c364587366a1dced54e1e31259eaa92721a0f526031116",
    ),
    "test": RemoteFile(
        "TREC_10.label",
        f"{_TREC}TREC_10.label",
        "86ad53c8fc9d397ab2f4be7c967d8efb470b260140557d3e57afad69d1b88b76",
    ),
}
# Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank".
SST = RemoteFile(
    "trainDevTestTrees_PTB.zip",
    "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
    "5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
)
SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")"}


def trec(report: Callable[[str], None]) -> LabelledText:
    """Questions and what they ask for, in six classes: 5,452, a tenth of them for validation, and 500."""
    parts = {}
    for name, remote in TREC.items():
        lines = lines_of(fetch("trec", remote).read_bytes().decode("latin-1"))
        rows = [line.split(" ", 1) for line in lines]
        labels, texts = [row[0].partition(":")[0] for row in rows], [row[1] for row in rows]
        parts[name] = clean(texts, labels, report, f"trec {NAMES[name]}")
    train, valid = split(parts["train"], ["valid"])
    return LabelledText(train, valid, parts["test"])


def sst(classes: Literal[2, 5], phrases: bool) -> LabelledText:
    """Sentences of film reviews and their sentiment, whole in validation and test.

    Args:
      classes: 5, or 2: negative and positive; then neutral ones are left out.
      phrases: train on every labelled phrase, each once, not on sentences alone.
    """
    parts = []
    with zipfile.ZipFile(fetch("sst", SST)) as archive:
        for part in ("train", "dev", "test"):
            lines = lines_of(archive.read(f"trees/{part}.txt").decode("utf-8"))
            nodes = [phrases_of(line) for line in lines]
            every = phrases and part == "train"
            chosen = dict.fromkeys(n for tree in nodes for n in tree) if every else [t[-1] for t in nodes]
            found = [(text, _sentiment(label, classes)) for label, text in chosen]
            kept = [(text, label) for text, label in found if label is not None]
            parts.append(Labelled([text for text, _ in kept], [label for _, label in kept]))
    return LabelledText(*parts)


def phrases_of(tree: str) -> list[tuple[int, str]]:
    """Label and words of every node of a tree in brackets, children first, the sentence last.

    >>> phrases_of("(3 (2 It) (4 (2 's) (3 good)))")
    [(2, 'It'), (2, "'s"), (3, 'good'), (4, "'s good"), (3, "It 's good")]
    """
    found: list[tuple[int, str]] = []
    stack: list[tuple[int, list[str]]] = []
    for token in re.findall(r"\(\d|\)|[^\s()]+", tree):
        if token.startswith("("):
            stack.append((int(token[1]), []))
        elif token != ")":
            stack[-1][1].append(_BRACKETS.get(token, token).replace("\\/", "/"))
        else:
            label, words = stack.pop()
            found.append((label, " ".join(words)))
            if stack:
                stack[-1][1].extend(words)
    return found


def _sentiment(label: int, classes: int) -> str | None:
    if classes == 5:
        return SENTIMENTS[label]
    return None if label == 2 else "positive" if label > 2 else "negative"


def read_labelled(
    path: Path,
    report: Callable[[str], None],
    *,
    encoding: str | None = None,
    columns: tuple[str, str] = ("label", "text"),
) -> Labelled:
    """The examples of a file.

    Args:
      path: lines ``label<TAB>text``, or ``label<TAB>text<TAB>text``, whose texts are joined; or a CSV file
        with a header, by the suffix ``.csv``.
      report: is told what is left out.
      encoding: of the file.
      columns: names of the label and of the text in the header of a CSV file.

    Raises:
      ValueError: for what cannot be read, a line without a tab, a header without the two, or no example.
    """
    name, text = str(path), read_text(path, newline="", encoding=encoding)
    if path.suffix.lower() == ".csv":
        labels, texts = _from_csv(text, name, columns, report)
    else:
        labels, texts = _from_lines(text, name)
    return clean(texts, labels, report, name)


def _from_lines(text: str, name: str) -> tuple[list[str], list[str]]:
    labels, texts = [], []
    for number, line in enumerate(lines_of(text), start=1):
        label, *columns = (column.strip() for column in line.split("\t"))
        if label and not 1 <= len(columns) <= 2:
            raise ValueError(
                f"{name}, line {number}: expected label<TAB>text, or a second text after another tab, got "
                f"{len(columns) or 'no'} tab{'s' * (len(columns) > 1)}"
            )
        labels.append(label)
        texts.append(" ".join(columns))
    if (labels[0].lower(), texts[0].lower()) == ("label", "text"):
        return labels[1:], texts[1:]
    return labels, texts


def _from_csv(
    text: str, name: str, columns: tuple[str, str], report: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = {column.strip().lower(): column for column in rows.fieldnames or ()}
        found = list(rows)
    except csv.Error as error:
        raise ValueError(
            f"{name}, after line {rows.line_num}: {error}; does a quotation mark lack its second?"
        ) from error
    wanted = [column.lower() for column in columns]
    if not set(wanted) <= set(header):
        raise ValueError(
            f"{name}: expected a header with {columns[0]} and {columns[1]}, got {', '.join(header)}; "
            "--columns LABEL TEXT names others"
        )
    if others := [column for column in header if column not in wanted]:
        report(f"{name}: left out the columns {', '.join(others)}")
    label, of_text = (header[column] for column in wanted)
    for number, row in enumerate(found, start=1):
        if None in row or None in row.values():
            raise ValueError(
                f"{name}, row {number}: expected {len(header)} columns, got another number; a text with a "
                "comma stands in double quotes"
            )
    return [row[label] for row in found], [row[of_text] for row in found]


def clean(
    texts: Sequence[str], labels: Sequence[str], report: Callable[[str], None], name: str
) -> Labelled:
    """Normalised texts and labels; where one is blank, both are left out and reported.

    Raises:
      ValueError: if nothing is left.
    """
    pairs = [(normalized(t), normalized(label)) for t, label in zip(texts, labels, strict=True)]
    whole = [pair for pair in pairs if all(pair)]
    if not whole:
        raise ValueError(f"{name} holds no label with a text among {len(pairs):,} lines")
    if blank := len(pairs) - len(whole):
        report(f"{name}: {blank:,} of {len(pairs):,} lines lack a label or a text and are left out")
    return Labelled([text for text, _ in whole], [label for _, label in whole])


def split(examples: Labelled, parts: Sequence[str]) -> tuple[Labelled, ...]:
    """What is left to train on, then each of ``parts``, as ``hold_out``."""
    return tuple(take(examples, indices) for indices in hold_out(examples.texts, parts))


def take(examples: Labelled, indices: Iterable[int]) -> Labelled:
    """Some of the examples, in the order given."""
    indices = list(indices)
    return Labelled([examples.texts[i] for i in indices], [examples.labels[i] for i in indices])
