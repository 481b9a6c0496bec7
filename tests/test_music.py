"""Piano rolls and their files, chords by rules, and the network that foretells them."""

import itertools
import json
import wave

import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest
import scipy.io

from experiments.data.harmony import MAJOR, RANGES, harmony
from experiments.data.piano_rolls import (
    KEYS,
    LOWEST,
    Pieces,
    jsb_chorales,
    read_folder,
    read_mat,
    read_midi,
    transposed,
    write_midi,
    write_wav,
)
from experiments.harness.task import evaluate
from experiments.music.__main__ import COMMANDS
from experiments.music.model import MusicModel
from experiments.music.playing import continued, expected
from experiments.music.training import (
    Train,
    batches,
    build_model,
    build_task,
    load_run,
    nats,
    without_memory,
)
from jaxrnn import LSTM
from jaxrnn.models.encoder import Encoder
from tests import reference
from tests.commands import assert_parts_are_the_whole, killed, needs, read_metrics, refusal, runner

run = runner(COMMANDS)
SMALL = [
    "--hidden-size",
    "8",
    "--chord-size",
    "4",
    "--steps",
    "6",
    "--evaluate-every",
    "3",
    "--batch-size",
    "4",
    "--window",
    "12",
]


def rolls_of(lengths, seed=0):
    """Random pieces of a few keys."""
    random = np.random.default_rng(seed)
    rolls = [np.zeros((length, KEYS), bool) for length in lengths]
    for roll in rolls:
        roll[:, 30:42] = random.random((len(roll), 12)) < 0.3
    return rolls


def save_mat(path, pieces):
    def row(rolls):
        cells = np.empty((1, len(rolls)), object)
        for number, roll in enumerate(rolls):
            cells[0, number] = roll.astype(np.uint8)
        return cells

    scipy.io.savemat(path, {f"{name}data": row(rolls) for name, rolls in pieces._asdict().items()})


@pytest.fixture(scope="module")
def pieces():
    return Pieces(rolls_of([14, 9, 30, 2]), rolls_of([8, 12], seed=1), rolls_of([7, 11, 2], seed=2))


