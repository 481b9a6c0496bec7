"""What ``unroll`` says to arguments that do not fit."""

import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from tests.table import random_params
from tests.unrolling import problem


@pytest.mark.usefixtures("as_users_run")
class TestBadInput:
    cell = jaxrnn.LSTM(5)

    def raises(self, match, *args, cell=None, **options):
        params, xs, _, _, _ = problem(self.cell, "float32")
        arguments = [params, xs, None]
        for position, value in enumerate(args):
            if value is not None:
                arguments[position] = value
        with pytest.raises(ValueError, match=match):
            jaxrnn.unroll(cell or self.cell, *arguments, **options)

    def test_xs(self):
        self.raises("xs must be floating-point, got int32", None, jnp.ones((7, 4, 3), int))
        self.raises(r"of rank 2 or more, got shape \(7,\)", None, jnp.ones(7))
        self.raises(r"\.w_ih should have shape \(2, 20\), got \(3, 20\)", None, jnp.ones((7, 4, 2)))

    def test_params_and_carry(self):
        other = random_params(jaxrnn.GRU(5), "float32")
        self.raises(
            r"params should be LSTMParams\(w_ih, w_hh, b\), got GRUParams\(w_ih, w_hh, b_ih, b_hh\)", other
        )
        carry = self.cell.initial_carry((9,))
        self.raises(r"\.h should have shape \(4, 5\), got \(9, 5\)", None, None, carry)
        carry = jax.tree.map(lambda leaf: leaf.astype(int), self.cell.initial_carry((4,)))
        self.raises(r"\.h should be floating-point, got int32", None, None, carry)

    @pytest.mark.parametrize(
        ("lengths", "match"),
        [
            ([0, 1, 2, 8], r"lie in \[0, 7\].* from 0 to 8"),
            ([-1, 1, 2, 7], r"lie in \[0, 7\].* from -1 to 7"),
            (
                [1, 2],
                r"^xs is time-major \(time, batch, features\); lengths has 2 entries but xs has batch 4$",
            ),
            ([[1, 2, 3, 4]], r"lengths has shape \(1, 4\) but xs has batch 4"),
            ([0.5, 1, 2, 3], "lengths must be integers, got float32"),
        ],
    )
    def test_lengths(self, lengths, match):
        self.raises(match, lengths=jnp.array(lengths))

    def test_resets_and_noise(self):
        self.raises(
            "resets must be bool, got int32",
            resets=jnp.ones((7, 4), int),
        )
        self.raises(
            r"xs is time-major .*; resets must have shape \(7, 4\), got \(4, 7\)",
            resets=jnp.ones((4, 7), bool),
        )
        self.raises(r"must lead with time 7, got shape \(6, 4\)", noise=jnp.ones((6, 4)))

    def test_options(self):
        self.raises('backward must be "autodiff" or "bptt", got \'rtrl\'', backward="rtrl")
        self.raises("remat must be a positive integer, got 0", remat=0)
        self.raises("scan_unroll must be a positive integer, got -1", scan_unroll=-1)

    def test_bptt_without_a_derivative_is_refused_by_name(self):
        class Bare(jaxrnn.Cell):
            out_features = 2

            def __repr__(self):
                return "Bare()"

            def init(self, key, in_features, dtype=jnp.float32):
                return jnp.ones((in_features, 2), dtype)

            def initial_carry(self, batch_shape=(), dtype=jnp.float32):
                return jnp.zeros((*batch_shape, 2), dtype)

            def step(self, params, carry, x, noise=None):
                carry = jnp.tanh(carry + x @ params)
                return carry, carry

        cell = Bare()
        xs = jnp.ones((7, 4, 3))
        _, ys = jaxrnn.unroll(cell, jnp.ones((3, 2)), xs)
        assert ys.shape == (7, 4, 2)
        with pytest.raises(ValueError, match=r'"bptt" needs a hand-derived derivative, and Bare\(\)'):
            jaxrnn.unroll(cell, jnp.ones((3, 2)), xs, backward="bptt")
