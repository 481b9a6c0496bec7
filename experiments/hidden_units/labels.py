"""What a character of a text is: inside quotes, in a comment, how deep it is indented, by rules."""

import ast
import contextlib
import io
import itertools
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.data.python_tokens import CLASSES, classes_of

# By name a truth or a number for every character, ``(characters,)``.
Labels = dict[str, np.ndarray]

DEEP = 2  # blocks within blocks, from which a line counts as deeply indented


def labels_of(text: str, patterns: Mapping[str, str]) -> Labels:
    r"""Labels of a text: the user's own, those of Python where it is that, and those of any text.

    Args:
      text: a text.
      patterns: by name a regular expression, whose matches' characters are positive.

    Raises:
      ValueError: for a pattern that is none.

    >>> found = labels_of("x = 'ab'  # c\n", {"vowel": "[aeiou]"})
    >>> "".join("-+"[truth] for truth in found["in string"].tolist())
    '----++++------'
    >>> found["position in line"].tolist()[-3:], int(found["vowel"].sum())
    ([11, 12, 13], 1)
    """
    found = {name: of_pattern(text, name, pattern) for name, pattern in patterns.items()}
    with contextlib.suppress(SyntaxError, ValueError):  # a zero byte is a ValueError
        found |= {name: label for name, label in of_python(text).items() if name not in patterns}
    return found | {name: label for name, label in of_any_text(text).items() if name not in patterns}


def of_any_text(text: str) -> Labels:
    """Where in its line a character stands, and what kind of character it is."""
    characters = np.array(list(text), dtype=np.str_)
    ends = characters == "\n"
    index = np.arange(len(text))
    after = np.where(np.r_[True, ends[:-1]], index, 0) if len(text) else index
    return {
        "inside quotes": _inside_quotes(text),
        "position in line": index - np.maximum.accumulate(after) if len(text) else index,
        "line end": ends,
        "capital": np.char.isupper(characters),
    }


def _inside_quotes(text: str) -> np.ndarray:
    """From a double quote to the next one in the same paragraph, both included."""
    inside = np.zeros(len(text), bool)
    for match in re.finditer(r'"(?:[^"\n]|\n(?!\s*\n))*"|“[^”]*”', text):
        inside[match.start() : match.end()] = True
    return inside


def of_python(text: str) -> Labels:
    """Strings, comments, blocks, brackets and conditions, by ``tokenize`` and ``ast``.

    Raises:
      SyntaxError: for what is not Python.
    """
    tree = ast.parse(text)
    classes, _ = classes_of(text)
    indents, brackets = _depths(text)
    return {
        "in string": classes == CLASSES.index("string"),
        "in comment": classes == CLASSES.index("comment"),
        "in keyword": classes == CLASSES.index("keyword"),
        "indentation": indents,
        f"indentation ≥ {DEEP}": indents >= DEEP,
        "brackets": brackets,
        "inside brackets": brackets > 0,
        "in if-condition": _conditions(text, tree),
    }


def _depths(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Blocks and brackets around every character."""
    lines = io.StringIO(text).readlines()
    begins = [0, *itertools.accumulate(map(len, lines)), len(text)]
    blocks, brackets = np.zeros(len(text) + 1, int), np.zeros(len(text) + 1, int)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        start, end = (begins[row - 1] + column for row, column in (token.start, token.end))
        line = begins[token.start[0] - 1]
        if token.type == tokenize.INDENT:
            blocks[line] += 1
        elif token.type == tokenize.DEDENT:
            blocks[min(line, len(text))] -= 1
        elif token.type == tokenize.OP and token.string in tuple("([{"):
            brackets[start] += 1
        elif token.type == tokenize.OP and token.string in tuple(")]}"):
            brackets[end] -= 1
    return np.cumsum(blocks)[:-1], np.cumsum(brackets)[:-1]


def _conditions(text: str, tree: ast.AST) -> np.ndarray:
    """The characters between ``if`` or ``elif`` and the colon."""
    lines = text.split("\n")
    begins = [0, *itertools.accumulate(len(line) + 1 for line in lines)]

    def place(row: int, column: int) -> int:  # columns count bytes of UTF-8
        return begins[row - 1] + len(lines[row - 1].encode()[:column].decode())

    inside = np.zeros(len(text), bool)
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            test = node.test
            end = place(test.end_lineno or test.lineno, test.end_col_offset or 0)
            inside[place(test.lineno, test.col_offset) : end] = True
    return inside


def of_pattern(text: str, name: str, pattern: str) -> np.ndarray:
    """The characters of a regular expression's matches.

    Raises:
      ValueError: for a pattern that is none.
    """
    inside = np.zeros(len(text), bool)
    try:
        for match in re.finditer(pattern, text, re.MULTILINE):
            inside[match.start() : match.end()] = True
    except re.error as error:
        raise ValueError(f"--label {name}={pattern}: expected a regular expression: {error}") from error
    return inside


def of_file(path: Path) -> Labels:
    """The columns of a CSV file with a header, which has a row for every character of a text.

    Raises:
      ValueError: for what is no such file, or holds what is no number.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--labels {path}: expected a CSV file with a header: {error}") from error
    found = {}
    for name in frame:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
        if np.isnan(values).any():
            row = int(np.argmax(np.isnan(values)))
            place = f"in column {name!r}, row {row + 1}"
            raise ValueError(f"--labels {path}: expected numbers, got {frame[name][row]!r} {place}")
        found[str(name)] = values == 1 if np.isin(values, (0, 1)).all() else values
    return found
