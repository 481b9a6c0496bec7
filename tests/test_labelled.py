"""Labelled and tagged text: what files may hold, what is counted and reported, and what no file may do."""

import re

import numpy as np
import pytest

from experiments.data.examples import (
    NO_LABEL,
    UNKNOWN_LABEL,
    Examples,
    batches_in_order,
    check_known,
    collate,
    hold_out,
    numbers_of,
    training_batches,
)
from experiments.data.labelled import phrases_of, read_labelled, sst, trec
from experiments.data.order_sentences import BAD, BAG_CEILING, GOOD, LABELS, order_sentences
from experiments.data.tagged import has_spans, read_tagged, ud_en_ewt
from experiments.data.vectors import read_vectors
from tests.commands import assert_parts_are_the_whole, needs


def written(folder, text, name="file.tsv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize(
    ("name", "text", "labels", "texts", "told"),
    [
        ("a.tsv", "good\tso  fine\r\nbad\tso poor\n", ["good", "bad"], ["so fine", "so poor"], ""),
        ("b.tsv", "Label\ttext\r\n1\ta\r\n", ["1"], ["a"], ""),
        ("c.tsv", "1\ttitle\tbody\n2\tb\n", ["1", "2"], ["title body", "b"], ""),
        ("d.tsv", "1\ta\n\n2\t \n\tc\n", ["1"], ["a"], "3 of 4 lines lack a label or a text"),
        ("e.csv", 'Text,id,Label\n"a, b",7,x\n', ["x"], ["a, b"], "left out the columns id"),
    ],
)
def test_labelled_files(tmp_path, name, text, labels, texts, told):
    notes = []
    found = read_labelled(written(tmp_path, text, name), notes.append)
    assert (found.labels, found.texts) == (labels, texts)
    assert told in " ".join(notes)
    assert bool(told) == bool(notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.tsv",
            "good fine\n",
            "line 1: expected label<TAB>text, or a second text after another tab, got no tab",
        ),
        (
            "b.tsv",
            "x\ta\nx\ta\tb\tc\n",
            "line 2: expected label<TAB>text, or a second text after another tab, got 3",
        ),
        ("c.tsv", "", "is empty"),
        ("d.tsv", "x\t \n", "holds no label with a text among 1 lines"),
        ("e.csv", "kind,words\nx,a\n", "expected a header with label and text, got kind, words; --columns"),
        (
            "g.csv",
            'label,text\nx,"a\ny,b\n',
            "after line 1: unexpected end of data; does a quotation mark lack its second?",
        ),
        ("h.csv", "label,text\nx,a\nx,good, not bad\n", "row 2: expected 2 columns, got another number"),
        ("f.tsv", "café\tnoir\n", "at byte 3; --encoding names another, latin-1 say"),
    ],
)
def test_labelled_files_that_are_refused(tmp_path, name, text, message):
    path = written(tmp_path, text, name, "latin-1")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_labelled(path, lambda told: None, encoding="utf-8")


def test_other_encodings_and_columns(tmp_path):
    path = written(tmp_path, "x\tcafé\n", encoding="latin-1")
    assert read_labelled(path, print, encoding="latin-1").texts == ["café"]
    with pytest.raises(ValueError, match="encoding 'latin-99' is unknown"):
        read_labelled(path, print, encoding="latin-99")
    path = written(tmp_path, "stars,review\n5,good\n", "a.csv")
    assert read_labelled(path, print, columns=("stars", "review")) == (["good"], ["5"])


@pytest.mark.slow
@needs("trec", "sst")
def test_named_sets():
    questions = trec(print)
    assert [len(part.texts) for part in questions] == [4907, 545, 500]
    assert sorted(set(questions.train.labels)) == ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
    sentences = sst(2, phrases=False)
    assert [len(part.texts) for part in sentences] == [6920, 872, 1821]  # as Socher et al. 2013
    assert {len(set(part.labels)) for part in sst(5, phrases=False)} == {5}


