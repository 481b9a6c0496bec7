"""Problems and runs that tests of everything through time share: drawn arguments, losses, the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests import reference
from tests.table import CELLS, IN_FEATURES, random_carry, random_params, relative_error

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-12}
TIME, BATCH = 7, 4
CHUNK = 3  # does not divide the time
# Float32 finds little that float64 does not: it takes other batch dimensions.
BATCH_SHAPE = {"float32": (2, 2), "float64": (BATCH,)}

# Tests of one row follow each other, so that they find what the one before has compiled.
every_cell = pytest.mark.parametrize("row", CELLS, ids=lambda row: row.name, scope="module")
# For what wraps any step: gates, a carry that starts at 0.5, one that is not fed back, noise, layers.
WRAPPED = ("lstm", "gru-before", "min-lstm", "zoneout", "stack")
five_cells = pytest.mark.parametrize(
    "row", [row for row in CELLS if row.name in WRAPPED], ids=lambda row: row.name, scope="module"
)
both_backwards = pytest.mark.parametrize("backward", ["autodiff", "bptt"])
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def modes(row, reverse, dtype):
    """Both backward passes; on the five cells, in float64, each with ``remat`` and without."""
    if row.name in WRAPPED and dtype == "float64":
        return [{"backward": b, "remat": r} for b in ("autodiff", "bptt") for r in (None, CHUNK)]
    return [{"backward": "autodiff"}, {"backward": "bptt", "remat": CHUNK if reverse else None}]


def weighted(outputs):
    """A loss in which every element has a weight of its own, that of padding too, so that a leak shows."""
    leaves = jax.tree.leaves(outputs)
    return sum(i * jnp.sum(jnp.sin(2 * leaf + i)) for i, leaf in enumerate(leaves, 1))


def with_grads(run):
    """The outputs of ``run``, and the gradients of ``weighted`` in all its arguments."""

    def outputs_and_grads(*arguments):
        def loss(*arguments):
            outputs = run(*arguments)
            return weighted(outputs), outputs

        grads, outputs = jax.grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)
        return outputs, grads

    return outputs_and_grads


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unroll_with_grads(cell, options, params, xs, carry, lengths, resets):
    run = functools.partial(jaxrnn.unroll, cell, lengths=lengths, resets=resets, **dict(options))
    return with_grads(run)(params, xs, carry)


def unroll_with_grads(
    cell, params, xs, carry=None, lengths=None, resets=None, *, reverse=False, backward="autodiff",
    remat=None, scan_unroll=1,
):  # fmt: skip
    """What ``unroll`` returns, and its gradients in params, xs and carry; equal calls compile once."""
    options = {"reverse": reverse, "backward": backward, "remat": remat, "scan_unroll": scan_unroll}
    return _unroll_with_grads(cell, tuple(options.items()), params, xs, carry, lengths, resets)


def problem(cell, dtype, batch_shape=(BATCH,), seed=0):
    """Random parameters, inputs and carry; lengths with a 0 and a full one; resets with first steps."""
    random = np.random.default_rng(seed)
    xs = jnp.asarray(random.standard_normal((TIME, *batch_shape, IN_FEATURES)), dtype)
    lengths = random.integers(0, TIME + 1, batch_shape).astype(np.int32)
    if lengths.size > 1:
        lengths.flat[0], lengths.flat[-1] = 0, TIME
    resets = random.random((TIME, *batch_shape)) < 0.3
    return (
        random_params(cell, dtype, seed=seed),
        xs,
        random_carry(cell, batch_shape, dtype, seed=seed + 1),
        jnp.asarray(lengths),
        jnp.asarray(resets),
    )


def numpy_unroll(row, params, xs, carry, lengths, resets, reverse):
    """The reference over every sequence of a batch."""
    params, xs, carry = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    initial = jax.tree.map(np.asarray, row.cell.initial_carry())
    batch_shape = xs.shape[1:-1]
    ys = np.zeros((len(xs), *batch_shape, row.cell.out_features))
    after = jax.tree.map(np.copy, carry)
    for index in np.ndindex(batch_shape):
        one, ys[(slice(None), *index)] = reference.unroll(
            row.reference,
            params,
            xs[(slice(None), *index)],
            jax.tree.map(lambda a, index=index: a[index], carry),
            initial,
            len(xs) if lengths is None else int(lengths[index]),
            np.zeros(len(xs), bool) if resets is None else resets[(slice(None), *index)],
            reverse,
            row.cell.out_features,
        )
        for leaf, value in zip(jax.tree.leaves(after), jax.tree.leaves(one), strict=True):
            leaf[index] = value
    return after, ys


def gradients(run, arguments):
    """Gradients of a loss in which every element of what ``run`` returns has a weight of its own."""
    _, grads = jax.jit(with_grads(run))(*arguments)
    return grads


def assert_agree(run, arguments, dtype):
    """``run(backward, *arguments)`` has the same gradients in both modes."""
    expected = gradients(functools.partial(run, "autodiff"), arguments)
    actual = gradients(functools.partial(run, "bptt"), arguments)
    assert relative_error(actual, expected) < GRADIENT_TOLERANCE[dtype]
    return actual
