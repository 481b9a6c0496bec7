r"""What does each step from the plain encoder-decoder to attention bring? Translation, learned from pairs.

    python -m experiments.translation                                names of numbers, English to French
    python -m experiments.translation --data multi30k --lowercase --joint --tied all --dropout 0.4 \
        --vocabulary-size 8000 --steps 4000                          or captions, or any parallel files
    python -m experiments.translation --data A,B --valid C,D --test E,F     one's own files, or A,B split
    python -m experiments.translation translate --run DIR < FILE     a translation a line
    python -m experiments.translation evaluate --run DIR --source FILE --target FILE
    python -m experiments.translation score --run DIR --source FILE --target FILE

The first command takes two minutes on two CPU cores, needs no network, and names more than 99 % of unseen
numbers right; the second takes about twenty minutes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.data.batches import TrainingBatches, encode_pairs, validation_batches
from experiments.data.corpora import read_text
from experiments.data.pairs import Pairs, ParallelText, clean, lines_of, normalized, read_aligned
from experiments.data.parallel import ParallelSettings, load_data
from experiments.data.parallel import check as check_text
from experiments.data.tokens import Vocabularies
from experiments.harness import run as runs
from experiments.harness.command_line import main, note
from experiments.harness.devices import on_one_device
from experiments.harness.loop import Loop, train
from experiments.harness.plots import check_picture, training_curves
from experiments.harness.progress import counted
from experiments.harness.reports import part
from experiments.harness.seq2seq_training import (
    Seq2SeqSettings,
    build_model,
    build_training,
    check,
    chunks,
    nats_per_token,
)
from experiments.harness.translating import (
    Hypothesis,
    Translator,
    attention_picture,
    described,
    evaluate,
    note_unknown,
    score,
    translate,
)
from jaxrnn.checks import check_positive
from jaxrnn.decoding.beam import MOST_PENALTY
from jaxrnn.training.state import TrainState

SHOWN = 8  # translations printed at the end of training


@dataclass(frozen=True, kw_only=True)
class Train(ParallelSettings, Seq2SeqSettings):
    """Train a translation model, then translate what it has not seen."""

    beam: int = 5
    """Hypotheses followed when the test pairs are translated."""
    length_penalty: float = 1.0
    """Above 0, longer translations gain (alpha of Wu et al. 2016)."""
    evaluate_every: int = 250
    """Steps between measurements on the validation pairs."""
    checkpoint_every: int = 500
    """Steps between checkpoints; they also fall every 30 seconds."""
    tensorboard: bool = False
    """Also write events for TensorBoard."""
    out: Path | None = None
    """Folder of the run; by default out/translation/<date-time>."""
    resume: bool = False
    """Continue the run in --out from its latest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which trained models."""

    run: Path | None = None
    """Folder of a run."""
    ensemble: tuple[Path, ...] = ()
    """Instead of --run: runs with the same vocabularies, whose predictions are averaged."""


@dataclass(frozen=True, kw_only=True)
class Translate(Models):
    """Translate sentences, one a line."""

    source: Path | None = None
    """UTF-8 file; None reads standard input."""
    beam: int = 5
    """Hypotheses followed at a time; 1 takes the most probable token at every step."""
    length_penalty: float = 1.0
    """Above 0, longer translations gain (alpha of Wu et al. 2016)."""
    n_best: int = 1
    """Translations of each sentence, best first, each after the line's number and its score; 1 prints the
    best alone."""
    picture: Path | None = None
    """Also draw where the model looked, for the first few sentences, into this .png, .pdf, .svg or .jpg."""


@dataclass(frozen=True, kw_only=True)
class Score(Models):
    """Print the log-probability in nats of each target given its source, one a line, as to rescore the
    translations of another system with (Cho et al. 2014).
    """

    source: Path
    """UTF-8 file of source sentences."""
    target: Path
    """UTF-8 file of their translations."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Models):
    """Translate a source file and measure the result, which also goes into the run's evaluation.json."""

    source: Path
    """UTF-8 file of source sentences."""
    target: Path
    """UTF-8 file of their translations."""
    beam: int | None = None
    """Hypotheses followed at a time; None: as in training."""
    length_penalty: float | None = None
    """Above 0, longer translations gain (alpha of Wu et al. 2016); None: as in training."""


