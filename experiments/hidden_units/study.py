"""From trained models and a text to the units that follow its labels, as a page, a table and a picture."""

import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from experiments.char_lm.training import Train, load_run, train_command
from experiments.data.corpora import read_text
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, check_zero_or_more, settings
from experiments.harness.study import print_table
from experiments.hidden_units.attribution import Attribution, attribute
from experiments.hidden_units.findings import Found, best_units, chance, hold_units, score_units, table
from experiments.hidden_units.labels import of_file
from experiments.hidden_units.page import page, run_data
from experiments.hidden_units.pictures import draw_passages, draw_reach
from experiments.hidden_units.recording import Recording, most_steps, record_text
from experiments.hidden_units.sequences import Subject, subjects_of
from experiments.hidden_units.texts import Reading, held_out, reading, sampled

DEMO_STEPS = 1200  # of training, about two minutes on two cores
SHOWN = {
    "area": "area",
    "r": "r_held_out",
    "p": "p",
    "inside": "loss_inside",
    "outside": "loss_outside",
}
BY_CHANCE = "{pairs:,} signals with labels: {found:,} have p < {level}, by chance {expected:.0f} would"


@settings
class Explore:
    """Find the hidden units of a trained model that follow a label of what it reads."""

    run: Path | None = None
    """Folder of a run of char_lm, tagging, classification, translation or forecasting."""
    beside: tuple[Path, ...] = ()
    """Folders of others, which the page shows beside it; models of characters read the same text."""
    demo: bool = False
    """Train a model of the standard library for two minutes first, and open the page."""
    out: Path | None = None
    """Folder of the results; by default out/hidden_units/<date-time>."""
    text: Path | None = None
    """UTF-8 text that a model of characters reads. None, and for all others: what the run has not trained
    on."""
    label: tuple[str, ...] = ()
    """Labels of your own as NAME=REGEX: the characters of a match are positive."""
    labels: Path | None = None
    """CSV file of labels of your own: a column each, a row for every character of --text."""
    most: Count = 200_000
    """Characters, or steps, that are read."""
    held: Count = 10
    """Units of a label, the best ones, that are held at their mean."""
    points: Annotated[int, check_zero_or_more] = 0
    """What moved a logit: 0 takes the gradient, a number integrates it over so many points (integrated
    gradients), which add up to the difference from inputs that are all zero."""


class Explored(NamedTuple):
    """What was found of a run, or a part of its model."""

    name: str
    recording: Recording
    text: Reading
    found: Found
    attribution: Attribution | None = None  # of a model of characters


def explore_command(config: Explore) -> None:
    """Record, score, hold, and write what was found."""
    if config.demo == (config.run is not None):
        raise ValueError("expected --run DIR, a trained model, or --demo, which trains one")
    if config.labels is not None and config.text is None:
        raise ValueError("--labels has a row for every character of --text FILE, which is missing")
    patterns = dict(map(_pattern, config.label))
    out = config.out or runs.default_directory("hidden_units")
    runs.check_out(out, resume=None)
    folders = [out / "char_lm" if config.run is None else config.run, *config.beside]
    if config.demo:
        runs.create(out, runs.config_record(config), fill=lambda folder: None)
        train_command(Train(out=folders[0], steps=DEMO_STEPS))
    left = [of for folder in folders for of in prepared(config, folder, folders[0], patterns)]
    if not config.demo:
        runs.create(out, runs.config_record(config), fill=lambda folder: None)
    leave(out, config, [explored() for explored in left])
    if config.demo:
        webbrowser.open((out / "units.html").resolve().as_uri())


