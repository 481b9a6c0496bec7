"""Figures of captions against naive implementations, published code, and what must hold of them."""

import functools
import math
from itertools import zip_longest

import numpy as np
import pytest
import sacrebleu

from experiments.captioning.metrics import best_constant, cider_d, measure, novelty, people, plain, rouge_l

CAPTIONS = {
    "a dog runs through the tall green grass": [
        "A brown dog runs through the tall grass .",
        "the dog is running in a green field",
        "A dog , running",
    ],
    "a man is climbing a rock wall": [
        "A man in a red shirt climbs a rock wall .",
        "Someone is climbing a wall of rock .",
    ],
    "two children play in the water in the water": [
        "Two children splash in the water .",
        "Kids play at the beach , in the water and in the sand .",
        "a boy and a girl are playing in the sea",
        "Two kids don't leave the water !",
    ],
    "a black dog": ["A black dog jumps over a fence ."],
    "a man on a bicycle": ["A man on a bicycle .", "a cyclist rides down a steep hill"],
    "zebras everywhere": ["A woman in a T-shirt reads .", "A lady with a book"],
}
CANDIDATES, REFERENCES = list(CAPTIONS), list(CAPTIONS.values())
FIGURES = [f"{name}_{n}" for name in ("bleu", "sacrebleu") for n in range(1, 5)]
FIGURES += ["chrf", "rouge_l", "cider_d"]
# What Cider, Rouge and Bleu(4) of pycocoevalcap 1.2 give for these captions in lower case, unpunctuated.
PUBLISHED_CIDER_D = [2.4484931710374593, 2.797117475883215, 1.5023600125517103, 3.173539442855727, 5.0, 0.0]
PUBLISHED_ROUGE_L = [0.875, 0.6224489795918368, 0.7558859975216852, 0.5596330275229358, 1.0, 0.0]
PUBLISHED_BLEU = [0.7206026250289778, 0.6378086922023843, 0.5267328648618929, 0.4060213263793378]


def plain_captions():
    return [plain(c) for c in CANDIDATES], [[plain(r) for r in of] for of in REFERENCES]


def drawn(seed):
    """Images with one to four references; sentences of up to eight words, some empty."""
    rng = np.random.default_rng(seed)

    def sentence():
        return " ".join(rng.choice(list("abcdef"), rng.integers(0, 9), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1]))

    images = rng.integers(1, 8)
    references = [[sentence() for _ in range(rng.integers(1, 5))] for _ in range(images)]
    return [sentence() for _ in range(images)], references


def occurrences(ngram, text):
    words, n = text.split(), len(ngram)
    return sum(tuple(words[i : i + n]) == ngram for i in range(len(words) - n + 1))


def naive_cider_d(candidate, of, references):
    """Equations 1, 4 and 5, n-gram for n-gram, over all n-grams that there are."""
    total = 0.0
    for n in range(1, 5):
        texts = [text.split() for texts in [[candidate], *references] for text in texts]
        ngrams = sorted({tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)})
        idf = []
        for ngram in ngrams:
            images = sum(any(occurrences(ngram, text) for text in texts) for texts in references)
            idf.append(math.log(len(references)) - math.log(max(1, images)))
        ours = np.array([occurrences(ngram, candidate) for ngram in ngrams]) * idf
        for reference in of:
            theirs = np.array([occurrences(ngram, reference) for ngram in ngrams]) * idf
            norms = np.linalg.norm(ours) * np.linalg.norm(theirs)
            apart = len(candidate.split()) - len(reference.split())
            if norms > 0:
                cosine = np.minimum(ours, theirs) @ theirs / norms
                total += 10 * cosine * math.exp(-(apart**2) / 72) / len(of) / 4
    return total


def naive_rouge_l(candidate, of):
    @functools.cache
    def common(left, right):
        if not left or not right:
            return 0
        if left[0] == right[0]:
            return 1 + common(left[1:], right[1:])
        return max(common(left[1:], right), common(left, right[1:]))

    words = tuple(candidate.split())
    lengths = {tuple(text.split()): common(words, tuple(text.split())) for text in of}
    if not any(lengths.values()):
        return 0.0
    precision = max(lengths.values()) / len(words)
    recall = max(length / len(text) for text, length in lengths.items() if text)
    return 2.44 * precision * recall / (recall + 1.44 * precision)


