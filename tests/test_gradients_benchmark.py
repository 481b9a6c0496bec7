"""The benchmark of the gradient methods: its exponents, and a run from end to end."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import gradients as benchmark

SIZES = {"steps": (32, 64, 128, 256), "hidden_size": (8, 16, 32)}


def rows_of_theory():
    """Costs exactly as theory has them, but for the smallest size, which overheads spoil."""
    rows = []
    for name, method in benchmark.METHODS.items():
        for against, sizes in SIZES.items():
            for size in sizes:
                steps, hidden_size = (size, 16) if against == "steps" else (100, size)
                time, memory = (size ** method.exponents[what, against] for what in ("time", "memory"))
                if against == "hidden_size":
                    time *= steps
                if size == 32 and against == "steps":
                    time, memory = 1000 * time, 1000 * memory
                values = dict.fromkeys(benchmark.Row.__dataclass_fields__, 0)
                values |= {"against": against, "method": name, "steps": steps, "hidden_size": hidden_size}
                rows.append(benchmark.Row(**values | {"seconds": float(time), "bytes": memory}))
    return rows


def test_exponents_are_those_of_the_largest_sizes():
    slopes = benchmark.fitted(rows_of_theory())
    assert len(slopes) == 4 * len(benchmark.METHODS)
    np.testing.assert_allclose([s["exponent"] for s in slopes], [s["theory"] for s in slopes], atol=1e-3)
    rtrl = {(s["cost"], s["against"]): s["theory"] for s in slopes if s["method"] == "rtrl"}
    assert rtrl == {
        ("time", "steps"): 1,
        ("memory", "steps"): 0,
        ("time", "hidden_size"): 4,
        ("memory", "hidden_size"): 3,
    }


@pytest.mark.slow
def test_all_methods_compute_the_same_gradient():
    def gradient(name):
        program = benchmark.build(benchmark.Config(), "steps", name, 5, 3)
        return jax.tree.map(np.asarray, program.compiled(*program.arguments))

    expected = gradient("autodiff")
    assert all(np.any(leaf) for leaf in expected)
    forward, _ = gradient("rtrl")  # and of the carry
    terms = jax.tree.map(lambda term: term.sum(0), gradient("explicit_terms"))
    for found in (gradient("bptt"), forward, terms):
        for leaf, like in zip(found, expected, strict=True):
            np.testing.assert_allclose(leaf, like, atol=2e-6)


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "METHODS", {"rtrl": benchmark.METHODS["rtrl"]})
    out = tmp_path / "gradients.json"
    sizes = {"hidden_size": 2, "hidden_sizes": (1, 2, 3, 4, 5), "many_steps": 256}
    benchmark.run(benchmark.Config(cell="elman", steps=(2, 4, 8), repeats=2, json=out, **sizes))
    record = json.loads(out.read_text())
    assert record["environment"]["versions"]["jax"]
    assert record["settings"]["steps"] == [2, 4, 8]
    assert [(r["steps"], r["hidden_size"]) for r in record["results"]] == [
        (2, 2), (4, 2), (8, 2), (2, 1), (2, 2), (2, 3),
    ]  # fmt: skip
    for result in record["results"]:
        assert 0 < result["seconds"] <= result["median_seconds"] <= result["largest_seconds"]
        assert result["bytes"] > 4 * result["hidden_size"] * result["parameters"]
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "rtrl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": (32, 64)}, r"steps must be 3 or more rising numbers, got \(32, 64\)"),
        ({"steps": (32, 16, 64)}, "steps must be 3 or more rising numbers"),
        ({"hidden_sizes": (0, 1, 2, 3, 4)}, "hidden_sizes must be 5 or more rising numbers"),
        ({"repeats": 0}, "repeats must be a positive integer, got 0"),
        ({"json": Path("tests")}, "--json tests must be a file"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        benchmark.run(benchmark.Config(**settings))
