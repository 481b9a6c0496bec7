"""Plots that several experiments share; colours that colour-blind readers tell apart."""

import functools
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only, on machines without a screen

import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from experiments.harness.command_line import note
from experiments.harness.run import Metrics
from jaxrnn.training import faults

SHORT = 30  # letters of a title that fits
_UNSEEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control codes, and bytes in paths
# Okabe & Ito (2008), without yellow, which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Of pictures, by their names' suffix.
FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg", ".jpg": "jpeg", ".jpeg": "jpeg", "": "png"}
MARKERS = "osD^vPX"  # for readers who see no colours at all


def learning_curve(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    baseline: tuple[str, float] | None = None,
    y_scale: Literal["linear", "log"] = "linear",
) -> None:
    """Draw named curves (x, y) into a PNG, their last values in the legend, and a baseline (name, y)."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    above = len(curves)
    for (name, (x, y)), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
        above -= 1  # curves drawn over this one, which stays visible below them by being wider
        style: dict[str, Any] = {"linewidth": 1.5 + 0.6 * above, "markersize": 3.5 + 1.4 * above}
        every = math.ceil(len(y) / 40)  # markers few enough to tell apart
        if len(y):
            style |= {"color": colour, "marker": marker, "markevery": every}
            axes.plot(x, y, label=f"{name}: {y[-1]:.4g}", **style)
    if baseline is not None:
        name, height = baseline
        axes.axhline(height, color="black", linestyle="--", label=f"{name}: {height:.4g}")
    axes.set(xlabel=x_label, ylabel=y_label, title=title, yscale=y_scale)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def training_curves(
    folder: Path, curves: Mapping[str, str], *, per_step: float, x_label: str, y_label: str, title: str
) -> None:
    """Draw figures of a run's metrics, each under its name, into ``learning_curve.png``.

    ``per_step`` is what a step adds to x.
    """
    metrics = Metrics(folder / "metrics.jsonl")
    learning_curve(
        folder / "learning_curve.png",
        {name: metrics.curve(key, per_step) for name, key in curves.items()},
        x_label=x_label,
        y_label=y_label,
        title=title,
    )


def band(
    axes: Axes, x: Any, draws: Any, *, label: str, index: int, line: str = "-", shade: float = 0.15
) -> None:
    """The median of several draws ``(draws, x)``, between the least and the largest of them."""
    every = math.ceil(len(x) / 10)
    style: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4}
    axes.plot(x, np.median(draws, axis=0), line, label=label, markevery=(every // 2, every), **style)
    axes.fill_between(x, np.min(draws, axis=0), np.max(draws, axis=0), color=COLOURS[index], alpha=shade)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its name's suffix, never seen half written, and close it.

    Its texts are drawn as they are: a ``$`` is no mathematics, characters come from whatever installed font
    has them, and a title too long for the figure loses its middle.
    """
    temporary = path.with_name(f".picture.{os.getpid()}.tmp")
    try:
        _prepare_texts(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)  # which a note has told
            _shorten_titles(figure)
            figure.savefig(temporary, format=FORMATS[path.suffix.lower()])
        faults.at("file.written", temporary)
        temporary.replace(path)
    finally:
        plt.close(figure)
        temporary.unlink(missing_ok=True)


def check_picture(path: Path) -> None:
    """Raise ValueError for a path that ``save`` could not write to, before any work is done."""
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(suffix for suffix in FORMATS if suffix)
        raise ValueError(f"a picture's name must end in one of {known}, got {path}")
    if path.exists() and not path.is_file():  # a device, say, whose place the picture would take
        raise ValueError(f"expected a file for the picture, and {path} is none")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for the picture")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"no picture can be written into the folder {path.parent}")


def _prepare_texts(figure: Figure) -> None:
    """Draw no text as mathematics but what matplotlib itself writes, and give each the fonts it needs."""
    powers = set()  # 10³ and so on, which are mathematics
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = axis.get_ticklabels(which="both")  # there from now on
        if isinstance(axis.get_major_formatter(), LogFormatter):
            powers.update(labels)
    texts = [text for text in figure.findobj(Text) if text not in powers]
    titles = {axes.title for axes in figure.axes}  # of one line each: a break is a path's
    for text in texts:
        text.set_parse_math(False)
        lines = [text.get_text()] if text in titles else text.get_text().split("\n")
        text.set_text("\n".join(map(visible, lines)))
    letters = {letter for text in texts for letter in text.get_text() if letter.isprintable()}
    missing = letters - _letters_of(font_manager.findfont(FontProperties()))
    extra = _fonts_for(frozenset(missing)) if missing else ()
    for text in texts if extra else ():
        text.set_fontfamily([*text.get_fontfamily(), *extra])


def visible(text: str) -> str:
    """A text with a sign in place of every character that draws nothing."""
    return _UNSEEN.sub("\ufffd", text)


@functools.cache  # so that a note comes once
def _fonts_for(letters: frozenset[str]) -> tuple[str, ...]:
    """Installed fonts that have the letters; a note tells of what none has."""
    fonts = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if (font.style, font.stretch) == ("normal", "normal") and font.weight in (400, "normal")
    }
    found, missing = [], set(letters)
    while missing:
        best = max(fonts, key=lambda name: (len(missing & _letters_of(fonts[name])), "Sans" in name))
        if not missing & _letters_of(fonts[best]):
            shown = "".join(sorted(missing)[:20])
            note(f"no installed font has {len(missing)} characters of the picture, drawn as boxes: {shown}")
            break
        found.append(best)
        missing -= _letters_of(fonts[best])
    return tuple(found)


@functools.cache
def _letters_of(file: str) -> frozenset[str]:
    """The letters that a font draws."""
    font = FT2Font(file)
    if "Last Resort" in font.family_name or not font.scalable:  # the first draws boxes
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))


def _shorten_titles(figure: Figure) -> None:
    """Take so much from the middle of every title that it stays within the figure."""
    titles = [axes.title for axes in figure.axes if len(axes.title.get_text()) > SHORT]
    if titles:
        figure.draw_without_rendering()  # to know where they are
    for title in titles:
        while len(text := title.get_text()) > SHORT:
            box = title.get_window_extent()
            if box.x0 >= 0 and box.x1 <= figure.bbox.width:
                break
            half = (len(text) - 3) // 2
            title.set_text(f"{text[:half]}…{text[-half:]}")
