"""What does each way to tell a decoder of an image bring? One budget, several seeds."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.captioning.data import Data, load_data
from experiments.captioning.model import build_model
from experiments.captioning.results import captioned, finish
from experiments.captioning.training import Train, build_task
from experiments.harness import run as runs
from experiments.harness.fit import fit
from experiments.harness.plots import COLOURS, save
from experiments.harness.reports import part
from experiments.harness.study import print_table, run_members

WAYS: dict[str, dict[str, Any]] = {
    "first step": {"entry": "carry", "attention": "none"},
    "as x_0": {"entry": "input", "attention": "none"},
    "every step": {"entry": "every", "attention": "none"},
    "attention": {"entry": "carry", "attention": "additive"},
}
SEEDS = 3


def train_command(config: Train) -> None:
    """Train one captioner, or all of the study."""
    for way in WAYS.values() if config.compare else ({},):  # what does not go together, before any work
        build_model(dataclasses.replace(config, **way), vocabulary_size=5)
    data = load_data(config)
    parts = ((data.train, "train"), (data.valid, "valid"), (data.test, data.test_name))
    sizes = ", ".join(f"{len(of.inputs):,} {name}" for of, name in parts)
    words = data.tokenizer.get_vocab_size()
    print(f"{config.data}: {sizes} images, {words:,} tokens; run in {config.folder}", flush=True)
    if not config.compare:
        train(config, data, config.folder)
        return
    variants = {
        folder_name(name, seed): {**way, "seed": seed, "compare": False}
        for seed in range(config.seed, config.seed + SEEDS)
        for name, way in WAYS.items()
    }
    compare(config, data, run_members(config, variants, lambda own: train(own, data, config.folder)))


def folder_name(way: str, seed: int) -> str:
    """Where a run lies in the study's folder."""
    return f"{way.replace(' ', '_')}_{seed}"


def train(config: Train, data: Data, whole: Path) -> dict[str, Any]:
    """A run in ``config.folder``, and its figures; ``whole`` is the study that it is a part of."""
    model = build_model(config, data.tokenizer.get_vocab_size())
    task, decode = build_task(config, data, model), functools.partial(captioned, config, data, model)
    return finish(fit(config, task, whole=whole, decode=decode), config, data, model)


def compare(config: Train, data: Data, results: dict[str, dict[str, Any]]) -> None:
    """The table of all ways, the summary, and a plot of every run.

    It is of the most probable word at every step: a beam prefers the shortest captions of a model that is
    not sure of any.

    Raises:
      ValueError: where a run's captions could not be measured.
    """
    how = f"{data.test_name}_greedy"
    if missing := [name for name, of in results.items() if how not in of]:
        raise ValueError(f"no figures of {', '.join(missing)}; go on with --out {config.folder} --resume")
    figure = "exact_match" if config.data == "scenes" else "bleu_4"
    shown = {"exact_match": "exact match"} | {f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)}
    shown |= {"cider_d": "CIDEr-D"}
    seeds = range(config.seed, config.seed + SEEDS)
    runs_of = {name: [results[folder_name(name, seed)] for seed in seeds] for name in WAYS}
    values = {
        name: {key: [of[how][key] for of in found] for key in shown} for name, found in runs_of.items()
    }
    table = {
        name: {key: float(np.mean(of)) for key, of in figures.items()}
        | {"spread": max(figures[figure]) - min(figures[figure])}
        | {key: runs_of[name][0][key] for key in ("parameters", "train_seconds")}
        for name, figures in values.items()
    }
    print(
        f"\nmeans of {SEEDS} seeds, most probable word at every step; spread: of {shown[figure]} between "
        "seeds"
    )
    headers = {label: key for key, label in shown.items()} | {"spread": "spread"}
    print_table(table, {**headers, "parameters": "parameters", "seconds": "train_seconds"})
    print(f"all in {config.folder}")
    summary = {"means": table, "models": results, "settings": runs.config_record(config)}
    summary |= runs.environment("tokenizers", "sacrebleu")
    runs.write_json(config.folder / "summary.json", summary)
    with part("comparison.png"):
        chosen = {name: of[figure] for name, of in values.items()}
        draw(config.folder / "comparison.png", chosen, f"{shown[figure]}, {data.test_name} images")


def draw(path: Path, values: dict[str, list[float]], y_label: str) -> None:
    """A dot for every run, and a line for the mean of each way."""
    plot, axes = plt.subplots(figsize=(6.4, 4), dpi=130, layout="constrained")
    for place, (colour, found) in enumerate(zip(COLOURS, values.values(), strict=False)):
        axes.plot([place] * len(found), found, "o", color=colour)
        axes.hlines(np.mean(found), place - 0.3, place + 0.3, color=colour)
    axes.set_xticks(range(len(values)), list(values))
    axes.set(xlabel="how the image enters", ylabel=y_label, title="a dot a seed")
    axes.grid(axis="y", alpha=0.3)
    save(plot, path)
