"""Translating and scoring text with trained models, and pictures of their attention."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import sacrebleu

from experiments.data.batches import Size, lanes_within
from experiments.data.pairs import Pairs
from experiments.data.tokens import (
    END,
    START,
    Unknown,
    Vocabularies,
    count_unknown,
    decode,
    encode,
    hypotheses_of,
)
from experiments.harness.command_line import note
from experiments.translation.batches import Batch, EncodedPair, batches_in_order, encode_pairs
from jaxrnn.decoding import beam_search, ensemble, forced_score
from jaxrnn.models.seq2seq import Encoded, Seq2Seq
from jaxrnn.training.processes import Share

BATCH = 64  # sentences translated or scored side by side, but fewer of
BUDGET = 2**24  # attention weights, of every token written for every token read
LONGEST = (3, 20)  # a translation ends after 3 times as many tokens as the padded source, and 20
PICTURES = 4  # sentences whose attention is kept, to be drawn

OnBatch = Callable[[int, int], None]


class Translator(NamedTuple):
    """Trained models, one or several that share their vocabularies, and their text."""

    models: tuple[tuple[Seq2Seq, Any], ...]  # with their parameters
    vocabularies: Vocabularies
    lowercase: bool


class Hypothesis(NamedTuple):
    """A translation, and how it came about."""

    text: str
    score: float  # log-probability in nats, divided by the length penalty
    ended: bool  # False where it was cut off
    source_pieces: list[str | None]
    pieces: list[str | None]  # the end token included
    # Attention (pieces, source_pieces), averaged over the models that have it; kept for what may be drawn.
    weights: np.ndarray | None


def translate(
    translator: Translator,
    lines: Sequence[str],
    *,
    beam: int,
    length_penalty: float,
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> list[list[Hypothesis]]:
    """For every line the hypotheses of a beam, best first.

    Raises:
      ValueError: where a model gives no probabilities.
    """
    sources = encode(translator.vocabularies.source, lines)
    pairs = [EncodedPair(source, np.zeros(0, np.int32)) for source in sources]
    found: list[list[Hypothesis]] = [[] for _ in lines]
    size = min(BATCH, 1 << (len(lines) - 1).bit_length())
    done = 0

    def lanes(bucket: Size) -> int:
        source, _ = bucket
        followed = beam * len(translator.models)
        return lanes_within(BUDGET, followed * _most_tokens(source) * source, size)

    def search(group: tuple[list[int], Batch]) -> Any:
        indices, batch = group
        step, state, context = _start(translator, batch)
        beams = beam_search(
            step,
            state,
            start=START,
            end=END,
            max_length=_most_tokens(len(batch.source)),
            beam_size=beam,
            length_penalty=length_penalty,
            context=context,
        )
        # Where the models looked is much, and kept of few.
        return jax.device_get(beams if min(indices) < PICTURES else beams._replace(extras=None))

    groups = list(batches_in_order(pairs, (), lanes))
    for (indices, _), beams in zip(groups, share(search, groups), strict=True):
        for lane, index in enumerate(indices):
            found[index] = _hypotheses(translator, sources[index], beams, lane, drawn=index < PICTURES)
        done += len(indices)
        on_batch(done, len(lines))
    return found


def score(
    translator: Translator,
    pairs: Pairs,
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability in nats of every target given its source, and its tokens, the end included."""
    encoded = encode_pairs(translator.vocabularies, pairs)
    scores, done = np.zeros(len(encoded)), 0

    def lanes(bucket: Size) -> int:
        source, target = bucket
        return lanes_within(BUDGET, source * target, BATCH)

    def nats_of(group: tuple[list[int], Batch]) -> np.ndarray:
        _, batch = group
        step, state, context = _start(translator, batch)
        nats = forced_score(
            step, state, batch.targets.T, start=START, lengths=batch.target_lengths, context=context
        )
        return np.asarray(nats)

    groups = list(batches_in_order(encoded, (), lanes))
    for (indices, _), nats in zip(groups, share(nats_of, groups), strict=True):
        scores[indices] = nats[: len(indices)]
        done += len(indices)
        on_batch(done, len(encoded))
    return scores, np.array([len(pair.target) + 1 for pair in encoded])


def unknown_tokens(vocabularies: Vocabularies, pairs: Pairs) -> dict[str, Unknown]:
    """The tokens of each side that its vocabulary lacks."""
    sides = zip(("source", "target"), vocabularies, pairs, strict=True)
    return {side: count_unknown(tokenizer, lines) for side, tokenizer, lines in sides}


def note_unknown(vocabularies: Vocabularies, pairs: Pairs) -> None:
    """Tell the user how many tokens of each side its vocabulary lacks, if any."""
    for side, unknown in unknown_tokens(vocabularies, pairs).items():
        if not unknown.tokens:
            continue
        of_most = f", most of {unknown.total:,}; first in {unknown.first[:60]!r}" if unknown.most else ""
        note(f"{unknown.tokens:,} tokens of the {side} text are not in the vocabulary{of_most}")


