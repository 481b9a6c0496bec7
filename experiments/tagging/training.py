"""Training and measuring models with a label at every step, one alone or two directions compared."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from nervaluate import Evaluator
from tokenizers import Tokenizer

from experiments.data.examples import Examples
from experiments.data.tagged import has_spans
from experiments.harness import run as runs
from experiments.harness.fit import Fitted, equal_size, fit, load, parameters, report
from experiments.harness.labels import (
    Judged,
    bars,
    confusion_matrix,
    figures_of,
    in_context,
    judge,
    label_task,
    name_of,
    worst_mistakes,
)
from experiments.harness.reports import part
from experiments.harness.settings import Count, Positive, TrainingSettings, settings
from experiments.harness.study import check_no_study, run_members, summarize
from experiments.tagging import data as sequences
from experiments.tagging.data import NAMED, Data, DataSettings, kind_of, load_data, save
from experiments.tagging.model import Model, ModelSettings, build_model
from experiments.tagging.words import unseen

AROUND = {"characters": 30, "words": 8, "frames": 8}  # steps on each side of a mistake that are shown
COMMONEST = 20


@settings
class Train(DataSettings, ModelSettings, TrainingSettings):
    """Train a model with a label at every step, and measure it on the test part."""

    compare: bool = False
    """Train a network that reads forward and one that reads both ways, with as many parameters, and print
    the table."""
    batch_size: Count = 32
    """Sequences of a step."""
    steps: Count = 1000
    """Training steps; fewer on a file, once validation no longer improves."""
    learning_rate: Positive = 3e-3
    evaluate_every: Count = 100


def train_command(config: Train) -> None:
    """Train one model, or two."""
    data = load_data(config)
    kind = kind_of(config.data)
    sizes = ", ".join(f"{len(getattr(data, name).inputs):,} {name}" for name in ("train", "valid", "test"))
    total = sum(data.train.lengths)
    print(
        f"{config.data}: sequences {sizes}; {total:,} {kind} to train on, {len(data.classes)} classes; "
        f"run in {config.folder}",
        flush=True,
    )
    if not config.compare:
        train(config, data, config.folder)
        return
    largest = parameters_of(config, data, "bidirectional", config.hidden_size)
    forward = equal_size(lambda size: parameters_of(config, data, "forward", size), largest)
    variants = {
        "forward": {"direction": "forward", "hidden_size": forward, "compare": False},
        "both": {"direction": "bidirectional", "compare": False},
    }
    results = run_members(config, variants, lambda own: train(own, data, config.folder))
    compare(config, results)


def model_of(config: Train, data: Data) -> Model:
    """The model that the settings ask for."""
    sizes = {name: tokenizer.get_vocab_size() for name, tokenizer in data.tokenizers.items()}
    return build_model(config, len(data.classes), sizes, data.features)


def parameters_of(config: Train, data: Data, direction: Any, hidden_size: int) -> int:
    """How many parameters a model of another direction and size has."""
    other = dataclasses.replace(config, direction=direction, hidden_size=hidden_size)
    return parameters(jax.eval_shape(model_of(other, data).init, jax.random.key(0)))


def train(config: Train, data: Data, whole: Path) -> dict[str, Any]:
    """A run in ``config.folder``, and its figures; ``whole`` is the study that it is a part of."""
    model = model_of(config, data)
    task = label_task(
        config,
        data,
        model,
        items=(kind_of(config.data), float(np.mean(data.train.lengths))),
        until_best=config.data not in NAMED,
        word_dropout=config.word_dropout if "words" in data.tokenizers else 0.0,
        record=data.digests,
        assets=lambda folder: save(data, folder),
    )
    return finish(fit(config, task, whole=whole), config, data, model)


def finish(fitted: Fitted, config: Train, data: Data, model: Model) -> dict[str, Any]:
    """The figures of the best checkpoint on the test part, its confusion matrix and its worst mistakes."""
    judged = judge(model, fitted.params, data.test)
    found = measured(judged, data.test, data.classes, data.tokenizers)
    figures = {f"test_{name}": value for name, value in found.items()}
    title = f"{config.direction} {config.cell} on {Path(config.data).name}"
    kind = kind_of(config.data)
    leave_mistakes(fitted.out, judged, data.test, data.classes, kind, title)
    print(described(found))
    report(fitted, figures, title=title, packages=("scikit-learn", "nervaluate", "tokenizers"))
    return figures | fitted.costs


def measured(
    judged: Judged, examples: Examples, classes: tuple[str, ...], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, Any]:
    """Figures of all steps, of words never seen in training, and of spans where tags mark them."""
    figures = figures_of(judged, classes)
    if "seen" in tokenizers:
        new = unseen(examples.texts, tokenizers)
        figures["unseen_words"] = int(new.sum())
        figures["unseen_accuracy"] = float(np.mean(judged.right[new])) if new.any() else None
    if has_spans(classes):
        figures["span_f1"] = span_f1(judged, examples, classes)
    figures["commonest_mistakes"] = commonest(judged, examples, classes)
    return figures


def span_f1(judged: Judged, examples: Examples, classes: tuple[str, ...]) -> float:
    """F1 of spans whose place and kind are both right; every sentence by itself."""
    ends = np.cumsum(examples.lengths)[:-1]
    true, predicted = (
        [
            [classes[number] if number >= 0 else "B-?" for number in sentence]
            for sentence in np.split(of, ends)
        ]
        for of in (judged.labels, judged.predicted)
    )
    kinds = sorted({name[2:] for name in classes if name != "O"} | {"?"})
    return Evaluator(true, predicted, tags=kinds, loader="list").evaluate()["overall"]["strict"].f1


def commonest(judged: Judged, examples: Examples, classes: tuple[str, ...]) -> list[str]:
    """The commonest mistakes: what stands there, what it is, what it was taken for, and how often."""
    steps = [step for text in examples.texts for step in text]
    wrong = np.flatnonzero(~judged.right)
    counts = Counter(
        (steps[i], name_of(judged.labels[i], classes), classes[judged.predicted[i]]) for i in wrong
    )
    return [
        f"{step!r}: {true}, taken for {predicted}, {count:,} times"
        for (step, true, predicted), count in counts.most_common(COMMONEST)
    ]


def leave_mistakes(
    folder: Path,
    judged: Judged,
    examples: Examples,
    classes: tuple[str, ...],
    kind: str,
    title: str,
    name: str = "",
) -> None:
    """Write the confusion matrix and the worst mistakes, each where it stands."""
    with part(f"{name}confusion_matrix.png"):
        confusion_matrix(folder / f"{name}confusion_matrix.png", judged, classes, title)
    with part(f"{name}mistakes.tsv"):
        worst_mistakes(folder / f"{name}mistakes.tsv", judged, classes, in_context(examples, AROUND[kind]))


def described(figures: dict[str, Any]) -> str:
    """A line of figures."""
    line = f"accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}"
    if figures.get("unseen_accuracy") is not None:
        line += (
            f", on {figures['unseen_words']:,} words unseen in training {figures['unseen_accuracy']:.4f}"
        )
    if "span_f1" in figures:
        line += f", F1 of spans {figures['span_f1']:.4f}"
    return line


def compare(config: Train, results: dict[str, dict[str, Any]]) -> None:
    """The table of both models, the summary, and the F1 of every class side by side."""
    columns = {"accuracy": "test_accuracy", "macro F1": "test_macro_f1"}
    summarize(config, results, columns)
    for name, of in results.items():
        print(f"commonest mistakes {name}:")
        print("\n".join(f"  {mistake}" for mistake in of["test_commonest_mistakes"][:5]))
    with part("f1_by_class.png"):
        bars(
            config.folder / "f1_by_class.png",
            {name: of["test_f1"] for name, of in results.items()},
            y_label="test F1",
            title=Path(config.data).name,
        )


def load_run(folder: Path) -> tuple[Model, Any, Train, Data]:
    """The best model of a run, its parameters, its settings, and its data without the examples."""
    check_no_study(folder)
    config = runs.load_settings(folder, Train)
    kind = kind_of(config.data)
    if kind == "frames":
        raise ValueError(f"the run in {folder} reads frames of {config.data}, and no text")
    classes, tokenizers = sequences.load(folder, kind)
    none = Examples([], [], [])
    data = Data(none, none, none, classes, tokenizers, 0, {})
    model = model_of(config, data)
    return model, load(folder, config, model.init), config, data
