"""Losses as sums and counts, so that those of ragged batches add up exactly."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.checks import as_array, as_ids, check_fraction, check_ids
from jaxrnn.promotion import default_promotion


@default_promotion()
def cross_entropy(
    logits: Float[Array, "*positions classes"],
    targets: Int[ArrayLike, "*positions"],
    mask: Bool[ArrayLike, "*positions"] | None = None,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The cross-entropy in nats, summed over the positions that count, and their number.

    Their ratio is the loss in nats per token; divided by ln 2 it is bits per token. With label smoothing
    ε over V classes (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7), a position
    costs::

        −(1 − ε) log p(w) − (ε / V) Σ_v log p(v)

    Args:
      logits: scores of every class, of the vocabulary's tokens, say, at every position.
      targets: the class at every position.
      mask: False at positions that do not count; their logits may be anything.
      label_smoothing: ε, in [0, 1).

    Raises:
      ValueError: for a label smoothing outside [0, 1), targets or a mask that do not have the positions of
        logits, targets that are not integers, or a mask that is not bool. Targets that count and lie
        outside the vocabulary are a ValueError where they are known, and cost NaN under ``jit``.

    >>> nats, count = cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> print(f"{nats / count:.4f}")  # ln 4
    1.3863
    """
    label_smoothing = check_fraction("label_smoothing", label_smoothing)
    targets = _checked_targets(logits, targets, mask)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # a sum of thousands of terms
    if mask is not None:
        mask = jnp.asarray(mask)
        logits, targets = jnp.where(mask[..., None], logits, 0), jnp.where(mask, targets, 0)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        nats = (1 - label_smoothing) * nats + label_smoothing * uniform
    if mask is None:
        return jnp.sum(nats), jnp.asarray(nats.size)
    return jnp.sum(nats, where=mask), jnp.sum(mask)


def _checked_targets(logits: Array, targets: Any, mask: Any) -> Array:
    positions, size = logits.shape[:-1], logits.shape[-1]
    targets, mask = as_array(targets), as_array(mask)
    if jnp.shape(targets) != positions:
        raise ValueError(
            f"targets must have the positions of logits, {positions}, got {jnp.shape(targets)}"
        )
    is_bool = mask is None or jnp.issubdtype(jnp.result_type(mask), jnp.bool)
    if mask is not None and not (is_bool and jnp.shape(mask) == positions):
        raise ValueError(
            f"mask must be bool with the positions of logits, {positions}, "
            f"got {jnp.result_type(mask)} of shape {jnp.shape(mask)}"
        )
    check_ids("targets", targets, size, mask)
    targets = as_ids(targets)
    return jnp.where(targets < 0, size, targets)  # beyond the end, where no id wraps around
