"""Gradients of one cell by every method, under every option, in float64.

Takes names and numbers and returns what JSON can hold, so that processes can share the work.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.cells.cell import Cell
from jaxrnn.cells.table import CELLS
from jaxrnn.gradients import (
    GradientError,
    Report,
    check,
    compare,
    complex_step,
    rtrl,
)

TIME, BATCH, IN_FEATURES, UNITS = 7, 3, 3, 4
LENGTHS = np.array([TIME, 0, 4])

METHODS = ["autodiff", "bptt", "loop", "explicit_terms", "rtrl", "complex_step", "finite_difference"]

# Hidden sizes other than UNITS.
SIZES = {
    "irnn": UNITS + 1,  # else the very numbers of elman-relu
    "residual": IN_FEATURES,
}

# Of the option "saturated": parameters so many times as large push most gates below 0.1 or above 0.9.
SATURATING = 5

QUICK_OPTIONS = ("plain", "reverse")


def study_cell(name: str) -> Cell:
    """A cell of the table, small enough for every method."""
    return CELLS[name](SIZES.get(name, UNITS))


def draw(like: Any, seed: int, scale: float = 0.6) -> Any:
    """Normal numbers like a pytree: no bias is zero, no gate like another."""
    leaves = jax.tree.leaves(like)
    structure: Any = jax.tree.structure(like)
    random = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(scale * random.standard_normal(leaf.shape)) for leaf in leaves])


def problem(cell: Cell, seed: int, in_features: int = IN_FEATURES) -> tuple[Any, jax.Array, Any]:
    """Random parameters, inputs and carry in float64."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features, "float64"))
    carry = jax.eval_shape(lambda: cell.initial_carry((BATCH,), "float64"))
    xs = draw(jax.ShapeDtypeStruct((TIME, BATCH, in_features), "float64"), seed + 1, scale=1.0)
    return draw(params, seed), xs, draw(carry, seed + 2)


