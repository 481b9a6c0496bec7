"""What captions are worth beside those that people wrote: BLEU, chrF, ROUGE-L and CIDEr-D.

An image has one or more references, not always as many as the next. METEOR and SPICE are left out: no kept
library has them without Java.
"""

import functools
import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from sacrebleu import BLEU, CHRF

ORDER = 4  # longest n-gram of BLEU and CIDEr-D
BETA = 1.2  # of ROUGE-L: recall counts more than precision
SIGMA = 6.0  # of CIDEr-D, in words

Ngram = tuple[str, ...]
References = Sequence[Sequence[str]]  # of every image


def plain(text: str) -> str:
    """A text in the tokenisation of the captioning papers: lower case, no punctuation, single spaces.

    A character that is neither a letter (with its marks) nor a number is dropped, and what stood on either
    side of it becomes one word: as in the data that papers since Karpathy and Fei-Fei (2015) share.

    >>> plain("Two t-shirts  don't  match .")
    'two tshirts dont match'
    """
    kept = (c for c in text.lower() if c.isspace() or unicodedata.category(c)[0] in "LMN")
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def measure(candidates: Sequence[str], references: References) -> dict[str, Any]:
    """Figures of one candidate for every image.

    Returns:
      ``bleu_1`` to ``bleu_4``, 0 to 100: BLEU of up to so many words in a row, of ``plain`` text, without
      smoothing, which captioning papers report; the brevity penalty takes the closest reference.
      ``sacrebleu_1`` to ``sacrebleu_4``, 0 to 100: the same of lower-cased text in sacrebleu's own
      tokenisation and smoothing; punctuation counts.
      ``chrf``, 0 to 100: of lower-cased text; of the references that which gives most counts.
      ``rouge_l``, 0 to 1, and ``cider_d``, 0 to 10: means over images, of ``plain`` text.
      ``bleu_signature``, ``sacrebleu_signature``, ``chrf_signature``: sacrebleu's.

    Raises:
      ValueError: where an image has no candidate or no reference, or where there is no image.
    """
    _check(candidates, references)
    texts = [plain(candidate) for candidate in candidates]
    plain_references = [[plain(reference) for reference in of] for of in references]
    # As sacrebleu takes them: the first reference of every image, the second, ..., None where none is.
    streams, plain_streams = list(zip_longest(*references)), list(zip_longest(*plain_references))
    papers = BLEU(lowercase=True, tokenize="none", smooth_method="none", force=True)
    # Forced: some corpora have a space before the full stop, of which sacrebleu warns.
    own, chrf = BLEU(lowercase=True, force=True), CHRF(lowercase=True)
    return {
        **_bleu("bleu", papers, texts, plain_streams),
        **_bleu("sacrebleu", own, candidates, streams),
        "chrf": chrf.corpus_score(candidates, streams).score,
        "rouge_l": float(np.mean(rouge_l(texts, plain_references))),
        "cider_d": float(np.mean(cider_d(texts, plain_references))),
        "bleu_signature": str(papers.get_signature()),
        "sacrebleu_signature": str(own.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def rouge_l(candidates: Sequence[str], references: References) -> np.ndarray:
    """ROUGE-L (Lin 2004) of every image, as captions are evaluated, 0 to 1, of texts that ``plain`` gives.

    With LCS(c, s), the length of the longest common subsequence of words::

        P = max_s LCS(c, s) / |c|        R = max_s LCS(c, s) / |s|
        F = (1 + β²) P R / (R + β² P),   β = 1.2

    The greatest recall and the greatest precision may come from different references.
    """
    scores = []
    for candidate, of in zip(candidates, references, strict=True):
        words, others = candidate.split(), [reference.split() for reference in of]
        common = [_common(words, other) for other in others]
        precision = max(common) / max(len(words), 1)
        recall = max(length / max(len(other), 1) for length, other in zip(common, others, strict=True))
        either = recall + BETA**2 * precision  # 0 only where both are
        scores.append((1 + BETA**2) * precision * recall / either if either else 0.0)
    return np.array(scores)


def cider_d(candidates: Sequence[str], references: References) -> np.ndarray:
    """CIDEr-D (Vedantam et al. 2015) of every image, 0 to 10, of texts that ``plain`` gives.

    With h_k(s), how often the n-gram ω_k comes in s, and images p ∈ I with references s_pq (eq. 1, 4, 5)::

        g_k(s) = h_k(s) · log(|I| / Σ_p min(1, Σ_q h_k(s_pq)))
        D_n(c, S) = 10/m Σ_j exp(−(l(c) − l(s_j))² / 2σ²)
                             · min(gⁿ(c), gⁿ(s_j)) · gⁿ(s_j) / (‖gⁿ(c)‖ ‖gⁿ(s_j)‖),   σ = 6
        D(c, S) = 1/N Σ_n D_n(c, S),   N = 4

    As in the public code, words are not stemmed, h is not divided by the sum of counts, and an n-gram that
    no reference has weighs as one of a single image. What every image has weighs nothing, and an order
    without weight gives 0, so that a single image gets 0. Figures of other images do not compare.
    """
    counted = [[_ngrams(reference.split()) for reference in of] for of in references]
    images = Counter(ngram for of in counted for ngram in set().union(*of))
    weight = {ngram: math.log(len(counted) / count) for ngram, count in images.items()}
    rare = math.log(max(len(counted), 1))

    def vector(counts: Counter[Ngram]) -> tuple[dict[Ngram, float], list[float]]:
        weights = {ngram: count * weight.get(ngram, rare) for ngram, count in counts.items()}
        squares = [0.0] * ORDER
        for ngram, value in weights.items():
            squares[len(ngram) - 1] += value * value
        return weights, [math.sqrt(square) for square in squares]

    scores = np.zeros(len(candidates))
    for image, (candidate, of) in enumerate(zip(candidates, references, strict=True)):
        weights, norms = vector(_ngrams(candidate.split()))
        for text, counts in zip(of, counted[image], strict=True):
            others, other_norms = vector(counts)
            products = [0.0] * ORDER
            for ngram in weights.keys() & others.keys():
                products[len(ngram) - 1] += min(weights[ngram], others[ngram]) * others[ngram]
            alike = [p / (a * b) for p, a, b in zip(products, norms, other_norms, strict=True) if a * b]
            apart = len(candidate.split()) - len(text.split())
            scores[image] += math.exp(-(apart**2) / (2 * SIGMA**2)) * math.fsum(alike)
        scores[image] *= 10 / (ORDER * len(of))
    return scores


def novelty(candidates: Sequence[str], training: Collection[str]) -> dict[str, float]:
    """How much of what a model writes is its own, in ``plain`` text.

    Of the candidates, one or more, ``new_captions`` is the part that no training caption equals, and
    ``distinct_captions`` the number of different ones as a part of all; ``vocabulary_used`` counts words.

    >>> novelty(["A dog runs.", "a dog runs", "A cat"], ["a cat ."])["new_captions"]
    0.6666666666666666
    """
    known = {plain(caption) for caption in training}
    texts = [plain(candidate) for candidate in candidates]
    words = [word for text in texts for word in text.split()]
    return {
        "new_captions": sum(text not in known for text in texts) / len(texts),
        "distinct_captions": len(set(texts)) / len(texts),
        "vocabulary_used": len(set(words)),
        "words_per_caption": len(words) / len(texts),
    }


def people(references: References) -> dict[str, Any]:
    """What people reach: each reference in turn against the others of its image; means of ``measure``.

    Where images have unequal numbers of references, there are as many turns as the fewest. Against all of
    the references, one more, figures are a little higher.

    Raises:
      ValueError: where an image has fewer than two references.
    """
    _check(references, references)
    if (turns := min(map(len, references))) < 2:
        raise ValueError(f"expected at least two references for every image, got {turns} for one")
    found = [
        measure([of[turn] for of in references], [[*of[:turn], *of[turn + 1 :]] for of in references])
        for turn in range(turns)
    ]
    return {
        name: value if isinstance(value, str) else float(np.mean([of[name] for of in found]))
        for name, value in found[0].items()
    }


def best_constant(
    references: References, captions: Iterable[str] | None = None, *, order: int = ORDER
) -> dict[str, Any]:
    """What needs no look at the images: the one caption for all of them with the highest BLEU.

    Args:
      references: of every image; they choose it, so that no other constant of these captions does better.
      captions: among which it is sought; the references themselves by default.
      order: of the BLEU, 4 for ``bleu_4`` of ``measure``.

    Returns:
      The ``caption`` and its figures, as in ``measure``.
    """
    _check(references, references)
    texts = [[plain(reference).split() for reference in of] for of in references]
    # How many images have a reference with an n-gram at least so many times: what one caption matches.
    having: Counter[tuple[Ngram, int]] = Counter()
    for of in texts:
        most = functools.reduce(Counter.__or__, (_ngrams(reference, order) for reference in of))
        having.update((ngram, times + 1) for ngram, count in most.items() for times in range(count))

    @functools.cache
    def reference_length(words: int) -> int:
        return sum(min(map(len, of), key=lambda length: (abs(length - words), length)) for of in texts)

    def bleu(caption: str) -> float:
        words, matched = plain(caption).split(), [0] * order
        for ngram, count in _ngrams(words, order).items():
            matched[len(ngram) - 1] += sum(having[ngram, times + 1] for times in range(count))
        total = [max(len(words) - n, 0) * len(texts) for n in range(order)]
        lengths = len(words) * len(texts), reference_length(len(words))
        return BLEU.compute_bleu(matched, total, *lengths, max_ngram_order=order).score

    best = max((r for of in references for r in of) if captions is None else captions, key=bleu)
    return {"caption": best, **measure([best] * len(references), references)}


def _check(candidates: Sequence[Any], references: References) -> None:
    if not references or len(candidates) != len(references):
        raise ValueError(f"expected a caption for every image, got {len(candidates)} for {len(references)}")
    for image, of in enumerate(references):
        if isinstance(of, str) or not of:
            raise ValueError(f"expected a list of references for image {image}, got {of!r}")


def _bleu(name: str, metric: BLEU, candidates: Sequence[str], streams: Any) -> dict[str, float]:
    """BLEU of up to 1, 2, 3 and 4 words in a row, from counts made once."""
    found = metric.corpus_score(candidates, streams)
    lengths, smooth = (found.sys_len, found.ref_len), metric.smooth_method
    scores = (
        BLEU.compute_bleu(found.counts[:n], found.totals[:n], *lengths, smooth, max_ngram_order=n)
        for n in range(1, ORDER + 1)
    )
    return {f"{name}_{n}": of.score for n, of in enumerate(scores, start=1)}


def _ngrams(words: Sequence[str], order: int = ORDER) -> Counter[Ngram]:
    """How often every n-gram of up to so many words comes."""
    return Counter(tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence; row[i] is that of the words so far and right[:i]."""
    row = [0] * (len(right) + 1)
    for word in left:
        above = row
        row = [0]
        for i, other in enumerate(right):
            row.append(above[i] + 1 if word == other else max(above[i + 1], row[i]))
    return row[-1]
