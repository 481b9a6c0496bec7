"""Recurrent networks in JAX whose gradients can be trusted."""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from jaxrnn import data, decoding, diagnostics, gradients, models, nn, training

__version__ = "0.1.0"

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
    "data",
    "decoding",
    "diagnostics",
    "gradients",
    "models",
    "nn",
    "parallel_unroll",
    "training",
    "unroll",
]


def __getattr__(name: str) -> Any:
    """A submodule, imported when first asked for: Flax, Optax and Orbax take longer than all the rest."""
    if name in __all__:
        return importlib.import_module(f"jaxrnn.{name}")
    raise AttributeError(f"module 'jaxrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
