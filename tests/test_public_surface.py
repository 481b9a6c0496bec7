"""Names that ``import jaxrnn`` gives, and how cells are called."""

import copy
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import jaxrnn
from jaxrnn.attention import AttentionDecoder, General
from jaxrnn.cells.cell import Cell

SUBMODULES = ["data", "decoding", "diagnostics", "gradients", "models", "nn", "training"]
NAMES = re.findall(
    r"\w+",
    """
    Cell Chrono CoupledLSTM CoupledParams Elman ElmanCarry ElmanParams GRU GRUCarry GRUParams IRNN LSTM
    LSTMCarry LSTMParams LayerNormLSTM LayerNormParams MGU MGUCarry MGUParams MinGRU MinLSTM MinimalCarry
    MinimalParams PeepholeLSTM PeepholeParams ProjectedLSTM ProjectedParams Residual Stack
    VariationalDropout Zoneout bidirectional parallel_unroll unroll
    """,
)


class TestNames:
    def test_dir_shows_public_names_alone(self):
        assert dir(jaxrnn) == sorted([*NAMES, *SUBMODULES, "__version__"])
        assert [name for name in dir(jaxrnn) if not hasattr(jaxrnn, name)] == []
        assert set(jaxrnn.__all__) == {*NAMES, *SUBMODULES}

    @pytest.mark.slow
    def test_submodules_come_when_asked_for(self):
        """In a process of its own: here, other tests have imported everything."""
        program = f"""if True:
            import sys, jaxrnn
            assert not {{"flax", "optax", "orbax"}} & sys.modules.keys(), "import jaxrnn is to be quick"
            print(*(getattr(jaxrnn, name).__name__ for name in {SUBMODULES}))
            print(jaxrnn.nn.RNN.__name__, jaxrnn.training.supervised_step.__name__)
        """
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        expected = f"{' '.join(f'jaxrnn.{name}' for name in SUBMODULES)}\nRNN supervised_step\n"
        assert (done.stdout, done.returncode) == (expected, 0), done.stderr

    def test_unknown_names(self):
        with pytest.raises(AttributeError, match="module 'jaxrnn' has no attribute 'LSMT'"):
            _ = jaxrnn.LSMT

    def test_version(self):
        project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())
        assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jaxrnn.__version__"}
        assert re.fullmatch(r"\d+\.\d+\.\d+", jaxrnn.__version__)


@dataclass(frozen=True)
class Wider(jaxrnn.LSTM):
    """A user's cell with a field more, which needs no default."""

    extra: int


class Halved(jaxrnn.GRU):
    """A user's cell with a way of its own to be made."""

    def __init__(self, features, *more, reset="before"):
        super().__init__(features // 2, reset=reset)


class Plain(Cell):
    """A user's cell without configuration."""


LSTM = jaxrnn.LSTM(4)


class TestOptionsGoByName:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: jaxrnn.LSTM(3, 4), "got LSTM(3, 4): write LSTM(4), and in_features=3 to init"),
            (lambda: jaxrnn.MGU(3, 4), "got MGU(3, 4): write MGU(4), and in_features=3 to init"),
            (lambda: jaxrnn.LSTM(3, 4, 2), "got LSTM(3, 4, 2): write LSTM(4), and in_features=3 to init"),
            (lambda: jaxrnn.LSTM(4, 0.5), "got LSTM(4, 0.5): write LSTM(4, forget_bias=0.5)"),
            (lambda: jaxrnn.Elman(4, "relu"), "got Elman(4, 'relu'): write Elman(4, activation='relu')"),
            (lambda: jaxrnn.GRU(4, "before"), "got GRU(4, 'before'): write GRU(4, reset='before')"),
            (
                lambda: jaxrnn.ProjectedLSTM(5, 4),
                "got ProjectedLSTM(5, 4): "
                "write ProjectedLSTM(5, projection_size=4), and in_features to init",
            ),
        ],
        ids=["sizes", "no-option", "three-sizes", "number", "activation", "reset", "required"],
    )
    def test_sized_cells(self, call, message):
        with pytest.raises(TypeError, match=re.escape(f"takes hidden_size alone by position, {message}")):
            call()

    def test_cells_made_of_cells(self):
        for call, message in (
            (
                lambda: jaxrnn.Zoneout(LSTM, 0.1, 0.2),
                f"Zoneout takes cell alone by position, got Zoneout({LSTM!r}, 0.1, 0.2): "
                f"write Zoneout({LSTM!r}, rate_h=0.1, rate_c=0.2)",
            ),
            (lambda: jaxrnn.Stack(LSTM, LSTM), "write Stack(cells)"),
            (
                lambda: AttentionDecoder(LSTM, General(), 3, 4),
                f"write AttentionDecoder({LSTM!r}, General(), memory_features=3, size=4)",
            ),
        ):
            with pytest.raises(TypeError, match=re.escape(message)):
                call()

    def test_users_cells(self):
        assert Wider(4, 5, forget_bias=2.0) == Wider(hidden_size=4, extra=5, forget_bias=2.0)
        assert Halved(8, 1, 2, 3) == Halved(9)
        assert (Halved(8).hidden_size, Halved(8).reset) == (4, "before")
        assert isinstance(Plain(), Cell)
        for call, message in (
            (
                lambda: Wider(4, 5, 2.0),
                "takes hidden_size and extra alone by position, got Wider(4, 5, 2.0)",
            ),
            (lambda: Plain(4), "Plain takes nothing alone by position, got Plain(4): write Plain()"),
            (lambda: Plain(size=4), "Plain has no option size"),
            (lambda: jaxrnn.LSTM(4, size=4), "unexpected keyword argument 'size'"),
        ):
            with pytest.raises(TypeError, match=re.escape(message)):
                call()

    @pytest.mark.parametrize(
        "cell",
        [
            jaxrnn.ProjectedLSTM(5, projection_size=4, forget_bias=jaxrnn.Chrono(9), dtype="bfloat16"),
            jaxrnn.Stack([jaxrnn.Zoneout(LSTM, rate_h=0.2), jaxrnn.Residual(jaxrnn.IRNN(4, scale=0.5))]),
            Wider(4, 5),
            Halved(8),
        ],
        ids=["projected", "made-of-cells", "wider", "halved"],
    )
    def test_copies_are_equal(self, cell):
        for other in (pickle.loads(pickle.dumps(cell)), copy.copy(cell), copy.deepcopy(cell)):
            assert (other, hash(other), repr(other)) == (cell, hash(cell), repr(cell))

    def test_replace(self):
        assert replace(jaxrnn.LSTM(4), forget_bias=2.0) == jaxrnn.LSTM(4, forget_bias=2.0)
        assert replace(Wider(4, 5), hidden_size=3) == Wider(3, 5)
