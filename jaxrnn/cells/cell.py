"""The contract that every recurrent cell keeps, and the few helpers that cells share."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Key

from jaxrnn.caching import is_value
from jaxrnn.checks import check_by_name, check_like, check_positive, settle
from jaxrnn.promotion import default_promotion

# Names of dtypes that NumPy and JAX accept.
DType = str | np.dtype | type[Any]

# Pytrees whose structure the cell decides.
Params = Any
Carry = Any
Noise = Any
Residuals = Any
Deltas = Any


class Cell:
    """One step of a recurrent network: configuration in a frozen dataclass, mathematics in pure methods.

    A subclass gives ``init``, ``initial_carry``, ``out_features`` and either

    - ``step_fwd``, ``step_bwd``, ``input_grads`` and ``param_grads``: the step and its derivative, by
      hand (``step`` then comes for free), or
    - ``step`` alone: the cell then has no analytic mode, and gradients come from ``jax.grad``.

    With S_t the carry, z_t the pre-activations and δ_t = ∂L/∂z_t, the four parts are those of
    back-propagation through time (Werbos 1990, "Backpropagation through time: what it does and how
    to do it"):

    - ``step_fwd``: S_t, y_t = step(params, S_{t-1}, x_t), and what the derivative will need;
    - ``step_bwd``: from ∂L/∂S_t and ∂L/∂y_t to ∂L/∂S_{t-1} and δ_t, the chain ∂S_t/∂S_{t-1};
    - ``input_grads``: from δ_t to ∂L/∂x_t;
    - ``param_grads``: Σ_t δ_t · ∂†z_t/∂W, the explicit derivative, all steps in one product.

    Cells know nothing of time, padding or layers, and take any number of batch dimensions. ``step``
    also accepts complex input, so that derivatives can be taken by complex step.

    The hidden size, or the wrapped cell, is positional; all options are keyword-only.
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Raise TypeError for positional options, with the correct call."""
        check_by_name(cls, args, options)
        return super().__new__(cls)

    @property
    def out_features(self) -> int:
        """Features of the output y."""
        raise NotImplementedError(f"{type(self).__name__} does not define out_features")

    @property
    def has_derivative(self) -> bool:
        """Whether the cell carries its hand-derived derivative, which ``backward="bptt"`` needs."""
        return _belongs_to_step(self, "step_bwd")

    @property
    def has_linear_step(self) -> bool:
        """Whether the cell gives ``linear_step``, which ``parallel_unroll`` needs."""
        return _belongs_to_step(self, "linear_step")

    @property
    def outputs_h(self) -> bool:
        """Whether the output y is the carry's h."""
        return True

    @property
    def carries_h(self) -> bool:
        """Whether h_t contains h_{t-1} itself, and not only its product with weights.

        Dropping units of h_{t-1} would erase the memory of such a cell.
        """
        return False

    @property
    def largest_slope(self) -> float | None:
        """Largest slope γ of the activation, of a cell that is nothing but act(z_t); None for others."""
        return None

    def init(self, key: Key[Array, ""], in_features: int, dtype: DType = jnp.float32) -> Params:
        """Draw the parameters for inputs of ``in_features``, as a pytree of arrays of ``dtype``."""
        raise NotImplementedError(f"{type(self).__name__} does not define init")

    def initial_carry(self, batch_shape: Sequence[int] = (), dtype: DType = jnp.float32) -> Carry:
        """The carry before the first step, every leaf ``(*batch_shape, ...)``."""
        raise NotImplementedError(f"{type(self).__name__} does not define initial_carry")

    def noise(self, key: Key[Array, ""], time: int, batch_shape: Sequence[int] = ()) -> Noise:
        """The random numbers of ``time`` steps, every leaf leading with time; None where unused."""
        return None

    @default_promotion()
    def step(
        self,
        params: Params,
        carry: Carry,
        x: Inexact[Array, "*batch in_features"],
        noise: Noise = None,
    ) -> tuple[Carry, Inexact[Array, "*batch out_features"]]:
        """One step in time: the new carry, each leaf in its incoming dtype, and the output y.

        Raises:
          ValueError: if the shapes of params, carry and x do not fit each other.
        """
        self.check(params, carry, x)
        carry, y, _ = self.step_fwd(params, carry, x, noise)
        return carry, y

    def step_fwd(
        self, params: Params, carry: Carry, x: Array, noise: Noise = None
    ) -> tuple[Carry, Array, Residuals]:
        """``step``, and the residuals that its derivative needs."""
        raise NotImplementedError(f"{type(self).__name__} has no hand-derived derivative")

    def step_bwd(
        self, params: Params, carry_before: Carry, residuals: Residuals, d_carry: Carry, d_y: Array
    ) -> tuple[Carry, Deltas]:
        """From dL/dS_t and dL/dy_t to dL/dS_{t-1} and δ_t; linear in its last two arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no hand-derived derivative")

    def input_grads(self, params: Params, residuals: Residuals, deltas: Deltas) -> Array:
        """dL/dx from δ, for any leading axes."""
        raise NotImplementedError(f"{type(self).__name__} has no hand-derived derivative")

    def param_grads(
        self,
        params: Params,
        xs: Array,
        carries_before: Carry,
        residuals: Residuals,
        deltas: Deltas,
    ) -> Params:
        """dL/dparams, summed over all leading axes at once."""
        raise NotImplementedError(f"{type(self).__name__} has no hand-derived derivative")

    def gates(self, params: Params, carry: Carry, x: Array, noise: Noise = None) -> dict[str, Array]:
        """The values of the gates at one step, in (0, 1), each ``(*batch, units)``; empty without gates."""
        return {}

    def linear_step(self, params: Params, xs: Array) -> tuple[Carry, Carry]:
        """(a, b) of every step of a cell with S_t = a_t ⊙ S_{t-1} + b_t and y_t = h_t.

        ``parallel_unroll`` solves such a cell in parallel over time.
        """
        raise NotImplementedError(f"{self} is not linear in its carry")

    def check(self, params: Params, carry: Carry, x: Any) -> None:
        """Raise ValueError unless params, carry and x fit each other; looks at shapes and dtypes only.

        A cell whose params hold more than ``init`` draws (an encoder's memory, say) overrides it.
        """
        if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.inexact):
            raise ValueError(
                f"{type(self).__name__} expects x as floating-point (*batch, in_features), "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        expected = expected_params(self, x.shape[-1])
        check_like("params", expected, params, because=f"inputs have {x.shape[-1]} features")
        batch_shape = tuple(x.shape[:-1])
        expected = expected_carry(self, batch_shape)
        check_like("carry", expected, carry, because=f"the batch shape is {batch_shape}")


@dataclass(frozen=True)
class SizedCell(Cell):
    """A cell with one hidden state of ``hidden_size`` units.

    ``dtype`` is the compute dtype; None computes in what params, carry and x promote to.
    """

    hidden_size: int
    dtype: DType | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        settle(self, check_positive, "hidden_size")
        if self.dtype is not None:  # one spelling, so that equal cells hash alike
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))

    @property
    def out_features(self) -> int:
        """Features of the output: ``hidden_size``."""
        return self.hidden_size

    def compute_dtype(self, *operands: Any) -> DType:
        """The dtype in which a step is computed."""
        return jnp.result_type(*jax.tree.leaves(operands)) if self.dtype is None else self.dtype


# What a subclass may override, and the derivative of its parent still be that of its step.
_NOT_OF_THE_STEP = {name for name in vars(Cell) if not name.startswith("_")} - {"step", "step_fwd"}


def overridden(cell: Cell, method: str) -> str:
    """Name of an override of a method that the step may call, made below the class that defines ``method``;
    empty if there is none, and ``method`` still belongs to the step.
    """
    kind: Any = type(cell)
    if in_instance := sorted(_code(kind, method) & getattr(cell, "__dict__", {}).keys()):
        return f"{kind.__name__}.{in_instance[0]}"
    return _overridden_in(kind, method)


def _belongs_to_step(cell: Cell, method: str) -> bool:
    return getattr(type(cell), method) is not getattr(Cell, method) and not overridden(cell, method)


@functools.cache
def _overridden_in(kind: type, method: str) -> str:
    owner = _owner(kind, method)
    for name in sorted(_code(kind, method)):
        if _owner(kind, name) is not _owner(owner, name):
            return f"{_owner(kind, name).__name__}.{name}"
    return ""


@functools.cache
def _code(kind: type, method: str) -> frozenset[str]:
    """The methods and properties that a step may call, as the class that defines ``method`` knew them."""
    owner = _owner(kind, method)
    names = {name for c in owner.__mro__ for name in vars(c) if not name.startswith("__")}
    values = {name: vars(_owner(owner, name))[name] for name in names - _NOT_OF_THE_STEP}
    return frozenset(n for n, v in values.items() if callable(v) or isinstance(v, _DESCRIPTORS))


def _owner(kind: type, name: str) -> type:
    """The class from which a class takes an attribute."""
    return next(c for c in kind.__mro__ if name in vars(c))


_DESCRIPTORS = (property, staticmethod, classmethod, functools.cached_property)


def expected_params(cell: Cell, in_features: int) -> Params:
    """The shapes and dtypes of a cell's parameters."""
    draw = _params_of_value if is_value(cell) else _params_of_value.__wrapped__
    return draw(cell, in_features)


def expected_carry(cell: Cell, batch_shape: tuple[int, ...]) -> Carry:
    """The shapes and dtypes of a cell's carry."""
    draw = _carry_of_value if is_value(cell) else _carry_of_value.__wrapped__
    return draw(cell, batch_shape)


@functools.lru_cache(maxsize=256)
def _params_of_value(cell: Cell, in_features: int) -> Params:
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))


@functools.lru_cache(maxsize=256)
def _carry_of_value(cell: Cell, batch_shape: tuple[int, ...]) -> Carry:
    return jax.eval_shape(lambda: cell.initial_carry(batch_shape))
