"""Drawn pictures: the captions against what is seen in the pixels, and which pairs training lacks."""

import hashlib
import itertools

import numpy as np
import pytest

from experiments.data import captions
from experiments.data.drawn_pictures import (
    COLOURS,
    HELD_OUT,
    PAIRS,
    RADII,
    SHAPES,
    SIZE,
    SLOT,
    SLOTS,
    Drawing,
    Thing,
    caption,
    covered,
    drawings,
    drawn_pictures,
    picture,
    shape_words,
)
from experiments.data.images import pixels

# Of captions and of pixels; the same on every machine, and another where the data set is another.
CAPTIONS = "b47919d5f2cf73a6aaba39f1ddc67285d472af6ec7d407d91b35981396bd1cff"
PIXELS = "b9ca7bc2ee92f7dc96fc8162520b2e63d9949094665b272ea5bd6c87af85d058"
RELATIONS = ("to the left of", "to the right of", "above", "below")


@pytest.fixture(scope="module")
def parts():
    return drawn_pictures()


def seen(image):
    """Size, colour, shape, row and column of what is seen in the slots, by colours and extents alone."""
    found = []
    ground = np.median(image)
    for row, column in itertools.product(range(SLOTS), repeat=2):
        slot = image[SLOT * row : SLOT * (row + 1), SLOT * column : SLOT * (column + 1)].astype(int)
        away = abs(slot - ground).sum(-1)  # from the ground, which every pixel is made of, or partly
        if away.max() < 50:
            continue
        cover = away / np.sort(away, axis=None)[-5]
        seen = slot[cover > 0.9].mean(0)
        shades = itertools.product(COLOURS, (0.85, 0.92, 1))
        colour, _ = min(shades, key=lambda of: abs(seen - of[1] * np.array(COLOURS[of[0]])).sum())
        rows, columns = (np.flatnonzero((cover > 0.4).any(axis)) for axis in (1, 0))
        box = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        size = "large" if max(box.shape) > 10 else "small"
        found.append((size, colour, shape_in(box), row, column))
    return found


def shape_in(box):
    """The shape in its bounding box: by its sides, a few of its places, and its area."""
    height, width = box.shape
    if height < 0.6 * width:
        return "bar"
    if box[-(height // 3) :].sum() > 2 * box[: height // 3].sum():
        return "triangle"
    if box[height // 2, -2:].max() < 0.5 and box[height // 2, :2].max() > 0.5:
        return "moon"  # open to the right
    if box[height // 2, width // 2] < 0.5:
        return "ring"
    filled = box.sum() / (box.sum(0).max() * box.sum(1).max())  # 1, or pi / 4, or half
    if filled > 0.72:
        return "square" if filled > 0.9 else "circle"
    return "diamond" if box[int(0.3 * height), int(0.3 * width)] > 0.5 else "cross"


def described(things):
    """The caption by the rules in the module's docstring, written anew."""
    things = sorted(things, key=lambda thing: (["large", "small"].index(thing[0]), thing[3], thing[4]))
    text = ""
    for before, (size, colour, shape, row, column) in zip([None, *things], things, strict=False):
        if before is not None:
            down, right = row - before[3], column - before[4]
            text += " " + RELATIONS[(0 if right > 0 else 1) if down == 0 else (2 if down > 0 else 3)] + " "
        text += f"a {size} {colour} {shape}"
    return text


@pytest.mark.slow
def test_captions_say_what_is_seen(parts):
    for part in (parts.train, parts.test):
        for drawn, [text] in zip(part.pictures[:300], part.captions[:300], strict=True):
            assert described(seen(pixels(drawn, SIZE))) == text


@pytest.mark.slow
def test_drawings_are_those_of_the_pictures(parts):
    for part, of in zip(parts[:3], drawings(), strict=True):
        assert [[caption(drawing)] for drawing in of] == part.captions
        np.testing.assert_array_equal(picture(of[-1]), pixels(part.pictures[-1], SIZE))
        for drawing, [text] in zip(of, part.captions, strict=True):
            words = text.split()
            assert [words[place] for place in shape_words(drawing)] == [t.shape for t in drawing.things]
    assert parts.test_name == "test"
    assert parts.valid.pictures[3].name == "valid 3"


@pytest.mark.slow
def test_every_word_comes_in_training(parts):
    of = drawings()
    assert len(PAIRS) + len(HELD_OUT) == len(COLOURS) * len(SHAPES)
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)
    assert len({colour for colour, _ in HELD_OUT}) == len(HELD_OUT)
    for part, allowed in zip(of, (PAIRS, PAIRS, PAIRS + HELD_OUT), strict=True):
        things = [thing for drawing in part for thing in drawing.things]
        assert {(thing.colour, thing.shape) for thing in things} == set(allowed)
        assert {thing.size for thing in things} == set(RADII)
        assert {(thing.row, thing.column) for thing in things} == {*itertools.product(range(4), repeat=2)}
        assert {len(drawing.things) for drawing in part} == {2, 3}
    for part in parts[:3]:
        text = " | ".join(text for [text] in part.captions)
        assert all(f" {relation} " in text for relation in RELATIONS)
        assert text == text.lower()


@pytest.mark.slow
def test_held_out_pairs_come_in_every_test_caption_and_nowhere_else(parts):
    def held_out(text):
        return any(f" {colour} {shape}" in text for colour, shape in HELD_OUT)

    assert not any(held_out(text) for part in parts[:2] for [text] in part.captions)
    assert all(held_out(text) for [text] in parts.test.captions)


@pytest.mark.slow
def test_no_picture_comes_twice(parts):
    of = [drawing.things for part in drawings() for drawing in part]
    assert len(set(of)) == len(of) == 21_500
    assert [len(part.pictures) for part in parts[:3]] == [20_000, 500, 1_000]
    for things in of:
        assert len({(thing.row, thing.column) for thing in things}) == len(things)
        assert len({(thing.colour, thing.shape) for thing in things}) == len(things)


@pytest.mark.slow
def test_the_same_on_every_machine(parts):
    np.random.seed(1)
    assert hashlib.sha256("".join(map(captions.digest, parts[:3])).encode()).hexdigest() == CAPTIONS
    some = [pixels(drawn, SIZE) for part in parts[:3] for drawn in part.pictures[:100]]
    assert some[0].dtype == np.uint8
    assert hashlib.sha256(np.stack(some).tobytes()).hexdigest() == PIXELS


def test_things_stay_in_their_slots():
    for size, shape, down, right in itertools.product(RADII, SHAPES, (-1, 0, 1), (-1, 0, 1)):
        cover, still = covered(size, shape, down, right), covered(size, shape, 0, 0)
        np.testing.assert_array_equal(cover, np.roll(still, (down, right), (0, 1)))  # nothing is cut off
        assert 0 <= cover.min() < cover.max() == 1
    thing = Thing("large", "red", "square", 1, 3)
    image = picture(Drawing((thing,), seed=0)).astype(int)
    assert thing.slot == (slice(16, 32), slice(48, 64))
    red = image[..., 0] > image[..., 1] + 50
    assert red[thing.slot].sum() == red.sum() > 100