@pytest.mark.parametrize("seed", range(20))
def test_cider_d_and_rouge_l_are_those_of_naive_code(seed):
    candidates, references = drawn(seed)
    naive = [naive_cider_d(c, of, references) for c, of in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(cider_d(candidates, references), naive, rtol=0, atol=1e-12)
    naive = [naive_rouge_l(c, of) for c, of in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(rouge_l(candidates, references), naive, rtol=0, atol=1e-12)


def test_figures_are_those_of_published_code():
    texts, references = plain_captions()
    np.testing.assert_allclose(cider_d(texts, references), PUBLISHED_CIDER_D, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rouge_l(texts, references), PUBLISHED_ROUGE_L, rtol=0, atol=1e-9)
    found = measure(CANDIDATES, REFERENCES)
    bleu = [found[f"bleu_{n}"] / 100 for n in range(1, 5)]
    np.testing.assert_allclose(bleu, PUBLISHED_BLEU, rtol=0, atol=1e-9)
    assert found["cider_d"] == pytest.approx(np.mean(PUBLISHED_CIDER_D), abs=1e-9)
    assert found["rouge_l"] == pytest.approx(np.mean(PUBLISHED_ROUGE_L), abs=1e-9)


@pytest.mark.parametrize("candidates", [CANDIDATES, ["a dog ran"] * len(REFERENCES)])
def test_every_order_is_a_bleu_of_its_own(candidates):
    found = measure(candidates, REFERENCES)
    streams = list(zip_longest(*REFERENCES))
    for n in range(1, 5):
        bleu = sacrebleu.BLEU(lowercase=True, max_ngram_order=n)
        assert found[f"sacrebleu_{n}"] == pytest.approx(bleu.corpus_score(candidates, streams).score)
    assert found["sacrebleu_signature"].startswith("nrefs:var|case:lc|eff:no|tok:13a|smooth:exp|")
    assert found["bleu_signature"].startswith("nrefs:var|case:lc|eff:no|tok:none|smooth:none|")
    assert found["chrf_signature"].startswith("nrefs:var|case:lc|")
    if len(set(candidates)) == 1:  # "a dog ran" matches no three words, which only sacrebleu's BLEU smooths
        assert found["bleu_2"] > 0 == found["bleu_3"] < found["sacrebleu_3"]


def test_a_missing_reference_is_not_an_empty_one():
    ragged = measure(["a cat", "a very long dog"], [["a cat sat", "a cat"], ["a very long dog barks"]])
    empty = measure(["a cat", "a very long dog"], [["a cat sat", "a cat"], ["a very long dog barks", ""]])
    # An empty reference halves CIDEr-D of its image, and is never the closest in length here.
    assert ragged["bleu_4"] == pytest.approx(empty["bleu_4"])
    assert ragged["cider_d"] > empty["cider_d"]
    assert "nrefs:var" in ragged["bleu_signature"]
    assert "nrefs:2" in empty["bleu_signature"]


def test_a_reference_itself_is_perfect():
    references = [["A boy kicks a red ball ."], ["Two dogs sleep on a bed"], ["She doesn't wear a hat !"]]
    found = measure([of[0] for of in references], references)
    most = dict.fromkeys(FIGURES, 100) | {"rouge_l": 1, "cider_d": 10}
    assert {name: found[name] for name in FIGURES} == pytest.approx(most)
    without = measure([plain(of[0]) for of in references], references)
    assert without["bleu_4"] == pytest.approx(100)
    assert without["sacrebleu_4"] < 100


def test_the_order_of_references_and_of_images_changes_nothing():
    found = {name: measure(CANDIDATES, REFERENCES)[name] for name in FIGURES}
    for other in (
        measure(CANDIDATES, [of[::-1] for of in REFERENCES]),
        measure(CANDIDATES[::-1], REFERENCES[::-1]),
        measure([c.upper() for c in CANDIDATES], [[r.upper() for r in of] for of in REFERENCES]),
    ):
        assert {name: other[name] for name in FIGURES} == pytest.approx(found)


@pytest.mark.parametrize("nothing", ["", " ", " ?! ."])
def test_an_empty_caption_is_worth_nothing(nothing):
    found = measure([nothing] * len(REFERENCES), REFERENCES)
    with_punctuation = {name for name in FIGURES if name.startswith(("sacrebleu", "chrf"))}
    for name in set(FIGURES) - (with_punctuation if nothing.strip() else set()):
        assert found[name] == 0, name
    mixed = measure([nothing, *CANDIDATES[1:]], REFERENCES)
    assert 0 < mixed["cider_d"] < measure(CANDIDATES, REFERENCES)["cider_d"]
    assert measure(["a dog"], [["...", "!"]])["rouge_l"] == 0  # nor can one be matched


def test_one_image_alone_has_no_rare_words():
    found = measure(["a dog runs in the grass"], [["a dog runs in the grass", "a dog"]])
    assert found["cider_d"] == 0
    assert found["bleu_4"] == pytest.approx(100)
    assert all(math.isfinite(found[name]) for name in FIGURES)


def test_plain_text():
    assert plain(" A man,  in (his)\tT-shirt: doesn't\nmove_on ...") == "a man in his tshirt doesnt moveon"
    assert plain("Ein Mädchen – 2 Hündchen") == "ein mädchen 2 hündchen"
    assert plain("CAFE\u0301") == plain("caf\u00e9") == "café"  # however an accent is written
    assert plain("दो कुत्ते।") == "दो कुत्ते"  # vowel signs are parts of letters
    assert plain("?!") == plain("") == ""


def test_novelty():
    found = novelty(
        ["A dog runs .", "a dog runs", "Two cats sleep", "a fish"], ["A DOG RUNS!", "A fish.", "cats"]
    )
    assert found == {
        "new_captions": 0.25,
        "distinct_captions": 0.75,
        "vocabulary_used": 7,
        "words_per_caption": 11 / 4,
    }


def test_people_are_measured_in_turn():
    references = [["a dog runs", "a dog", "one dog runs fast"], ["a red ball", "the ball", "a ball is red"]]
    first = measure(["a dog runs", "a red ball"], [of[1:] for of in references])
    second = measure(["a dog", "the ball"], [[of[0], of[2]] for of in references])
    third = measure([of[2] for of in references], [of[:2] for of in references])
    found = people(references)
    for name in FIGURES:
        assert found[name] == pytest.approx((first[name] + second[name] + third[name]) / 3)
    assert found["bleu_signature"] == first["bleu_signature"]
    ragged = people([references[0], references[1][:2]])  # two turns, of every image
    assert ragged["rouge_l"] != found["rouge_l"]


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_best_constant_caption_is_the_best_of_all(order):
    problems = [drawn(seed)[1] for seed in range(100, 106)]
    problems = [(of, ["a b", "a a a a", *(r for rs in of for r in rs)]) for of in [REFERENCES, *problems]]
    problems.append((REFERENCES, ["a man in the water in the sea", "A dog running", "?"]))
    for references, captions in problems:
        scores = [measure([c] * len(references), references)[f"bleu_{order}"] for c in captions]
        found = best_constant(references, captions, order=order)
        assert found["caption"] == captions[int(np.argmax(scores))]
        assert found[f"bleu_{order}"] == max(scores)
    found = best_constant(REFERENCES)  # among the references
    assert any(found["caption"] in of for of in REFERENCES)


@pytest.mark.parametrize(
    ("candidates", "references", "said"),
    [
        (["a"], [["a"], ["b"]], "got 1 for 2"),
        ([], [], "got 0 for 0"),
        (["a", "b"], [["a"], []], r"image 1, got \[\]"),
        (["a"], ["a"], "image 0, got 'a'"),
    ],
)
def test_bad_input_is_named(candidates, references, said):
    with pytest.raises(ValueError, match=said):
        measure(candidates, references)


def test_people_need_two_references():
    with pytest.raises(ValueError, match="at least two references for every image, got 1"):
        people([["a", "b"], ["a"]])
