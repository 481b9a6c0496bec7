"""Models from before recurrence: counts against dictionaries, networks against NumPy, and the command."""

import json
import math
import re
from collections import Counter, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.baselines import kneser_ney
from experiments.baselines.__main__ import COMMANDS
from experiments.baselines.data import (
    BROWN_PARTS,
    Data,
    DataSettings,
    brown,
    in_streams,
    load_data,
    numbered,
)
from experiments.baselines.errors import explain, last_seen
from experiments.baselines.networks import BagNetwork, WindowNetwork, token_log_probabilities
from experiments.baselines.study import Train
from experiments.baselines.study import networks as networks_of
from experiments.data.sentences import words_of
from experiments.harness.fit import parameters
from jaxrnn import LSTM
from jaxrnn.models.language_model import LanguageModel, text_nats
from tests.commands import needs, refusal, runner

run = runner(COMMANDS)
TEXT = "so it was said that it is said, and so it is that the cat sat on it\n" * 60
SMALL = ["--windows", "1", "3", "--cells", "elman", "--order", "4", "--parameters", "2000", "--steps", "6"]
SMALL += ["--batch-size", "4", "--chunk-length", "8", "--evaluate-every", "3"]


def kneser_ney_by_hand(train, history, vocabulary, order, discounts):
    """p(w | history) of every token w, by dictionaries, straight from the definition."""
    grams = {n: Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1)) for n in range(1, 10)}

    def amounts(n, highest):
        if highest:
            return grams[n]
        before = defaultdict(set)
        for gram in grams[n + 1]:
            before[gram[1:]].add(gram[0])
        return {gram: len(before[gram]) for gram in grams[n]}

    def p(n, highest):
        if n == 0:
            return np.full(vocabulary, 1 / vocabulary)
        of = amounts(n, highest)
        n1, n2, n3, n4 = (sum(a == k for a in of.values()) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2) if n1 else 0.5
        cut = {1: y, 2: y, 3: y}
        if discounts == "modified":
            for k, here, above in ((1, n1, n2), (2, n2, n3), (3, n3, n4)):
                if here:
                    cut[k] = min(max(k - (k + 1) * y * above / here, 0), k)
        context = tuple(history[len(history) - n + 1 :])
        lower = p(n - 1, highest=False)
        seen = {gram[-1]: a for gram, a in of.items() if gram[:-1] == context}
        total = sum(seen.values())
        if len(history) < n - 1 or not total:
            return lower
        taken = {w: min(cut[min(a, 3)] if a else 0, a) for w, a in seen.items()}
        own = np.array([seen.get(w, 0) - taken.get(w, 0) for w in range(vocabulary)])
        return (own + sum(taken.values()) * lower) / total

    return p(order, highest=True)


@pytest.mark.parametrize("discounts", ["single", "modified"])
def test_kneser_ney_equals_dictionaries(discounts):
    """Of every order, of texts with tokens that training never had, with contexts seen and unseen."""
    random = np.random.default_rng(0)
    train = np.where(random.random(80) < 0.6, np.arange(80) % 3, random.integers(0, 4, 80))
    text = np.concatenate([train[20:30], random.integers(0, 5, 12)])
    model = kneser_ney.fit(train, 5, 4, discounts)
    found = kneser_ney.probabilities(model, text)
    for time in range(len(text)):
        for order in range(1, 5):
            every = kneser_ney_by_hand(train.tolist(), text[:time].tolist(), 5, order, discounts)
            assert every.sum() == pytest.approx(1, abs=1e-12)
            assert found[order - 1, time] == pytest.approx(every[text[time]], rel=1e-12)


def test_kneser_ney_of_texts_that_hardly_are():
    """One token, one kind of token; an order that the text has not got."""
    for train in ([2], [1, 1, 1, 1]):
        model = kneser_ney.fit(np.array(train), 3, len(train))
        each = [kneser_ney.probabilities(model, np.array([1, 1, token]))[:, -1] for token in range(3)]
        np.testing.assert_allclose(np.sum(each, axis=0), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="order must be from 1 to the 2 tokens of the text, got 3"):
        kneser_ney.fit(np.array([0, 1]), 3, 3)