@needs("sst")
@pytest.mark.slow
def test_phrases_of_the_treebank():
    phrases = sst(2, phrases=True)
    assert len(phrases.train.texts) == len(set(zip(*phrases.train, strict=True))) > 50_000
    assert phrases[1:] == sst(2, phrases=False)[1:]
    assert phrases_of("(1 (2 (2 -LRB-) (2 a\\/b)) (0 bad))")[-1] == (1, "( a/b bad")


def clause(words):
    """Places of the denied and of the said adjective in the clause that the label is of."""
    at = next(i for i in range(4, len(words)) if words[i : i + 2] == [words[2], "is"])
    if words[at - 5 : at - 3] == ["far", "from"]:
        return at - 3, at + 2
    first, second = [i for i, word in enumerate(words) if i > at and word in GOOD + BAD][:2]
    return (first, second) if words[at + 2] == "not" else (second, first)


def label_of(words):
    return LABELS[words[clause(words)[1]] in GOOD]


def test_order_sentences():
    text = order_sentences((600, 100, 100))
    everything = [sentence for part in text for sentence in part.texts]
    assert len(everything) == len(set(everything)) == 800
    for part in text:
        assert part.labels == [label_of(sentence.split()) for sentence in part.texts]
        assert {sum(word in GOOD for word in sentence.split()) for sentence in part.texts} == set(
            range(1, 7)
        )


def test_the_ceiling_of_a_bag_of_words():
    """In every part, of the sentences with one bag of words half are positive."""
    assert BAG_CEILING == 0.5
    for part in order_sentences((600, 100, 100)):
        labels = {}
        for sentence, label in zip(part.texts, part.labels, strict=True):
            labels.setdefault(tuple(sorted(sentence.split())), []).append(label)
        assert all(2 * found.count("positive") == len(found) for found in labels.values())


def test_labels_as_numbers():
    told = []
    assert numbers_of(["b", "x", "a"], ["a", "b"]).tolist() == [1, UNKNOWN_LABEL, 0]
    check_known(["a", "x", "x"], ["a", "b"], "the test part", told.append)
    assert told == ["labels of the test part that training lacks, all counted wrong: x (2)"]
    with pytest.raises(ValueError, match="no label of the test part comes in training: it has A"):
        check_known(["A"], ["a", "b"], "the test part", told.append)


def test_held_out_texts_are_in_one_part():
    texts = [f"text {n % 60}" for n in range(100)]
    parts = [{texts[i] for i in part} for part in hold_out(texts, ["valid", "test"])]
    assert [len(part) for part in parts] == [48, 6, 6]
    assert len(set.union(*parts)) == 60
    assert hold_out(texts, []) == [list(range(100))]
    assert hold_out(texts[::-1], ["valid"])[1] == sorted(99 - i for i in hold_out(texts, ["valid"])[1])
    with pytest.raises(ValueError, match=r"at least 10 different texts are needed .* got 9; .*--test"):
        hold_out(texts[:9], ["test"])


@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
def test_batches_of_examples(each):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, 200)
    inputs = [
        (np.full(n, i + 1, np.int32), np.full((n, 3), i + 0.5, np.float32)) for i, n in enumerate(lengths)
    ]
    labels = [np.arange(n) + i for i, n in enumerate(lengths)] if each else np.arange(200)
    examples = Examples(inputs, labels, [""] * 200)
    assert examples.lengths == lengths.tolist()
    seen = []
    for indices, batch in batches_in_order(examples):
        seen += indices
        assert batch.inputs[0].shape == batch.inputs[1].shape[:2]
        for lane, index in enumerate(indices):
            n = batch.lengths[lane]
            assert n == lengths[index]
            assert (batch.inputs[0][:n, lane] == index + 1).all()
            assert (batch.inputs[1][:n, lane] == index + 0.5).all()
            assert not batch.inputs[0][n:, lane].any()
            found = batch.labels[:n, lane] if each else batch.labels[lane]
            np.testing.assert_array_equal(found, labels[index])
            assert not each or (batch.labels[n:, lane] == NO_LABEL).all()
        assert not batch.lengths[len(indices) :].any()
        assert (batch.labels[..., len(indices) :] == NO_LABEL).all()
    assert sorted(seen) == list(range(200))
    batches = training_batches(examples, 8, seed=3)
    assert_parts_are_the_whole(batches, 8)
    np.testing.assert_array_equal(batches(5).labels, training_batches(examples, 8, seed=3)(5).labels)
    assert collate(examples, [0], 30, 2).lengths.tolist() == [lengths[0], 0]


