"""Plots of captions beside their images, and of where a captioner looked."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from experiments.captioning.metrics import cider_d, plain
from experiments.captioning.writing import Caption
from experiments.data.captions import Captioned
from experiments.data.images import Picture
from experiments.harness.plots import COLOURS, save

IMAGES, WORST, COLUMNS = 12, 4, 4  # in a plot of captions; so many of them are the worst
DRAWN = 3  # images whose attention is drawn
TILES = 8  # words side by side in a plot of attention
RIGHT, WRONG = COLOURS[2], COLOURS[1]


def spread(count: int) -> list[int]:
    """A few of so many images, evenly spaced: the same ones in every run.

    >>> spread(24), spread(2)
    ([0, 8, 16], [0, 1])
    """
    return list(range(0, count, max(1, count // DRAWN)))[:DRAWN]


def captions_picture(path: Path, captioned: Captioned, found: Sequence[Caption]) -> None:
    """Draw images with their captions, evenly spaced from the best to the worst, and more of the worst.

    Where an image has one reference, a caption is right or wrong; where it has several, it is as good as
    its CIDEr-D.
    """
    figures = cider_d([plain(c.text) for c in found], [[*map(plain, of)] for of in captioned.captions])
    order = np.argsort(-figures, kind="stable").tolist()
    shown = [order[rank] for rank in ranks(len(order))]
    one = max(map(len, captioned.captions)) == 1
    rows = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(3.1 * COLUMNS, 3.5 * rows), dpi=100, layout="constrained", squeeze=False
    )
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, index in zip(axes.flat, shown, strict=False):
        written, reference = found[index].text, captioned.captions[index][0]
        right = plain(written) in map(plain, captioned.captions[index])
        show(panel, captioned.pictures[index].load())
        mark = ("✓" if right else "✗") if one else f"{figures[index]:.2f}:"
        text = fill(f"{mark} {written}", 34) + ("" if right else "\n" + fill(f"({reference})", 34))
        colour = "black" if not one else RIGHT if right else WRONG
        panel.set_title(text, fontsize=10, color=colour, loc="left")
    figures_are = "✓ right, ✗ wrong" if one else "before each caption its CIDEr-D"
    figure.suptitle(
        f"from the best to the worst of {len(found):,}, and the worst {WORST}; {figures_are}; in brackets "
        "a reference",
        fontsize=11,
    )
    save(figure, path)


def ranks(count: int) -> list[int]:
    """Some ranks of so many images: evenly spaced ones, and the last.

    >>> ranks(1000)[:3], ranks(1000)[-5:], ranks(2)
    ([0, 142, 284], [995, 996, 997, 998, 999], [0, 1])
    """
    spaced = np.linspace(0, max(0, count - 1 - WORST), min(count, IMAGES - WORST), dtype=int).tolist()
    return sorted({*spaced, *range(max(0, count - WORST), count)})


def attention_picture(path: Path, shown: Sequence[tuple[Picture, Caption]]) -> None:
    """Draw where a captioner looked, a tile for each word over the image."""
    blocks = [-(-(1 + len(caption.words)) // TILES) for _, caption in shown]
    rows = sum(blocks)
    figure, axes = plt.subplots(
        rows, TILES, figsize=(1.6 * TILES, 1.85 * rows), dpi=110, layout="constrained", squeeze=False
    )
    for panel in axes.flat:
        panel.set_axis_off()
    start = 0
    for (picture, caption), block in zip(shown, blocks, strict=True):
        panels = axes[start : start + block].flat
        image = picture.load()
        show(next(panels), image)
        for word, weights, panel in zip(caption.words, np.asarray(caption.weights), panels, strict=False):
            show(panel, image)
            draw_weights(panel, image, weights)
            panel.set_title(word, fontsize=11)
        start += block
    save(figure, path)


def show(panel: Axes, image: Image.Image) -> None:
    """Draw an image."""
    panel.imshow(np.asarray(image), interpolation="nearest" if image.width <= 64 else "antialiased")


def draw_weights(panel: Axes, image: Image.Image, weights: np.ndarray) -> None:
    """Darken an image where attention does not lie; the place with most of it is bright."""
    side = int(len(weights) ** 0.5)
    shade = 1 - weights.reshape(side, side) / weights.max()
    panel.imshow(
        np.zeros_like(shade),
        cmap="gray",
        alpha=0.8 * shade,
        extent=(-0.5, image.width - 0.5, image.height - 0.5, -0.5),
        interpolation="nearest",
    )
