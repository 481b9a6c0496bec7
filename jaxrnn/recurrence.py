"""``unroll`` and ``bidirectional``, and the checks of their arguments."""

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
from jaxrnn.cells.cell import Carry, Cell, Noise, Params, expected_carry, overridden
from jaxrnn.checks import check_count, check_positive, checked_lengths, on_device, time_major
from jaxrnn.scan import Inputs, prepare, scan_steps

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
      noise: random numbers drawn by ``cell.noise(key, time, batch_shape)``; a constant, which gets no
        gradient. Without it, ``Zoneout`` and ``VariationalDropout`` are deterministic.
      reverse: run from step length−1 down to 0; outputs stay at their positions.
      backward: "autodiff" takes gradients by ``jax.grad`` through the scan, in forward mode too and to
        any order. "bptt" takes them from the cell's hand-derived derivative, which is faster; reverse
        mode only, to any order: under ``jax.jvp`` or ``jax.jacfwd`` JAX raises its own TypeError
        about custom_vjp.
      remat: rematerialisation (gradient checkpointing): None keeps the residuals of every step; k keeps
        the carry of every k-th step and recomputes the rest (memory ∝ time/k + k, least near
        k = √time). Where k does not divide the time, xs is copied.
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
    xs, lengths, resets = checked_arguments(cell, params, xs, carry, lengths, resets, noise)
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
        return scan_steps(
            cell.step, params, starts, carry, inputs, reverse=reverse, scan_unroll=scan_unroll
        )

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


def checked_arguments(
    cell: Cell,
    params: Params,
    xs: Any,
    carry: Carry | None,
    lengths: Any,
    resets: Any,
    noise: Noise,
) -> tuple[Array, Array | None, Array | None]:
    """xs, lengths and resets as arrays; ValueError unless all arguments fit each other."""
    try:
        xs = on_device(xs)
    except (TypeError, ValueError) as error:  # a pytree is no array
        if not hasattr(params, "dtype"):
            raise
        raise TypeError("params and xs are swapped: the order is (cell, params, xs)") from error
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise ValueError(f"xs must be floating-point, got {xs.dtype}")
    if xs.ndim < 2:
        raise ValueError(f"xs must be (time, *batch, in_features), of rank 2 or more, got shape {xs.shape}")
    lengths = None if lengths is None else checked_lengths(lengths, xs.shape[0], xs.shape[1:-1])
    resets = None if resets is None else on_device(resets)
    _check(cell, params, xs, carry, resets, noise)
    return xs, lengths, resets


def _check(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    resets: Array | None,
    noise: Noise,
) -> None:
    """Raise ValueError unless the arrays of an unroll fit each other."""
    time, batch_shape = xs.shape[0], xs.shape[1:-1]
    one_step = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    try:
        cell.check(params, expected_carry(cell, batch_shape) if carry is None else carry, one_step)
    except ValueError:
        _check_time_major(cell, xs, carry)
        raise
    if resets is not None and resets.dtype != bool:
        raise ValueError(f"resets must be bool, got {resets.dtype}")
    if resets is not None and resets.shape != (time, *batch_shape):
        raise ValueError(
            f"xs is {time_major(len(batch_shape))}; resets must have shape {(time, *batch_shape)}, "
            f"got {resets.shape}"
        )
    for leaf in jax.tree.leaves(noise):
        if leaf.ndim < 1 or leaf.shape[0] != time:
            raise ValueError(f"every leaf of noise must lead with time {time}, got shape {leaf.shape}")


def _check_time_major(cell: Cell, xs: Array, carry: Carry | None) -> None:
    """Raise ValueError if a carry that does not fit would fit xs with batch first."""
    fitting = [leaf.shape for leaf in jax.tree.leaves(expected_carry(cell, xs.shape[:1]))]
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(carry)]
    if xs.ndim == 3 and shapes and shapes == fitting:
        first, second, _ = xs.shape
        raise ValueError(
            f"xs is {time_major(1)}; carry has batch {first} but xs has batch {second}"
        ) from None
