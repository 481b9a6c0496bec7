"""Recurrent networks in JAX whose gradients can be trusted."""

from jaxrnn.cells.cell import Cell
from jaxrnn.cells.coupled import CoupledLSTM, CoupledParams
from jaxrnn.cells.elman import IRNN, Elman, ElmanCarry, ElmanParams
from jaxrnn.cells.gru import GRU, GRUCarry, GRUParams
from jaxrnn.cells.layer_norm import LayerNormLSTM, LayerNormParams
from jaxrnn.cells.lstm import LSTM, Chrono, LSTMCarry, LSTMParams
from jaxrnn.cells.mgu import MGU, MGUCarry, MGUParams
from jaxrnn.cells.minimal import MinGRU, MinimalCarry, MinimalParams, MinLSTM
from jaxrnn.cells.peephole import PeepholeLSTM, PeepholeParams
from jaxrnn.cells.projected import ProjectedLSTM, ProjectedParams
from jaxrnn.cells.regularized import VariationalDropout, Zoneout
from jaxrnn.cells.residual import Residual
from jaxrnn.cells.stack import Stack
from jaxrnn.parallel import parallel_unroll
from jaxrnn.recurrence import bidirectional, unroll

__all__ = [
    "GRU",
    "IRNN",
    "LSTM",
    "MGU",
    "Cell",
    "Chrono",
    "CoupledLSTM",
    "CoupledParams",
    "Elman",
    "ElmanCarry",
    "ElmanParams",
    "GRUCarry",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LayerNormLSTM",
    "LayerNormParams",
    "MGUCarry",
    "MGUParams",
    "MinGRU",
    "MinLSTM",
    "MinimalCarry",
    "MinimalParams",
    "PeepholeLSTM",
    "PeepholeParams",
    "ProjectedLSTM",
    "ProjectedParams",
    "Residual",
    "Stack",
    "VariationalDropout",
    "Zoneout",
    "bidirectional",
    "parallel_unroll",
    "unroll",
]
