"""Captioning: what it reads, trains and writes, and the script as users run it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.captioning import data as caption_data
from experiments.captioning.__main__ import COMMANDS
from experiments.captioning.data import (
    Data,
    Part,
    batches_in_order,
    collate,
    examples_of,
    texts,
    training_batches,
)
from experiments.captioning.encoders import GRID, SIDE, SIZES, grid_of, init_encoder
from experiments.captioning.model import NEVER_WRITTEN, build_model
from experiments.captioning.scenes import where_it_looks
from experiments.captioning.study import SEEDS, WAYS, compare, folder_name
from experiments.captioning.training import Train, caption_loss
from experiments.captioning.writing import Caption, Writer, most_probable
from experiments.data.captions import Captioned
from experiments.data.drawn_pictures import SLOTS, caption, drawings, picture, shape_words
from experiments.data.images import picture_of_array
from experiments.data.tokens import END, START, train_tokenizer
from experiments.harness import run as runs
from jaxrnn.models.captioner import doubly_stochastic_penalty
from tests.commands import assert_parts_are_the_whole, few_lengths, killed, read_metrics, refusal, runner

SMALL = ["--hidden-size", "5", "--embedding-size", "4", "--projection-size", "4", "--batch-size", "8"]
SMALL += ["--steps", "6", "--evaluate-every", "3", "--beam", "2"]
PICTURES = 20

run = runner(COMMANDS)
one_length = few_lengths(caption_data, 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Images beside a file of their captions; of every second image there are two."""
    folder = tmp_path_factory.mktemp("drawn")
    lines = []
    for number, drawing in enumerate(drawings(PICTURES, 1, 1).train):
        Image.fromarray(picture(drawing)).save(folder / f"{number}.png")
        lines += [f"{number}.png\t{text}" for text in (caption(drawing), "Two things.")[: 1 + number % 2]]
    path = folder / "captions.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", "--data", file, "--out", out, *SMALL)
    return out


