"""The benchmarks: what they time is right, how they time, and what they make of it."""

import json
import math
from typing import get_args

import numpy as np
import pytest

from benchmarks import language_model, layers, measure, memory, record, tagger
from benchmarks.measure import Spread
from benchmarks.peers import LIBRARIES, PeerCell, Size, problem
from tests.conftest import COMPILES_FAST


@pytest.fixture(autouse=True)
def _processes_compile_fast(monkeypatch):
    for name, value in COMPILES_FAST.items():
        monkeypatch.setenv(name, value)


def spread(median):
    return Spread(median, median, median)


class TestTiming:
    def test_every_call_in_every_round_in_changing_order(self, monkeypatch):
        said, clock = [], iter(range(10_000))
        monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
        timers = {
            name: lambda name=name: measure.typical_seconds(lambda: said.append(name)) for name in "abc"
        }
        spreads = measure.interleaved(timers, 5)
        assert spreads == dict.fromkeys("abc", spread(1.0))
        said = "".join(said)
        pairs = [said[i : i + 6 : 2] for i in range(0, 30, 6)]  # a call to warm up, one to time
        assert len(said) == 30
        assert all(sorted(order) == list("abc") for order in pairs)
        assert len(set(pairs)) > 1

    def test_a_short_call_is_repeated_until_it_can_be_timed(self, monkeypatch):
        monkeypatch.setattr(measure, "seconds", lambda call: call() or 0.003)
        count = []
        assert measure.typical_seconds(lambda: count.append(1)) == 0.003
        assert len(count) == 1 + 7  # 7 · 3 ms are more than 20 ms

    def test_quartiles(self):
        assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)

    @pytest.mark.slow
    def test_peak_memory(self):
        peak = measure.alone(measure.peak_bytes, allocate)
        assert peak is None or 60 <= peak / 2**20 < 80

    def test_another_process_has_nothing_of_this_one(self):
        assert measure.alone(math.sqrt, 4) == 2

    def test_a_process_keeps_what_it_made(self):
        with measure.Process(list, "ab") as letters, measure.Process(list) as none:
            letters.ask(list.append, "c")
            assert letters.ask(len) == 3
            assert none.ask(len) == 0
        with measure.Process(list, 3) as failed, pytest.raises(TypeError, match="not iterable"):
            failed.ask(len)


def allocate():
    np.ones(8 * 2**20).sum()  # 64 MiB


def row(library, seconds, cell="lstm", size="2,3,4,5"):
    return layers.Row(cell, size, library, spread(1.0), spread(seconds), 0.1, None)