def prepared(
    config: Explore, folder: Path, first: Path, patterns: dict[str, str]
) -> list[Callable[[], Explored]]:
    """What is left to do with a run once everything is loaded and fits: whatever fails, fails here.

    All models of characters read the text of the ``first`` run.
    """
    if not runs.holds(folder, Train):
        if config.text is not None:
            raise ValueError(f"--text is read by models of characters; {folder} holds another one")
        return [partial(judged, subject) for subject in subjects_of(folder, patterns, config.most)]
    model, params, vocabulary = load_run(folder)
    own = None if config.labels is None else of_file(config.labels)
    most = min(config.most, most_steps(model))
    if most < config.most:
        note(f"at most {most:,} characters are read: what all units of {folder} do on more is too much")
    documents = documents_of(config.text, first if runs.holds(first, Train) else folder, most)
    text = reading(documents, vocabulary, patterns, own=own, most=most)
    return [partial(explore, config, folder.name, model, params, text)]


def _pattern(label: str) -> tuple[str, str]:
    name, equals, pattern = label.partition("=")
    if not (name and equals and pattern):
        raise ValueError(f"--label: expected NAME=REGEX, got {label!r}")
    return name, pattern


def documents_of(path: Path | None, folder: Path, most: int) -> list[str]:
    """The text that is read, or text of the corpus that a run has not trained on."""
    if path is None:
        return held_out(runs.load_settings(folder, Train), most)
    text = read_text(path)
    pieces = sampled(text, most)
    if len(pieces) > 1:
        read = f"{sum(map(len, pieces)):,} of {len(text):,} characters"
        note(f"{read} are read, {len(pieces)} pieces spread over the text; --most N reads more")
    return pieces


def judged(subject: Subject) -> Explored:
    """What the units of a model follow that is no model of characters."""
    name, text, recording = subject
    with counted(f"{name}: scoring {len(recording.signals):,} signals by {len(text.labels)} labels"):
        return Explored(name, recording, text, score_units(recording, text))


def explore(config: Explore, name: str, model: Any, params: Any, text: Reading) -> Explored:
    """A model's recording of a text, what its units follow and are worth, and how far it looks back."""
    if strangers := int(np.sum(text.ids < 0)):
        note(f"{strangers:,} of {len(text.ids):,} characters are none that the model in {name} knows")
    with counted(f"{name}: reading {len(text.ids):,} characters") as on_chunk:
        recording = record_text(model, params, text.ids, on_chunk)
    found = judged(Subject(name, text, recording)).found
    with counted(f"{name}: holding units at their mean") as on_chunk:
        found = hold_units(model, params, recording, text, found, config.held, on_chunk)
    with counted(f"{name}: what moved its logits"):
        attribution = attribute(model, params, text.ids, points=config.points)
    return Explored(name, recording, text, found, attribution)


def leave(out: Path, config: Explore, explored: list[Explored]) -> None:
    """The page of all runs; of the first a table, a picture, and the best unit of every label."""
    _, recording, text, found, _ = explored[0]
    names = list(text.labels)
    best, by_chance = best_units(recording, names, found), chance(found.p)
    runs.write_text(out / "units.csv", table(recording, names, found))
    figures: dict[str, Any] = {"steps": len(text.ids), "labels": best, "chance": by_chance}
    if np.isfinite(recording.nats).any():
        figures["nats_per_char"] = float(np.nanmean(recording.nats))
    attributions = {of.name: of.attribution for of in explored if of.attribution is not None}
    reach = {name: of.reach for name, of in attributions.items() if len(of.starts)}
    figures["reach"] = {name: shares.tolist() for name, shares in reach.items()}
    about = {"settings": runs.config_record(config), **runs.environment()}
    runs.write_json(out / "summary.json", figures | about)
    print_table(
        {f"{n}: {of['signal']} {of['unit']}, layer {of['layer']}": of for n, of in best.items()}, SHOWN
    )
    print(BY_CHANCE.format(**by_chance))
    with part("units.html"):
        runs.write_text(out / "units.html", page([run_data(*of) for of in explored]))
    with part("units.png"):
        draw_passages(out / "units.png", recording, text, best)
    if reach:
        with part("reach.png"):
            draw_reach(out / "reach.png", reach)
    print(f"all in {out}; open {out / 'units.html'} in a browser")