@pytest.mark.slow
def test_the_small_encoder_equals_numpy():
    """Padded as XLA's SAME: of an even side and stride 2, below and to the right alone."""
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(0, leaf.size**-0.3, leaf.shape),
        init_encoder("small", jax.random.key(0)),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    line = np.linspace(-1, 1, SIDE)
    across, down = (np.broadcast_to(of, (2, SIDE, SIDE)) for of in (line, line[:, None]))
    x = np.concatenate([images / 127.5 - 1, np.stack([across, down], axis=-1)], axis=-1)
    for convolution in params["convolutions"].values():
        padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        side, kernel = x.shape[1], convolution["kernel"]
        x = sum(
            padded[:, i : i + side : 2, j : j + side : 2] @ kernel[i, j]
            for i, j in np.ndindex(kernel.shape[:2])
        )
        x = np.maximum(x + convolution["bias"], 0)
    found = jax.jit(lambda params: grid_of("small", params, images))(jax.tree.map(jnp.float32, params))
    assert found.shape == (2, GRID**2, SIZES["small"])
    np.testing.assert_allclose(found, x.reshape(found.shape), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def problem():
    """A model of features, seven words, and a part of three images."""
    config = Train(
        encoder="efficientnet_lite0", hidden_size=5, embedding_size=4, projection_size=3, data="x"
    )
    captions = [["red ring", "A RED thing!"], ["blue ring blue ring"], ["red"]]
    pictures = [picture_of_array(str(n), np.zeros((1, 1, 3), np.uint8)) for n in range(3)]
    inputs = np.random.default_rng(0).normal(size=(3, 4, SIZES["efficientnet_lite0"])).astype(np.float16)
    part = Part(Captioned(pictures, captions), inputs)
    lines = [text for of in captions for text in texts(of, config)]
    options = {"vocabulary_size": 1, "min_count": 1, "lowercase": False}
    return config, part, train_tokenizer(lines, "word", **options)


def test_captions_as_they_are_trained_on(problem):
    config, part, tokenizer = problem
    assert texts(["A RED thing!"], config) == ["a red thing"]
    assert texts(["A RED thing!"], Train(lowercase=False)) == ["A RED thing!"]
    reported = []
    examples = examples_of(part, tokenizer, Train(max_length=3), reported.append)
    assert reported == ["1 of 4 captions exceed --max-length 3 words and are left out"]
    assert [example.picture for example in examples] == [0, 0, 2]
    written = [tokenizer.decode(example.ids.tolist()) for example in examples]
    assert written == ["red ring", "a red thing", "red"]
    two = part._replace(captioned=Captioned(part.captioned.pictures[:2], part.captioned.captions[:2]))
    with pytest.raises(ValueError, match="3 of 3 captions exceed --max-length 1"):
        examples_of(two, tokenizer, Train(max_length=1), reported.append)


def test_batches_hold_every_caption_with_its_picture(problem):
    config, part, tokenizer = problem
    examples = examples_of(part, tokenizer, config, print)
    assert_parts_are_the_whole(training_batches(part, examples, 4, seed=0), 4)
    batch = collate(part, examples, time=5, lanes=6)
    np.testing.assert_array_equal(batch.inputs, np.moveaxis(part.inputs[[0, 0, 1, 2, 0, 0]], 0, 1))
    assert batch.lengths.tolist() == [3, 4, 5, 2, 0, 0]
    assert (batch.fed[0, :4] == START).all()
    for lane, example in enumerate(examples):
        assert batch.fed[1 : len(example.ids) + 1, lane].tolist() == example.ids.tolist()
        assert batch.targets[: len(example.ids) + 1, lane].tolist() == [*example.ids.tolist(), END]
    (in_order,) = batches_in_order(part, examples)
    assert sorted(in_order().lengths[:4].tolist()) == [2, 3, 4, 5]
    assert in_order().lengths[4:].sum() == 0


@pytest.mark.slow
def test_the_loss_is_that_of_the_captions_and_the_penalty(problem):
    config, part, tokenizer = problem
    model = build_model(config, tokenizer.get_vocab_size())
    params = model.init(jax.random.key(0))
    batch = collate(part, examples_of(part, tokenizer, config, print), time=6, lanes=6)
    encoded = model.encode(params, batch.inputs)
    logits, weights = model.captioner.logits_and_weights(
        params.captioner, encoded, batch.fed, lengths=batch.lengths
    )
    expected, count = 0.0, 0
    for lane, length in enumerate(batch.lengths):
        for time in range(length):
            row = np.asarray(logits[time, lane], np.float64)
            expected += np.log(np.exp(row).sum()) - row[batch.targets[time, lane]]
            count += 1
    loss = caption_loss(model, config.word_dropout, config.doubly_stochastic, config.label_smoothing)
    total, counted = loss(params, batch, None)["loss"]
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert counted == count == 14
    quiet = build_model(dataclasses.replace(config, dropout=0.0), tokenizer.get_vocab_size())
    trained, _ = caption_loss(quiet, 0.0, 0.5, 0.0)(params, batch, jax.random.key(1))["loss"]
    penalty, captions = doubly_stochastic_penalty(weights, batch.lengths)
    np.testing.assert_allclose(trained, expected + 0.5 * penalty / captions * count, rtol=1e-5)


@pytest.mark.slow
def test_what_is_written_needs_no_unknown_word(problem):
    """Even where the unknown word, the padding and the start are the most probable of all."""
    config, part, tokenizer = problem
    model = build_model(config, tokenizer.get_vocab_size())
    params = model.init(jax.random.key(0))
    b_out = params.captioner.decoder.b_out.at[jnp.array(NEVER_WRITTEN)].set(50.0)
    decoder = params.captioner.decoder._replace(b_out=b_out)
    params = params._replace(captioner=params.captioner._replace(decoder=decoder))
    found = most_probable(Writer(model, params, tokenizer, 4), part.inputs, beam=3, length_penalty=0.0)
    assert [len(captions) for captions in found] == [3, 3, 3]
    for captions in found:
        assert all(len(c.words) <= 5 and "<" not in c.text for c in captions)
        assert all(c.weights.shape == (min(len(c.words) + 1, 5), 4) for c in captions)
        np.testing.assert_allclose(captions[0].weights.sum(1), 1, rtol=1e-5)
        assert captions[0].score >= captions[1].score >= captions[2].score


@pytest.mark.slow
def test_where_it_looks(monkeypatch):
    """Attention that lies on the shapes of the first drawing, and nowhere near those of the second."""
    test = drawings().test[:2]
    monkeypatch.setattr("experiments.captioning.scenes.drawings", lambda: type(drawings())([], [], test))
    side, found = GRID // SLOTS, []
    for number, drawing in enumerate(test):
        words = caption(drawing).split()
        weights = np.zeros((len(words) + 1, GRID, GRID))
        for thing, word in zip(drawing.things, shape_words(drawing), strict=True):
            row, column = (thing.row + number) % SLOTS, thing.column  # of the second a slot too low
            weights[word, side * row, side * column] = 0.8
            weights[word, (side * row + side) % GRID, 0] = 0.2
        found.append([Caption(" ".join(words), 0.0, words, weights.reshape(len(words) + 1, -1))])
    monkeypatch.setattr("experiments.captioning.scenes.most_probable", lambda *_, **__: found)
    part = Part(Captioned([], [[caption(drawing)] for drawing in test]), np.zeros((2, 1)))
    looked = where_it_looks(None, part)
    things = [len(drawing.things) for drawing in test]
    assert looked["words"] == sum(things)
    assert looked["share"] == pytest.approx(things[0] / sum(things))
    assert looked["by_chance"] == 1 / 16
    wrong = [[c._replace(text="a dog") for c in of] for of in found]
    monkeypatch.setattr("experiments.captioning.scenes.most_probable", lambda *_, **__: wrong)
    with pytest.raises(ValueError, match="no caption is right"):
        where_it_looks(None, part)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained, file, capsys):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"test_greedy", "test_beam_2"} <= set(summary)
    for name in ("captions.png", "attention.png", "learning_curve.png", "test_captions.tsv", "words.json"):
        assert (trained / name).stat().st_size > 0
    capsys.readouterr()
    run("evaluate", "--run", trained, "--split", "test")
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert evaluation["beam_2"] == summary["test_beam_2"]
    assert evaluation["greedy"] == summary["test_greedy"]
    assert (trained / "evaluation_captions.tsv").read_text() == (trained / "test_captions.tsv").read_text()
    run("evaluate", "--run", trained, "--data", file, "--beam", "1")
    assert json.loads((trained / "evaluation.json").read_text())["greedy"]["images"] == PICTURES
    error = refusal(capsys, run, "evaluate", "--run", trained, "--split", "dev")
    assert f"{file} has the splits valid, test, got 'dev'" in error


