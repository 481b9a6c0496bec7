"""One HTML file, which needs no network, in which a reader explores what was found."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.hidden_units.attribution import BACK, OUTPUTS, Attribution
from experiments.hidden_units.findings import Found
from experiments.hidden_units.recording import LEVELS, Recording
from experiments.hidden_units.texts import Reading

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("units.js", "about.js", "search.js")
MOST_BYTES = 22_000_000  # of values, of which base64 makes a third more
LOW, HIGH = 0.1, 0.9  # beyond which a gate is as good as closed or open


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The file: markup, style and program as they lie beside this module, and the data of some runs."""
    parts = {
        "/*CSS*/": (FOLDER / "units.css").read_text(encoding="utf-8"),
        "/*JS*/": "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
        # Within a script element "<" could end it; in JSON it has another spelling.
        "/*DATA*/": json.dumps({"runs": runs}, allow_nan=False).replace("<", "\\u003c"),
    }
    html = (FOLDER / "units.html").read_text(encoding="utf-8")
    for place, content in parts.items():
        before, after = html.split(place)
        html = before + content + after
    return html


def run_data(
    name: str,
    recording: Recording,
    text: Reading,
    found: Found,
    attribution: Attribution | None = None,
) -> dict[str, Any]:
    """What the page needs of a run: h and c of every unit at as many steps as fit, labels and scores.

    Args:
      name: of the run.
      recording: of its text.
      text: the text.
      found: what its units follow.
      attribution: what moved its logits, of a model of characters.
    """
    kept = [column for column, signal in enumerate(recording.signals) if signal.is_state]
    steps = min(len(text.text), MOST_BYTES // len(kept))
    half = len(text.text) // 2  # figures are of the second
    begin = 0 if steps == len(text.text) else min(half, len(text.text) - steps)
    part = slice(begin, begin + steps)
    nats = recording.nats[part]
    shown = {"area": found.held_out.auc, "r": found.held_out.r, "p": found.p}
    shown |= {"inside": found.inside, "outside": found.outside}
    return {
        "name": name,
        "text": text.text[part],  # JSON makes a list of a tuple
        "strange": np.flatnonzero(text.ids[part] < 0).tolist(),
        "nats": None if np.isnan(nats).all() else encoded(np.clip(np.nan_to_num(nats) * 20, 0, LEVELS)),
        "signals": [list(recording.signals[column]) for column in kept],
        "low": recording.low[kept].astype(float).round(6).tolist(),
        "high": recording.high[kept].astype(float).round(6).tolist(),
        "values": encoded(recording.values[part, kept].T),
        "labels": [_label(name, values, part) for name, values in text.labels.items()],
        "scores": {
            label: {name: _figures(values[kept, number]) for name, values in shown.items()}
            for number, label in enumerate(text.labels)
        },
        "gates": _saturation(recording),
        "moved": None if attribution is None else _moved(attribution, part),
    }


def encoded(values: np.ndarray) -> str:
    """Bytes as base64."""
    return base64.b64encode(np.ascontiguousarray(values.astype(np.uint8)).tobytes()).decode("ascii")


def _label(name: str, values: np.ndarray, part: slice) -> dict[str, Any]:
    low, high, kept = float(values.min()), float(values.max()), values[part]
    kind = "truth" if values.dtype == bool else "number"
    if kind == "number":
        kept = (kept - low) * (LEVELS / max(high - low, 1e-9))
    return {"name": name, "kind": kind, "low": low, "high": high, "values": encoded(kept)}


def _moved(attribution: Attribution, kept: slice) -> dict[str, Any]:
    """Passages that the page holds whole, each output's largest value as 127 from the middle, 128."""
    starts = attribution.starts - kept.start
    held = (starts >= BACK) & (starts + OUTPUTS <= kept.stop - kept.start)
    moved = attribution.moved[held]
    largest = np.maximum(np.abs(moved).max(axis=-1, keepdims=True), 1e-30)
    values = encoded(np.round(moved / largest * 127) + 128)
    return {"starts": starts[held].tolist(), "outputs": OUTPUTS, "back": BACK, "values": values}


def _figures(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]


def _saturation(recording: Recording) -> list[dict[str, Any]]:
    """Of the gates of every layer, how often they are as good as closed, and open."""
    columns: dict[tuple[int, str], list[int]] = {}
    for column, signal in enumerate(recording.signals):
        if not signal.is_state:
            columns.setdefault((signal.layer, signal.name), []).append(column)
    found = []
    for (layer, name), of in columns.items():
        levels = (np.array([LOW, HIGH])[:, None] - recording.low[of]) / (recording.high - recording.low)[of]
        below, above = levels[:, None] * LEVELS
        values = recording.values[:, of]
        parts = {"below": float(np.mean(values < below)), "above": float(np.mean(values > above))}
        found.append({"layer": layer, "name": name, **parts})
    return found