def measure(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool) -> dict[str, Any]:
    """BLEU and chrF with sacrebleu's signatures, and the part of translations that are exactly right."""
    bleu, chrf = sacrebleu.BLEU(lowercase=lowercase), sacrebleu.CHRF(lowercase=lowercase)
    fold = str.lower if lowercase else str
    exact = [fold(h) == fold(r) for h, r in zip(hypotheses, references, strict=True)]
    return {
        "bleu": bleu.corpus_score(hypotheses, [references]).score,
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        "exact_match": sum(exact) / len(exact),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def evaluate(
    translator: Translator,
    pairs: Pairs,
    *,
    beam: int,
    length_penalty: float,
    on_batch: OnBatch = lambda done, total: None,
    share: Share = map,
) -> tuple[dict[str, Any], list[Hypothesis]]:
    """Figures of a model on pairs, and its best translations.

    Raises:
      ValueError: where a model gives no probabilities.
    """
    unknown = unknown_tokens(translator.vocabularies, pairs)
    how: Any = {"beam": beam, "length_penalty": length_penalty}
    found = translate(translator, pairs.source, **how, on_batch=on_batch, share=share)
    best = [hypotheses[0] for hypotheses in found]
    nats, tokens = score(translator, pairs, share=share)
    figures = measure([h.text for h in best], pairs.target, lowercase=translator.lowercase)
    nats_per_token = -float(nats.sum()) / int(tokens.sum())
    figures |= {
        "nats_per_token": nats_per_token,
        "perplexity": math.exp(nats_per_token),
        "sentences": len(best),
        **{f"unknown_{side}_tokens": of_side.tokens for side, of_side in unknown.items()},
        "cut_off": sum(not hypothesis.ended for hypothesis in best),
        "beam": beam,
        "length_penalty": length_penalty,
    }
    return figures, best


def described(figures: dict[str, Any]) -> str:
    """Figures of an evaluation in words."""
    remarks = f"; {figures['cut_off']} cut off" if figures["cut_off"] else ""
    if unknown := figures["unknown_source_tokens"] + figures["unknown_target_tokens"]:
        remarks += f"; {unknown:,} tokens are not in the vocabularies"
    if figures["bleu"] == 0 < figures["exact_match"]:  # right, yet 0
        remarks += "; BLEU counts four words in a row, and there are none"
    return (
        f"{figures['sentences']:,} sentences: exact match {figures['exact_match']:.2%}, "
        f"BLEU {figures['bleu']:.2f}, chrF {figures['chrf']:.2f}, "
        f"perplexity {figures['perplexity']:.3f}{remarks}\n"
        f"{figures['bleu_signature']}"
    )


def _most_tokens(source_tokens: int) -> int:
    return LONGEST[0] * source_tokens + LONGEST[1]


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Seq2Seq, params: Any, source: Any, lengths: Any) -> Encoded:
    return model.encode(params, source, lengths=lengths)


def _start(translator: Translator, batch: Batch) -> tuple[Any, Any, Any]:
    """The step of one model or of the ensemble, its state and its context.

    Lanes of length 0 read the first sentence once more: what they write must end, too.
    """
    empty = batch.source_lengths == 0
    source = np.where(empty, batch.source[:, :1], batch.source)
    lengths = np.where(empty, batch.source_lengths[0], batch.source_lengths)
    encoded = [_encode(model, params, source, lengths) for model, params in translator.models]
    steps = [jax.tree_util.Partial(model.step, params) for model, params in translator.models]
    if len(steps) == 1:
        return steps[0], encoded[0].carry, encoded[0].memory
    states, contexts = (tuple(parts) for parts in zip(*encoded, strict=True))
    return ensemble(steps), states, contexts


def _hypotheses(
    translator: Translator, source: np.ndarray, beams: Any, lane: int, *, drawn: bool
) -> list[Hypothesis]:
    """The hypotheses of one lane; of the best also where it looked, if that may be ``drawn``."""
    vocabularies = translator.vocabularies
    source_pieces = [vocabularies.source.id_to_token(i) for i in source.tolist()]
    found: list[Hypothesis] = []
    for slot, score, tokens in hypotheses_of(beams, lane):
        kept = jax.tree.leaves(beams.extras) if drawn and not found else []
        weights = [w[lane, slot, : len(tokens), : len(source)] for w in kept]
        found.append(
            Hypothesis(
                decode(vocabularies.target, tokens),
                score,
                tokens[-1] == END,
                source_pieces,
                [vocabularies.target.id_to_token(i) for i in tokens],
                np.mean(weights, axis=0) if weights else None,
            )
        )
    return found
