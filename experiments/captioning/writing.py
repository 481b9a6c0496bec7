"""Captions that a trained model writes, and what they are worth."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from experiments.captioning.data import Part, beside
from experiments.captioning.metrics import measure, novelty, plain
from experiments.captioning.model import CaptioningModel
from experiments.data.tokens import END, START, decode, hypotheses_of
from experiments.harness import run as runs
from jaxrnn.decoding import beam_search, sample, stochastic_beam_search
from jaxrnn.models.captioner import EncodedImage
from jaxrnn.training.processes import Share

BATCH = 64  # images side by side

OnBatch = Callable[[int, int], None]


class Writer(NamedTuple):
    """A trained model and its words."""

    model: CaptioningModel
    params: Any
    tokenizer: Tokenizer
    max_length: int  # words of a caption


class Caption(NamedTuple):
    """A caption, and how it came about."""

    text: str
    score: float  # log-probability in nats, divided by the length penalty
    words: list[str]
    weights: np.ndarray | None  # attention (words, places); one row more where the caption ended


def most_probable(
    writer: Writer,
    inputs: np.ndarray,
    *,
    beam: int,
    length_penalty: float,
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> list[list[Caption]]:
    """For every image the captions of a beam, best first.

    Raises:
      ValueError: where the model gives no probabilities.
    """

    def search(step: Any, encoded: EncodedImage, lanes: range, **options: Any) -> Any:
        return beam_search(
            step,
            encoded.carry,
            context=encoded.context,
            beam_size=beam,
            length_penalty=length_penalty,
            **options,
        )

    return _written(writer, inputs, search, on_batch, share)


def drawn(
    writer: Writer, inputs: np.ndarray, *, count: int, seed: int, different: bool
) -> list[list[Caption]]:
    """For every image so many captions drawn from the model, without replacement if they are to be
    ``different``; the draws of an image depend on its number alone.
    """

    def search(step: Any, encoded: EncodedImage, lanes: range, **options: Any) -> Any:
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(np.array(lanes))
        if different:
            return stochastic_beam_search(
                step, encoded.carry, context=encoded.context, key=keys, beam_size=count, **options
            )
        draws = [
            sample(
                step,
                encoded.carry,
                context=encoded.context,
                key=jax.vmap(functools.partial(jax.random.fold_in, data=number))(keys),
                **options,
            )
            for number in range(count)
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *draws)

    return _written(writer, inputs, search)


def _written(
    writer: Writer,
    inputs: np.ndarray,
    search: Callable[..., Any],
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> list[list[Caption]]:
    step = jax.tree_util.Partial(writer.model.step, writer.params)
    found: list[list[Caption]] = []
    size = min(BATCH, 1 << max(0, len(inputs) - 1).bit_length())
    options = {"start": START, "end": END, "max_length": writer.max_length + 1}

    def beams_of(start: int) -> Any:
        lanes = range(start, start + size)
        images = beside(inputs, [min(lane, len(inputs) - 1) for lane in lanes])
        encoded = _encode(writer.model, writer.params, images)
        return jax.device_get(search(step, encoded, lanes, **options))

    starts = range(0, len(inputs), size)
    for start, beams in zip(starts, share(beams_of, starts), strict=True):
        found += [
            _captions(writer.tokenizer, beams, lane) for lane in range(min(size, len(inputs) - start))
        ]
        on_batch(len(found), len(inputs))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: CaptioningModel, params: Any, images: Any) -> EncodedImage:
    return model.encode(params, images)


def _captions(tokenizer: Tokenizer, beams: Any, lane: int) -> list[Caption]:
    found = []
    for slot, score, tokens in hypotheses_of(beams, lane):
        weights = None if beams.extras is None else beams.extras[lane, slot, : len(tokens)]
        words = [str(tokenizer.id_to_token(token)).removeprefix("▁") for token in tokens if token != END]
        found.append(Caption(decode(tokenizer, tokens), score, words, weights))
    return found


def figures_of(
    captions: Sequence[str], references: Sequence[Sequence[str]], training: Sequence[str]
) -> dict[str, Any]:
    """What captions are worth, and how many no one wrote before."""
    exact = [plain(caption) in map(plain, of) for caption, of in zip(captions, references, strict=True)]
    return {
        "exact_match": float(np.mean(exact)),
        **measure(captions, references),
        **novelty(captions, training),
        "images": len(captions),
    }


def judge(
    writer: Writer,
    part: Part,
    training: Sequence[str],
    *,
    beam: int,
    length_penalty: float,
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> tuple[dict[str, Any], list[Caption]]:
    """Figures of the most probable word at every step, and of a beam, by name; and the beam's captions."""
    figures: dict[str, Any] = {}
    best: list[Caption] = []
    for size in dict.fromkeys((1, beam)):
        how: Any = {"beam": size, "length_penalty": length_penalty if size > 1 else 0.0}
        found = most_probable(writer, part.inputs, **how, on_batch=on_batch, share=share)
        best = [captions[0] for captions in found]
        name = "greedy" if size == 1 else f"beam_{size}"
        figures[name] = figures_of([caption.text for caption in best], part.captioned.captions, training)
    return figures, best


def described(figures: dict[str, Any]) -> str:
    """The figures of one way to decode, in words."""
    return (
        f"exact match {figures['exact_match']:.2%}, BLEU-1 to 4 "
        + " / ".join(f"{figures[f'bleu_{n}']:.1f}" for n in range(1, 5))
        + f", CIDEr-D {figures['cider_d']:.3f}, ROUGE-L {figures['rouge_l']:.3f}, "
        f"chrF {figures['chrf']:.1f}, new captions {figures['new_captions']:.1%}"
    )


def write_captions(path: Path, part: Part, captions: Sequence[Caption]) -> None:
    """Write lines picture<TAB>caption."""
    names = (picture.name for picture in part.captioned.pictures)
    lines = (f"{name}\t{caption.text}" for name, caption in zip(names, captions, strict=True))
    runs.write_text(path, "\n".join(lines) + "\n")
