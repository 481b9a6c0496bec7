"""The READMEs keep their word: code runs, links lead somewhere, figures are those of committed results."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import COMPILES_FAST

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "experiments/README.md", ROOT / "benchmarks/README.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FOLDER = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
EXCLUDED = re.findall(r"!=([\d.]+)", (ROOT / "pyproject.toml").read_text())


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run(page):
    command = [sys.executable, "-c", "".join(blocks(page))]
    options = {"cwd": ROOT, "env": os.environ | COMPILES_FAST, "timeout": 300}
    run = subprocess.run(command, **options, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()


def numbers_of(node):
    """The size of every number in a result file, in a README's units: as it is, in per cent, in MiB."""
    if isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from numbers_of(item)
    elif isinstance(node, int | float) and math.isfinite(node):
        yield from (abs(node), 100 * abs(node), abs(node) / 2**20)


def results_of(page, text):
    """The result files that a line links to."""
    return [page.parent / link for link in re.findall(r"\]\(([\w./-]+\.json)\)", text)]


def lines_with_results():
    for page in READMES:
        for line in page.read_text().replace("\n\n", "\0").replace("|\n", "\0").split("\0"):
            if results_of(page, line):
                yield page, line


def test_the_first_block_is_short():
    assert len([line for line in blocks(READMES[0])[0].splitlines() if line.strip()]) <= 15


def test_the_first_page_fits_a_screen():
    assert len(READMES[0].read_text().splitlines()) <= 80


@pytest.mark.slow
def test_the_code_of_the_first_page_runs():
    error, shape = run(READMES[0])
    assert 0 < float(error) < 1e-14
    assert shape == "(4, 20, 64)"


@pytest.mark.slow
def test_the_code_of_the_experiments_runs_and_prints_what_it_says():
    page = READMES[1]
    lines = run(page)
    shown = next(block for block in page.read_text().split("```") if block.strip().startswith(lines[0]))
    shown = shown.strip().splitlines()
    for line, printed in zip(shown[:-1], lines[: len(shown) - 1], strict=True):
        assert line.split()[0] == printed.split()[0]
    assert re.match(r"all agree; largest error: \d\.\de-(09|1\d), finite_difference", lines[len(shown) - 1])
    first_state, second_state, probability, beam, *drawn = lines[len(shown) :]
    assert first_state.startswith("[[ 0.4621")
    assert second_state.startswith(" [ 0.9446")
    assert float(probability) > 0.99
    assert beam.startswith("[1 2 2 3] [9.9")
    assert drawn[0].startswith("[[1 2 2 3]")


def test_all_code_is_run():
    assert not blocks(READMES[2])


@FOLDER
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_file_that_contributing_names_exists():
    for name in re.findall(r"\w+\.py\b", PAGES[3].read_text()):
        assert list(ROOT.glob(f"**/{name}")), name


def test_figures_come_from_committed_results():
    """Every decimal, and every integer from 1,000 on, stands rounded in a file that its line links to."""
    checked = 0
    for page, line in lines_with_results():
        found = [
            number for path in results_of(page, line) for number in numbers_of(json.loads(path.read_text()))
        ]
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>", "", line)
        for claimed in re.findall(r"(?<![\w.])(?:\d+\.\d+|\d{1,3}(?:,\d{3})+|\d{4,})", prose):
            if claimed in EXCLUDED:
                continue
            digits = len(claimed.partition(".")[2])
            plain = claimed.replace(",", "")
            assert any(f"{number:.{digits}f}" == plain for number in found), (claimed, line)
            checked += 1
    assert checked > 100


def test_results_of_a_jaxlib_that_is_excluded_are_marked():
    for page, line in lines_with_results():
        for link in re.findall(r"[\w./-]+\.json\)†?", line):
            record = json.loads((page.parent / link.rstrip("†").rstrip(")")).read_text())
            version = record.get("environment", record)["versions"]["jaxlib"]
            assert link.endswith("†") == (version in EXCLUDED), (link, version)


@pytest.fixture(scope="module")
def layers():
    return json.loads((ROOT / "benchmarks/results/layers.json").read_text())


def test_bptt_is_as_much_faster_as_the_first_page_says(layers):
    seconds = {(row["cell"], row["size"], row["library"]): row["train"][0] for row in layers["results"]}
    cases = {(cell, size) for cell, size, _ in seconds}
    gains = [seconds[*case, "jaxrnn autodiff"] / seconds[*case, "jaxrnn bptt"] for case in cases]
    assert f"{min(gains):.1f} to {max(gains):.1f} times" in READMES[0].read_text()


@pytest.mark.parametrize("prefix", ["one_device_", ""])
@pytest.mark.parametrize(("name", "cell"), [("LSTM", "lstm"), ("GRU", "gru"), ("Elman", "elman")])
def test_tables_of_layers(layers, name, cell, prefix):
    claims = []
    for ratio in (f"{prefix}to_torch", f"{prefix}to_best_jax_peer"):
        found = [entry[ratio] for entry in layers["summary"] if entry["cell"] == cell]
        mean = layers["geometric_means"][cell][ratio]
        assert math.isclose(mean, math.prod(found) ** (1 / len(found)))
        claims.append(f"{mean:.2f}, from {min(found):.2f} to {max(found):.2f}")
    assert f"| {name} | {claims[0]} | {claims[1]} |" in READMES[2].read_text()


def test_table_of_language_models():
    record = json.loads((ROOT / "benchmarks/results/language_model.json").read_text())
    ratios = {(entry["size"], entry["other"]): entry for entry in record["times_as_fast"]}
    for size in record["settings"]["sizes"]:
        claims = [
            f"{ratios[size, other][ratio]:.2f}"
            for ratio in ("step_one_device", "step")
            for other in ("flax.nnx", "torch")
        ]
        assert f"| {size.replace(',', ', ')} | {' | '.join(claims)} |" in READMES[2].read_text()
