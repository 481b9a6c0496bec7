"""Whether attention lies on the thing that is named: measured on drawn scenes, where that is known."""

from typing import Any

import numpy as np

from experiments.captioning.data import Part
from experiments.captioning.encoders import GRID
from experiments.captioning.metrics import plain
from experiments.captioning.writing import Writer, most_probable
from experiments.data.drawn_pictures import SLOTS, drawings, shape_words

MOST = 0.5  # of attention, that lies on a thing which it looks at


def where_it_looks(writer: Writer, test: Part) -> dict[str, Any]:
    """Attention on the cells of a shape while its word is written, in captions that are exactly right.

    Returns:
      ``share``: the part of these words for which more than half of the attention lies there; ``mass``: how
      much does on average; ``by_chance``: how much would if it were spread evenly; ``words``: how many.
    """
    captions = most_probable(writer, test.inputs, beam=1, length_penalty=0.0)
    side = GRID // SLOTS  # places of a slot
    masses = []
    for (caption, *_), references, drawing in zip(
        captions, test.captioned.captions, drawings().test, strict=True
    ):
        if caption.weights is None or plain(caption.text) != plain(references[0]):
            continue
        grids = caption.weights.reshape(-1, GRID, GRID)
        for thing, word in zip(drawing.things, shape_words(drawing), strict=True):
            rows, columns = (slice(side * at, side * (at + 1)) for at in (thing.row, thing.column))
            masses.append(float(grids[word, rows, columns].sum()))
    if not masses:
        raise ValueError("no caption is right, so that no word's place is known")
    return {
        "share": float(np.mean(np.array(masses) > MOST)),
        "mass": float(np.mean(masses)),
        "by_chance": 1 / SLOTS**2,
        "words": len(masses),
    }