@pytest.mark.slow
def test_captions_for_images(trained, file, capsys, tmp_path):
    """Any kind of image, in the order given, and nothing else on standard output."""
    images = [file.parent / f"{number}.png" for number in (3, 1)]
    grey, turned = tmp_path / "grey.png", tmp_path / "turned.jpg"
    Image.new("I;16", (1, 1), 40_000).save(grey)
    Image.open(images[0]).rotate(90).save(turned, exif=_orientation(6), quality=95)
    capsys.readouterr()
    run("caption", "--run", trained, *images, grey, turned, "--picture", tmp_path / "looked.png")
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [name for name, _ in lines] == [str(path) for path in (*images, grey, turned)]
    assert (tmp_path / "looked.png").stat().st_size > 0
    run("caption", "--run", trained, images[0], "--n-best", "2", "--beam", "3")
    best = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _, _ in best] == [str(images[0])] * 2
    assert 0 > float(best[0][1]) >= float(best[1][1])
    assert best[0][2] != best[1][2]
    draws = []
    for options in (["--seed", "0"], ["--seed", "0"], ["--seed", "0", "--without-replacement"]):
        run("caption", "--run", trained, *images, "--sample", "--n-best", "3", *options)
        draws.append([line.split("\t")[2] for line in capsys.readouterr().out.splitlines()])
    assert draws[0] == draws[1]
    assert len(set(draws[2][:3])) == len(set(draws[2][3:])) == 3


def _orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.slow
def test_images_that_are_none(trained, file, capsys, tmp_path):
    good = file.parent / "0.png"
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:300])
    Image.new("L", (20_000, 1)).save(tmp_path / "wide.png")
    for name, message in (
        ("text.jpg", "text.jpg: expected an image"),
        ("half.png", "half.png"),
        ("wide.png", "10,000 pixels a side"),
        ("none.png", "none.png: expected an image file, got: no file there"),
    ):
        error = refusal(capsys, run, "caption", "--run", trained, good, tmp_path / name)
        assert message in error
        assert "1 of 2 images cannot be read" in error
    for arguments, message in (
        ([], "expected one or more images to caption, got none"),
        ([good, "--n-best", "9"], "--n-best must lie between 1 and --beam 5, got 9"),
        ([good, "--without-replacement"], "--without-replacement is for drawn captions; give --sample too"),
        ([good, "--picture", tmp_path / "a.txt"], "a picture's name must end in one of"),
    ):
        assert message in refusal(capsys, run, "caption", "--run", trained, *arguments)


