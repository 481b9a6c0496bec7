"""A language pair that a small model learns in seconds: digits in words, English and German."""

import io
import random
import sys

from experiments.data.pairs import Pairs
from experiments.translation.__main__ import COMMANDS
from tests.commands import runner

SMALL = ["--hidden-size", "24", "--embedding-size", "8", "--batch-size", "16", "--steps", "120"]
SMALL += ["--evaluate-every", "60", "--dropout", "0.1", "--learning-rate", "1e-2", "--tokens", "word"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ZIFFERN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


run = runner(COMMANDS)


def give(monkeypatch, text):
    """A standard input, in the C locale, say."""
    stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)


def pairs_of_digits(count, seed=0):
    draw = random.Random(seed)
    numbers = [[draw.randrange(10) for _ in range(draw.randint(1, 4))] for _ in range(count)]
    return Pairs(
        *([" ".join(words[n] for n in number) for number in numbers] for words in (DIGITS, ZIFFERN))
    )


def written(folder, count=400, seed=0):
    """Pairs as two files."""
    for name, lines in zip(("en", "de"), pairs_of_digits(count, seed), strict=True):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "en", folder / "de"


def trained(files, out, *options):
    run("train", "--data", f"{files[0]},{files[1]}", "--out", out, *SMALL, *options)
    return out
