"""Training a model of labels, and what its predictions are worth: figures, plots, the worst mistakes."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn import metrics

from experiments.data.examples import (
    NO_LABEL,
    Batch,
    Examples,
    batches_in_order,
    training_batches,
)
from experiments.data.tokens import UNKNOWN
from experiments.data.words import drop_words
from experiments.harness import run as runs
from experiments.harness.command_line import note
from experiments.harness.plots import COLOURS, MARKERS, save, visible
from experiments.harness.settings import TrainingSettings
from experiments.harness.task import Loss, Sums, Task, never, past_its_best
from jaxrnn.caching import by_value
from jaxrnn.models.losses import cross_entropy

MOST_NAMED = 25  # classes whose names fit beside a matrix
MISTAKES = 50


@functools.lru_cache  # the same function for equal models, which compiles once
def label_loss(model: Any, word_dropout: float = 0.0, label_smoothing: float = 0.0) -> Loss:
    """The cross-entropy of every known label, and the accuracy of all: unknown ones are never right.

    ``model.apply(params, inputs, lengths=, key=)`` gives the logits, of whole sequences or of every step.
    With ``word_dropout`` the inputs are words, some of which training takes for unknown ones; only
    training smooths labels, as in ``cross_entropy``.
    """

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> Sums:
        inputs = batch.inputs
        if key is not None and word_dropout:
            key_words, key = jax.random.split(key)
            inputs = drop_words(key_words, inputs, word_dropout)
        logits = model.apply(params, inputs, lengths=batch.lengths, key=key)
        right = jnp.sum(jnp.argmax(logits, axis=-1) == batch.labels)
        nats = cross_entropy(
            logits,
            jnp.maximum(batch.labels, 0),
            batch.labels >= 0,
            label_smoothing=0.0 if key is None else label_smoothing,
        )
        return {"loss": nats, "accuracy": (right, jnp.sum(batch.labels != NO_LABEL))}

    return loss


def label_task(
    config: TrainingSettings,
    parts: Any,
    model: Any,
    *,
    items: tuple[str, float],
    until_best: bool,
    word_dropout: float = 0.0,
    label_smoothing: float = 0.0,
    record: Mapping[str, Any],
    assets: Callable[[Path], None],
) -> Task:
    """A ``Task`` of examples with labels.

    Args:
      config: of the training.
      parts: with ``Examples`` to ``train`` and to ``valid``ate on.
      model: as in ``label_loss``, with ``init``.
      items: what a step reads, and how many an example has.
      until_best: end when the validation loss no longer falls.
      word_dropout: as in ``label_loss``.
      label_smoothing: likewise.
      record: as in ``Task``.
      assets: as in ``Task``.
    """
    name, per_example = items
    return Task(
        init=model.init,
        loss=label_loss(model, word_dropout, label_smoothing),
        batch=training_batches(parts.train, config.batch_size, config.seed),
        valid=lambda: (batch for _, batch in batches_in_order(parts.valid)),
        unit="nats per label",
        items=(name, config.batch_size * per_example),
        record=record,
        assets=assets,
        stop=past_its_best if until_best else never,
    )


def probabilities(model: Any, params: Any, examples: Examples) -> list[np.ndarray]:
    """Of every example the probability of each class, ``(classes,)`` or ``(time, classes)``."""
    found: dict[int, np.ndarray] = {}
    for indices, batch in batches_in_order(examples):
        rows = np.asarray(_softmax(model, params, batch))
        for lane, index in enumerate(indices):
            each_step = rows[: batch.lengths[lane], lane] if rows.ndim == 3 else rows[lane]
            found[index] = each_step
    return [found[index] for index in range(len(examples.inputs))]


@functools.partial(by_value, static_argnames=("model",))
def _softmax(model: Any, params: Any, batch: Batch) -> jax.Array:
    return jax.nn.softmax(model.apply(params, batch.inputs, lengths=batch.lengths))


class Judged(NamedTuple):
    """True and predicted labels as numbers, and how sure the model was of what it said."""

    labels: np.ndarray  # (labels,), ``UNKNOWN_LABEL`` for one that training lacks
    predicted: np.ndarray  # (labels,)
    probabilities: np.ndarray  # (labels,) of the predicted label

    @property
    def right(self) -> np.ndarray:
        """Whether each is right."""
        return self.labels == self.predicted


def judge(model: Any, params: Any, examples: Examples) -> Judged:
    """What a model says of examples whose labels are known, step by step where each has one."""
    found = np.concatenate([np.atleast_2d(rows) for rows in probabilities(model, params, examples)])
    labels = np.concatenate([np.atleast_1d(label) for label in examples.labels])
    return Judged(labels, found.argmax(axis=-1), found.max(axis=-1))


def note_unknown(sentences: Iterable[np.ndarray]) -> None:
    """Tell the user how many words of a text, given as token ids, the vocabulary lacks, if any."""
    if unknown := sum(int(np.sum(ids == UNKNOWN)) for ids in sentences):
        note(f"{unknown:,} words are not in the vocabulary")


def figures_of(judged: Judged, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1 and the F1 of every class; a class that neither comes nor is predicted has no F1,
    labels that training does not have together have an F1 of 0.

    >>> from experiments.data.examples import UNKNOWN_LABEL
    >>> judged = Judged(np.array([0, 0, 1, UNKNOWN_LABEL]), np.array([0, 1, 1, 1]), np.ones(4))
    >>> {name: round(value, 3) for name, value in figures_of(judged, ["a", "b"]).items() if name != "f1"}
    {'accuracy': 0.5, 'macro_f1': 0.389}
    """
    present = np.union1d(judged.labels, judged.predicted)
    f1 = metrics.f1_score(judged.labels, judged.predicted, labels=present, average=None, zero_division=0.0)
    return {
        "accuracy": float(np.mean(judged.right)),
        "macro_f1": float(np.mean(f1)),
        "f1": {name_of(number, classes): float(value) for number, value in zip(present, f1, strict=True)},
    }


