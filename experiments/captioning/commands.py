"""Trained captioners at work: captions for images, and figures on images that have captions."""

from pathlib import Path

import tyro

from experiments.captioning.data import (
    inputs_of,
    load_parts,
    read_part,
)
from experiments.captioning.pictures import DRAWN, attention_picture
from experiments.captioning.training import Train, load_run
from experiments.captioning.writing import described, drawn, judge, most_probable, write_captions
from experiments.data.captions import Captioned, flickr8k_test, read_captions
from experiments.data.images import picture_of_file
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.plots import check_picture
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, LengthPenalty, Seed, settings


@settings
class Caption:
    """Print path<TAB>caption for every image, in the order given."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """PNG or JPEG files; of an animation the first frame is read."""
    run: Path
    """Folder of a trained run."""
    beam: Count = 5
    """Hypotheses followed at a time; 1 takes the most probable word at every step."""
    length_penalty: LengthPenalty | None = None
    """Above 0, longer captions gain (alpha of Wu et al. 2016); None: as in training."""
    n_best: Count = 1
    """Captions of each image, best first; above 1, lines are path<TAB>score<TAB>caption."""
    sample: bool = False
    """Draw n-best captions from the model instead of searching for the most probable ones."""
    without_replacement: bool = False
    """With --sample: no caption twice."""
    seed: Seed = 0
    """Seed of the draws."""
    picture: Path | None = None
    """Also draw where the model looked at the first three images, a tile for each word, into this .png,
    .pdf, .svg or .jpg."""


@settings
class Evaluate:
    """Caption images that have captions, and measure the result."""

    run: Path
    """Folder of a trained run; evaluation.json is written there."""
    split: str | None = None
    """A part of the data that the run was trained on: valid, test, or of flickr8k dev."""
    data: Path | None = None
    """Instead of --split: a file of path<TAB>caption lines."""
    beam: Count | None = None
    """Hypotheses followed at a time; None: as in training."""
    length_penalty: LengthPenalty | None = None
    """Above 0, longer captions gain (alpha of Wu et al. 2016); None: as in training."""


def caption_command(config: Caption) -> None:
    """Print the captions."""
    check_caption(config)
    writer, trained, _ = load_run(config.run)
    if config.picture is not None and writer.model.captioner.attention is None:
        raise ValueError("the model has no attention to draw a picture of")
    pictures = [picture_of_file(path) for path in config.images]
    inputs = inputs_of(pictures, trained, keep=False)
    if inputs.errors:
        others = f"; {len(inputs.errors):,} of {len(pictures):,} images cannot be read"
        raise ValueError(inputs.errors[0] + others * (len(pictures) > 1))
    penalty = trained.length_penalty if config.length_penalty is None else config.length_penalty
    if config.sample:
        found = drawn(
            writer,
            inputs.values,
            count=config.n_best,
            seed=config.seed,
            different=config.without_replacement,
        )
    else:
        with counted(f"captioning {len(pictures):,} images", stderr=True) as on_batch:
            found = most_probable(
                writer, inputs.values, beam=config.beam, length_penalty=penalty, on_batch=on_batch
            )
    for picture, captions in zip(pictures, found, strict=True):
        for written in captions[: config.n_best]:
            score = f"{written.score:z.4f}\t" if config.n_best > 1 else ""
            print(f"{picture.name}\t{score}{written.text}")
    if config.picture is not None:
        with part(str(config.picture)):
            best = [captions[0] for captions in found]
            attention_picture(config.picture, list(zip(pictures, best, strict=True))[:DRAWN])


def check_caption(config: Caption) -> None:
    """Raise ValueError for options that do not go together, before any work is done."""
    if not config.images:
        raise ValueError("expected one or more images to caption, got none")
    if not config.sample and config.n_best > config.beam:
        raise ValueError(f"--n-best must lie between 1 and --beam {config.beam}, got {config.n_best}")
    if config.without_replacement and not config.sample:
        raise ValueError("--without-replacement is for drawn captions; give --sample too")
    if config.picture is not None:
        check_picture(config.picture)


def evaluate_command(config: Evaluate) -> None:
    """Print the figures, and write them beside those of the run."""
    if (config.split is None) == (config.data is None):
        raise ValueError("give either --split NAME, a part of the run's own data, or --data FILE")
    writer, trained, training = load_run(config.run)
    measured = read_part(captioned_of(config, trained), trained, note)
    beam = trained.beam if config.beam is None else config.beam
    penalty = trained.length_penalty if config.length_penalty is None else config.length_penalty
    with counted(f"captioning {len(measured.inputs):,} images") as on_batch:
        figures, best = judge(
            writer, measured, training, beam=beam, length_penalty=penalty, on_batch=on_batch
        )
    for how, of in figures.items():
        print(f"{config.split or config.data}, {how}: {described(of)}")
    with part("evaluation.json"):
        of_what = {"split": config.split, "data": None if config.data is None else str(config.data)}
        runs.write_json(config.run / "evaluation.json", {**of_what, "length_penalty": penalty, **figures})
    with part("evaluation_captions.tsv"):
        write_captions(config.run / "evaluation_captions.tsv", measured, best)


def captioned_of(config: Evaluate, trained: Train) -> Captioned:
    """The images that are to be captioned, with their captions.

    Raises:
      ValueError: for a split that the data do not have, or a file that cannot be read.
    """
    if config.data is not None:
        return read_captions(config.data, note, trained.encoding)
    if (trained.data, config.split) == ("flickr8k", "test"):
        return flickr8k_test(note)
    parts = load_parts(trained, note)
    named = {"valid": parts.valid, parts.test_name: parts.test}
    if config.split not in named:
        known = ", ".join([*named, *(["test"] if trained.data == "flickr8k" else [])])
        raise ValueError(f"{trained.data} has the splits {known}, got {config.split!r}")
    return named[config.split]
