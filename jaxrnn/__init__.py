"""Recurrent networks in JAX whose gradients can be trusted."""

from jaxrnn.cells.cell import Cell
from jaxrnn.cells.elman import Elman, ElmanCarry, ElmanParams
from jaxrnn.cells.gru import GRU, GRUCarry, GRUParams
from jaxrnn.cells.lstm import LSTM, Chrono, LSTMCarry, LSTMParams
from jaxrnn.cells.stack import Stack
from jaxrnn.recurrence import bidirectional, unroll

__all__ = [
    "GRU",
    "LSTM",
    "Cell",
    "Chrono",
    "Elman",
    "ElmanCarry",
    "ElmanParams",
    "GRUCarry",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "Stack",
    "bidirectional",
    "unroll",
]
