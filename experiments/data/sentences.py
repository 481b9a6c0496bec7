"""Sentences of plain text, and their words."""

import ast
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.data.corpora import fetch, library_files, read_text
from experiments.data.pairs import TATOEBA, lines_of, normalized

BLANK = "___"
# A blank; a word, with an apostrophe or a hyphen in it or not; an ending that stands alone, 's say; a sign.
_WORD = re.compile(r"(?<!\w)_{3,}(?!\w)|\w+(?:['’\-]\w+)*|['’](?:s|re|ve|ll|d|m|t)\b|[^\w\s]")
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9_])")
_NO_SENTENCE = re.compile(r">>>|\.\. |:\w+:|[=<>{}|]|^\W")  # code, tables and marks in documentation


def words_of(sentence: str) -> list[str]:
    """The words and the signs of a sentence, a blank among them.

    >>> words_of("I don't like ___, well-known or not.")
    ['I', "don't", 'like', '___', ',', 'well-known', 'or', 'not', '.']
    """
    return [
        BLANK if set(word) == {"_"} and len(word) >= len(BLANK) else word
        for word in _WORD.findall(sentence)
    ]


def sentences_of(text: str) -> Iterator[str]:
    r"""The sentences of a text: its paragraphs are parted by blank lines, and sentences by a full stop,
    question or exclamation mark before a capital letter.

    >>> list(sentences_of("It is late. Go\nhome!\n\nWho is there"))
    ['It is late.', 'Go home!', 'Who is there']
    """
    for paragraph in re.split(r"\n\s*\n", text):
        yield from filter(None, _END.split(normalized(paragraph)))


def documentation() -> list[str]:
    """Sentences of the documentation strings of the running Python's standard library, each once."""
    texts = [text for source in library_files().values() for text in _documentation_of(source)]
    found = (sentence for text in texts for sentence in sentences_of(text))
    return [
        *dict.fromkeys(s for s in found if s[0].isupper() and s[-1] in ".!?" and not _NO_SENTENCE.search(s))
    ]


def _documentation_of(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def tatoeba_english() -> list[str]:
    """The English sentences of Tatoeba's pairs with French, each once."""
    with zipfile.ZipFile(fetch("tatoeba_en_fr", TATOEBA)) as archive:
        lines = lines_of(archive.read("fra.txt").decode("utf-8"))
    return distinct(line.split("\t")[0] for line in lines)


def read_sentences(path: Path, encoding: str = "utf-8") -> list[str]:
    """The sentences of a file, each once.

    Raises:
      ValueError: for what cannot be read.
    """
    text = read_text(path, encoding=encoding)
    return distinct(sentences_of(text))


def distinct(sentences: Iterable[str]) -> list[str]:
    """Normalised sentences, each once."""
    return [*dict.fromkeys(filter(None, map(normalized, sentences)))]
