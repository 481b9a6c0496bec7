"""Vocabularies against plain Python, and streams against the loop they stand for."""

import itertools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.data.text import Streams, Vocabulary, split_in_order
from tests.commands import assert_parts_are_the_whole

ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates too
# Two bytes, three bytes, astral, zero, and two surrogates that JSON would read as one astral character.
TEXTS = ["hello", "naïve Ωmega", "中文字", "a😀b𐀀😀", "\0\n\t ", "x\ud800\udc00"]


def for_all(**strategies):
    """Drawn examples without a deadline: the machine may be busy with another test."""
    return lambda test: settings(deadline=None)(given(**strategies)(test))


@for_all(text=st.text(ANY_CHARACTER, min_size=1), rest=st.text(ANY_CHARACTER))
def test_encode_gives_places_and_decode_undoes_it(text, rest):
    vocabulary = Vocabulary.of(text + rest)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [vocabulary.characters.index(character) for character in text]
    assert vocabulary.decode(ids) == text


@for_all(characters=st.permutations("aZé中😀\0"), text=st.text("aZé中😀\0"))
def test_a_vocabulary_may_have_any_order(characters, text):
    vocabulary = Vocabulary(tuple(characters))
    assert vocabulary.encode(text).tolist() == [characters.index(character) for character in text]


def test_of_sorts_by_code_point():
    vocabulary = Vocabulary.of("😀b\uffffaéba")  # in UTF-16 the emoji would come before U+FFFF
    assert vocabulary.characters == ("a", "b", "é", "\uffff", "😀")
    assert len(vocabulary) == 5


def test_of_adds_the_unknown_character():
    assert Vocabulary.of("cab", "b") == Vocabulary(("a", "b", "c"), "b")
    assert Vocabulary.of("ca", "b") == Vocabulary(("a", "b", "c"), "b")


def test_strangers_become_the_unknown_character():
    vocabulary = Vocabulary.of("bdf", unknown="d")
    assert vocabulary.decode(vocabulary.encode("abcdefg😀\0")) == "dbdddfddd"


@pytest.mark.parametrize("text", ["abe", "!ab", "abc😀", "cab中de"])
def test_strangers_are_named(text):
    strangers = "".join(sorted(set(text) - set("abc")))
    with pytest.raises(ValueError, match=rf"{len(strangers)} character\(s\) .* of 3: {strangers!r}"):
        Vocabulary.of("abc").encode(text * 3)


def test_of_many_strangers_some_are_named():
    strangers = "".join(chr(500 + i) for i in range(100))
    with pytest.raises(ValueError, match=rf"100 character\(s\) .*: '{strangers[:40]}'$"):
        Vocabulary.of("abc").encode(strangers)


def test_nothing_encodes_and_decodes_to_nothing():
    vocabulary = Vocabulary.of("abc")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == vocabulary.decode(vocabulary.encode("")) == ""


@pytest.mark.parametrize("form", [list, tuple, np.array, jnp.array], ids=lambda form: form.__name__)
def test_decode_takes_any_ids(form):
    assert Vocabulary.of("abc").decode(form([2, 0, 1])) == "cab"


@pytest.mark.parametrize(("ids", "lowest", "highest"), [([0, 3], 0, 3), ([-1, 2], -1, 2), ([7], 7, 7)])
def test_decode_refuses_other_ids(ids, lowest, highest):
    with pytest.raises(ValueError, match=rf"in \[0, 3\), got values from {lowest} to {highest}"):
        Vocabulary.of("abc").decode(ids)


