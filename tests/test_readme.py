"""The README keeps its word: its code runs, its figures are those of committed results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_block_is_short():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 15


@pytest.mark.slow
def test_the_code_runs_and_prints_what_it_says():
    run = subprocess.run(
        [sys.executable, "-c", "".join(BLOCKS)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    error, first_state, second_state, probability = lines[:4]
    assert 0 < float(error) < 1e-14
    assert first_state.startswith("[[ 0.4621")
    assert second_state.startswith(" [ 0.9446")
    assert float(probability) > 0.99
    assert lines[4].startswith("[1 2 2 3] [9.9")
    assert lines[5].startswith("[[1 2 2 3]")
    table = lines.index("Leaky(hidden_size=5)")
    shown = next(block for block in README.split("```") if block.strip().startswith(lines[table]))
    for line, printed in zip(shown.strip().splitlines()[:-1], lines[table:-1], strict=True):
        assert line.split()[0] == printed.split()[0]
    assert re.match(r"all agree; largest error: \d\.\de-(09|1\d), finite_difference", lines[-1])


def test_every_file_in_the_tree_exists():
    tree = README.split("## Where things are")[1]
    for name in re.findall(r"(\w+\.py)", tree):
        assert list(ROOT.glob(f"**/{name}")), name


def test_figures_come_from_committed_results():
    """Every number of the tables stands, rounded, in the result file that its row names."""
    rows = [line for line in README.splitlines() if line.startswith("|") and "](" in line]
    assert rows
    for row in rows:
        (path,) = re.findall(r"\]\(([\w./-]+\.json)\)", row)
        figures = json.dumps(json.loads((ROOT / path).read_text()))
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", figures)]
        for claimed in re.findall(r"\b\d\.\d{3,4}\b", row):
            digits = len(claimed.split(".")[1])
            assert any(f"{number:.{digits}f}" == claimed for number in numbers), (claimed, path)
