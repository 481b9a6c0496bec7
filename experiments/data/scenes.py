"""Drawn scenes: a shape that moves through frames, and what happens at every one of them.

A frame has 8 × 8 pixels. A square of 2 × 2 appears, goes on in one direction, turns, is stopped by a wall
and goes back, and leaves. The event at a frame is "turns" where the next step goes another way, so that
only the frame after it tells: a network that reads forward alone can but guess.
"""

from typing import Any, NamedTuple

import numpy as np

EVENTS = ("nothing", "appears", "moves", "turns", "touches the wall", "leaves")
NOTHING, APPEARS, MOVES, TURNS, TOUCHES, LEAVES = range(len(EVENTS))
SIZE, SHAPE = 8, 2
LAST = SIZE - SHAPE  # the highest row or column of a shape's corner
WAYS = ((0, 1), (1, 0), (0, -1), (-1, 0))
COMING, LEAVING, TURNING = 0.4, 0.08, 0.25  # probabilities a frame
NOISE = 0.1


class Scene(NamedTuple):
    """Frames, and the event at each."""

    frames: np.ndarray  # (time, SIZE · SIZE) float32
    events: np.ndarray  # (time,) int32, numbers of ``EVENTS``


def draw(random: np.random.Generator, time: int) -> Scene:
    """A scene of so many frames; every pixel is 0 or 1, plus normal noise.

    >>> scene = draw(np.random.default_rng(0), 20)
    >>> scene.frames.shape, scene.events.shape
    ((20, 64), (20,))
    """
    frames = NOISE * random.standard_normal((time, SIZE, SIZE)).astype(np.float32)
    events = np.full(time, NOTHING, np.int32)
    place: Any = None
    way: Any = 0
    for t in range(time):
        if place is None:
            if random.random() >= COMING:
                continue
            place, way, events[t] = random.integers(1, LAST, 2), random.integers(4), APPEARS
        elif random.random() < LEAVING:
            place, events[t] = None, LEAVES
            continue
        else:
            place = place + WAYS[way]
            events[t] = MOVES
            if not ((place > 0) & (place < LAST)).all():
                events[t], way = TOUCHES, (way + 2) % 4  # and goes back
            elif random.random() < TURNING:
                events[t], way = TURNS, (way + random.choice([1, 3])) % 4
        row, column = place
        frames[t, row : row + SHAPE, column : column + SHAPE] += 1
    return Scene(frames.reshape(time, -1), events)
