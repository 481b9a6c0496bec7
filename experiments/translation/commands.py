"""Trained translation models at work: translate, score, evaluate; one alone, or several as an ensemble."""

from pathlib import Path
from typing import Any

from experiments.data.corpora import read_text
from experiments.data.pairs import Pairs, clean, lines_of, normalized, read_aligned
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.plots import check_picture
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.settings import Count, LengthPenalty, settings
from experiments.translation.pictures import attention_picture
from experiments.translation.training import Train, load_run
from experiments.translation.translating import (
    Translator,
    described,
    evaluate,
    note_unknown,
    score,
    translate,
)


@settings
class Models:
    """Which trained models."""

    run: Path | None = None
    """Folder of a run."""
    ensemble: tuple[Path, ...] = ()
    """Instead of --run: runs with the same vocabularies, whose predictions are averaged."""


@settings
class Translate(Models):
    """Translate sentences, one a line."""

    source: Path | None = None
    """UTF-8 file; None reads standard input."""
    beam: Count = 5
    """Hypotheses followed at a time; 1 takes the most probable token at every step."""
    length_penalty: LengthPenalty = 1.0
    """Above 0, longer translations gain (alpha of Wu et al. 2016)."""
    n_best: Count = 1
    """Translations of each sentence, best first, each after the line's number and its score; 1 prints the
    best alone."""
    picture: Path | None = None
    """Also draw where the model looked, for the first few sentences, into this .png, .pdf, .svg or .jpg."""


@settings
class Score(Models):
    """Print the log-probability in nats of each target given its source, one a line, as to rescore the
    translations of another system with (Cho et al. 2014).
    """

    source: Path
    """UTF-8 file of source sentences."""
    target: Path
    """UTF-8 file of their translations."""


@settings
class Evaluate(Models):
    """Translate a source file and measure the result, which also goes into the run's evaluation.json."""

    source: Path
    """UTF-8 file of source sentences."""
    target: Path
    """UTF-8 file of their translations."""
    beam: Count | None = None
    """Hypotheses followed at a time; None: as in training."""
    length_penalty: LengthPenalty | None = None
    """Above 0, longer translations gain (alpha of Wu et al. 2016); None: as in training."""


def load_models(config: Models) -> tuple[Translator, Train]:
    """One model or an ensemble, and the settings of the first."""
    directories = [*config.ensemble, *([] if config.run is None else [config.run])]
    if not directories or (config.ensemble and config.run):
        raise ValueError("give either --run DIR or --ensemble DIR DIR ...")
    loaded = [load_run(directory) for directory in directories]
    first, settings = loaded[0]
    for directory, (other, _) in zip(directories, loaded, strict=True):
        if not other.vocabularies.same_as(first.vocabularies):
            raise ValueError(f"{directory} has other vocabularies than {directories[0]}")
    return first._replace(models=tuple(t.models[0] for t, _ in loaded)), settings


def translate_command(config: Translate) -> None:
    """Print a translation for each line; a blank line for a blank one."""
    if not 1 <= config.n_best <= config.beam:
        raise ValueError(f"--n-best must lie between 1 and --beam {config.beam}, got {config.n_best}")
    if config.picture is not None:
        check_picture(config.picture)
    translator, _ = load_models(config)
    if config.picture is not None and not any(model.attention for model, _ in translator.models):
        raise ValueError("the model has no attention to draw a picture of")
    lines = [normalized(line) for line in lines_of(read_text(config.source, newline=""))]
    sentences = [line for line in lines if line]
    note_unknown(translator.vocabularies, Pairs(sentences, ()))
    options: dict[str, Any] = {"beam": config.beam, "length_penalty": config.length_penalty}
    with counted(f"translating {len(sentences):,} sentences", stderr=True) as on_batch:
        found = iter(translate(translator, sentences, **options, on_batch=on_batch))
    results = [next(found) if line else [] for line in lines]
    for number, hypotheses in enumerate(results, start=1):
        if config.n_best == 1 or not hypotheses:
            print("".join(hypothesis.text for hypothesis in hypotheses[:1]))
        else:
            print("\n".join(f"{number}\t{h.score:z.4f}\t{h.text}" for h in hypotheses[: config.n_best]))
    best = [hypotheses[0] for hypotheses in results if hypotheses]
    if cut := sum(not hypothesis.ended for hypothesis in best):
        what = "1 translation was" if cut == 1 else f"{cut} translations were"
        note(f"{what} cut off: no end within the length limit")
    if config.picture is not None:
        with part(str(config.picture)):
            attention_picture(config.picture, best)


def score_command(config: Score) -> None:
    """Print the log-probability of each target."""
    translator, _ = load_models(config)
    pairs = read_aligned(config.source, config.target)
    if blank := sum(not (source and target) for source, target in zip(*pairs, strict=True)):
        note(f"{blank:,} of {len(pairs.source):,} lines are blank on a side, and scored as such")
    note_unknown(translator.vocabularies, pairs)
    with counted(f"scoring {len(pairs.source):,} pairs", stderr=True) as on_batch:
        nats, _ = score(translator, pairs, on_batch)
    print("\n".join(f"{value:z.4f}" for value in nats))


def evaluate_command(config: Evaluate) -> None:
    """Print and keep the figures of a model on two files."""
    translator, settings = load_models(config)
    aligned = read_aligned(config.source, config.target)
    pairs = clean(*aligned, note, f"{config.source},{config.target}")
    options = {
        name: getattr(settings if getattr(config, name) is None else config, name)
        for name in ("beam", "length_penalty")
    }
    with counted(f"translating {len(pairs.source):,} sentences") as on_batch:
        figures, _ = evaluate(translator, pairs, **options, on_batch=on_batch)
    files = {"source": str(config.source), "target": str(config.target)}
    models = [str(directory) for directory in config.ensemble or (config.run,)]
    folder = config.run or config.ensemble[0]
    print(described(figures))
    with part("evaluation.json"):
        runs.write_json(folder / "evaluation.json", files | {"runs": models} | figures)
