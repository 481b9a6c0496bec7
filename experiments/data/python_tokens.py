"""Python source, and the class of token that every character belongs to, by ``tokenize``."""

import io
import itertools
import keyword
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CLASSES = ("white space", "keyword", "name", "number", "string", "comment", "operator")
_SPACE, _KEYWORD, _NAME, _NUMBER, _STRING, _COMMENT, _OPERATOR = range(len(CLASSES))
_STRINGS = {"STRING", *(f"{kind}STRING_{part}" for kind in "FT" for part in ("START", "MIDDLE", "END"))}
_KINDS = {"NUMBER": _NUMBER, "COMMENT": _COMMENT, "OP": _OPERATOR} | dict.fromkeys(_STRINGS, _STRING)


class Piece(NamedTuple):
    """Whole logical lines of a file."""

    text: str
    classes: np.ndarray  # (characters,) int32, numbers of ``CLASSES``


def classes_of(source: str) -> tuple[np.ndarray, list[int]]:
    r"""The class of every character, and where logical lines begin.

    What no token covers (indentation, line ends, the backslash that joins lines) is white space.

    Raises:
      SyntaxError: for what is not Python.

    >>> classes, starts = classes_of("if x:\n  y = 'a'\n")
    >>> "".join("wknNsco"[number] for number in classes), starts
    ('kkwnowwwnwowsssw', [0, 6])
    """
    lines = io.StringIO(source).readlines()  # by \n alone, as ``tokenize`` counts them
    begins = [0, *itertools.accumulate(map(len, lines))]
    classes = np.full(len(source), _SPACE, np.int32)
    starts = [0]
    for token in _tokens(source):
        name = tokenize.tok_name[token.type]
        start, end = (begins[row - 1] + column for row, column in (token.start, token.end))
        if name == "NAME":
            kind = _KEYWORD if keyword.iskeyword(token.string) else _NAME
        elif name in ("NEWLINE", "NL"):
            if name == "NEWLINE" and end < len(source):
                starts.append(end)
            continue
        elif name == "ERRORTOKEN" and not token.string.isspace():
            kind = _OPERATOR  # "$", say, which is one from Python 3.12 on
        else:
            kind = _KINDS.get(name, _SPACE)
        if name.endswith("_MIDDLE") and source[end - 1 : end + 1] in ("{{", "}}"):
            end += 1  # of a doubled brace the token covers one
        classes[start:end] = kind
    return classes, starts


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)
    except tokenize.TokenError as error:  # no SyntaxError before Python 3.12
        message, (line, _) = error.args
        raise SyntaxError(message, ("", line, None, None)) from error


def pieces(source: str, size: int) -> Iterator[Piece]:
    """A file in pieces of about ``size`` characters, none of which begins within a token.

    A logical line longer than that, a long documentation string say, is a piece of its own.
    """
    classes, starts = classes_of(source)
    begin = 0
    for start, after in itertools.pairwise([*starts, len(source)]):
        if after - begin > size and start > begin:
            yield Piece(source[begin:start], classes[begin:start])
            begin = start
    if begin < len(source):
        yield Piece(source[begin:], classes[begin:])
