"""What users call to run a cell through time: ``unroll`` and ``bidirectional``."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact, Int

from jaxrnn.bptt import scan_bptt
from jaxrnn.cells.cell import Carry, Cell, Noise, Params
from jaxrnn.checks import check_positive
from jaxrnn.scan import Inputs, scan_steps, select, zeros

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
        and recomputes what lies between (memory ∝ time/k + k, least near k = √time).
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
    xs = jnp.asarray(xs)
    lengths = None if lengths is None else _checked_lengths(xs, lengths)
    resets = None if resets is None else jnp.asarray(resets)
    _check(cell, params, xs, carry, lengths, resets, noise)
    if backward not in get_args(Backward):
        raise ValueError(f'backward must be "autodiff" or "bptt", got {backward!r}')
    if backward == "bptt" and not cell.has_derivative:
        raise ValueError(
            f'backward="bptt" needs a hand-derived derivative, and {cell} has none; use backward="autodiff"'
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
    forward_carry, backward_carry = (None, None) if carry is None else carry
    forward_noise, backward_noise = (None, None) if noise is None else noise
    forward_carry, forward_ys = unroll(
        forward_cell, params[0], xs, forward_carry, noise=forward_noise, **options
    )
    backward_carry, backward_ys = unroll(
        backward_cell, params[1], xs, backward_carry, noise=backward_noise, reverse=True, **options
    )
    return (forward_carry, backward_carry), jnp.concatenate([forward_ys, backward_ys], axis=-1)


@functools.partial(jax.jit, static_argnames=("cell", "reverse", "backward", "remat", "scan_unroll"))
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
    time, batch_shape = xs.shape[0], xs.shape[1:-1]
    initial = cell.initial_carry(batch_shape, jnp.result_type(*jax.tree.leaves(params), xs))
    if carry is None:
        carry = initial
    initial = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), initial, carry)
    valid = None
    if lengths is not None:
        steps = jnp.arange(time).reshape(time, *(1 for _ in batch_shape))
        valid = steps < jnp.clip(lengths, 0, time)
        xs = select(valid, xs, zeros(xs))
    resets = _resets_before_step(resets, valid, reverse)
    params, initial, carry, inputs = _match_varying(
        (params, initial, carry, Inputs(xs, jax.lax.stop_gradient(noise), valid, resets))
    )

    def run(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        if backward == "bptt":
            return scan_bptt(cell, reverse, scan_unroll, params, initial, carry, inputs)
        return scan_steps(cell, params, initial, carry, inputs, reverse=reverse, scan_unroll=scan_unroll)

    if remat is None or time <= remat:
        return run(params, carry, inputs)
    return _in_chunks(run, params, carry, inputs, chunk=remat, reverse=reverse)


def _resets_before_step(resets: Array | None, valid: Array | None, reverse: bool) -> Array | None:
    """Where the carry is put back before a step, from where segments begin."""
    if resets is None:
        return None
    if valid is not None:
        resets = resets & valid
    if not reverse:
        return resets
    # Backward in time, the edge between t-1 and t is crossed on the way to step t-1.
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


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
    time = inputs.xs.shape[0]
    chunks = -(-time // chunk)
    missing = chunks * chunk - time
    if missing and inputs.valid is None:  # the added steps are padding
        inputs = inputs._replace(valid=jnp.ones_like(inputs.xs[..., 0], dtype=bool))

    def split(leaf: Array) -> Array:  # (time, ...) -> (chunks, chunk, ...)
        padded = jnp.concatenate([leaf, jnp.zeros_like(leaf, shape=(missing, *leaf.shape[1:]))])
        return padded.reshape(chunks, chunk, *leaf.shape[1:])

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
        return run(params, carry, inputs)

    carry, ys = jax.lax.scan(body, carry, jax.tree.map(split, inputs), reverse=reverse)
    return carry, ys.reshape(chunks * chunk, *ys.shape[2:])[:time]


def _match_varying(tree: Any) -> Any:
    """All leaves varying over the same mesh axes, so that they may meet in a scan under ``shard_map``.

    Outside the custom derivative on purpose: autodiff then sums the gradient of what was replicated.
    """
    axes = frozenset[str]().union(*map(_varying_axes, jax.tree.leaves(tree)))

    def match(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(match, tree) if axes else tree


def _varying_axes(leaf: Array) -> frozenset[str]:
    """The mesh axes over which a value varies; JAX has had two names for them."""
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying


def _checked_lengths(xs: Array, lengths: Any) -> Array:
    """Lengths as an array; ValueError unless they are integers in [0, time], one per sequence."""
    if not isinstance(lengths, jax.core.Tracer):
        concrete = np.asarray(lengths)
        if concrete.dtype.kind in "iu" and concrete.size:
            low, high = int(concrete.min()), int(concrete.max())
            if low < 0 or high > xs.shape[0]:
                raise ValueError(
                    f"lengths must lie in [0, {xs.shape[0]}] (the time axis of xs), "
                    f"got values from {low} to {high}"
                )
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != xs.shape[1:-1]:
        raise ValueError(f"lengths must have the batch shape of xs {xs.shape[1:-1]}, got {lengths.shape}")
    return lengths.astype(jnp.int32)  # a narrower type could not hold the time it is compared with


def _check(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    resets: Array | None,
    noise: Noise,
) -> None:
    """Raise ValueError unless the arrays of an unroll fit each other."""
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise ValueError(f"xs must be floating-point, got {xs.dtype}")
    if xs.ndim < 2:
        raise ValueError(f"xs must be (time, *batch, in_features), of rank 2 or more, got shape {xs.shape}")
    time, *batch_shape, in_features = xs.shape
    one_step = jax.ShapeDtypeStruct((*batch_shape, in_features), xs.dtype)
    if carry is None:
        carry = jax.eval_shape(lambda: cell.initial_carry(tuple(batch_shape)))
    cell.check(params, carry, one_step)
    if resets is not None and (resets.dtype != bool or resets.shape != (time, *batch_shape)):
        raise ValueError(
            f"resets must be bool of shape {(time, *batch_shape)}, "
            f"got {resets.dtype} of shape {resets.shape}"
        )
    for leaf in jax.tree.leaves(noise):
        if leaf.ndim < 1 or leaf.shape[0] != time:
            raise ValueError(f"every leaf of noise must lead with time {time}, got shape {leaf.shape}")
