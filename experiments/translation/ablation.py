"""What does each step of the road from RNN to attention bring? One table, same budget, several seeds.

    python -m experiments.translation.ablation

trains five translation models of growing means with three seeds each, English to French, on 20,000 pairs
of Tatoeba (downloaded once), in an hour on two CPU cores. Interrupted, it goes on with
``--out DIR --resume``: what is done is not done again.

- plain: an encoder, and a decoder that starts from its last state (Cho et al. 2014; Sutskever et al. 2014);
- reversed: the source is read from its end, which Sutskever et al. (2014, section 3.3) found to help;
- bidirectional: it is read in both directions;
- attention: the decoder looks back at every source token (Bahdanau et al. 2015);
- input feeding: it is told where it has looked (Luong et al. 2015, section 3.3).

For each, BLEU by the length of the source sentence (the figure of Cho et al. 2014, and figure 2 of Bahdanau
et al. 2015); and for the last, BLEU by beam width.
"""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.data.pairs import Pairs, lines_of
from experiments.harness import run as runs
from experiments.harness.command_line import Commands, main
from experiments.harness.plots import band, save
from experiments.harness.reports import part
from experiments.harness.settings import Count, RunSettings, Seed, settings
from experiments.harness.study import begin_study, member
from experiments.translation.data import load_data
from experiments.translation.training import Train, check_settings, load_run, train_command
from experiments.translation.translating import measure, translate

ROAD: dict[str, dict[str, Any]] = {
    "plain": {"bidirectional": False, "attention": "none"},
    "reversed": {"bidirectional": False, "attention": "none", "reverse": True},
    "bidirectional": {"bidirectional": True, "attention": "none"},
    "attention": {"bidirectional": True, "attention": "additive", "input_feeding": False},
    "input feeding": {"bidirectional": True, "attention": "additive", "input_feeding": True},
}
LENGTHS = (1, 4, 6, 8, 10, 12, 100)  # bounds of the groups of source sentences, in words
BEAMS = (1, 2, 4, 8, 12)


@settings
class Ablation(RunSettings):
    """Train every model of the road, and compare them."""

    data: str = "tatoeba_en_fr"
    """As of experiments.translation: a named set, two files, or one."""
    languages: str | None = None
    """SOURCE-TARGET of a named set; None: its own."""
    pairs: Count = 20_000
    """Training pairs, always the same ones."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """A run of each model for each."""
    steps: Count = 1500
    """Training steps of each run."""
    hidden_size: Count = 256
    """Hidden units of each direction."""
    embedding_size: Count = 128
    """Size of the token embeddings, and of what the output reads where there is attention."""
    vocabulary_size: Count = 2000
    """Most tokens of each side's byte-pair encoding."""
    batch_size: Count = 64
    """Pairs of a step."""


def ablate(config: Ablation) -> None:
    """All runs, then the comparison."""
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"seeds must be one or more, each once, got {config.seeds}")
    check_settings(settings_of(config, "plain", seed=0))
    with tempfile.TemporaryDirectory() as folder:
        readable = dataclasses.replace(config, data=readable_again(config.data, Path(folder)))
        # What is wrong with it must show before a folder is made.
        load_data(settings_of(readable, "plain", seed=0))
        begin_study(config, itertools.starmap(folder_name, itertools.product(ROAD, config.seeds)))
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in ROAD}
        for seed in config.seeds:
            for name in ROAD:
                results[name].append(one_run(readable, name, seed))
    finish(config, config.folder, results)


def readable_again(data: str, folder: Path) -> str:
    """The data, of which every run reads all; what comes from a pipe is kept in a folder."""
    files = data.split(",")
    for number, file in enumerate(files):
        if Path(file).is_fifo():
            kept = folder / str(number)
            kept.write_bytes(Path(file).read_bytes())
            files[number] = str(kept)
    return ",".join(files)


def settings_of(config: Ablation, name: str, seed: int) -> Train:
    """The settings of one run."""
    own = {"seeds", "out", "resume"}
    shared = {key: value for key, value in dataclasses.asdict(config).items() if key not in own}
    return Train(**shared, **ROAD[name], seed=seed)


def folder_name(name: str, seed: int) -> str:
    """Where a run lies in the study's folder."""
    return f"{name.replace(' ', '_')}_{seed}"


def one_run(config: Ablation, name: str, seed: int) -> dict[str, Any]:
    """Train and measure one model, unless that is done already: its figures."""
    folder = config.folder / folder_name(name, seed)
    figures = read(folder / "ablation.json")
    if figures.get("steps") == config.steps:
        return figures
    print(f"\n{name}, seed {seed}", flush=True)
    if read(folder / "summary.json").get("steps") != config.steps:
        train_command(member(settings_of(config, name, seed), folder), whole=config.folder)
    summary = read(folder / "summary.json")
    kept = ("test_bleu", "test_chrf", "test_exact_match", "test_perplexity", "parameters", "train_seconds")
    figures = {key: summary[key] for key in (*kept, "steps")} | {"bleu_by_length": bleu_by_length(folder)}
    if name == list(ROAD)[-1]:
        figures["bleu_by_beam"] = bleu_by_beam(folder)
    runs.write_json(folder / "ablation.json", figures)
    return figures


