"""Sentences with a tag for every word, by name or from files."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.data.corpora import RemoteFile, fetch, read_text
from experiments.data.examples import hold_out
from experiments.data.pairs import lines_of


class Tagged(NamedTuple):
    """The words of sentences, and their tags."""

    words: Sequence[Sequence[str]]
    tags: Sequence[Sequence[str]]


class TaggedText(NamedTuple):
    """Sentences to train on, to choose the model by, and to measure it on."""

    train: Tagged
    valid: Tagged
    test: Tagged


_EWT = (
    "https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/"
    "15d613d8447b3478787d4c278730a1e48a945efb/"
)
# Silveira et al. 2014, "A gold standard dependency corpus for English"; CC BY-SA 4.0.
UD_EN_EWT = {
    part: RemoteFile(f"en_ewt-ud-{part}.conllu", f"{_EWT}en_ewt-ud-{part}.conllu", digest)
    for part, digest in (
        ("train", "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b"),
        ("dev", "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6"),
        ("test", "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd"),
    )
}
CONLLU_COLUMNS = 10
_BIO = re.compile("O|[BI]-.+")


def ud_en_ewt(report: Callable[[str], None]) -> TaggedText:
    """English of the web with its universal parts of speech: 12,544, 2,001 and 2,077 sentences."""
    files = [fetch("ud_en_ewt", remote) for remote in UD_EN_EWT.values()]
    return TaggedText(*(read_tagged(file, report) for file in files))


def read_tagged(path: Path, report: Callable[[str], None], encoding: str = "utf-8") -> Tagged:
    """The sentences of a file, between blank lines.

    Args:
      path: CoNLL-U, of which the words and their universal parts of speech are taken; or a word and its
        tag a line, with a tab or spaces between them, the tag last.
      report: is told what is left out: of CoNLL-U multiword and empty nodes, else columns in between.
      encoding: of the file.

    Raises:
      ValueError: for what cannot be read, a line without a tag, or no sentence.
    """
    lines = [line.rstrip("\r") for line in lines_of(read_text(path, newline="", encoding=encoding))]
    rows = [line.split("\t") for line in lines]
    if any(len(row) == CONLLU_COLUMNS and row[0] == "1" for row in rows):
        return _from_conllu(rows, str(path), report)
    return _from_columns(lines, str(path), report)


def _from_conllu(rows: Sequence[Sequence[str]], name: str, report: Callable[[str], None]) -> Tagged:
    sentences: list[list[tuple[str, str]]] = [[]]
    multiword = empty = 0
    for number, row in enumerate(rows, start=1):
        if row[0].startswith("#"):
            continue
        if row == [""]:
            sentences.append([])
        elif len(row) != CONLLU_COLUMNS:
            raise ValueError(f"{name}, line {number}: expected {CONLLU_COLUMNS} columns, got {len(row)}")
        elif "-" in row[0]:
            multiword += 1
        elif "." in row[0]:
            empty += 1
        else:
            sentences[-1].append((row[1], row[3]))
    if multiword or empty:
        report(
            f"{name}: left out {multiword:,} multiword tokens, whose words stay, and {empty:,} empty nodes"
        )
    return _tagged(sentences, name)


def _from_columns(lines: Sequence[str], name: str, report: Callable[[str], None]) -> Tagged:
    sentences: list[list[tuple[str, str]]] = [[]]
    between = 0
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            sentences.append([])
        elif len(columns) < 2 or not (columns[0].strip() and columns[-1].strip()):
            raise ValueError(f"{name}, line {number}: expected a word and its tag, got {line.strip()!r}")
        else:
            between += len(columns) > 2
            sentences[-1].append((columns[0].strip(), columns[-1].strip()))
    if between:
        report(f"{name}: columns between the word and its tag, on {between:,} lines, are left out")
    return _tagged(sentences, name)


def _tagged(sentences: Iterable[Sequence[tuple[str, str]]], name: str) -> Tagged:
    kept = [sentence for sentence in sentences if sentence]
    if not kept:
        raise ValueError(f"{name} holds no sentence")
    return Tagged([[word for word, _ in s] for s in kept], [[tag for _, tag in s] for s in kept])


def split(text: Tagged, parts: Sequence[str]) -> tuple[Tagged, ...]:
    """What is left to train on, then each of ``parts``, as ``hold_out``."""
    held_out = hold_out([" ".join(words) for words in text.words], parts)
    return tuple(Tagged([text.words[i] for i in part], [text.tags[i] for i in part]) for part in held_out)


def has_spans(tags: Iterable[str]) -> bool:
    """Whether tags are of the kind that marks where spans begin, go on, and are not (BIO).

    >>> has_spans(["O", "B-PER", "I-PER"]), has_spans(["NOUN", "O"]), has_spans(["O"])
    (True, False, False)
    """
    tags = set(tags)
    return tags != {"O"} and all(_BIO.fullmatch(tag) for tag in tags)
