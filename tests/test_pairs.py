"""Parallel text: what counts as a pair, how it is split, and what is refused."""

import gzip
import hashlib
import os
import threading
import zipfile

import pytest

from experiments.data import pairs
from experiments.data.corpora import RemoteFile
from experiments.data.pairs import (
    NUMBERS_BELOW,
    Pairs,
    load_pairs,
    normalized,
    number_names,
    read_pairs,
    shared_sentences,
    split_by,
    subset,
)


def remote(path):
    return RemoteFile(path.name, "http://127.0.0.1:1/", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def told():
    return []


@pytest.mark.slow
def test_numbers_are_named_and_never_shared(told):
    english = number_names(None, told.append)
    assert [len(part.source) for part in english] == [12_000, 1_000, 1_000]
    texts = [set(part.source) for part in english]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 14_000
    named = dict(pair for part in english for pair in zip(part.source, part.target, strict=True))
    assert named["three hundred and ninety-nine"] == "trois cent quatre-vingt-dix-neuf"
    assert named["seven"] == "sept"
    lengths = sorted(map(len, english.test.source))
    assert lengths[0] < 15
    assert lengths[-1] > 70
    assert not told
    german = number_names("en-de", told.append)  # the same numbers, in one word each
    assert german.test.source == english.test.source
    assert max(len(name) for name in german.test.target) > 50
    assert not any(" " in name for name in german.test.target)
    assert NUMBERS_BELOW == 1_000_000


def test_sentences_of_one_side_stay_together():
    """Every English sentence in one part only, whatever the order of the lines."""
    english = [f"sentence {n // 3}" for n in range(600)]
    french = [f"phrase {n}" for n in range(600)]
    told = []
    split = split_by(Pairs(english, french), "source", told.append)
    assert not told
    parts = [set(part.source) for part in split]
    assert [len(part) for part in parts] == [180, 10, 10]
    assert len(set().union(*parts)) == 200
    assert sorted(line for part in split for line in part.target) == sorted(french)
    for part in split:
        assert all(
            int(s.split()[1]) == int(t.split()[1]) // 3
            for s, t in zip(part.source, part.target, strict=True)
        )
    backward = split_by(Pairs(french[::-1], english[::-1]), "target", told.append)
    assert [set(part.target) for part in backward] == parts
    few = subset(split.train, 50)
    assert len(few.source) == 50
    assert few == subset(split.train, 50)
    assert set(few.target) <= set(split.train.target)
    assert subset(split.train, 10_000) == split.train
    with pytest.raises(ValueError, match="at least 20 different sentences are needed, got 19"):
        split_by(Pairs(english[:57], french[:57]), "source", told.append)


def test_no_sentence_of_the_other_side_leaks(told):
    english = [f"sentence {n}" for n in range(400)]
    french = [f"phrase {n // 8}" for n in range(400)]  # eight English ones each
    split = split_by(Pairs(english, french), "source", told.append)
    for side in ("source", "target"):
        parts = [set(getattr(part, side)) for part in split]
        assert sum(map(len, parts)) == len(set().union(*parts))
    assert len(split.valid.source) < len(split.test.source) == 20
    assert len(split.train.source) > 20
    left = sum(len(part.source) for part in split)
    assert 0 < left < 400
    assert told == [
        f"{400 - left} pairs are left out: they share a sentence with the validation or test pairs"
    ]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["yes"] * 40,
            "no training pair is left of 40: each shares a sentence with a pair that is held out",
        ),
        (["yes"] * 19, "at least 20 different sentences are needed, got 19"),
    ],
)
def test_a_split_that_leaves_a_part_empty(targets, message, told):
    """It says so, and what to do, before anything is trained."""
    pairs = Pairs([f"sentence {n}" for n in range(len(targets))], targets)
    with pytest.raises(ValueError, match=f"{message}.*; give --valid SOURCE,TARGET and --test SOURCE"):
        split_by(pairs, "source", told.append)


