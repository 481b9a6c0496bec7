"""Parallel text: pairs of a sentence and its translation, by name or from files."""

import gzip
import hashlib
import itertools
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import num2words
import numpy as np

from experiments.data.corpora import RemoteFile, can_be_read, fetch, read_text


class Pairs(NamedTuple):
    """Sentences and their translations, line by line."""

    source: Sequence[str]
    target: Sequence[str]


class ParallelText(NamedTuple):
    """Pairs to train on, to choose the model by, and to measure it on."""

    train: Pairs
    valid: Pairs
    test: Pairs


NAMES = {"train": "training", "valid": "validation", "test": "test"}  # of the parts
_OWN = "give --valid SOURCE,TARGET and --test SOURCE,TARGET, which need one pair each"

NUMBERS = "numbers"
NUMBERS_BELOW = 1_000_000
NUMBERS_HELD_OUT = 1_000  # for validation, and as many for the test
NUMBERS_IN_TRAINING = 12_000

_MULTI30K = (
    "https://raw.githubusercontent.com/multi30k/dataset/"
    "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/"
)
# Elliott et al. 2016, "Multi30K: multilingual English-German image descriptions", task 1, raw text.
MULTI30K = {
    (part, language): RemoteFile(f"{part}.{language}.gz", f"{_MULTI30K}{part}.{language}.gz", digest)
    for part, language, digest in (
        ("train", "de", "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
        ("train", "en", "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
        ("train", "fr", "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
        ("val", "de", "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
        ("val", "en", "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
        ("val", "fr", "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
        ("test_2016_flickr", "de", "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
        ("test_2016_flickr", "en", "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
        ("test_2016_flickr", "fr", "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
    )
}

# manythings.org/anki of 2017-09-29: pairs of Tatoeba, CC BY 2.0, many with the same English side.
TATOEBA = RemoteFile(
    "fra-eng.zip",
    "https://raw.githubusercontent.com/genimind/seq2seq/"
    "4f3f8eb0adde54fcc8b89394336b002e7961244c/fra-eng.zip",
    "16c4f7d0df9e7c5e6c54cdb0447f3f4a18a55052ff5e2e0b27dd4a06c0e49d04",
)
HELD_OUT_SENTENCES = 2_000  # of Tatoeba, or of files, for validation; as many for the test
HELD_OUT_FRACTION = 0.05  # at most, of files


def load_pairs(
    data: str,
    languages: str | None,
    report: Callable[[str], None],
    *,
    valid: str | None = None,
    test: str | None = None,
) -> ParallelText:
    """Parallel text by name (``numbers``, ``multi30k``, ``tatoeba_en_fr``), from two line-aligned files
    ("SOURCE,TARGET"), or from one file of tab-separated pairs.

    Args:
      data: the name or the files; files are split, but for the parts that have files of their own.
      languages: "en-fr", say; None for the set's own. Files have none.
      report: is told of every line that is left out, and of sentences in two parts.
      valid: files of the validation pairs, as ``data``; None: the set's own, or a part of ``data``.
      test: the same for the test pairs.

    Raises:
      ValueError: for an unknown name or pair of languages, or files that do not fit.
    """
    named = {NUMBERS: number_names, "multi30k": multi30k, "tatoeba_en_fr": tatoeba}
    files = {"valid": valid, "test": test}
    own = {part: read_pairs(of, report) for part, of in files.items() if of is not None}
    if data in named:
        text = named[data](languages, report)
    elif languages is not None:
        raise ValueError(f"--languages chooses from a named set ({', '.join(named)}), and {data!r} is none")
    elif "," not in data and not can_be_read(Path(data)):
        raise ValueError(
            f"data {data!r} is none of {', '.join(named)}, no file of tab-separated pairs, "
            "and not two files SOURCE,TARGET"
        )
    else:
        text = split_by(read_pairs(data, report), "source", report, own)
    text = text._replace(**own)
    for one, other in itertools.combinations(NAMES, 2):
        shared = (
            shared_sentences(getattr(text, one), getattr(text, other)) if {one, other} & set(own) else 0
        )
        if shared:
            report(
                f"{shared:,} {NAMES[one]} pairs share a sentence with the {NAMES[other]} pairs; all stay"
            )
    return text


def read_pairs(data: str, report: Callable[[str], None]) -> Pairs:
    """The pairs in two line-aligned files ("SOURCE,TARGET"), or in one of tab-separated pairs.

    Raises:
      ValueError: for files that cannot be read or differ in length, a line without a tab, or no pair.
    """
    if can_be_read(Path(data)) or "," not in data:
        rows = [line.split("\t") for line in lines_of(read_text(Path(data), newline=""))]
        for number, row in enumerate(rows, start=1):
            if len(row) < 2 and row[0].strip():
                raise ValueError(f"{data}, line {number}: expected SOURCE<TAB>TARGET, got no tab")
        return clean(
            [row[0] for row in rows], [row[1] if len(row) > 1 else "" for row in rows], report, data
        )
    paths = [Path(path) for path in data.split(",")]
    if len(paths) != 2:
        raise ValueError(f"expected two files SOURCE,TARGET, got {len(paths)}: {data}")
    return clean(*read_aligned(*paths), report, data)


def read_aligned(source: Path, target: Path) -> Pairs:
    """The normalised lines of two files, blank ones too.

    Raises:
      ValueError: for files that cannot be read, are empty, or differ in length.
    """
    sides = [list(map(normalized, lines_of(read_text(path, newline="")))) for path in (source, target)]
    lengths = [len(lines) for lines in sides]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"parallel files must have as many lines: {source} has {lengths[0]:,}, "
            f"{target} has {lengths[1]:,}"
        )
    return Pairs(*sides)


def lines_of(text: str) -> list[str]:
    """Lines as files end them; what Unicode takes for a line's end besides stays within its line."""
    return text.removesuffix("\n").split("\n")


def normalized(line: str) -> str:
    """Unicode NFC, and every run of white space (no-break and thin ones too) one space."""
    return " ".join(unicodedata.normalize("NFC", line).split())


def clean(source: Iterable[str], target: Iterable[str], report: Callable[[str], None], name: str) -> Pairs:
    """Normalised pairs; those with a blank side are left out and reported.

    Raises:
      ValueError: if nothing is left.
    """
    pairs = [(normalized(s), normalized(t)) for s, t in zip(source, target, strict=True)]
    whole = [(s, t) for s, t in pairs if s and t]
    if not whole:
        raise ValueError(f"{name} holds no pair of two sentences among {len(pairs):,} lines")
    if blank := len(pairs) - len(whole):
        report(f"{name}: {blank:,} of {len(pairs):,} lines are blank on a side and left out")
    return Pairs(*map(list, zip(*whole, strict=True)))


def split_by(
    pairs: Pairs,
    side: Literal["source", "target"],
    report: Callable[[str], None],
    elsewhere: Iterable[str] = (),
) -> ParallelText:
    """Validation and test sentences drawn by the digest of one side, with all of their translations: the
    same ones on every machine.

    No sentence of either side is in two parts: pairs whose other side is also that of a test pair are left
    out of the rest, those with one of a validation pair out of training, and both are reported. A part that
    comes from ``elsewhere`` ("valid", "test") stays empty here.

    Raises:
      ValueError: where there are too few sentences, or nothing is left for a part.
    """
    keys = getattr(pairs, side)
    distinct = sorted(set(keys), key=_digest)
    held_out = min(HELD_OUT_SENTENCES, int(len(distinct) * HELD_OUT_FRACTION))
    if held_out < 1 and not {"valid", "test"} <= set(elsewhere):
        least = round(1 / HELD_OUT_FRACTION)
        raise ValueError(f"at least {least} different sentences are needed, got {len(distinct)}; {_OWN}")
    valid = set() if "valid" in elsewhere else set(distinct[:held_out])
    test = set() if "test" in elsewhere else set(distinct[held_out : 2 * held_out])
    parts: list[list[int]] = [[], [], []]
    for index, key in enumerate(keys):
        parts[1 if key in valid else 2 if key in test else 0].append(index)
    other = pairs.target if side == "source" else pairs.source
    train, of_valid, of_test = parts
    tested = {other[i] for i in of_test}
    of_valid = [i for i in of_valid if other[i] not in tested]
    held_out_others = tested | {other[i] for i in of_valid}
    train = [i for i in train if other[i] not in held_out_others]
    for part, left in zip(NAMES, (train, of_valid, of_test), strict=True):
        if not left and part not in elsewhere:
            raise ValueError(
                f"no {NAMES[part]} pair is left of {len(keys):,}: each shares a sentence with a pair that "
                f"is held out for another part; {_OWN}"
            )
    if shared := len(keys) - len(train) - len(of_valid) - len(of_test):
        report(f"{shared:,} pairs are left out: they share a sentence with the validation or test pairs")
    return ParallelText(take(pairs, train), take(pairs, of_valid), take(pairs, of_test))


def shared_sentences(pairs: Pairs, others: Pairs) -> int:
    """How many of the pairs have a side that is also one of the others'."""
    source, target = map(set, others)
    return sum(s in source or t in target for s, t in zip(*pairs, strict=True))


def take(pairs: Pairs, indices: Iterable[int]) -> Pairs:
    """Some of the pairs, in the order given."""
    indices = list(indices)
    return Pairs([pairs.source[i] for i in indices], [pairs.target[i] for i in indices])


def subset(pairs: Pairs, count: int) -> Pairs:
    """``count`` of the pairs, chosen by their digests: always the same ones."""
    order = sorted(range(len(pairs.source)), key=lambda i: _digest(f"{pairs.source[i]}\t{pairs.target[i]}"))
    return take(pairs, sorted(order[:count]))


def number_names(languages: str | None, report: Callable[[str], None]) -> ParallelText:
    """Names of numbers below a million in two languages, by num2words: 12,000 pairs to train on, and 1,000
    other numbers each for validation and test.

    Half of the numbers are drawn evenly, half evenly by their logarithm, so that short ones come too.
    """
    known = sorted(num2words.CONVERTER_CLASSES)
    source, target = _two(languages or "en-fr", known, NUMBERS)
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    wanted = NUMBERS_IN_TRAINING + 2 * NUMBERS_HELD_OUT
    even = random.integers(0, NUMBERS_BELOW, wanted)
    by_logarithm = (NUMBERS_BELOW ** random.random(2 * wanted)).astype(int)
    numbers = [*dict.fromkeys(by_logarithm.tolist())][: wanted // 2]
    numbers = [*dict.fromkeys([*numbers, *even.tolist()])][:wanted]
    numbers = random.permutation(numbers).tolist()
    bounds = (0, NUMBERS_HELD_OUT, 2 * NUMBERS_HELD_OUT, wanted)
    test, valid, train = (
        clean(_names(part, source), _names(part, target), report, NUMBERS)
        for part in (numbers[a:b] for a, b in itertools.pairwise(bounds))
    )
    return ParallelText(train, valid, test)


def multi30k(languages: str | None, report: Callable[[str], None]) -> ParallelText:
    """Captions of photographs: 29,000 pairs to train on, 1,014 for validation, test_2016_flickr's 1,000."""
    pair = _two(languages or "de-en", sorted({language for _, language in MULTI30K}), "multi30k")

    def lines(part: str, language: str) -> list[str]:
        content = fetch("multi30k", MULTI30K[part, language]).read_bytes()
        return lines_of(gzip.decompress(content).decode("utf-8"))

    train, valid, test = (
        clean(lines(part, pair[0]), lines(part, pair[1]), report, f"multi30k {part}")
        for part in ("train", "val", "test_2016_flickr")
    )
    return ParallelText(train, valid, test)


def tatoeba(languages: str | None, report: Callable[[str], None]) -> ParallelText:
    """142,787 pairs of everyday sentences, split by their English side."""
    source, _ = _two(languages or "en-fr", ["en", "fr"], "tatoeba_en_fr")
    with zipfile.ZipFile(fetch("tatoeba_en_fr", TATOEBA)) as archive:
        text = archive.read("fra.txt").decode("utf-8")
    rows = [line.split("\t") for line in lines_of(text)]
    pairs = clean([row[0] for row in rows], [row[1] for row in rows], report, "tatoeba_en_fr")
    if source == "fr":
        return split_by(Pairs(pairs.target, pairs.source), "target", report)
    return split_by(pairs, "source", report)


def _two(languages: str, known: Sequence[str], name: str) -> tuple[str, str]:
    """Two different known languages from "en-fr".

    Raises:
      ValueError: for anything else.
    """
    pair = languages.split("-")
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(known):
        raise ValueError(
            f"languages of {name}: expected two of {', '.join(known)} as SOURCE-TARGET, got {languages!r}"
        )
    return pair[0], pair[1]


def _names(numbers: Iterable[int], language: str) -> list[str]:
    try:
        return [num2words.num2words(number, lang=language) for number in numbers]
    except Exception as error:  # num2words raises anything for what a language lacks
        raise ValueError(
            f"num2words cannot name numbers below a million in {language!r}: {error}"
        ) from error


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