def read(path: Path) -> dict[str, Any]:
    """The figures in a file; none if it is not there yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def texts(folder: Path) -> tuple[Pairs, list[str]]:
    """A run's test pairs, and its translations of them."""
    names = ("test_source", "test_target", "translations")
    source, target, found = (lines_of((folder / f"{name}.txt").read_text("utf-8")) for name in names)
    return Pairs(source, target), found


def bleu_by_length(folder: Path) -> list[float | None]:
    """BLEU of the sentences whose source has LENGTHS[i] to LENGTHS[i + 1] − 1 words."""
    pairs, found = texts(folder)
    return [
        bleu([found[i] for i in members], [pairs.target[i] for i in members])
        for members in groups(pairs.source)
    ]


def groups(sources: Sequence[str]) -> list[list[int]]:
    """The sentences in each group of lengths."""
    group = np.digitize([len(line.split()) for line in sources], LENGTHS[1:-1])
    return [np.flatnonzero(group == g).tolist() for g in range(len(LENGTHS) - 1)]


def bleu_by_beam(folder: Path) -> list[float | None]:
    """BLEU of the test translations by beam width."""
    translator, settings = load_run(folder)
    pairs, _ = texts(folder)
    scores = []
    for beam in BEAMS:
        found = translate(translator, pairs.source, beam=beam, length_penalty=settings.length_penalty)
        scores.append(bleu([hypotheses[0].text for hypotheses in found], pairs.target))
    return scores


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float | None:
    """BLEU of some sentences; None for none."""
    if not hypotheses:
        return None
    return measure(hypotheses, references, lowercase=False)["bleu"]


def finish(config: Ablation, out: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """The table, the summary, and the figures."""
    table = {name: spread(of) for name, of in results.items()}
    head = ("model", "BLEU", "chrF", "exact %", "perplexity", "parameters", "seconds")
    print("\n{:<14} {:>20} {:>18} {:>18} {:>18} {:>10} {:>7}".format(*head))
    for name, of in table.items():
        percent = [100 * value for value in of["test_exact_match"]]
        columns = (of["test_bleu"], of["test_chrf"], percent, of["test_perplexity"])
        shown = ["{:.2f} ({:.2f}–{:.2f})".format(*column) for column in columns]
        print(
            f"{name:<14} {shown[0]:>20} {shown[1]:>18} {shown[2]:>18} {shown[3]:>18} "
            f"{of['parameters'][0]:>10,.0f} {of['train_seconds'][0]:>7.0f}"
        )
    print(f"median (least–largest) of {len(config.seeds)} seeds; all in {out}")
    pairs, _ = texts(out / folder_name("plain", config.seeds[0]))
    sentences = [len(members) for members in groups(pairs.source)]
    summary = {
        "median_least_largest": table,
        "runs": results,
        "seeds": config.seeds,
        "lengths": LENGTHS,
        "sentences_by_length": sentences,
        "beams": BEAMS,
        "settings": runs.config_record(config),
        **runs.environment("tokenizers", "sacrebleu", "grain"),
    }
    runs.write_json(out / "summary.json", summary)
    with part("bleu_by_length.png"):
        draw_by_length(out, results, sentences)
    with part("bleu_by_beam.png"):
        draw_by_beam(out, results)


def spread(of: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Median, least and largest of every single figure."""
    numbers = [key for key, value in of[0].items() if not isinstance(value, list)]
    return {
        key: [float(f([run[key] for run in of])) for f in (np.median, np.min, np.max)] for key in numbers
    }


def draw_by_length(out: Path, results: dict[str, list[dict[str, Any]]], sentences: list[int]) -> None:
    """BLEU against the length of the source, a line a model."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=130, layout="constrained")
    places = np.arange(len(LENGTHS) - 1)
    for index, (name, of) in enumerate(results.items()):
        scores = np.array([run["bleu_by_length"] for run in of], dtype=float)  # None becomes NaN
        band(axes, places, scores, label=name, index=index)
    last = len(LENGTHS) - 2
    names = [
        (f"{a} or more" if i == last else f"{a}–{b - 1}") + f"\n({sentences[i]:,})"
        for i, (a, b) in enumerate(itertools.pairwise(LENGTHS))
    ]
    axes.set_xticks(places, names)
    axes.set(
        xlabel="words of the source sentence (sentences of the test)",
        ylabel="BLEU",
        title="Test BLEU by source length",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, out / "bleu_by_length.png")


def draw_by_beam(out: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """BLEU of the last model against the beam's width."""
    name, of = list(results.items())[-1]
    figure, axes = plt.subplots(figsize=(6, 3.8), dpi=130, layout="constrained")
    band(axes, BEAMS, [run["bleu_by_beam"] for run in of], label=name, index=0)
    axes.set_xticks(BEAMS)
    axes.set(xlabel="beam width", ylabel="BLEU", title=f"Test BLEU by beam width ({name})")
    axes.grid(alpha=0.3)
    save(figure, out / "bleu_by_beam.png")


COMMANDS: Commands = {"train": (Ablation, ablate)}

if __name__ == "__main__":
    main(__doc__ or "", COMMANDS, split_cores=False)