def test_a_split_without_validation(told):
    """Its only target sentence is also one of the test's."""
    sources = [f"sentence {n}" for n in range(30)]
    split = split_by(Pairs(sources, sources), "source", told.append)
    shared = {*split.valid.source, *split.test.source}
    targets = ["both" if source in shared else source for source in sources]
    with pytest.raises(ValueError, match="no validation pair is left of 30: each shares a sentence"):
        split_by(Pairs(sources, targets), "source", told.append)


@pytest.fixture
def table(tmp_path):
    """Writes a file of pairs."""

    def write(name, *rows):
        (tmp_path / name).write_text("".join(f"{source}\t{target}\n" for source, target in rows))
        return str(tmp_path / name)

    return write


def test_own_files_for_parts(table, told):
    """One pair is enough, nothing else is split off, and sentences in two parts are reported, and stay."""
    data = table("data", *[(f"sentence {n}", "yes" if n % 2 else "no") for n in range(30)])
    one, two = table("one", ("another", "no")), table("two", ("sentence 3", "si"), ("new", "si"))
    text = load_pairs(data, None, told.append, valid=one, test=two)
    assert [len(part.source) for part in text] == [30, 1, 2]
    assert text.valid == Pairs(["another"], ["no"])
    assert told == [
        "15 training pairs share a sentence with the validation pairs; all stay",
        "1 training pairs share a sentence with the test pairs; all stay",
    ]
    few = table("few", ("a", "b"))
    assert load_pairs(few, None, told.append, valid=one, test=two).train == Pairs(["a"], ["b"])
    with pytest.raises(ValueError, match="at least 20 different sentences are needed, got 1; give --valid"):
        load_pairs(few, None, told.append, valid=one)


@pytest.mark.parametrize("own", ["valid", "test"])
def test_own_files_for_one_part(table, told, own):
    """The other part is the one that it would be without them."""
    data = table("data", *[(f"sentence {n}", f"phrase {n}") for n in range(40)])
    one, other = table("one", ("another", "autre")), "test" if own == "valid" else "valid"
    whole, text = (load_pairs(data, None, told.append, **files) for files in ({}, {own: one}))
    assert getattr(text, own) == Pairs(["another"], ["autre"])
    assert getattr(text, other) == getattr(whole, other)
    assert set(text.train.source) == {*whole.train.source, *getattr(whole, own).source}
    assert not told


def test_shared_sentences():
    pairs = Pairs(["a", "b", "c", "d"], ["x", "y", "x", "z"])
    assert shared_sentences(pairs, Pairs(["b", "x"], ["u", "x"])) == 3
    assert shared_sentences(pairs, Pairs(["x"], ["a"])) == 0


def test_data_from_pipes(tmp_path, told):
    """Each is read once: there is no more."""
    rows = [(f"sentence {n}", f"phrase {n}") for n in range(40)]
    sides = ["\n".join(side) + "\n" for side in zip(*rows, strict=True)]
    contents = {"s": sides[0], "t": sides[1], "both": "".join(f"{s}\t{t}\n" for s, t in rows)}
    for name, content in contents.items():
        os.mkfifo(tmp_path / name)
        threading.Thread(target=(tmp_path / name).write_text, args=(content,), daemon=True).start()
    aligned = load_pairs(f"{tmp_path / 's'},{tmp_path / 't'}", None, told.append)
    assert aligned == load_pairs(str(tmp_path / "both"), None, told.append)
    assert [len(part.source) for part in aligned] == [36, 2, 2]