def name_of(number: int, classes: Sequence[str]) -> str:
    """The class of a label's number; a question mark for a label that training does not have."""
    return classes[number] if number >= 0 else "?"


def confusion_matrix(path: Path, judged: Judged, classes: Sequence[str], title: str) -> None:
    """Draw how often each class is taken for each other, in per cent of its examples, into a PNG."""
    known = judged.labels >= 0
    counts = metrics.confusion_matrix(
        judged.labels[known], judged.predicted[known], labels=np.arange(len(classes))
    )
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = np.clip(2.6 + 0.5 * len(classes), 4, 9)
    figure, axes = plt.subplots(figsize=(side + 1, side), dpi=130, layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the true class (%)")
    if len(classes) <= MOST_NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                colour = "white" if share > 50 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    save(figure, path)


def worst_mistakes(path: Path, judged: Judged, classes: Sequence[str], text: Callable[[int], str]) -> None:
    """Write the mistakes of which the model was surest, one a line: probability, predicted, true, text.

    ``text`` says what a person reads of the label at an index.
    """
    wrong = np.flatnonzero(~judged.right)
    order = wrong[np.argsort(-judged.probabilities[wrong], kind="stable")][:MISTAKES]
    lines = ["probability\tpredicted\ttrue\ttext"]
    for i in order:
        true = name_of(judged.labels[i], classes)
        probability, predicted = judged.probabilities[i], classes[judged.predicted[i]]
        lines.append(f"{probability:.3f}\t{predicted}\t{true}\t{visible(text(int(i)))}")
    runs.write_text(path, "\n".join(lines) + "\n")


def in_context(examples: Examples, around: int) -> Callable[[int], str]:
    """From the index of a step, over all examples, to the step between those on both sides of it."""
    ends = np.cumsum(examples.lengths)

    def text(index: int) -> str:
        example = int(np.searchsorted(ends, index, side="right"))
        steps, at = examples.texts[example], index - int(ends[example])  # at < 0, from the end
        at += len(steps)
        before, after = steps[max(0, at - around) : at], steps[at + 1 : at + 1 + around]
        between = "" if isinstance(steps, str) else " "
        return between.join([*before, f"⟦{steps[at]}⟧", *after]).replace("\n", "⏎")

    return text


def curves(
    path: Path, found: Mapping[str, Mapping[str, float]], *, x_label: str, y_label: str, title: str
) -> None:
    """Draw a figure of several models, by the parts of the data it is measured on, into a PNG."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for (name, of), colour, marker in zip(found.items(), COLOURS, MARKERS, strict=False):
        axes.plot(list(of), list(of.values()), label=name, color=colour, marker=marker)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def bars(path: Path, found: Mapping[str, Mapping[str, float]], *, y_label: str, title: str) -> None:
    """Draw a figure of several models for every class, side by side, into a PNG."""
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    width = 0.8 / len(found)
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130, layout="constrained")
    for number, ((model, of), colour) in enumerate(zip(found.items(), COLOURS, strict=False)):
        at = np.arange(len(names)) + (number - (len(found) - 1) / 2) * width
        axes.bar(at, [of.get(name, 0.0) for name in names], width, label=model, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set(ylabel=y_label, title=title)
    axes.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside upper right", ncols=len(found))  # bars may reach the top
    save(figure, path)
