"""Drawn pictures with captions: two or three things on a grey ground, and how they lie to each other.

A picture has 64 × 64 pixels, in 4 × 4 slots of 16 × 16; a thing lies in a slot. Its caption names large
things first, then from left to right and from top to bottom, and between two of them how the one before
lies to the next::

    a large red circle below a small blue square to the left of a small green cross

One caption is right, so that captions can be compared word by word. Some pairs of a colour and a shape come
in no picture to train on or to validate on, and every test picture has one: a model must put words together
that it never saw together.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.data.captions import Captioned, CaptionedParts
from experiments.data.images import Picture

SIZE, SLOT = 64, 16  # pixels a side
SLOTS = SIZE // SLOT
RADII = {"small": 4.5, "large": 7.0}
COLOURS = {
    "red": (220, 30, 40),
    "green": (30, 150, 60),
    "blue": (40, 80, 225),
    "yellow": (255, 240, 50),
    "purple": (155, 50, 185),
    "black": (30, 30, 30),
    "orange": (245, 135, 10),
    "pink": (245, 130, 180),
    "brown": (130, 75, 30),
    "turquoise": (40, 200, 210),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond", "bar", "moon")
HELD_OUT = (
    ("red", "triangle"),
    ("green", "cross"),
    ("blue", "circle"),
    ("yellow", "ring"),
    ("purple", "square"),
    ("orange", "diamond"),
    ("pink", "bar"),
    ("turquoise", "moon"),
)
PAIRS = tuple(pair for pair in itertools.product(COLOURS, SHAPES) if pair not in HELD_OUT)
THINGS = (2, 3)  # in a picture
DARKEST, TINT = 0.9, 20  # of a thing's colour: the least brightness, and at most so much in every channel
GROUND = (200, 240)  # grey levels
NOISE = 5  # at most, of every pixel
SUPERSAMPLED = 4  # points a side in a pixel
_SHAPE_WORD = 3  # in "a large red circle", from 0


class Thing(NamedTuple):
    """One thing, and its slot."""

    size: str
    colour: str
    shape: str
    row: int
    column: int

    @property
    def words(self) -> list[str]:
        """What a caption calls it."""
        return ["a", self.size, self.colour, self.shape]

    @property
    def slot(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels that it may cover."""
        top, left = SLOT * self.row, SLOT * self.column
        return slice(top, top + SLOT), slice(left, left + SLOT)


class Drawing(NamedTuple):
    """What is in a picture, in the order of its caption, and the seed of its ground, noise and jitter."""

    things: tuple[Thing, ...]
    seed: int


class Drawings(NamedTuple):
    """The drawings of each part, in the order of its pictures."""

    train: list[Drawing]
    valid: list[Drawing]
    test: list[Drawing]


def drawn_pictures(train: int = 20_000, valid: int = 500, test: int = 1_000) -> CaptionedParts:
    """So many pictures, each with its caption, the same ones on every machine; see ``drawings``.

    >>> parts = drawn_pictures(2, 2, 2)
    >>> parts.train.pictures[0].load().size, len(parts.test.captions)
    ((64, 64), 2)
    """
    parts = drawings(train, valid, test)
    return CaptionedParts(
        _captioned("train", parts.train), _captioned("valid", parts.valid), _captioned("test", parts.test)
    )


def _captioned(name: str, part: Sequence[Drawing]) -> Captioned:
    def of(number: int, drawing: Drawing) -> Picture:
        return Picture(
            f"{name} {number}",
            lambda: Image.fromarray(picture(drawing)),
            lambda: picture(drawing).tobytes(),
        )

    return Captioned(
        [of(number, drawing) for number, drawing in enumerate(part)],
        [[caption(drawing)] for drawing in part],
    )


def drawings(train: int = 20_000, valid: int = 500, test: int = 1_000) -> Drawings:
    """What is drawn in ``drawn_pictures``; the same things in the same slots are never drawn twice."""
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    seen: set[tuple[Thing, ...]] = set()

    def draw(count: int, held_out: bool) -> list[Drawing]:
        found: list[Drawing] = []
        while len(found) < count:
            things = draw_things(random, held_out)
            if things not in seen:
                found.append(Drawing(things, len(seen)))
                seen.add(things)
        return found

    return Drawings(draw(train, False), draw(valid, False), draw(test, True))