@pytest.fixture(scope="module")
def trained(pieces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    save_mat(folder / "pieces.mat", pieces)
    run("--data", folder / "pieces.mat", *SMALL, "--out", folder / "run")
    return folder


@pytest.mark.slow
def test_chords_keep_the_rules():
    """Four notes, each voice in its range and in order, of a triad of one major key; the last chord is the
    tonic, and the voices move little."""
    pieces = harmony()
    assert all((a == b).all() for a, b in zip(pieces.test, harmony().test, strict=True))
    for roll in pieces.train[:40]:
        notes = np.array([np.flatnonzero(row) for row in roll]) + LOWEST
        assert notes.shape == (len(roll), 4)
        for voice, (low, high) in enumerate(RANGES):
            assert ((low <= notes[:, voice]) & (notes[:, voice] < high)).all()
        assert (np.diff(notes, axis=1)[:, 1:] <= 12).all()
        tonic = notes[-1, 0] % 12
        assert (np.isin((notes - tonic) % 12, MAJOR)).all()
        for chord in notes:
            triads = [{MAJOR[(d + k) % 7] for k in (0, 2, 4)} for d in range(7)]
            assert set((chord - tonic) % 12) in triads
        assert set((notes[-1] - tonic) % 12) == {0, 4, 7}
        assert np.mean(abs(np.diff(notes[:, 1:], axis=0))) < 2


def test_midi_there_and_back(tmp_path):
    """Keys that are held, struck again and let go; other tracks, drums and notes that no piano has."""
    roll = np.zeros((6, KEYS), bool)
    roll[0:3, 40], roll[4:6, 40], roll[2:6, 47], roll[0, 87] = True, True, True, True
    write_midi(tmp_path / "a.mid", roll, 2.0)
    found, outside = read_midi(tmp_path / "a.mid", steps_per_beat=1)
    np.testing.assert_array_equal(found, roll)
    assert outside == 0
    twice, _ = read_midi(tmp_path / "a.mid", steps_per_beat=2)
    np.testing.assert_array_equal(twice, np.repeat(roll, 2, axis=0))
    file = mido.MidiFile(ticks_per_beat=96)
    for channel, note in ((0, 60), (3, 64), (9, 62), (0, 12)):
        notes = [mido.Message("note_on", channel=channel, note=note, velocity=9, time=96)]
        notes.append(mido.Message("note_on", channel=channel, note=note, velocity=0, time=192))
        file.tracks.append(mido.MidiTrack(notes))
    file.save(tmp_path / "b.mid")
    found, outside = read_midi(tmp_path / "b.mid", steps_per_beat=1)
    assert outside == 1
    assert [np.flatnonzero(row).tolist() for row in found] == [[], [39, 43], [39, 43]]


def test_sound_has_the_pitch_of_its_key(tmp_path):
    roll = np.zeros((4, KEYS), bool)
    roll[1:3, 69 - LOWEST] = True
    write_wav(tmp_path / "a.wav", roll, steps_per_second=2.0)
    with wave.open(str(tmp_path / "a.wav")) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    assert len(sound) == pytest.approx(2 * rate, rel=1e-3)
    assert not sound[: rate // 2].any()
    spectrum = abs(np.fft.rfft(sound[rate // 2 : 3 * rate // 2]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)


def test_transposed():
    """Within the keys; a piece that would leave them stays."""
    roll = rolls_of([5])[0]
    np.testing.assert_array_equal(transposed(roll, 3)[:, 33:45], roll[:, 30:42])
    for shift in (-31, 47):
        np.testing.assert_array_equal(transposed(roll, shift), roll)


@needs("jsb_chorales")
def test_jsb_chorales():
    """The published sizes, and the figure of keys that sound as often as in training."""
    pieces = jsb_chorales()
    assert [len(part) for part in pieces] == [229, 76, 77]
    after = np.concatenate([roll[1:] for roll in pieces.train])
    heard = np.concatenate([roll[1:] for roll in pieces.test])
    assert nats((after.sum(0) + 1) / (len(after) + 2), heard) == pytest.approx(11.09, abs=0.01)


def chances_by_hand(params, h, xs):
    """Of every key of a step, after a state of the encoder."""
    a = 0 if params.chord is None else h @ params.chord.w_state + params.chord.b
    chances = np.zeros(len(xs))
    for key, sounds in enumerate(xs):
        logit = h @ params.w_out[:, key] + params.b_out[key]
        if params.chord is not None:
            logit += np.maximum(a, 0) @ params.chord.w_out[key]
            a = a + sounds * params.chord.w_in[key]
        chances[key] = 1 / (1 + np.exp(-logit))
    return chances


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("chord_size", [None, 5])
def test_chances_of_all_chords_sum_to_one(chord_size, dtype, tolerance):
    """Each is the product of its keys' chances, and is drawn as often as it says."""
    with jax.enable_x64(dtype == "float64"):
        model = MusicModel(Encoder([LSTM(3)], in_features=4), keys=4, chord_size=chord_size)
        params, random = model.init(jax.random.key(0)), np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 1, leaf.shape), dtype), params)
        chords = np.array(list(itertools.product([0.0, 1.0], repeat=4)), dtype)
        given = np.broadcast_to(random.random((1, 1, 4)).astype(dtype), (1, 16, 4))
        logits = model.apply(params, given, chords[None])[0]
        chances = np.where(chords, jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)).prod(-1)
        assert chances.sum() == pytest.approx(1, abs=tolerance)
        numbers = jax.tree.map(np.asarray, params)
        h = np.asarray(model.encoder.apply(params.encoder, given[:, 0])[1][0])
        for chord, logit in zip(chords, logits, strict=True):
            by_hand = chances_by_hand(numbers, h, chord)
            np.testing.assert_allclose(jax.nn.sigmoid(logit), by_hand, rtol=tolerance)
        drawn = model.draw(params, jnp.broadcast_to(h, (20_000, 3)), jax.random.key(1))
    often = np.bincount(np.asarray(drawn, int) @ [8, 4, 2, 1], minlength=16) / len(drawn)
    np.testing.assert_allclose(often, chances, atol=5 * np.sqrt(0.25 / len(drawn)))


@pytest.mark.slow
@pytest.mark.parametrize("chord_size", [None, 5])
def test_loss_equals_numpy(pieces, chord_size):
    """Over steps 2 … T of all pieces, whatever stands beside them in a batch, the shortest of two steps."""
    config = Train(hidden_size=8, chord_size=chord_size)
    model = build_model(config)
    params = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape)), params)
    task = build_task(config, pieces, model)
    found = evaluate(task, params, batches(pieces.test))["loss"]
    total, count = 0.0, 0
    numbers = jax.tree.map(np.asarray, params)
    for roll in pieces.test:
        carry = np.zeros(8), np.zeros(8)
        for before, after in itertools.pairwise(roll):
            carry, h = reference.lstm(numbers.encoder.layers[0], carry, before.astype(float))
            chances = chances_by_hand(numbers, h, after)
            total -= np.log(np.where(after, chances, 1 - chances)).sum()
            count += 1
    assert found == pytest.approx(total / count, rel=1e-5)
    assert_parts_are_the_whole(task.batch, config.batch_size)
    batch = task.batch(3)
    assert batch.targets.shape == (config.window, config.batch_size, KEYS)
    for lane in range(config.batch_size):
        length = batch.lengths[lane]
        np.testing.assert_array_equal(batch.inputs[1:length, lane], batch.targets[: length - 1, lane])
        assert not batch.targets[length:, lane].any()


