"""The table of cells: all of them, at any size, under the names that command lines offer."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
import tyro

import jaxrnn
from jaxrnn.cells.table import CELLS, CellName


def test_every_public_cell_has_a_row():
    public = [getattr(jaxrnn, name) for name in jaxrnn.__all__]
    cells = {kind for kind in public if isinstance(kind, type) and issubclass(kind, jaxrnn.Cell)}
    assert {type(make(2)) for make in CELLS.values()} == cells - {jaxrnn.Cell}


@pytest.mark.parametrize("name", CELLS)
def test_any_hidden_size(name):
    for size in (1, 4):
        cell = CELLS[name](size)
        assert cell == CELLS[name](size)
        params = jax.eval_shape(lambda cell=cell, size=size: cell.init(jax.random.key(0), size))
        carry, x = cell.initial_carry((2,)), jnp.ones((2, size))
        _, y = jax.eval_shape(cell.step, params, carry, x)
        assert y.shape == (2, cell.out_features)


def test_command_lines_offer_the_names(capsys):
    @dataclasses.dataclass
    class Config:
        cell: CellName = "lstm"

    assert get_args(CellName) == tuple(CELLS)
    for name in CELLS:
        assert tyro.cli(Config, args=["--cell", name]).cell == name
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--cell", "lstn"])
    assert "'lstn'" in capsys.readouterr().err
