"""Equivalent mutants: mistakes that change no result, each with the reason."""

import fnmatch
from collections.abc import Iterator

from experiments.gradient_check.mutation_targets import Mutation

SAME_DTYPES = "only dtypes are read of it, and a carry's cotangent has the carry's dtypes"
SAME_SHAPES = "only shapes and dtypes are read of it, and these are the same"
SAME_RANK = "only the number of dimensions is read of it, and that is the same"
SEQUENCES = "what takes it takes any iterable, once"
COMMUTES = "the operation commutes"
ONE_DEVICE = "it says how a gradient is spread over devices; tests/test_sharding.py has several"
AT_PADDING = "finite operands of a step at padding change nothing; tests/test_padding.py has others"
UNREAD = "DenseCell.param_grads reads no residuals"
# (function, part of the line, what the mistake makes of it, why the function stays the same)
EQUIVALENT: tuple[tuple[str, str, str, str], ...] = (
    ("*.step_bwd", ", carry_before), ", ", d_carry), ", SAME_DTYPES),
    ("Zoneout.step_bwd", "cast_like(d_step, d_carry)", "cast_like(d_step, carry_before)", SAME_DTYPES),
    ("scan.masked_step_bwd", "zeros(d_carry)", "zeros(carry_before)", SAME_SHAPES),
    ("scan.masked_step_bwd", "zeros(d_before)", "zeros(d_after)", SAME_SHAPES),
    ("scan.select", "b.ndim", "a.ndim", SAME_RANK),
    ("dense.weight_grad", "range(deltas.ndim", "range(inputs.ndim", SAME_RANK),
    ("dense.weight_grad", "tuple(range(deltas.ndim - 1))", "range(deltas.ndim - 1)", SEQUENCES),
    ("dense.bias_grad", "tuple(range(deltas.ndim - 1))", "range(deltas.ndim - 1)", SEQUENCES),
    (
        "dense.cast",
        "tuple((array.astype(dtype) for array in arrays))",
        "(array.astype(dtype) for array in arrays)",
        SEQUENCES,
    ),
    *(
        ("dense.weight_grad", "like_weight(weight, deltas)", f"like_weight({operands})", ONE_DEVICE)
        for operands in (
            "deltas, weight",
            "inputs, deltas",
            "deltas, deltas",
            "leading, deltas",
            "weight, inputs",
            "weight, weight",
        )
    ),
    ("scan.masked_step", "select(inputs.valid, before", "select(inputs.noise, before", AT_PADDING),
    ("scan.masked_step", "starts.padded", "starts.initial", AT_PADDING),
    ("scan.masked_step", "step(params, given", "step(params, before", AT_PADDING),
    ("scan.masked_step", "(y, given", "(y, before", AT_PADDING),
    ("scan.masked_step", "tuple(residuals)", "residuals", SEQUENCES),
    ("Stack.step_fwd", "tuple(residuals)", "residuals", SEQUENCES),
    ("Stack.step_bwd", "tuple(deltas)", "deltas", SEQUENCES),
    ("dense.*", "(deltas.dtype, weight.dtype)", "(weight.dtype, deltas.dtype)", COMMUTES),
    ("dense.*", "(deltas.dtype, bias.dtype)", "(bias.dtype, deltas.dtype)", COMMUTES),
    ("Zoneout.step_bwd", "keep, d_after", "d_after, keep", COMMUTES),
    *(
        ("*LSTM.param_grads", "carries_before, residuals", f"carries_before, {other}", UNREAD)
        for other in ("xs", "carries_before", "deltas", "i")
    ),
    ("Stack.step_fwd", "after, residuals = ", "residuals, after = ", "both begin as empty lists"),
    ("Stack.step_bwd", "layer > 0", "layer >= 0", "the d_y that is left over is not used"),
    ("Stack.step_bwd", "layer > 0", "layer > -1", "the d_y that is left over is not used"),
    (
        "scan.masked_step",
        "after, before)",
        "after, carry)",
        "no reset stands at padding, so before is carry",
    ),
    *(
        ("minimal._softplus", "> 0", other, "near 0 both branches are log(1 + exp z) to rounding")
        for other in (">= 0", "> 1", "> -1")
    ),
)


def reason(mutation: Mutation) -> str:
    """Why a mistake changes nothing; empty if it is not listed."""
    for function, before, after, why in EQUIVALENT:
        same_function = fnmatch.fnmatchcase(mutation.target.name, function)
        if same_function and mutation.after in _each_replaced(mutation.before, before, after):
            return why
    return ""


def _each_replaced(line: str, before: str, after: str) -> Iterator[str]:
    """The line with one occurrence replaced, each in turn."""
    parts = line.split(before)
    for place in range(1, len(parts)):
        yield before.join(parts[:place]) + after + before.join(parts[place:])
