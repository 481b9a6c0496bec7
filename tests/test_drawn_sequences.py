"""Data with a label at every step: the classes of characters, drawn scenes, and videos of gestures."""

import re

import numpy as np
import pytest

from experiments.data import gestures, scenes
from experiments.data.corpora import library_files
from experiments.data.python_tokens import CLASSES, classes_of, pieces
from experiments.data.sentences import documentation, sentences_of, tatoeba_english, words_of
from experiments.data.tokens import UNKNOWN, encode_words, train_words
from tests.commands import needs

SOURCE = '''\
@decorated
def f(x: int = 0x1F) -> None:  # of "x"
    """Two
    lines."""
    if x == 1.5e3 and not x:
        return 'a' + rb"\\n" \\
            + `
'''.replace("`", "...")


def test_classes_of_characters():
    """Against regular expressions, which suffice for this source."""
    classes, starts = classes_of(SOURCE)
    found = [
        "".join(c for c, k in zip(SOURCE, classes, strict=True) if k == n) for n in range(len(CLASSES))
    ]
    by_class = dict(zip(CLASSES, found, strict=True))
    assert by_class["comment"] == '# of "x"'
    assert by_class["number"] == "0x1F1.5e3"
    assert by_class["string"] == '"""Two\n    lines."""' + "'a'" + 'rb"\\n"'
    assert by_class["keyword"] == "defNoneifandnotreturn"
    assert by_class["name"] == "decoratedfxintxx"
    assert by_class["operator"] == "@(:=)->:==:++..."
    assert not by_class["white space"].replace("\\", "").strip()
    assert [SOURCE[start:].split("\n")[0].strip() for start in starts[:4]] == [
        "@decorated",
        'def f(x: int = 0x1F) -> None:  # of "x"',
        '"""Two',
        "if x == 1.5e3 and not x:",
    ]


def test_pieces_are_the_whole_file():
    source = next(text for text in library_files().values() if len(text) > 20_000)
    found = list(pieces(source, 256))
    assert "".join(piece.text for piece in found) == source
    whole, starts = classes_of(source)
    np.testing.assert_array_equal(np.concatenate([piece.classes for piece in found]), whole)
    begins = np.cumsum([0, *(len(piece.text) for piece in found)])[:-1]
    assert set(begins) <= set(starts)
    assert np.median([len(piece.text) for piece in found]) <= 256
    for broken in ("(", "'''", "if x:\n    x\n  y\n"):
        with pytest.raises(SyntaxError) as error:
            classes_of(broken)
        assert error.value.lineno
    assert classes_of("x $ y\n")[0][2] == CLASSES.index("operator")
    braces = "f'{{a}} {b}'"
    classes = classes_of(f"x = {braces}\n")[0][4:-1]
    assert {CLASSES[n] for n in classes[: braces.index("{b")]} == {"string"}
    assert classes_of("x = 1\f\ny = 2\n")[0][-2] == CLASSES.index("number")  # \f ends no line


def corner(frame):
    """Row and column of the square, or None."""
    filled = np.argwhere(frame.reshape(scenes.SIZE, scenes.SIZE) > 0.5)
    return tuple(filled.min(axis=0)) if len(filled) else None


def test_scenes():
    """The events, read off the frames alone."""
    scene = scenes.draw(np.random.default_rng(1), 3000)
    places = [corner(frame) for frame in scene.frames]
    names = [scenes.EVENTS[event] for event in scene.events]
    assert set(names) == set(scenes.EVENTS)
    for t in range(1, len(names) - 1):
        before, here, after = places[t - 1 : t + 2]
        if here is None:
            assert names[t] == ("nothing" if before is None else "leaves")
        elif before is None:
            assert names[t] == "appears"
        elif not all(0 < place < scenes.LAST for place in here):
            assert names[t] == "touches the wall"
        elif after is not None:
            goes_on = np.subtract(here, before).tolist() == np.subtract(after, here).tolist()
            assert names[t] == ("moves" if goes_on else "turns")
    assert np.abs(scene.frames - np.round(scene.frames)).max() < 6 * scenes.NOISE


@needs("gesture_phase")
def test_videos_of_gestures(tmp_path):
    names = [*gestures.TRAINING, *gestures.VALIDATION, *gestures.TEST]
    videos = [gestures.video(name) for name in names]
    assert len(set(names)) == 7
    assert sum(len(video.phases) for video in videos) == 9873
    assert {video.frames.shape[1] for video in videos} == {32}
    assert all(set(video.phases) == set(range(5)) for video in videos)
    frames = np.random.default_rng(0).normal(size=(300, 32)) ** 3
    scaled = gestures.standardized(frames)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(gestures.standardized(7 * frames), scaled, atol=1e-4)
    assert not gestures.standardized(np.zeros((5, 32))).any()
    video = gestures.Video(scaled, np.arange(300, dtype=np.int32), "v")
    starts = [piece.phases[0] for piece in gestures.pieces(video, 128, 32)]
    assert starts == [0, 32, 64, 96, 128, 160, 192]
    assert {n for piece in gestures.pieces(video, 128, 32) for n in piece.phases} == set(range(300))
    (tmp_path / "v.csv").write_text("head\n" + ",".join(["0.5"] * 32) + ",D\n" + "1,2,S\n")
    with pytest.raises(ValueError, match="line 3: expected 32 numbers and one of D, P, S, H, R"):
        gestures.read_video(tmp_path / "v.csv", "v")


@pytest.mark.slow
def test_words_and_sentences():
    words = ["_x", "___", "___init", "a___b", "___", ",", "it's", "'s", "'", "a", "'"]
    assert words_of("_x ____ ___init a___b ___, it's 's 'a'") == words
    assert [*sentences_of('A b. C\nd? "E" f.\n\n g h.i 5')] == ["A b.", "C d?", '"E" f.', "g h.i 5"]
    sentences = documentation()
    assert len(sentences) == len(set(sentences)) > 5000
    assert all(re.match(r"[A-Z].*[.!?]$", sentence) for sentence in sentences)
    assert any("dictionary" in sentence for sentence in sentences)


@needs("tatoeba_en_fr")
def test_sentences_of_tatoeba():
    assert len(tatoeba_english()) == len(set(tatoeba_english())) > 90_000


def test_vocabularies_of_words():
    words = train_words(["New York", "is", "New York", "Is"], min_count=2, lowercase=True)
    (ids,) = encode_words(words, [["new york", "IS", "are", " "]])
    assert [words.id_to_token(int(number)) for number in ids[:2]] == ["new york", "is"]
    assert ids[2:].tolist() == [UNKNOWN, UNKNOWN]
    assert encode_words(words, [["</s>"]])[0].tolist() == [UNKNOWN]
