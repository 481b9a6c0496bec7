"""Four-part chords by rules of harmony: pieces to learn from without a download.

A piece is in a major key. Its chords follow one another as in the table below, and it ends with dominant
and tonic. Each lasts one, two or four steps. The bass has the root, or at times the third; above it lie
tenor, alto and soprano, in their ranges and in this order, no more than an octave from voice to voice, with
every note of the chord, and no leading note twice. Of all such settings the one is taken that moves least
from the chord before, octaves and fifths that move in parallel counting as far.
"""

import functools
import itertools

import numpy as np

from experiments.data.piano_rolls import KEYS, LOWEST, Pieces

MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
# From a chord's degree, 0 for the tonic, to those that may follow, each as often as it is written.
FOLLOWS = {
    0: (1, 3, 3, 4, 4, 5),
    1: (4, 4, 4, 6),
    3: (0, 1, 4, 4),
    4: (0, 0, 0, 5),
    5: (1, 1, 3, 3, 4),
    6: (0, 0, 5),
}
RANGES = ((40, 60), (48, 67), (55, 74), (60, 81))  # MIDI numbers: bass, tenor, alto, soprano
FIRST = np.array([48, 55, 64, 72])  # to which the first chord is near
PARALLEL = 20  # semitones
SIZES = (200, 40, 60)  # pieces of the training, validation and test part


def harmony() -> Pieces:
    """Pieces of 16 to 32 chords; the same on every machine.

    >>> pieces = harmony()
    >>> [len(part) for part in pieces], int(pieces.train[0].sum(1).max())
    ([200, 40, 60], 4)
    """
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    return Pieces(*([piece(random) for _ in range(size)] for size in SIZES))


def piece(random: np.random.Generator) -> np.ndarray:
    """One piece: ``(time, 88)`` of bool."""
    tonic, degrees = int(random.integers(12)), [0]
    for _ in range(int(random.integers(14, 30))):
        degrees.append(int(random.choice(FOLLOWS[degrees[-1]])))
    voices, rows = FIRST, []
    for number, degree in enumerate([*degrees, 4, 0]):
        ends = number > len(degrees)
        inverted = not ends and random.random() < 0.25
        voices = nearest(settings_of(tonic, degree, inverted), voices)
        row = np.zeros(KEYS, bool)
        row[voices - LOWEST] = True
        rows += [row] * (4 if ends else int(random.choice((1, 2, 2, 4))))
    return np.array(rows)


@functools.cache
def settings_of(tonic: int, degree: int, inverted: bool) -> np.ndarray:
    """All ways to set a triad for four voices: ``(ways, 4)``, bass first."""
    root, third, fifth = ((tonic + MAJOR[(degree + above) % 7]) % 12 for above in (0, 2, 4))
    tones = np.array([root, third, fifth])
    bass = third if inverted or degree == 6 else root  # the diminished chord always on its third
    allowed = [[note for note in range(low, high) if note % 12 in tones] for low, high in RANGES]
    allowed[0] = [note for note in allowed[0] if note % 12 == bass]
    found = np.array(list(itertools.product(*allowed)))
    gaps, classes = np.diff(found, axis=1), found % 12
    keeps = (gaps > 0).all(1) & (gaps[:, 1:] <= 12).all(1)
    keeps &= (classes[:, :, None] == tones).any(1).all(1)
    leading = (tonic + MAJOR[6]) % 12
    keeps &= (classes == leading).sum(1) < 2
    return found[keeps]


def nearest(found: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The setting ``(4,)`` that moves least from the one before."""
    moves = found - before
    costs = abs(moves).sum(1).astype(float)
    for one, other in itertools.combinations(range(4), 2):
        interval = (found[:, other] - found[:, one]) % 12
        same = (interval == (before[other] - before[one]) % 12) & (moves[:, one] != 0)
        costs += PARALLEL * (same & np.isin(interval, (0, 7)))
    return found[int(np.argmin(costs))]