@pytest.mark.slow
def test_bad_settings(file, capsys, tmp_path):
    out = tmp_path / "run"
    for arguments, message in (
        (["--data", "none"], "data 'none' is neither a file nor one of scenes, flickr8k"),
        (["--attention", "none", "--gate"], "a gate scales what attention has read"),
        (["--attention", "none", "--doubly-stochastic", "1"], "give --attention additive too"),
        (["--data", file, "--max-length", "1"], "captions exceed --max-length 1 words"),
    ):
        assert message in refusal(capsys, run, "train", "--out", out, *arguments)
        assert not out.exists()
    assert "give either --split NAME" in refusal(capsys, run, "evaluate", "--run", out)
    assert "holds no run" in refusal(capsys, run, "evaluate", "--run", out, "--split", "test")


@pytest.mark.slow
def test_what_a_file_lacks_is_counted(file, capsys, tmp_path):
    """Missing and damaged images, and captions that are too long, are named; the rest is trained on."""
    lines = file.read_text().splitlines()
    absolute = [f"{file.parent}/{line}" for line in lines]
    (tmp_path / "half.png").write_bytes((file.parent / "0.png").read_bytes()[:300])
    pictures = dict.fromkeys(line.split("\t")[0] for line in absolute)  # whichever are to be trained on
    extra = ["gone.png\ta ring", "half.png\ta ring", *(f"{name}\t{'a ' * 30}" for name in pictures)]
    path = tmp_path / "captions.tsv"
    path.write_text("\n".join([*absolute, *extra]) + "\n")
    run("train", "--data", path, "--out", tmp_path / "run", *SMALL, "--steps", "1", "--max-length", "20")
    out = capsys.readouterr().out
    assert "gone.png" in out
    assert "half.png" in out
    assert "1 of " in out
    assert "captions exceed --max-length 20 words and are left out" in out


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(trained, file, tmp_path):
    out = tmp_path / "run"
    killed(run, 4, "train", "--data", file, "--out", out, *SMALL)
    run("train", "--out", out, "--resume")
    assert read_metrics(out) == read_metrics(trained)


@pytest.mark.slow
def test_a_run_of_other_weights(trained, capsys, monkeypatch):
    config, record = runs.load_settings(trained, Train), runs.load_config(trained)
    config = dataclasses.replace(config, encoder="efficientnet_lite0")
    record["weights_sha256"] = "abc"
    monkeypatch.setattr(runs, "load_settings", lambda *_: config)
    monkeypatch.setattr(runs, "load_config", lambda _: record)
    error = refusal(capsys, run, "evaluate", "--run", trained, "--split", "test")
    assert "has seen features of other weights of efficientnet_lite0" in error
    assert "got abc" in error


def test_the_table_of_the_study(tmp_path, capsys):
    """Means over seeds; a run without figures is named, and can be continued."""
    config, data = Train(out=tmp_path, seed=3), Data(None, None, None, "test", None, {})
    figures = dict.fromkeys(("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d"), 50.0)
    results = {
        folder_name(way, 3 + seed): {
            "test_greedy": {**figures, "exact_match": 0.1 * number + 0.01 * seed},
            "parameters": 7,
            "train_seconds": 1.5,
        }
        for number, way in enumerate(WAYS)
        for seed in range(SEEDS)
    }
    compare(config, data, results)
    means = json.loads((tmp_path / "summary.json").read_text())["means"]
    assert list(means) == list(WAYS)
    for number, of in enumerate(means.values()):
        assert of["exact_match"] == pytest.approx(0.1 * number + 0.01)
        assert of["spread"] == pytest.approx(0.02)
    assert (tmp_path / "comparison.png").stat().st_size > 0
    assert "exact match" in capsys.readouterr().out
    del results["attention_4"]["test_greedy"]
    with pytest.raises(ValueError, match=r"no figures of attention_4; go on with --out .* --resume"):
        compare(config, data, results)