def agreement(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Every option of one cell: by option, each method's largest relative error, and whether all agree."""
    cell = study_cell(name)
    reports = _options_of_check(cell, seed)
    if not quick:
        reports["stacked"] = functools.partial(_stacked, cell, seed)
        reports["bidirectional"] = functools.partial(_bidirectional, cell, seed)
    results = {}
    for option, make in reports.items():
        if quick and option not in QUICK_OPTIONS:
            continue
        report = make()
        results[option] = {"agrees": report.agrees, "errors": report.max_errors(), "report": str(report)}
    return {"options": results} | ({} if quick else _higher_order(cell, seed))


def _options_of_check(cell: Cell, seed: int) -> dict[str, Any]:
    """A call of ``check`` for each of its options; equal shapes and switches, so that few compile."""
    params, xs, carry = problem(cell, seed)
    resets, never, full = _resets(seed), np.zeros((TIME, BATCH), bool), np.full(BATCH, TIME)
    saturated = jax.tree.map(lambda leaf: SATURATING * leaf, params)
    noise = _noise(cell, seed)
    given = functools.partial(functools.partial, _checked, cell, noise=noise)
    options = {
        "plain": given((params, xs, carry)),
        "ragged": given((params, xs, carry), lengths=LENGTHS, resets=never),
        "resets": given((params, xs, carry), lengths=full, resets=resets),
        "saturated": given((saturated, xs, carry), lengths=LENGTHS, resets=resets),
        "remat": given((params, xs, carry), lengths=LENGTHS, resets=resets, remat=3),
        "reverse": given((params, xs, carry), lengths=LENGTHS, resets=resets, reverse=True),
    }
    if jax.tree.leaves(noise):
        options["without noise"] = given((params, xs, carry), lengths=LENGTHS, resets=resets, noise=None)
    return options


def _noise(cell: Cell, seed: int) -> Any:
    """Noise for a cell that has any: under every option then, but for one."""
    return cell.noise(jax.random.key(seed), TIME, (BATCH,))


def _resets(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((TIME, BATCH)) < 0.3


def _stacked(cell: Cell, seed: int) -> Report:
    """Two layers of the cell, the second fed by the first."""
    bottom, xs, carry = problem(cell, seed)
    top, _, carry_top = problem(cell, seed + 10, cell.out_features)
    stack = jaxrnn.Stack([cell, cell])
    arguments = ((bottom, top), xs, (carry, carry_top))
    options = {"lengths": LENGTHS, "resets": _resets(seed), "noise": _noise(stack, seed)}
    return _checked(stack, arguments, **options)


def _checked(cell: Cell, arguments: tuple[Any, jax.Array, Any], **options: Any) -> Report:
    try:
        return check(cell, *arguments, **options)
    except GradientError as error:
        return error.report


def _bidirectional(cell: Cell, seed: int) -> Report:
    """``bidirectional`` by every method; RTRL takes each direction by itself."""
    forward, xs, carry = problem(cell, seed)
    backward, _, carry_back = problem(cell, seed + 10)
    arguments = ((forward, backward), xs, (carry, carry_back))
    noise = (_noise(cell, seed), _noise(cell, seed + 10))
    options: dict[str, Any] = {"lengths": LENGTHS, "resets": _resets(seed), "noise": noise}
    last, ys = jax.eval_shape(
        lambda p, x, c: jaxrnn.bidirectional(cell, cell, p, x, c, **options), *arguments
    )
    d_last, d_ys = draw((last, ys), seed + 20, scale=1.0)

    def value(arguments: Any, mode: Any = "autodiff") -> jax.Array:
        outputs = jaxrnn.bidirectional(cell, cell, *arguments, **options, backward=mode)
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves((d_last, d_ys)), strict=True)
        return sum((jnp.sum(output * weight) for output, weight in pairs), jnp.zeros(()))

    found = {
        "autodiff": jax.jit(jax.grad(value))(arguments),
        "bptt": jax.jit(jax.grad(functools.partial(value, mode="bptt")))(arguments),
        "complex_step": jax.jit(functools.partial(complex_step, value))(arguments),
    }
    gradients = {
        method: dict(zip(("params", "xs", "carry"), g, strict=True)) for method, g in found.items()
    }
    one_way = [
        rtrl(cell, p, xs, c, d_ys=d_y, d_carry=d_c, reverse=reverse, **options | {"noise": n})
        for p, c, n, d_y, d_c, reverse in zip(
            *arguments[::2], noise, jnp.split(d_ys, 2, axis=-1), d_last, (False, True), strict=True
        )
    ]
    d_params, d_carry = zip(*one_way, strict=True)
    gradients["rtrl"] = {"params": d_params, "carry": d_carry}
    return compare(f"bidirectional {cell}", gradients)


def _higher_order(cell: Cell, seed: int) -> dict[str, float]:
    """Relative errors of ⟨Jv, w⟩ = ⟨v, Jᵀw⟩, forward by autodiff and backward by hand, and of a product
    with the Hessian, reverse over the hand-derived reverse against forward over autodiff.
    """
    arguments = problem(cell, seed)
    direction = draw(arguments, seed + 3)
    options: dict[str, Any] = {"lengths": LENGTHS, "resets": _resets(seed), "noise": _noise(cell, seed)}

    def value(arguments: Any, mode: Any) -> jax.Array:
        outputs = jaxrnn.unroll(cell, *arguments, **options, backward=mode)
        return sum((jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs)), jnp.zeros(()))

    @jax.jit
    def forward_over_autodiff(arguments: Any) -> tuple[Any, Any]:
        both = jax.value_and_grad(lambda a: value(a, "autodiff"))
        return jax.jvp(both, (arguments,), (direction,))[1]

    @jax.jit
    def reverse_over_hand(arguments: Any) -> tuple[Any, Any]:
        def slope(arguments: Any) -> jax.Array:
            return inner(jax.grad(lambda a: value(a, "bptt"))(arguments), direction)

        return jax.value_and_grad(slope)(arguments)

    expected, actual = forward_over_autodiff(arguments), reverse_over_hand(arguments)
    errors = [
        compare("", {"autodiff": {"": a}, "bptt": {"": b}}).max_errors()["bptt"]
        * 2  # the median is between
        for a, b in zip(expected, actual, strict=True)
    ]
    return {"jvp_vjp": errors[0], "second_order": errors[1]}


def inner(a: Any, b: Any) -> jax.Array:
    """⟨a, b⟩ of two pytrees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.vdot(x, y) for x, y in pairs), jnp.zeros(()))
