"""What users call to run a cell through time: ``unroll`` and ``bidirectional``."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int

from jaxrnn.bptt import scan_bptt
from jaxrnn.caching import by_value
from jaxrnn.cells.adapted import as_cell
from jaxrnn.cells.cell import Carry, Cell, Noise, Params, overridden
from jaxrnn.checks import check_count, check_positive
from jaxrnn.inputs import checked, prepare
from jaxrnn.scan import Inputs, associative_steps, scan_steps

Backward = Literal["autodiff", "bptt"]


def unroll(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    lengths: Int[ArrayLike, "*batch"] | None = None,
    resets: Bool[ArrayLike, "time *batch"] | None = None,
    noise: Noise = None,
    reverse: bool = False,
    backward: Backward = "autodiff",
    remat: int | None = None,
    scan_unroll: int = 1,
) -> tuple[Carry, Inexact[Array, "time *batch out_features"]]:
    """Run a cell over a sequence: the last carry and the output of every step.

    Jitted with the cell and the options static, so that equal cells compile once.

    Args:
      cell: any ``Cell``.
      params: its parameters.
      xs: inputs; time leads, as in ``lax.scan``, then any number of batch dimensions.
      carry: carry before the first step; by default the cell's initial one, in the dtype that params
        and xs promote to.
      lengths: steps of each sequence, 0 to time. A step at or past the length is padding: it leaves
        the carry untouched, gives y = 0 and gets zero gradient, whatever xs holds there (NaN too); a
        length of 0 returns the carry as it came. Traced lengths are clipped to [0, time].
      resets: True at the first position of a segment (a document, an episode): between t−1 and t the
        carry returns to the cell's initial one, in either direction. Padding wins over resets. Under
        ``reverse``, ``resets[0]`` has no step after it and changes nothing.
      noise: what ``cell.noise(key, time, batch_shape)`` drew; a constant, which gets no gradient.
      reverse: run from step length−1 down to 0; outputs stay at their positions.
      backward: "autodiff" takes gradients by ``jax.grad`` through the scan, in forward mode too and to
        any order. "bptt" takes them from the cell's hand-derived derivative, which is faster; reverse
        mode only, to any order: under ``jax.jvp`` or ``jax.jacfwd`` JAX raises its own TypeError
        about custom_vjp.
      remat: None keeps what the derivative needs of every step; k keeps the carry of every k-th step
        and recomputes what lies between (memory ∝ time/k + k, least near k = √time). Where k does not
        divide the time, xs is copied.
      scan_unroll: steps per iteration of the compiled loop, as in ``lax.scan``.

    Returns:
      the carry after the last step, and ys ``(time, *batch, out_features)``.

    Raises:
      ValueError: for shapes, dtypes or options that do not fit, concrete lengths outside [0, time], or
        ``backward="bptt"`` with a cell that has no hand-derived derivative.

    >>> from jaxrnn import LSTM
    >>> cell = LSTM(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry, ys = unroll(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 0]))
    >>> ys.shape, bool(jnp.all(ys[:, 1] == 0))
    ((5, 2, 4), True)
    """
    cell = as_cell(cell)
    xs, lengths, resets = checked(cell, params, xs, carry, lengths, resets, noise)
    if backward not in get_args(Backward):
        raise ValueError(f'backward must be "autodiff" or "bptt", got {backward!r}')
    if backward == "bptt" and not cell.has_derivative:
        changed = overridden(cell, "step_bwd")
        because = f" ({changed} overrides what its parent's was derived from)" if changed else ""
        raise ValueError(
            f'backward="bptt" needs a hand-derived derivative, and {cell} has none{because}; '
            f'use backward="autodiff"'
        )
    if remat is not None:
        check_positive("remat", remat)
    check_positive("scan_unroll", scan_unroll)
    return _unroll(
        cell,
        params,
        xs,
        carry,
        lengths,
        resets,
        noise,
        reverse=reverse,
        backward=backward,
        remat=remat,
        scan_unroll=scan_unroll,
    )


def bidirectional(
    forward_cell: Cell,
    backward_cell: Cell,
    params: tuple[Params, Params],
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: tuple[Carry, Carry] | None = None,
    *,
    noise: tuple[Noise, Noise] | None = None,
    **options: Any,
) -> tuple[tuple[Carry, Carry], Inexact[Array, "time *batch out_features"]]:
    """Two cells over a sequence, one in each direction (Schuster & Paliwal 1997).

    Args:
      forward_cell: the cell that runs from the first step to the last.
      backward_cell: the cell that runs from the last to the first.
      params: the two cells' parameters; so are ``carry`` and ``noise`` pairs.
      xs: inputs.
      carry: carries before the first step of each direction.
      noise: noise of each direction.
      **options: ``lengths``, ``resets``, ``backward``, ``remat``, ``scan_unroll``, as in ``unroll``.

    Returns:
      the pair of last carries, and ys with the forward cell's features first.

    Raises:
      ValueError: as ``unroll``.

    >>> from jaxrnn import GRU
    >>> cell = GRU(hidden_size=4)
    >>> params = tuple(cell.init(key, in_features=3) for key in jax.random.split(jax.random.key(0)))
    >>> _, ys = bidirectional(cell, cell, params, jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 8)
    """
    for what, pair in (("params", params), ("carry", carry), ("noise", noise)):
        if what == "params" or pair is not None:
            check_count(what, pair, 2, "direction")
    forward_carry, backward_carry = (None, None) if carry is None else carry
    forward_noise, backward_noise = (None, None) if noise is None else noise
    forward_carry, forward_ys = unroll(
        forward_cell, params[0], xs, forward_carry, noise=forward_noise, **options
    )
    backward_carry, backward_ys = unroll(
        backward_cell, params[1], xs, backward_carry, noise=backward_noise, reverse=True, **options
    )
    return (forward_carry, backward_carry), jnp.concatenate([forward_ys, backward_ys], axis=-1)


def parallel_unroll(
    cell: Cell,
    params: Params,
    xs: Inexact[ArrayLike, "time *batch in_features"],
    carry: Carry | None = None,
    *,
    lengths: Int[ArrayLike, "*batch"] | None = None,
    resets: Bool[ArrayLike, "time *batch"] | None = None,
    reverse: bool = False,
) -> tuple[Carry, Inexact[Array, "time *batch out_features"]]:
    """``unroll`` of a cell that is linear in its carry, in parallel over time.

    The steps S_t = a_t ⊙ S_{t-1} + b_t compose to one of the same form, so that a parallel prefix sum
    (Blelloch 1990, "Prefix sums and their applications") takes about 2·log₂(time) dependent operations
    instead of time::

        (a, b) ∘ (a′, b′) = (a′ a, a′ b + b′)        S_t = A_t ⊙ S_0 + B_t

    Equal to ``unroll`` but for rounding; nothing is divided, so that saturated gates do no harm.

    Args:
      cell: a cell with ``linear_step``: ``MinGRU``, ``MinLSTM``.
      params: its parameters; these and all others as in ``unroll``.
      xs: inputs.
      carry: carry before the first step.
      lengths: steps of each sequence.
      resets: True at the first position of a segment.
      reverse: run from step length−1 down to 0.

    Returns:
      the carry after the last step, and ys ``(time, *batch, out_features)``.

    Raises:
      ValueError: as ``unroll``, and for a cell that is not linear in its carry.

    >>> from jaxrnn import MinGRU
    >>> cell = MinGRU(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> xs = jax.random.normal(jax.random.key(1), (100, 2, 3))
    >>> _, ys = parallel_unroll(cell, params, xs)
    >>> bool(jnp.allclose(ys, unroll(cell, params, xs)[1], atol=1e-5))
    True
    """
    cell = as_cell(cell)
    if not cell.has_linear_step:
        raise ValueError(f"parallel_unroll needs a cell that is linear in its carry, got {cell}")
    xs, lengths, resets = checked(cell, params, xs, carry, lengths, resets, None)
    return _parallel_unroll(cell, params, xs, carry, lengths, resets, reverse=reverse)


@functools.partial(by_value, static_argnames=("cell", "reverse"))
def _parallel_unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
) -> tuple[Carry, Array]:
    params, starts, carry, inputs = prepare(cell, params, xs, carry, lengths, resets, None, reverse=reverse)
    return associative_steps(cell, params, starts.initial, carry, inputs, reverse=reverse)


@functools.partial(by_value, static_argnames=("cell", "reverse", "backward", "remat", "scan_unroll"))
def _unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    noise: Noise,
    *,
    reverse: bool,
    backward: Backward,
    remat: int | None,
    scan_unroll: int,
) -> tuple[Carry, Array]:
    time = xs.shape[0]
    chunk = time if remat is None else min(remat, time)
    if missing := -time % max(chunk, 1):
        lengths = jnp.full(xs.shape[1:-1], time) if lengths is None else jnp.clip(lengths, 0, time)
        xs, resets, noise = jax.tree.map(lambda leaf: _lengthened(leaf, missing), (xs, resets, noise))
    params, starts, carry, inputs = prepare(
        cell, params, xs, carry, lengths, resets, noise, reverse=reverse
    )

    def run(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        if backward == "bptt":
            return scan_bptt(cell, reverse, scan_unroll, params, starts, carry, inputs)
        return scan_steps(cell, params, starts, carry, inputs, reverse=reverse, scan_unroll=scan_unroll)

    if chunk == time:
        return run(params, carry, inputs)
    carry, ys = _in_chunks(run, params, carry, inputs, chunk=chunk, reverse=reverse)
    return carry, ys[:time]


def _lengthened(leaf: Array, steps: int) -> Array:
    """``leaf (time, ...)`` with so many steps of padding after it."""
    return jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (steps, *leaf.shape[1:]))])


def _in_chunks(
    run: Callable[[Params, Carry, Inputs], tuple[Carry, Array]],
    params: Params,
    carry: Carry,
    inputs: Inputs,
    *,
    chunk: int,
    reverse: bool,
) -> tuple[Carry, Array]:
    """``run`` over chunks of time, of which only the carry between chunks is kept for the derivative."""

    def split(leaf: Array) -> Array:  # (time, ...) -> (chunks, chunk, ...)
        return leaf.reshape(-1, chunk, *leaf.shape[1:])

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        return run(params, carry, inputs)

    carry, ys = jax.lax.scan(body, carry, jax.tree.map(split, inputs), reverse=reverse)
    return carry, ys.reshape(-1, *ys.shape[2:])