def draw_things(random: np.random.Generator, held_out: bool) -> tuple[Thing, ...]:
    """Things in different slots, in the order of their caption; no two are of one pair.

    With ``held_out`` at least one is of a pair that training lacks.
    """
    count = random.integers(THINGS[0], THINGS[1], endpoint=True)
    chosen = [HELD_OUT[random.integers(len(HELD_OUT))]] if held_out else []
    others = [pair for pair in (PAIRS + HELD_OUT if held_out else PAIRS) if pair not in chosen]
    chosen += [others[i] for i in random.choice(len(others), count - len(chosen), replace=False)]
    sizes, slots = random.integers(len(RADII), size=count), random.choice(SLOTS**2, count, replace=False)
    things = [
        Thing([*RADII][size], colour, shape, *divmod(int(slot), SLOTS))
        for (colour, shape), size, slot in zip(chosen, sizes, slots, strict=True)
    ]
    return tuple(sorted(things, key=lambda thing: (thing.size != "large", thing.row, thing.column)))


def relation(one: Thing, other: Thing) -> str:
    """How one thing lies to another.

    >>> red, blue = Thing("small", "red", "ring", 1, 0), Thing("small", "blue", "ring", 1, 3)
    >>> relation(red, blue), relation(blue, red), relation(red, blue._replace(row=2))
    ('to the left of', 'to the right of', 'above')
    """
    if one.row == other.row:
        return "to the left of" if one.column < other.column else "to the right of"
    return "above" if one.row < other.row else "below"


def caption(drawing: Drawing) -> str:
    """The one right caption: lower case, without a full stop."""
    words = drawing.things[0].words
    for one, other in itertools.pairwise(drawing.things):
        words = [*words, *relation(one, other).split(), *other.words]
    return " ".join(words)


def shape_words(drawing: Drawing) -> list[int]:
    """Which word of the caption, from 0, is the shape of each thing.

    >>> things = Thing("large", "red", "ring", 1, 0), Thing("small", "blue", "cross", 0, 0)
    >>> drawing = Drawing(things, seed=0)
    >>> caption(drawing), shape_words(drawing)
    ('a large red ring below a small blue cross', [3, 8])
    """
    places, start = [_SHAPE_WORD], 0
    for one, other in itertools.pairwise(drawing.things):
        start += len(one.words) + len(relation(one, other).split())
        places.append(start + _SHAPE_WORD)
    return places


def picture(drawing: Drawing) -> np.ndarray:
    """The pixels ``(SIZE, SIZE, 3)`` of uint8: every thing is moved by a pixel at most."""
    random = np.random.default_rng(drawing.seed)
    pixels = np.full((SIZE, SIZE, 3), random.integers(*GROUND, endpoint=True), np.float64)
    for thing in drawing.things:
        cover = covered(thing.size, thing.shape, *map(int, random.integers(-1, 1, 2, endpoint=True)))
        colour = np.array(COLOURS[thing.colour]) * random.uniform(DARKEST, 1)
        colour += random.uniform(-TINT, TINT, 3)
        pixels[thing.slot] += cover[..., None] * (colour - pixels[thing.slot])
    pixels += random.integers(-NOISE, NOISE, pixels.shape, np.int8, endpoint=True)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@functools.cache
def covered(size: str, shape: str, down: int, right: int) -> np.ndarray:
    """How much of each pixel of a slot ``(SLOT, SLOT)`` a shape covers that is moved from the middle.

    >>> covered("small", "circle", 0, 0)[8, 8], covered("small", "ring", 0, 0)[8, 8]
    (np.float64(1.0), np.float64(0.0))
    """
    points = (np.arange(SLOT * SUPERSAMPLED) + 0.5) / SUPERSAMPLED - SLOT / 2
    y, x = ((points - down) / RADII[size])[:, None], ((points - right) / RADII[size])[None]
    square = np.maximum(abs(x), abs(y))
    round_ = x**2 + y**2
    inside = {
        "circle": round_ <= 1,
        "square": square <= 0.86,
        "triangle": (y <= 0.85) & (2 * abs(x) <= y + 1),
        "cross": (square <= 1) & (np.minimum(abs(x), abs(y)) <= 0.3),
        "ring": (round_ <= 1) & (round_ >= 0.3),
        "diamond": abs(x) + abs(y) <= 1,
        "bar": (abs(x) <= 1) & (abs(y) <= 0.35),
        "moon": (round_ <= 1) & ((x - 0.6) ** 2 + y**2 >= 0.7),
    }[shape]
    return inside.reshape(SLOT, SUPERSAMPLED, SLOT, SUPERSAMPLED).mean((1, 3))
