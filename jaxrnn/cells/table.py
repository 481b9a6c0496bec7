"""The one table of cells, which tests, studies, scripts and benchmarks read: a row for each cell.

>>> CELLS["gru-before"](4)
GRU(hidden_size=4, dtype=None, reset='before')
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from jaxrnn.cells.cell import Cell
from jaxrnn.cells.coupled import CoupledLSTM
from jaxrnn.cells.elman import IRNN, Elman
from jaxrnn.cells.gru import GRU
from jaxrnn.cells.layer_norm import LayerNormLSTM
from jaxrnn.cells.lstm import LSTM
from jaxrnn.cells.mgu import MGU
from jaxrnn.cells.minimal import MinGRU, MinLSTM
from jaxrnn.cells.peephole import PeepholeLSTM
from jaxrnn.cells.projected import ProjectedLSTM
from jaxrnn.cells.regularized import VariationalDropout, Zoneout
from jaxrnn.cells.residual import Residual
from jaxrnn.cells.stack import Stack

# By the name that command lines take, how to make the cell from its hidden size n. All take inputs of any
# size but "residual", whose inputs have n features, as its outputs have.
CELLS: dict[str, Callable[[int], Cell]] = {
    "elman": Elman,
    "elman-relu": partial(Elman, activation="relu"),
    "elman-sigmoid": partial(Elman, activation="sigmoid"),
    "irnn": IRNN,
    "lstm": LSTM,
    "peephole": PeepholeLSTM,
    "coupled": CoupledLSTM,
    "layer-norm": LayerNormLSTM,
    "projected": lambda n: ProjectedLSTM(n, projection_size=(n + 1) // 2),
    "gru": GRU,
    "gru-before": partial(GRU, reset="before"),
    "mgu": MGU,
    "min-gru": MinGRU,
    "min-lstm": MinLSTM,
    "stack": lambda n: Stack([LSTM(n), GRU((n + 1) // 2), Elman(n)]),
    "residual": lambda n: Residual(GRU(n)),
    "zoneout": lambda n: Zoneout(LSTM(n)),
    "variational-dropout": lambda n: VariationalDropout(LSTM(n)),
}

# The type of a setting that names a cell. Type checkers take any string, command lines only these.
if TYPE_CHECKING:
    CellName = str
else:
    CellName = Literal[tuple(CELLS)]