class TestLayers:
    def test_ratios(self):
        rows = [
            row("jaxrnn bptt", 2.0),
            row("torch", 3.0),
            row("haiku", 5.0),
            row("keras", 4.0),
            row("jaxrnn bptt, sharded", 1.0),
            row("jaxrnn bptt", 1.0, size="1,1,1,1"),
            row("torch", 1.0, size="1,1,1,1"),
            row("haiku", 1.0, size="1,1,1,1"),
        ]
        first, second = layers.summarise(rows, flops_per_second=3 * 2 * 2 * 3 * 9 * 20)
        assert (first["one_device"], first["best"]) == ("jaxrnn bptt", "jaxrnn bptt, sharded")
        assert first["jax_peer"] == "keras"
        assert (first["to_torch"], first["to_best_jax_peer"]) == (3.0, 4.0)
        assert (first["one_device_to_torch"], first["one_device_to_best_jax_peer"]) == (1.5, 2.0)
        assert first["floor"] == 1.0  # a second of products in a second
        assert second["to_torch"] == 1.0
        means = layers.geometric_means([first, second])["lstm"]
        assert means["to_torch"] == pytest.approx(math.sqrt(3))
        assert means["one_device_to_best_jax_peer"] == pytest.approx(math.sqrt(2))

    @pytest.mark.slow
    @pytest.mark.parametrize("cell", get_args(PeerCell))
    def test_all_libraries_run_and_ours_are_torchs(self, cell):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        given = problem(cell, Size(batch=8, time=4, in_features=3, hidden=5))
        built = {name: LIBRARIES[name](given) for name in LIBRARIES}
        assert [name for name, layer in built.items() if layer is None] == ["equinox"] * (cell == "elman")

        def outputs(layer):
            return {call: layers.results(layer, call) for call in layers.CALLS}

        found = {name: outputs(layer) for name, layer in built.items() if layer is not None}
        layers.check_outputs(found)
        for calls in found.values():
            assert calls["forward"][0].size == 4 * 8 * 5
        other = given._replace(params=given.params._replace(w_hh=2 * given.params.w_hh))
        with pytest.raises(RuntimeError, match="jaxrnn bptt: forward differs from torch's by"):
            layers.check_outputs(found | {"jaxrnn bptt": outputs(LIBRARIES["jaxrnn bptt"](other))})

    @pytest.mark.slow
    def test_a_small_run(self, tmp_path, capsys, monkeypatch):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        names = ("jaxrnn bptt", "jaxrnn bptt, sharded", "torch", "haiku", "equinox")  # a process each
        monkeypatch.setattr(layers, "LIBRARIES", {name: LIBRARIES[name] for name in names})
        out = tmp_path / "layers.json"
        layers.run(layers.Config(cells=("elman",), sizes=("16,3,4,5",), repeats=1, json=out))
        figures = json.loads(out.read_text())
        printed = capsys.readouterr().out
        assert "elman 16,3,4,5 (batch" in printed
        assert "geometric mean" in printed
        assert {result["library"] for result in figures["results"]} == set(names) - {"equinox"}

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"sizes": ("1,2,3",)}, "a size is BATCH,TIME,FEATURES,HIDDEN, .*; got '1,2,3'"),
            ({"sizes": ("1,2,3,x",)}, "got '1,2,3,x'"),
            ({"sizes": ("1,0,3,4",)}, "time of size 1,0,3,4 must be"),
            ({"sizes": ()}, "sizes must be one or more"),
            ({"cells": ("lstm", "lstm")}, "cells must be one or more, each once"),
            ({"repeats": 0}, "repeats must be"),
        ],
    )
    def test_bad_settings(self, settings, match):
        with pytest.raises(ValueError, match=match):
            layers.check(layers.Config(**settings))


class TestMemory:
    @pytest.mark.slow
    def test_a_small_run(self, tmp_path, capsys):
        out = tmp_path / "memory.json"
        memory.run(
            memory.Config(
                lengths=(64, 256), batch_size=2, in_features=3, hidden_size=4, repeats=1, json=out
            )
        )
        summary = json.loads(out.read_text())["summary"]
        assert summary["last carry"]["memory_plain_to_remat"] > 2
        assert 0.3 < summary["last carry"]["exponent_of_memory"] < 0.9
        assert out.with_suffix(".png").stat().st_size > 10_000
        assert "memory plain to remat" in capsys.readouterr().out

    def test_bad_settings(self):
        with pytest.raises(ValueError, match="lengths must be two or more rising numbers"):
            memory.check(memory.Config(lengths=(20, 10)))


class TestLanguageModel:
    @pytest.mark.slow
    @pytest.mark.parametrize("library", language_model.LIBRARIES)
    def test_every_library_learns(self, library):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        given = language_model.Problem(batch=8, time=6, hidden=7, layers=2, vocabulary=11, embedding=5)
        step = language_model.LIBRARIES[library](given)
        losses = [step() for _ in range(30)]
        assert losses[0] == pytest.approx(math.log(11), abs=0.3)
        assert losses[-1] < losses[0] - 0.01

    def test_ratios(self):
        rows = [
            language_model.Row("s", "jaxrnn", spread(2.0), 1.0),
            language_model.Row("s", "jaxrnn, sharded", spread(1.0), 3.0),
            language_model.Row("s", "torch", spread(3.0), 0.5),
            language_model.Row("other", "jaxrnn", spread(0.1), 3.0),
        ]
        (entry,) = language_model.ratios(rows)
        assert (entry["best"], entry["other"], entry["step"]) == ("jaxrnn, sharded", "torch", 3.0)
        assert (entry["step_one_device"], entry["first_call"]) == (1.5, 0.5)