@needs("brown")
@pytest.mark.slow
def test_brown():
    """Test perplexities that were published with the split: files in order, rare words merged."""
    tokens, ids = numbered(brown(), min_count=4)
    train, _, test = np.split(ids, BROWN_PARTS)
    assert (len(tokens), len(ids)) == (17_905, 1_161_192)
    model = kneser_ney.fit(train, len(tokens), 5, "single")
    found = np.exp(-np.log(kneser_ney.probabilities(model, test)).mean(1))
    np.testing.assert_allclose(found, [882.6, 370.0, 357.7, 356.3, 355.7], rtol=1e-3)


def drawn(model, dtype):
    """Parameters that are all random."""
    params, random = model.init(jax.random.key(0)), np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), dtype), params)


@pytest.mark.slow
@pytest.mark.parametrize("embedding_size", [None, 3])
@pytest.mark.parametrize("kind", ["window", "bag"])
def test_networks_equal_numpy(kind, embedding_size):
    """Token by token, in float64, from a carry that was handed over; float32 likewise."""
    size = 6
    model = BagNetwork(size, 4, embedding_size)
    if kind == "window":
        model = WindowNetwork(size, 3, 4, embedding_size)
    tokens = np.random.default_rng(0).integers(0, size, (9, 2))
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 1e-5)):
        with jax.enable_x64(dtype == jnp.float64):
            params = drawn(model, dtype)
            carry, first = model.apply(params, tokens[:5], model.initial_carry((2,), dtype))
            _, second = model.apply(params, tokens[5:], carry)
            found = np.concatenate([first, second])
            params = jax.tree.map(np.asarray, params)
        table = np.eye(size) if embedding_size is None else params.embedding
        for lane in range(2):
            xs = table[tokens[:, lane]]
            for time in range(9):
                z = xs[: time + 1].mean(0) @ params.w_in[0]
                if kind == "window":
                    z = sum(xs[time - back] @ params.w_in[back] for back in range(min(3, time + 1)))
                logits = np.tanh(z + params.b_in) @ params.w_out + params.b_out
                np.testing.assert_allclose(found[time, lane], logits, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_token_log_probabilities(monkeypatch):
    """Of a recurrent model, whose state goes on over chunks: they add up to its cross-entropy, which stays
    finite where a probability is too small for float32."""
    monkeypatch.setattr("experiments.baselines.networks.CHUNK", 7)
    model = LanguageModel(5, [LSTM(3)])
    params, ids = drawn(model, jnp.float32), np.random.default_rng(0).integers(0, 5, 24)
    params = params._replace(b_out=params.b_out.at[2].set(-200.0))
    calls = []
    found = token_log_probabilities(model, params, ids, lambda done, of: calls.append((done, of)))
    nats, count = text_nats(model, params, ids)
    assert len(found) == count == 23
    assert found.min() < -100
    assert -found.sum() == pytest.approx(nats, rel=1e-5)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_errors_by_what_avoids_them():
    """Each once, by the first that would have helped."""
    text = "the cat, the cow; zebu zebu."
    back = last_seen(text)
    assert back[text.index("e cow")] == 9  # "th" went on with an e
    assert np.isinf(back[text.index("ow;")])  # "c" went on with an a
    network = np.full(len(text) - 1, 0.9)
    network[[0, 9, 10, 14, 19, 23, 24]] = 0.1  # h e; he of the second "the"; o of cow; the b of both zebus
    ngrams = np.zeros(len(text) - 1)
    ngrams[[0, 3]] = 0.8
    found = explain(network, ngrams, text, train="the cat the cow " * 9 + "zebu")
    assert found["errors"] == 7
    assert found["avoided"]["n-grams"] == 1
    assert found["avoided"]["memory of 100 characters"] == 4
    assert found["avoided"]["word rare in training"] == 1
    assert found["others"] == 1
    assert sum(found["avoided"].values()) + found["others"] == 7


def test_parts():
    """War and Peace in a hundred streams; words in order, all of the rare ones one."""
    train, valid, test = in_streams(np.arange(2_005))
    assert (len(train), len(valid), len(test)) == (1_600, 200, 200)
    assert valid[:4].tolist() == [16, 17, 36, 37]
    assert test[-2:].tolist() == [1_998, 1_999]
    tokens, ids = numbered(["b", "a", "b", "c", "b", "a"], min_count=2)
    assert [tokens[token] for token in ids] == ["b", "a", "b", tokens[0], "b", "a"]


@needs("war_and_peace")
@pytest.mark.slow
def test_war_and_peace_is_that_of_karpathy():
    """With its byte-order mark and its line ends; bigrams cost what is published."""
    data = load_data(DataSettings(corpus="war_and_peace"))
    assert sum(map(len, data[:3])) == 3_258_200
    assert len(data.tokens) == 84
    model = kneser_ney.fit(data.train, len(data.tokens), 3)
    nats = -np.log(kneser_ney.probabilities(model, data.test)).mean(1)
    np.testing.assert_allclose(nats[1:], [2.399, 1.928], atol=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_networks_have_about_the_size_asked_for(tied):
    """Each the nearest there is, its embedding shared or not."""
    data = Data(*[np.zeros(2, int)] * 3, tuple(map(chr, range(60))), "character", {})
    config = Train(parameters=20_000, cells=("lstm", "projected"), tied=tied, embedding_size=8)
    for name, model in networks_of(config, data).items():
        size = parameters(jax.eval_shape(model.init, jax.random.key(0)))
        assert abs(size - 20_000) < 700, name
        if name in config.cells:
            assert model.tied == tied
            assert model.embedding_size == (model.cells[0].out_features if tied else 8)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["character", "word"])
def test_the_command(unit, tmp_path, capsys):
    """Every model is in the table and in the summary; a run that is resumed says the same again."""
    (tmp_path / "text").write_text(TEXT)
    networks = ["window_1", "window_3", "bag", "elman"]
    call = ["--corpus", tmp_path / "text", "--unit", unit, *SMALL, "--out", tmp_path / "run"]
    if unit == "word":
        networks = ["elman"]
        call += ["--windows", "--no-bag", "--refit"]
    run(*call)
    printed = capsys.readouterr().out
    sizes = re.search(r"text: (.+) \w+s to train on, (.+) valid, (.+) test", printed).groups()
    train, valid, test = (int(size.replace(",", "")) for size in sizes)
    if unit == "word":
        assert train + test == len(words_of(TEXT))
        assert re.search(r"model +trained on", printed)
    else:
        assert train + valid + test == len(TEXT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["models"]) == ["1-gram", "2-gram", "3-gram", "4-gram", *networks]
    for name, of in summary["models"].items():
        assert name in printed
        assert of["test_bits"] == pytest.approx(of["test_nats"] / math.log(2))
        assert of["train_seconds"] > 0
    grams = [summary["models"][f"{order}-gram"]["train_seconds"] for order in range(1, 5)]
    assert grams == sorted(grams)
    size = summary["models"]["elman"]["parameters"]
    assert summary["models"]["elman"]["bytes_in_memory"] == 4 * size
    assert ("errors" in summary) == (unit == "character")
    assert (tmp_path / "run" / "context.png").stat().st_size > 10_000
    run(*call, "--resume")
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["models"]["elman"]["test_nats"] == summary["models"]["elman"]["test_nats"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--order", "9999"], "--order 9999 is longer than the 3,672 tokens to train on"),
        (["--corpus", "none"], "neither a file nor one of"),
        (["--chunk-length", "2000"], "the text is too short"),
        (["--windows", "0"], "windows must be a positive integer, got 0"),
    ],
)
def test_bad_input(changes, message, tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT)
    call = ["--corpus", tmp_path / "text", *SMALL, "--out", tmp_path / "run", *changes]
    assert message in refusal(capsys, run, *call)
    assert not (tmp_path / "run").exists()
