"""Thin Flax NNX modules over the functions of jaxrnn."""

from jaxrnn.nn.recurrent import RNN, Bidirectional, StackedRNN

__all__ = ["RNN", "Bidirectional", "StackedRNN"]