@pytest.mark.parametrize(
    ("characters", "unknown", "message"),
    [
        ((), None, "at least one character, got none"),
        (("a", "b", "a"), None, "each character once, got repetitions"),
        (("a", "bc"), None, "must be a single character"),
        (("a", ""), None, "must be a single character"),
        (("a", "b"), "c", "unknown character 'c' must be in the vocabulary"),
    ],
)
def test_a_bad_vocabulary_is_refused(characters, unknown, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(characters, unknown)


def test_of_no_text():
    assert Vocabulary.of("", "?").characters == ("?",)
    with pytest.raises(ValueError, match="got none"):
        Vocabulary.of("")


@pytest.mark.parametrize("text", TEXTS)
def test_load_reads_what_save_wrote(tmp_path, text):
    for vocabulary in (Vocabulary.of(text), Vocabulary(tuple(dict.fromkeys(text)), text[0])):
        vocabulary.save(tmp_path / "vocabulary.json")
        assert Vocabulary.load(str(tmp_path / "vocabulary.json")) == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path, old = tmp_path / "vocabulary.json", Vocabulary.of("old")
    old.save(path)

    def disk_full(self: Path, content: str, **options):
        self.write_bytes(content[: len(content) // 2].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="no space left"):
        Vocabulary.of("new").save(path)
    assert Vocabulary.load(path) == old


@pytest.mark.parametrize(
    "content",
    [
        b'{"characters": "ab", "unk',
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b'{"characters": "ab"}',
        b'{"characters": null, "unknown": null}',
        b'{"characters": [1, 2], "unknown": null}',
        b'{"characters": "aba", "unknown": null}',
        b'{"characters": "ab", "unknown": "c"}',
    ],
)
def test_a_damaged_file_is_no_vocabulary(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vocabulary\.json is no vocabulary: "):
        Vocabulary.load(path)


def test_the_file_is_plain_json(tmp_path):
    Vocabulary.of("b😀a", "a").save(tmp_path / "v")
    content = json.loads((tmp_path / "v").read_bytes())
    assert ("".join(content["characters"]), content["unknown"]) == ("ab😀", "a")


def consecutive(characters: int) -> np.ndarray:
    """A text in which every character tells its place; none is 0, which pads."""
    return np.arange(1, characters + 1, dtype=np.int32)


def all_chunks(text: Streams):
    return [text.chunk(position) for position in range(text.chunks)]


@st.composite
def sizes(draw, drop_last: bool | None = None):
    """Streams of every small size over a text that tells its places."""
    streams, time = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    drop_last = draw(st.booleans()) if drop_last is None else drop_last
    characters = draw(st.integers(streams * time + 1 if drop_last else 2, 150))
    return Streams(consecutive(characters), streams, time, drop_last)


@for_all(text=sizes())
def test_streams_equal_a_plain_loop(text):
    """Cut the text into streams, then every stream into chunks, with lists and nothing else."""
    characters = text.ids.tolist()
    pairs = list(itertools.pairwise(characters))
    length = len(pairs) // text.streams
    if not text.drop_last and len(pairs) % text.streams:
        length += 1
    streams = [pairs[s * length : (s + 1) * length] for s in range(text.streams)]
    starts = list(range(0, length, text.time))
    if text.drop_last and length % text.time:
        starts.pop()

    assert text.chunks == len(starts)
    assert_parts_are_the_whole(text.chunk, text.streams)
    for start, chunk in zip(starts, all_chunks(text), strict=True):
        for s, stream in enumerate(streams):
            expected = stream[start : start + text.time]
            padding = text.time - len(expected)
            assert chunk.inputs[:, s].tolist() == [w for w, _ in expected] + [0] * padding
            assert chunk.targets[:, s].tolist() == [w for _, w in expected] + [0] * padding
            assert chunk.mask[:, s].tolist() == [True] * len(expected) + [False] * padding


@for_all(text=sizes())
def test_a_chunk_continues_every_stream_of_the_one_before(text):
    chunks = all_chunks(text)
    for before, after in itertools.pairwise(chunks):
        continues = after.mask[0]
        np.testing.assert_array_equal(after.inputs[0][continues], before.targets[-1][continues])
        assert before.mask[:, continues].all()


@for_all(text=sizes())
def test_targets_are_inputs_one_later(text):
    for chunk in all_chunks(text):
        np.testing.assert_array_equal(chunk.targets[chunk.mask], chunk.inputs[chunk.mask] + 1)
        both = chunk.mask[1:]
        np.testing.assert_array_equal(chunk.targets[:-1][both], chunk.inputs[1:][both])


@for_all(text=sizes(drop_last=False))
def test_every_character_but_the_first_is_a_target_once(text):
    targets = np.concatenate([chunk.targets[chunk.mask] for chunk in all_chunks(text)])
    np.testing.assert_array_equal(np.sort(targets), text.ids[1:])


@for_all(text=sizes(drop_last=True))
def test_whole_chunks_only_and_less_than_one_left_out(text):
    chunks = all_chunks(text)
    assert all(chunk.mask.all() for chunk in chunks)
    targets = np.concatenate([chunk.targets.ravel() for chunk in chunks])
    assert len(set(targets.tolist())) == len(targets)
    assert 0 <= len(text.ids) - 1 - len(targets) < text.streams * text.time


@for_all(text=sizes(), laps=st.integers(1, 3))
def test_positions_go_round_and_only_a_pass_begins_anew(text, laps):
    for position in range(text.chunks):
        once, again = text.chunk(position), text.chunk(position + laps * text.chunks)
        for a, b in zip(once, again, strict=True):
            np.testing.assert_array_equal(a, b)
        assert once.first.shape == ()
        assert bool(once.first) == (position == 0)


@for_all(text=sizes())
def test_every_chunk_has_the_same_shape(text):
    shape = (text.time, text.streams)
    for chunk in all_chunks(text):
        assert chunk.inputs.shape == chunk.targets.shape == chunk.mask.shape == shape
        assert chunk.inputs.dtype == chunk.targets.dtype == np.int32
        assert chunk.mask.dtype == chunk.first.dtype == bool


@for_all(streams=st.integers(1, 9), time=st.integers(1, 9))
def test_the_shortest_text(streams, time):
    assert Streams(consecutive(streams * time + 1), streams, time).chunks == 1
    with pytest.raises(
        ValueError, match=f"need at least {streams * time + 1} characters, got {streams * time}"
    ):
        Streams(consecutive(streams * time), streams, time)

    padded = Streams(consecutive(2), streams, time, drop_last=False)
    assert padded.chunks == 1
    assert padded.chunk(0).mask.sum() == 1
    with pytest.raises(ValueError, match="need at least 2 characters, got 1"):
        Streams(consecutive(1), streams, time, drop_last=False)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("size", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", ["streams", "time"])
def test_bad_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {size}"):
        Streams(consecutive(100), **{"streams": 2, "time": 3, name: size})


@for_all(
    characters=st.integers(1, 300),
    valid=st.floats(0, 1, exclude_max=True),
    share=st.floats(0, 1, exclude_max=True),
)
def test_parts_make_up_the_whole_in_order(characters, valid, share):
    test = (1 - valid) * share
    if valid + test >= 1:  # rounding
        test = 0.0
    ids = consecutive(characters)
    parts = split_in_order(ids, valid, test)
    np.testing.assert_array_equal(np.concatenate(parts), ids)
    assert len(parts[0]) > 0
    for part, fraction in zip(parts[1:], (valid, test), strict=True):
        assert characters * fraction - 1 < len(part) <= characters * fraction


def test_nothing_held_out():
    train, valid, test = split_in_order(consecutive(7), 0.0, 0.0)
    assert (len(train), len(valid), len(test)) == (7, 0, 0)


@pytest.mark.parametrize(
    ("valid", "test"),
    [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 1.5), (np.nan, 0.1), (0.1, np.nan)],
)
def test_bad_fractions(valid, test):
    with pytest.raises(
        ValueError,
        match=f"0 or more, and together below 1 to leave something to train on, got {valid} and {test}",
    ):
        split_in_order(consecutive(100), valid, test)
