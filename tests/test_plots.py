"""Plots: what is written in them, in which fonts and formats, and that no text can fail them."""

import itertools
import os
import re
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.image import imread

from experiments.harness import plots
from experiments.harness.plots import check_picture, learning_curve, save
from experiments.translation.pictures import attention_picture, label_every, shortened
from experiments.translation.translating import Hypothesis

DOLLARS = ("a $1 x_$", "$\\frac$", "$x$")


@pytest.fixture(autouse=True)
def svg_text(monkeypatch):
    """Letters stay letters in an SVG, so that a test can read them."""
    monkeypatch.setitem(plt.rcParams, "svg.fonttype", "none")
    plots._fonts_for.cache_clear()


def texts(path):
    return ["".join(text.itertext()) for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, still open."""
    figures, close = [], plt.close
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    for figure in figures:
        close(figure)


def hypothesis(source_pieces, pieces):
    weights = np.full((len(pieces), len(source_pieces)), 1 / max(len(source_pieces), 1))
    return Hypothesis(" ".join(pieces), -1.0, True, source_pieces, pieces, weights)


@pytest.mark.parametrize("dollars", DOLLARS)
def test_a_dollar_is_no_mathematics(tmp_path, dollars):
    """In a title, a label, a legend or a tick: a path of the user's, or a sentence's words."""
    learning_curve(
        tmp_path / "curve.svg",
        {f"loss {dollars}": ([1, 2, 3], [2000, 20, 2])},
        x_label=f"x {dollars}",
        y_label=f"y {dollars}",
        title=f"on {dollars}",
        baseline=(f"chance {dollars}", 3),
        y_scale="log",
    )
    shown = texts(tmp_path / "curve.svg")
    for text in ("x {}", "y {}", "on {}", "loss {}: 2", "chance {}: 3"):
        assert text.format(dollars) in shown
    assert not any("mathdefault" in text for text in shown)  # powers of ten are mathematics still
    attention_picture(tmp_path / "looked.svg", [hypothesis([dollars, "b"], ["c", dollars])])
    assert texts(tmp_path / "looked.svg").count(dollars) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_panel_for_each_of_the_first_sentences(tmp_path, count):
    found = [hypothesis([f"source{n}"], [f"target{n}", "</s>"]) for n in range(count)]
    attention_picture(tmp_path / "looked.svg", found)
    shown = texts(tmp_path / "looked.svg")
    assert [n for n in range(count) if f"source{n}" in shown] == list(range(min(count, 4)))


def test_control_codes_are_shown(tmp_path):
    """They would be no XML."""
    attention_picture(tmp_path / "looked.svg", [hypothesis(["a\x08b", "\x1b[0m", "\ud800"], ["c"])])
    assert {"a\ufffdb", "\ufffd[0m", "\ufffd"} <= set(texts(tmp_path / "looked.svg"))


def test_a_line_break_in_a_path(tmp_path, drawn):
    """Is no second line of a title, nor of a tick; a label of the plot's own keeps it."""
    title = f"on a{chr(10)}b"
    learning_curve(tmp_path / "a.png", {"x": ([1], [1])}, x_label="two\nlines", y_label="y", title=title)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "on a\ufffdb"
    assert axes.get_xlabel() == "two\nlines"
    label_every(axes.xaxis, ["a\nb"], most=1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a\ufffdb"]


@pytest.mark.parametrize("space", ["▁", " ", ""])
def test_a_space_is_shown(tmp_path, space):
    attention_picture(tmp_path / "looked.svg", [hypothesis([space], ["c"])])
    assert "␣" in texts(tmp_path / "looked.svg")


def test_sentences_without_tokens_have_no_panel(tmp_path):
    """An empty source, and a model without attention."""
    empty = [hypothesis([], ["lost"]), hypothesis(["a"], ["b"])._replace(weights=None)]
    attention_picture(tmp_path / "looked.svg", [*empty, hypothesis(["one"], ["eins"])])
    shown = texts(tmp_path / "looked.svg")
    assert "eins" in shown
    assert "lost" not in shown
    with pytest.raises(ValueError, match="no sentence whose attention could be drawn"):
        attention_picture(tmp_path / "none.svg", empty)
    assert [path.name for path in tmp_path.iterdir()] == ["looked.svg"]


@pytest.mark.parametrize(("source", "target"), [(3, 3), (25, 30), (60, 7), (8, 300)])
@pytest.mark.slow
def test_labels_do_not_overlap(tmp_path, drawn, source, target):
    long = "Donaudampfschifffahrtsgesellschaft"
    attention_picture(tmp_path / "looked.png", [hypothesis([long] * source, [long] * target)])
    axes = drawn[0].axes[0]
    across, up = (
        [label.get_window_extent() for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(across))
    assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(up))  # from above
    assert (len(across), len(up)) == (source, min(target, 60))
    assert {label.get_text() for label in axes.get_xticklabels()} == {"Donaudampfsch…"}


def test_shortened():
    assert shortened("fourteen chars") == "fourteen chars"
    assert shortened("fifteen letters") == "fifteen lette…"
    assert shortened("猫" * 8) == "猫" * 6 + "…"
    assert shortened("") == ""
    axis = plt.figure().add_subplot().xaxis
    label_every(axis, [str(n) for n in range(10)], most=4)
    assert [label.get_text() for label in axis.get_ticklabels()] == ["0", "3", "6", "9"]
    plt.close()


@pytest.mark.parametrize("name", ["/data" * 60 + "/corpus.txt", "W" * 300, "\udce9" * 90])
@pytest.mark.slow
def test_a_long_path_stays_within_the_figure(tmp_path, name, drawn):
    learning_curve(
        tmp_path / "a.png", {"x": ([1], [1])}, x_label="x", y_label="y", title=f"gru 9 × 1 on {name}!"
    )
    title = drawn[0].axes[0].title
    box, width = title.get_window_extent(), drawn[0].bbox.width
    assert 0 <= box.x0 < box.x1 <= width
    assert box.width > 0.7 * width
    assert re.fullmatch(r"gru 9 × 1 on .*….*!", title.get_text())


MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "jpg": b"\xff\xd8\xff", "PNG": b"\x89PNG"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_format_of_the_suffix(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    check_picture(path)
    save(plt.figure(), path)
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_no_suffix_is_a_png(tmp_path):
    check_picture(tmp_path / "picture")
    save(plt.figure(), tmp_path / "picture")
    assert imread(tmp_path / "picture", format="png").ndim == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", r"must end in one of \.png, \.pdf, \.svg, \.jpg, \.jpeg, got .*a\.gif"),
        ("a.png.tmp", "must end in one of"),
        ("none/a.png", "there is no folder .*none for the picture"),
        ("folder", "expected a file for the picture, and .*folder is none"),
        ("pipe.png", "expected a file for the picture, and .*pipe.png is none"),
    ],
)
def test_where_no_picture_can_be_written(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=message):
        check_picture(tmp_path / name)


def test_a_figure_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"before")
    figure = plt.figure()
    monkeypatch.setattr(figure, "savefig", lambda path, **_: [path.write_bytes(b"half"), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        save(figure, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert figure.number not in plt.get_fignums()


def test_letters_that_no_font_has_are_told_once(tmp_path, capsys, monkeypatch):
    entry = font_manager.FontEntry(fname=font_manager.findfont("DejaVu Sans"), name="DejaVu Sans")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [entry])
    for name in ("a.png", "b.png"):
        attention_picture(tmp_path / name, [hypothesis(["猫", "が"], ["cat", "猫"])] * 3)
    assert capsys.readouterr().err == (
        "note: no installed font has 2 characters of the picture, drawn as boxes: が猫\n"
    )


def test_a_font_is_found_for_letters_that_the_default_lacks(tmp_path, capsys):
    """A bracket stands for a Chinese sign, for which no font may be installed: matplotlib brings some."""
    letter = "⎴"
    assert letter not in plots._letters_of(font_manager.findfont("DejaVu Sans"))
    attention_picture(tmp_path / "looked.svg", [hypothesis([letter], ["a"])])
    assert not capsys.readouterr().err
    (family,) = plots._fonts_for(frozenset(letter))
    assert family != "DejaVu Sans"
    assert f"sans-serif, '{family}'" in (tmp_path / "looked.svg").read_text()