CONLLU = """# text = I don't.
1\tI\tI\tPRON\t_\t_\t0\troot\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\t_\t_\t1\taux\t_\t_
3\tn't\tnot\tPART\t_\t_\t1\tneg\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_

1\tNo\tno\tINTJ\t_\t_\t0\troot\t_\t_
"""


def test_conllu(tmp_path):
    notes = []
    found = read_tagged(written(tmp_path, CONLLU), notes.append)
    assert found.words == [["I", "do", "n't"], ["No"]]
    assert found.tags == [["PRON", "AUX", "PART"], ["INTJ"]]
    assert "left out 1 multiword tokens, whose words stay, and 1 empty nodes" in notes[0]
    with pytest.raises(ValueError, match=r"line 9: expected 10 columns, got 2"):
        read_tagged(written(tmp_path, CONLLU + "2\tno\n"), print)


def test_columns(tmp_path):
    notes = []
    text = "Jim NNP B-PER\r\nRaynor NNP I-PER\r\n\r\n\r\nlives VBZ O\r\n"
    found = read_tagged(written(tmp_path, text), notes.append)
    assert found == ([["Jim", "Raynor"], ["lives"]], [["B-PER", "I-PER"], ["O"]])
    assert "columns between the word and its tag, on 3 lines, are left out" in notes[0]
    assert has_spans(["B-PER", "I-PER", "O"])
    assert read_tagged(written(tmp_path, "New York\tPLACE\n"), print).words == [["New York"]]
    for text, message in (("a\n", "line 1: expected a word and its tag, got 'a'"), ("\n", "no sentence")):
        with pytest.raises(ValueError, match=message):
            read_tagged(written(tmp_path, text), print)


@pytest.mark.slow
@needs("ud_en_ewt")
def test_english_web_treebank():
    notes = []
    text = ud_en_ewt(notes.append)
    assert [len(part.words) for part in text] == [12544, 2001, 2077]
    assert [sum(map(len, part.words)) for part in text] == [204577, 25147, 25094]
    assert len(notes) == 3
    assert len({tag for tags in text.train.tags for tag in tags}) == 17


def test_vectors(tmp_path):
    ids = {"a": 3, "b": 5, "new york": 7, "none": 8}
    lines = "b 0.5 -1\nnew york 1 2\nzebra 3 4\na 1e-1 2.5\nb 9 9\n1984 7 8\n"
    for text in (lines, "6 2\n" + lines):
        rows, values = read_vectors(written(tmp_path, text), ids)
        assert rows.tolist() == [5, 7, 3]
        np.testing.assert_array_equal(values, np.float32([[0.5, -1], [1, 2], [0.1, 2.5]]))
    for text, message in (
        ("a 1 2\nb 1\n", "line 2: expected a word and 2 numbers, got 1"),
        ("a 1 2\nb 1 2 3\n", "line 2: expected a word and 2 numbers, got 3"),
        ("a\n", "line 1: expected a word and its numbers, got 0"),
        ("zebra 1 2\n", "has a vector for none of the 4 words"),
    ):
        with pytest.raises(ValueError, match=message):
            read_vectors(written(tmp_path, text), ids)
    with pytest.raises(ValueError, match="cannot be read"):
        read_vectors(tmp_path / "none", ids)