def test_models_without_memory():
    """A key that follows another is known to the regression alone; one that never sounds costs little."""
    random = np.random.default_rng(0)
    leads = random.random(4000) < 0.5
    roll = np.zeros((4000, KEYS), bool)
    roll[:, 10], roll[1:, 20] = leads, leads[:-1]
    found = without_memory(Pieces([roll], [roll], [roll]))
    assert found["frequencies_nats"] == pytest.approx(2 * np.log(2), abs=0.05)
    assert found["logistic_nats"] == pytest.approx(np.log(2), abs=0.1)


@pytest.mark.slow
def test_a_continuation_is_drawn_from_what_the_network_expects():
    """A network whose state is nothing but what it has just heard: keys follow each other in a ring."""
    config = Train(cell="elman", hidden_size=KEYS, chord_size=2)
    model = build_model(config)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    ring = 40 * np.roll(np.eye(KEYS), 1, axis=1)
    layer = params.encoder.layers[0]._replace(w_ih=jnp.eye(KEYS) * 5)
    encoder = params.encoder._replace(layers=(layer,))
    params = params._replace(encoder=encoder, w_out=jnp.asarray(ring), b_out=jnp.full(KEYS, -20.0))
    found = continued(model, params, np.eye(KEYS, dtype=bool)[5:8], 4, seed=0)
    assert [np.flatnonzero(row).tolist() for row in found] == [[8], [9], [10], [11]]
    foreseen = expected(model, params, np.eye(KEYS)[5:8], jax.random.key(0))
    np.testing.assert_allclose(foreseen, np.eye(KEYS)[6:8], atol=0.02)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(trained, capsys):
    """Figures, a picture, sound and MIDI; a continuation of any length, the piece's own steps first."""
    out = trained / "run"
    summary = json.loads((out / "summary.json").read_text())
    assert {"valid_nats", "test_nats", "logistic_nats", "frequencies_nats"} <= set(summary)
    for name in ("piano_roll.png", "learning_curve.png", "continuation.wav", "continuation.mid"):
        assert (out / name).stat().st_size > 100
    song = trained / "song.mid"
    run("continue", "--run", out, "--piece", "1", "--given", "5", "--length", "9", "--to", song)
    assert "5 steps of the piece and 9 of the network's" in capsys.readouterr().err
    roll, _ = read_midi(song, steps_per_beat=1)
    heard = read_mat(trained / "pieces.mat").test[1][:5]
    np.testing.assert_array_equal(roll[:5], heard)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(trained, tmp_path):
    call = ["--data", trained / "pieces.mat", *SMALL, "--out", tmp_path / "run"]
    killed(run, 5, *call)
    run(*call, "--resume")
    assert read_metrics(tmp_path / "run") == read_metrics(trained / "run")
    for a, b in zip(*(jax.tree.leaves(load_run(of / "run")[2]) for of in (tmp_path, trained)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_of_midi(tmp_path):
    """A tenth for each part, by name; what is outside a piano is counted, a silent file left out."""
    for number, roll in enumerate(rolls_of([6] * 12)):
        write_midi(tmp_path / f"{number}.mid", roll, 2.0)
    mido.MidiFile(tracks=[mido.MidiTrack()]).save(tmp_path / "silent.mid")
    said = []
    found = read_folder(tmp_path, 1, said.append)
    assert [len(part) for part in found] == [10, 1, 1]
    assert said == [f"1 files with fewer than two steps are left out: {tmp_path / 'silent.mid'}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (None, ["--data", "none"], "data 'none' is neither a file, a folder nor one of harmony"),
        ({"a": 1}, ["--data", "{}"], "has no traindata; it holds"),
        ("text", ["--data", "{}"], "cannot be read as a MATLAB file"),
        (np.ones((4, 7)), ["--data", "{}"], "expected piece 0 of traindata to be (time, 88), got (4, 7)"),
        (None, ["--data", "."], "at least 10 different texts"),
        (None, ["continue", "--run", "{run}", "--to", "a.mp3"], "--to must end in .mid or .wav, got a.mp3"),
        (None, ["continue", "--run", "{run}", "--to", "no/a.wav"], "there is no folder no for a.wav"),
        (None, ["continue", "--run", "{run}", "--piece", "9"], "--piece must be below the 3 test pieces"),
    ],
)
def test_bad_input(make, arguments, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.mat"
    if isinstance(make, str):
        path.write_text(make)
    elif isinstance(make, dict):
        scipy.io.savemat(path, make)
    elif make is not None:
        save_mat(path, Pieces([make], [make], [make]))
    arguments = [
        argument.replace("{}", str(path)).replace("{run}", str(trained / "run")) for argument in arguments
    ]
    assert message in refusal(capsys, run, *arguments)
    assert not (tmp_path / "out").exists()
