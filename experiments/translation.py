r"""What does each step from the plain encoder-decoder to attention bring? Translation, learned from pairs.

    python -m experiments.translation                                names of numbers, English to French
    python -m experiments.translation --data multi30k --lowercase --joint --tied all --dropout 0.4 \
        --vocabulary-size 8000 --steps 4000                          or captions, or any parallel files
    python -m experiments.translation translate --run DIR < FILE     a translation a line
    python -m experiments.translation evaluate --run DIR --source FILE --target FILE
    python -m experiments.translation score --run DIR --source FILE --target FILE

The first command takes two minutes on two CPU cores, needs no network, and names more than 99 % of unseen
numbers right; the second takes about twenty minutes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.batches import (
    Bucket,
    EncodedPair,
    TrainingBatches,
    batches_in_order,
    buckets_of,
    encode_pairs,
    short_enough,
)
from experiments.data.corpora import read_text
from experiments.data.pairs import (
    Pairs,
    ParallelText,
    clean,
    lines_of,
    load_pairs,
    normalized,
    read_aligned,
    subset,
)
from experiments.data.tokens import Tokens, Vocabularies
from experiments.harness import run as runs
from experiments.harness.command_line import main, note
from experiments.harness.devices import on_one_device
from experiments.harness.loop import Loop, train
from experiments.harness.plots import training_curves
from experiments.harness.progress import counted
from experiments.harness.seq2seq_training import (
    Seq2SeqSettings,
    build_model,
    build_training,
    check,
    chunks,
    nats_per_token,
)
from experiments.harness.translating import (
    Translator,
    attention_picture,
    count_unknown,
    described,
    evaluate,
    note_unknown,
    score,
    translate,
)
from jaxrnn.checks import check_positive
from jaxrnn.decoding.beam import MOST_PENALTY
from jaxrnn.training.state import TrainState

BUCKETS = 8
SHOWN = 8  # translations printed at the end of training


@dataclass(frozen=True, kw_only=True)
class Train(Seq2SeqSettings):
    """Train a translation model, then translate what it has not seen."""

    data: str = "numbers"
    """numbers (their names, no download), multi30k, tatoeba_en_fr, two line-aligned files SOURCE,TARGET, or
    a file of SOURCE<TAB>TARGET lines."""
    languages: str | None = None
    """SOURCE-TARGET of a named set, de-en say; None: en-fr, and de-en for multi30k. numbers knows most
    of num2words."""
    pairs: int | None = None
    """Train on this many pairs only, always the same; None: on all."""
    tokens: Tokens = "bpe"
    """char, word, or bpe (byte-pair encoding, learned from the training pairs)."""
    vocabulary_size: int | None = None
    """Most tokens of byte-pair encoding, but single characters are always among them; None: one for every
    50 training pairs, from 250 to 8000."""
    min_count: int = 2
    """Words and pairs of tokens that come less often in training are no tokens of their own."""
    joint: bool = False
    """One vocabulary for both languages."""
    lowercase: bool = False
    """Lose upper case, and measure without it."""
    max_length: int = 200
    """Pairs with more tokens on a side are not trained on, but counted and reported."""
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
    """Also draw where the model looked, for the first few sentences, into this PNG."""


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
    record = runs.config_record(config) | {"pairs" + runs.DIGEST: data.digest}
    if config.resume:
        runs.check_same_config(runs.load_config(out), record, out)
        if not data.vocabularies.same_as(Vocabularies.load(out)):
            raise ValueError(f"the vocabularies in {out} are not those that its pairs give now")
    else:
        runs.create(out, record, fill=data.vocabularies.save)
    batches = TrainingBatches(data.pairs, data.buckets, config.batch_size, config.seed)
    valid_pairs = encode_pairs(data.vocabularies, data.text.valid)
    valid = [batch for _, batch in batches_in_order(valid_pairs, data.buckets, config.batch_size)]

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
    counts = ("min_count", "max_length", "beam", "evaluate_every", "checkpoint_every")
    for name in counts:
        check_positive(name, getattr(config, name))
    for name in ("pairs", "vocabulary_size"):
        if getattr(config, name) is not None:
            check_positive(name, getattr(config, name))
    if not 0 <= config.length_penalty <= MOST_PENALTY:
        raise ValueError(f"length_penalty must lie in [0, {MOST_PENALTY}], got {config.length_penalty}")
    if config.tied == "all" and not config.joint:
        raise ValueError("--tied all needs one vocabulary for both languages; give --joint too")
    check(config)


class Data(NamedTuple):
    """Parallel text, and what is trained on of it."""

    text: ParallelText
    vocabularies: Vocabularies
    pairs: list[EncodedPair]
    buckets: list[Bucket]

    @property
    def digest(self) -> str:
        """SHA-256 of all text."""
        lines = "\0".join("\n".join(side) for part in self.text for side in part)
        return hashlib.sha256(lines.encode()).hexdigest()


def load_data(config: Train) -> Data:
    """The pairs that the settings ask for, and vocabularies of those to train on."""
    text = load_pairs(config.data, config.languages, print)
    if config.pairs is not None:
        text = text._replace(train=subset(text.train, config.pairs))
    vocabularies = Vocabularies.train(
        text.train,
        config.tokens,
        joint=config.joint,
        vocabulary_size=config.vocabulary_size or min(max(len(text.train.source) // 50, 250), 8000),
        min_count=config.min_count,
        lowercase=config.lowercase,
    )
    for name, part in text._asdict().items():
        count_unknown(vocabularies, part, f" of the {name} pairs")
    pairs = short_enough(encode_pairs(vocabularies, text.train), config.max_length, print)
    return Data(text, vocabularies, pairs, buckets_of(pairs, BUCKETS))


def load_run(directory: Path) -> tuple[Translator, Train]:
    """The best model of a run, and its settings."""
    config = runs.load_settings(directory, Train)
    vocabularies = Vocabularies.load(directory)
    model = build_model(config, vocabularies.sizes)
    params = runs.best_params(directory, build_training(config, model).state)
    return Translator(((model, params),), vocabularies, config.lowercase), config


def finish(out: Path, config: Train, text: ParallelText, seconds: float, tokens_per_step: float) -> None:
    """The figures of the best checkpoint, translations, and where the model looked."""
    translator, _ = load_run(out)
    metrics = runs.Metrics(out / "metrics.jsonl")
    for name, lines in zip(("source", "target"), text.test, strict=True):
        runs.write_text(out / f"test_{name}.txt", "\n".join(lines) + "\n")
    with counted(f"translating {len(text.test.source):,} test sentences") as on_batch:
        figures, found = evaluate(
            translator, text.test, beam=config.beam, length_penalty=config.length_penalty, on_batch=on_batch
        )
    runs.write_text(out / "translations.txt", "\n".join(h.text for h in found) + "\n")
    _, params = translator.models[0]
    summary = {
        "valid_nats_per_token": min(metrics.curve("valid_nats_per_token")[1]),
        **{f"test_{name}": value for name, value in figures.items()},
        "tokens_per_second": config.steps * tokens_per_step / seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "train_seconds": seconds,
        "steps": config.steps,
        "seed": config.seed,
        **runs.environment("tokenizers", "sacrebleu", "grain", "num2words"),
    }
    runs.write_json(out / "summary.json", summary)
    smoothed = f", labels smoothed by {config.label_smoothing}" if config.label_smoothing else ""
    training_curves(
        out,
        {f"training{smoothed}": "loss", "validation": "valid_nats_per_token"},
        per_step=tokens_per_step / 1e6,
        x_label="target tokens seen (millions)",
        y_label="loss (nats per token)",
        title=f"{config.cell} {config.hidden_size} × {config.layers} on {config.data}",
    )
    for source, target, hypothesis in list(zip(*text.test, found, strict=True))[:SHOWN]:
        right = "" if hypothesis.text == target else f"    (reference: {target})"
        print(f"{source}\n    {hypothesis.text}{right}")
    print(f"{'-' * 79}\n{described(figures)}")
    where = f"all in {out}"
    if config.attention != "none":
        attention_picture(out / "attention.png", found)
        where += "; attention.png shows where it looked"
    print(f"{config.steps} steps in {seconds:.0f} s; {where}")


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
    if config.picture is not None and not config.picture.parent.is_dir():
        raise ValueError(f"--picture: there is no folder {config.picture.parent}")
    translator, _ = load_models(config)
    if config.picture is not None and not any(model.attention for model, _ in translator.models):
        raise ValueError("the model has no attention to draw a picture of")
    lines = [normalized(line) for line in lines_of(read_text(config.source, newline=""))]
    if not any(lines):
        raise ValueError("there is nothing to translate: standard input, or --source, has no sentence")
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
            print("\n".join(f"{number}\t{h.score:.4f}\t{h.text}" for h in hypotheses[: config.n_best]))
    best = [hypotheses[0] for hypotheses in results if hypotheses]
    if cut := sum(not hypothesis.ended for hypothesis in best):
        note(f"{cut} translations were cut off: they did not end within the length limit")
    if config.picture is not None:
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
    print("\n".join(f"{value:.4f}" for value in nats))


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
    runs.write_json(folder / "evaluation.json", files | {"runs": models} | figures)
    print(described(figures))


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