def test_multi30k_and_tatoeba(tmp_path, monkeypatch, told):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    (tmp_path / "multi30k").mkdir()
    (tmp_path / "tatoeba_en_fr").mkdir()
    found = {}
    for part in ("train", "val", "test_2016_flickr"):
        for language in ("de", "en", "fr"):
            path = tmp_path / "multi30k" / f"{part}.{language}.gz"
            path.write_bytes(gzip.compress(f"{language} {part}\u00a01\n{language} 2\u2028b\n".encode()))
            found[part, language] = remote(path)
    monkeypatch.setattr(pairs, "MULTI30K", found)
    text = load_pairs("multi30k", None, told.append)
    assert text.train == Pairs(["de train 1", "de 2 b"], ["en train 1", "en 2 b"])
    assert text.valid.source[0] == "de val 1"
    assert load_pairs("multi30k", "fr-de", told.append).test.target[0] == "de test_2016_flickr 1"
    path = tmp_path / "tatoeba_en_fr" / "fra-eng.zip"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [f"Go {n // 2}.\tVa\u202f{n}\u00a0!" for n in range(80)]
        archive.writestr("fra.txt", "\n".join(lines) + "\n")
    monkeypatch.setattr(pairs, "TATOEBA", remote(path))
    english = load_pairs("tatoeba_en_fr", None, told.append)
    french = load_pairs("tatoeba_en_fr", "fr-en", told.append)
    assert english.test == Pairs(french.test.target, french.test.source)
    assert [len(part.source) for part in english] == [72, 4, 4]
    assert "Va 7 !" in [line for part in english for line in part.target]
    assert not told


def test_files(tmp_path, told):
    source, target, table = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.tsv"
    source.write_text("one\n\n two  words \nthree\x0cfour\n", encoding="utf-8")
    target.write_text("eins\nleer\nzwei\u00a0Wörter\n \n", encoding="utf-8")
    expected = Pairs(["one", "two words"], ["eins", "zwei Wörter"])
    assert read_pairs(f"{source},{target}", told.append) == expected
    assert told == [f"{source},{target}: 2 of 4 lines are blank on a side and left out"]
    table = table.with_name("c,d.tsv")
    table.write_text("one\teins\tand more\n  \ntwo\rwords\tzwei Wörter\n", encoding="utf-8", newline="")
    assert read_pairs(str(table), told.append) == expected
    assert "1 of 3 lines" in told[1]
    lines = [f"line {n}" for n in range(100)]
    source.write_text("\n".join(lines))
    target.write_text("\n".join(lines) + "\n")
    assert [len(part.source) for part in load_pairs(f"{source},{target}", None, told.append)] == [90, 5, 5]


def test_normalized():
    assert normalized(" Va\u202f!\u00a0 cafe\u0301 ") == "Va ! café"


def test_bad_input(tmp_path, told):
    paths = [tmp_path / name for name in "abcd"]
    for path, text in zip(paths, ("1\n2\n3\n", "1\n2\n", "\n\n\n", "1\t2\n3\n"), strict=True):
        path.write_text(text)
    a, b, blank, table = paths
    for data, languages, message in (
        (f"{a},{b}", None, f"as many lines: {a} has 3, {b} has 2"),
        (f"{a},{blank}", None, "holds no pair of two sentences among 3 lines"),
        (f"{a},{b},{a}", None, "two files SOURCE,TARGET, got 3"),
        (str(table), None, "line 2: expected SOURCE<TAB>TARGET, got no tab"),
        (f"{a},{tmp_path / 'none'}", None, "none cannot be read: No such file"),
        ("klingon", None, "is none of numbers, multi30k, tatoeba_en_fr, no file"),
        (f"{a},{a}", "de-en", "--languages chooses from a named set"),
        (
            "numbers",
            "en-xx",
            "languages of numbers: expected two of am, ar, .* as SOURCE-TARGET, got 'en-xx'",
        ),
        ("numbers", "en", "got 'en'"),
        ("numbers", "en-am", "num2words cannot name numbers below a million in 'am'"),
        ("multi30k", "de-de", "expected two of de, en, fr as SOURCE-TARGET, got 'de-de'"),
        ("tatoeba_en_fr", "de-en", "expected two of en, fr"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pairs(data, languages, told.append)
