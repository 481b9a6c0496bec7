"""Units of models that read sequences of their own: what is recorded, and what stands beside it."""

import jax
import numpy as np
import pytest

from experiments.classification.training import Train as ClassificationTrain
from experiments.data.batches import side_by_side
from experiments.harness.run import config_record, write_json
from experiments.hidden_units import sequences
from experiments.hidden_units.recording import Signal, record_sequences
from experiments.hidden_units.sequences import SHADES, subjects_of
from experiments.tagging.training import Train as TaggingTrain
from experiments.translation.training import Train as TranslationTrain
from jaxrnn import GRU, LSTM
from jaxrnn.models.encoder import Encoder
from tests.table import random_like


@pytest.mark.slow
def test_sequences_are_recorded_in_their_order():
    """In batches of other lengths and another order, of a network that reads both ways."""
    encoder = Encoder([LSTM(3), GRU(2)], in_features=2, direction="bidirectional")
    params = random_like(jax.eval_shape(encoder.init, jax.random.key(0)), 0)
    random, lengths = np.random.default_rng(0), [4, 2, 5]
    xs = [random.standard_normal((length, 2)).astype(np.float32) for length in lengths]
    batches = [
        ([2], xs[2][:, None], np.array([5])),
        ([0, 1], side_by_side([*xs[:2], xs[2][:0]], 6, 3, 0), np.array([4, 2, 0])),
    ]
    found = record_sequences(batches, lambda batch: encoder.record(params, batch)[2])
    assert [signal.name for signal in found.signals[:30:3]] == [
        *("h", "c", "f", "i", "o"),
        *(f"backward.{name}" for name in ("h", "c", "f", "i", "o")),
    ]
    assert all(signal.is_state == (signal.name[-1] in "hc") for signal in found.signals)
    # Padding is read too, here where lengths are not told; a lane's own steps come out all the same.
    alone = [encoder.record(params, of)[2] for _, of, _ in batches]
    c_of_second = np.r_[alone[1][0][1].carry.c[:4, 0, 1], alone[1][0][1].carry.c[:2, 1, 1]]
    column = found.signals.index(Signal(1, "backward.c", 1))
    np.testing.assert_allclose(found.exact(column)[:6], c_of_second, atol=0.01)
    np.testing.assert_allclose(found.exact(column)[6:], alone[0][0][1].carry.c[:, 0, 1], atol=0.01)
    assert np.isnan(found.nats).all()


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """A run of another experiment, of which nothing is there but its settings: drawn parameters will do."""
    monkeypatch.setattr(sequences, "load", lambda folder, config, init: init(jax.random.key(0)))

    def made(config):
        (tmp_path / "run").mkdir()
        write_json(tmp_path / "run" / "config.json", config_record(config))
        return tmp_path / "run"

    return made


@pytest.mark.slow
def test_rows_of_an_image(untrained):
    """Digits: every row as it looks, and the cell's own steps on it."""
    folder = untrained(ClassificationTrain(data="digits", hidden_size=3, embedding_size=2))
    (found,) = subjects_of(folder, {"dark": "█"}, 50)
    assert len(found.text.text) == 48 == len(found.recording.values)
    assert found.text.labels["position"].tolist() == [*range(8)] * 6
    assert [len(row.rstrip("\n")) for row in found.text.text] == [16] * 48
    assert [row.count("\n") for row in found.text.text] == [1, 1, 1, 1, 1, 1, 1, 2] * 6
    ink = np.array([[SHADES.index(shade) for shade in row.strip("\n")] for row in found.text.text]).sum(1)
    assert np.corrcoef(ink, found.text.labels["ink"])[0, 1] > 0.99
    assert found.text.labels["dark"].tolist() == ["█" in row for row in found.text.text]
    assert {name for name in found.text.labels if name.startswith("of ")} <= {f"of {n}" for n in range(10)}


COLOURS, THINGS = ["red", "old", "big", "new", "odd"], ["house", "tree", "river", "hill", "sea", "boat"]


@pytest.mark.slow
def test_words_and_their_tags(untrained, tmp_path):
    file = tmp_path / "tags"
    file.write_text("".join(f"{a} A\n{b} N\nis V\n\n" for a in COLOURS for b in THINGS))
    config = TaggingTrain(data=str(file), hidden_size=3, spelling_size=2)
    (found,) = subjects_of(untrained(config), {}, 6)
    assert len(found.text.text) == len(found.recording.values) == 6
    assert found.text.text[1][:-1] in THINGS
    assert found.text.text[2::3] == ("is\n", "is\n")
    assert found.text.labels["is A"].tolist() == [True, False, False] * 2
    assert len(found.recording.signals) == 2 * 3 * 5


@pytest.mark.slow
def test_both_sides_of_a_translation(untrained, tmp_path):
    file = tmp_path / "pairs"
    file.write_text("".join(f"{a} {b}\tthe {b} {a}\n" for a in COLOURS for b in THINGS))
    config = TranslationTrain(data=str(file), tokens="word", hidden_size=3, embedding_size=2)
    source, target = subjects_of(untrained(config), {}, 8)
    assert (source.name, target.name) == ("run: encoder", "run: decoder")
    colour, thing = (word.strip() for word in source.text.text)
    assert colour in COLOURS
    assert thing in THINGS
    assert target.text.text == ("<s> ", " the", f" {thing}", f" {colour}\n")
    assert target.text.labels["tokens left"].tolist() == [3, 2, 1, 0]
    assert len(target.recording.values) == len(target.text.text) == 4
    assert {signal.name for signal in source.recording.signals} >= {"backward.h", "h"}


@pytest.mark.slow
def test_a_run_of_no_such_model(untrained):
    folder = untrained(ClassificationTrain(data="digits", model="bag"))
    with pytest.raises(ValueError, match="has no recurrent units: expected rnn, got bag"):
        subjects_of(folder, {}, 10)
    write_json(folder / "config.json", {"data": "digits", "unheard": 1})
    with pytest.raises(ValueError, match="a run of another experiment: expected one of char_lm, tagging"):
        subjects_of(folder, {}, 10)
