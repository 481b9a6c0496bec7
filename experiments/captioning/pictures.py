"""Plots of captions beside their images, and of where a captioner looked."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from experiments.captioning.metrics import plain
from experiments.captioning.writing import Caption
from experiments.data.captions import Captioned
from experiments.data.images import Picture
from experiments.harness.plots import COLOURS, save

IMAGES, COLUMNS = 12, 4  # in a plot of captions
DRAWN = 3  # images whose attention is drawn
TILES = 8  # words side by side in a plot of attention
RIGHT, WRONG = COLOURS[2], COLOURS[1]


def shown_pictures(count: int) -> list[int]:
    """Some of so many images, evenly spaced: the same ones in every run.

    >>> shown_pictures(24)[:3], shown_pictures(2)
    ([0, 2, 4], [0, 1])
    """
    return list(range(0, count, max(1, count // IMAGES)))[:IMAGES]


def captions_picture(path: Path, shown: Sequence[tuple[Captioned, int, Caption]]) -> None:
    """Draw images with their captions: right ones, which equal a reference, and others beside one."""
    rows = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(3.1 * COLUMNS, 3.5 * rows), dpi=100, layout="constrained", squeeze=False
    )
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, (captioned, index, caption) in zip(axes.flat, shown, strict=False):
        references = captioned.captions[index]
        right = plain(caption.text) in map(plain, references)
        show(panel, captioned.pictures[index].load())
        written = ("✓ " if right else "✗ ") + caption.text
        text = fill(written, 34) + ("" if right else "\n" + fill(f"({references[0]})", 34))
        panel.set_title(text, fontsize=10, color=RIGHT if right else WRONG, loc="left")
    save(figure, path)


def attention_picture(path: Path, shown: Sequence[tuple[Picture, Caption]]) -> None:
    """Draw where a captioner looked, a tile for each word over the image."""
    blocks = [-(-len(caption.words) // TILES) for _, caption in shown]
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
        for word, weights, panel in zip(
            caption.words[:-1], np.asarray(caption.weights), panels, strict=False
        ):
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