class TestTagger:
    @pytest.mark.slow
    @pytest.mark.parametrize(("reading", "classes"), [("last", 3), ("each", 3), ("blank", 11)])
    def test_both_libraries_learn(self, reading, classes):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        given = tagger.Problem(reading, 4, 8, 11, 5, 6, classes, "items")
        assert given.count() == {"last": 4, "each": 4 + 5 + 6 + 8, "blank": 2 + 3 + 4 + 6}[reading]
        for library in ("jaxrnn", "torch"):
            step = tagger.LIBRARIES[library](given)
            losses = [step() for _ in range(20)]
            assert losses[0] == pytest.approx(math.log(classes), abs=0.3)
            assert losses[-1] < losses[0] - 0.01

    def test_ratios(self):
        ours, torch = Spread(2.0, 1.0, 4.0), Spread(3.0, 2.0, 5.0)
        rows = [
            tagger.Row("tagging", "jaxrnn", ours, 1.0, 1.0, None),
            tagger.Row("tagging", "torch", torch, 1.0, 1.0, None),
            tagger.Row("cloze", "torch", ours, 1.0, 1.0, None),
        ]
        (entry,) = tagger.ratios(rows)
        assert list(entry.values()) == ["tagging", "jaxrnn", 1.5, 0.5, 5.0]

    def test_bad_settings(self):
        with pytest.raises(ValueError, match="problems must be some of classification, tagging, cloze"):
            tagger.run(tagger.Config(problems=("parsing",)))


@pytest.mark.slow
def test_sampling(tmp_path):
    pytest.importorskip("torch", reason="the peers extra is not installed")
    from benchmarks import sampling

    out = tmp_path / "sampling.json"
    sampling.run(sampling.Config(streams=(1, 3), length=20, hidden_size=8, repeats=1, json=out))
    found = json.loads(out.read_text())
    assert set(found["times_torch"]) == {"1", "3"}
    assert [r["library"] for r in found["results"]] == ["jaxrnn", "torch"] * 2


def test_figures_need_a_file_of_their_own(tmp_path):
    for path in (tmp_path, tmp_path / "chart.png"):
        with pytest.raises(ValueError, match=r"--json .* must be a file that ends in \.json"):
            record.check_json(path)


class TestBeam:
    @pytest.mark.slow
    def test_a_small_run(self, tmp_path, capsys):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        from benchmarks import beam

        out = tmp_path / "beam.json"
        sizes = {
            "batch_size": 16,
            "hidden_size": 16,
            "vocabulary_size": 50,
            "source_length": 3,
            "max_length": 9,
        }
        beam.run(beam.Config(**sizes, beam_size=3, repeats=1, json=out))
        assert [row["library"] for row in json.loads(out.read_text())["results"]] == list(beam.LIBRARIES)
        assert "jaxrnn, sharded: " in capsys.readouterr().out

    def test_bad_settings(self):
        pytest.importorskip("torch", reason="the peers extra is not installed")
        from benchmarks import beam

        with pytest.raises(ValueError, match="beam_size must be a positive integer, got 0"):
            beam.run(beam.Config(beam_size=0))


@pytest.mark.slow
def test_precision(tmp_path, capsys):
    """bfloat16 keeps two to three digits, float32 six."""
    from benchmarks import precision

    out = tmp_path / "precision.json"
    precision.run(precision.Config(sizes=("2,6,3,4",), repeats=1, json=out))
    errors = {
        (row["dtype"], row["backward"]): row["error"] for row in json.loads(out.read_text())["results"]
    }
    assert len(errors) == 4
    for (dtype, _), error in errors.items():
        assert error < {"float32": 1e-5, "bfloat16": 0.1}[dtype]
        assert error > {"float32": 0, "bfloat16": 1e-4}[dtype]
    assert "bfloat16" in capsys.readouterr().out