def train_command(config: Train, whole: Path | None = None) -> None:
    """Data, model, loop, result; ``whole`` is the study that the run is a part of."""
    check_settings(config)
    out = config.out or runs.default_directory("translation")
    runs.check_out(out, resume=config.resume)
    data = load_data(config)
    model = build_model(config, data.vocabularies.sizes)
    training = build_training(config, model)
    record = runs.config_record(config) | {name + runs.DIGEST: of for name, of in data.digests.items()}
    if config.resume:
        runs.check_same_config(runs.load_config(out), record, out)
        if not data.vocabularies.same_as(Vocabularies.load(out)):
            raise ValueError(f"the vocabularies in {out} are not those that its pairs give now")
    else:
        runs.create(out, record, fill=data.vocabularies.save)
    batches = TrainingBatches(data.pairs, data.buckets, config.batch_size, config.seed)
    valid_pairs = encode_pairs(data.vocabularies, data.text.valid)
    valid = validation_batches(valid_pairs, data.buckets, config.batch_size)

    def evaluate_valid(state: TrainState) -> dict[str, float]:
        return {"valid_nats_per_token": nats_per_token(model, on_one_device(state.params), valid)}

    sizes = " and ".join(f"{size:,}" for size in data.vocabularies.sizes)
    print(f"{config.data}: {len(data.pairs):,} pairs, {sizes} tokens; run in {out}", flush=True)
    tokens_per_step = config.batch_size * float(np.mean([len(pair.target) + 1 for pair in data.pairs]))
    loop = Loop(
        directory=out,
        config=record,
        train_step=training.step,
        chunk=chunks(config, batches, training.mesh),
        evaluate=evaluate_valid,
        criterion="valid_nats_per_token",
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        items_per_step=round(tokens_per_step),
        unit="nats/token",
        tensorboard=config.tensorboard,
        whole=whole,
    )
    _, seconds = train(loop, training.state, resume=config.resume)
    finish(out, config, data.text, seconds, tokens_per_step)


def check_settings(config: Train) -> None:
    """Raise ValueError for settings that cannot be, before any work is done."""
    for name in ("beam", "evaluate_every", "checkpoint_every"):
        check_positive(name, getattr(config, name))
    if not 0 <= config.length_penalty <= MOST_PENALTY:
        raise ValueError(f"length_penalty must lie in [0, {MOST_PENALTY}], got {config.length_penalty}")
    if config.tied == "all" and not config.joint:
        raise ValueError("--tied all needs one vocabulary for both languages; give --joint too")
    check_text(config)
    check(config)


def load_run(directory: Path) -> tuple[Translator, Train]:
    """The best model of a run, and its settings."""
    config = runs.load_settings(directory, Train)
    vocabularies = Vocabularies.load(directory)
    model = build_model(config, vocabularies.sizes)
    params = runs.best_params(directory, build_training(config, model).state)
    return Translator(((model, params),), vocabularies, config.lowercase), config


def finish(out: Path, config: Train, text: ParallelText, seconds: float, tokens_per_step: float) -> None:
    """The figures of the best checkpoint, translations, and where the model looked.

    What was measured is saved first, then printed, then drawn.
    """
    translator, _ = load_run(out)
    for name, lines in zip(("source", "target"), text.test, strict=True):
        runs.write_text(out / f"test_{name}.txt", "\n".join(lines) + "\n")
    figures: dict[str, Any] = {}
    found: list[Hypothesis] = []
    with (
        part("the translation of the test pairs"),
        counted(f"translating {len(text.test.source):,} test sentences") as on_batch,
    ):
        figures, found = evaluate(
            translator, text.test, beam=config.beam, length_penalty=config.length_penalty, on_batch=on_batch
        )
        runs.write_text(out / "translations.txt", "\n".join(h.text for h in found) + "\n")
    _, params = translator.models[0]
    _, curve = runs.Metrics(out / "metrics.jsonl").curve("valid_nats_per_token")
    summary = {
        "valid_nats_per_token": min(filter(math.isfinite, curve), default=math.nan),
        **{f"test_{name}": value for name, value in figures.items()},
        "tokens_per_second": config.steps * tokens_per_step / seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "train_seconds": seconds,
        "steps": config.steps,
        "seed": config.seed,
        **runs.environment("tokenizers", "sacrebleu", "grain", "num2words"),
    }
    runs.write_json(out / "summary.json", summary)
    for source, target, hypothesis in list(zip(*text.test, found, strict=False))[:SHOWN]:
        right = "" if hypothesis.text == target else f"    (reference: {target})"
        print(f"{source}\n    {hypothesis.text}{right}")
    if figures:
        print(f"{'-' * 79}\n{described(figures)}")
    where = "; attention.png shows where it looked" if config.attention != "none" and found else ""
    print(f"{config.steps} steps in {seconds:.0f} s; all in {out}{where}")
    draw(out, config, tokens_per_step, found)


def draw(out: Path, config: Train, tokens_per_step: float, found: list[Hypothesis]) -> None:
    """The learning curve, and where the model looked."""
    smoothed = f", labels smoothed by {config.label_smoothing}" if config.label_smoothing else ""
    with part("learning_curve.png"):
        training_curves(
            out,
            {f"training{smoothed}": "loss", "validation": "valid_nats_per_token"},
            per_step=tokens_per_step / 1e6,
            x_label="target tokens seen (millions)",
            y_label="loss (nats per token)",
            title=f"{config.cell} {config.hidden_size} × {config.layers} on {config.data}",
        )
    if config.attention != "none" and found:
        with part("attention.png"):
            attention_picture(out / "attention.png", found)


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


if __name__ == "__main__":
    main(
        __doc__ or "",
        {
            "train": (Train, train_command),
            "translate": (Translate, translate_command),
            "score": (Score, score_command),
            "evaluate": (Evaluate, evaluate_command),
        },
        split_cores=False,
    )
