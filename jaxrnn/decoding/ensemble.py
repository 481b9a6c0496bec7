"""Several models as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.checks import check_count
from jaxrnn.decoding.lanes import Step, advance, as_partial, log_probabilities


def ensemble(steps: Sequence[Step]) -> Step:
    """One step from several, whose predictions are averaged; for every decoder.

    Equation, for M models (Sutskever, Vinyals & Le 2014, section 3.6)::

        p(w) = Σ_m p_m(w) / M

    Args:
      steps: of models with one vocabulary. The ensemble's state is the tuple of theirs, and so are its
        ``context`` and its extras; None in place of a model's context for a step that takes none.

    Returns:
      ``step(states, tokens, contexts)``, whose logits are log p.

    Raises:
      ValueError: without steps; when it is called, for vocabularies that differ.

    >>> def always(p):
    ...     return lambda state, tokens: (state, jnp.log(jnp.array([[p, 1 - p]])))
    >>> _, logits, _ = ensemble([always(0.5), always(0.1)])(((), ()), jnp.array([0]))
    >>> print(f"{jnp.exp(logits[0, 0]):.2f}")
    0.30
    """
    if not steps:
        raise ValueError("an ensemble needs at least one step, got none")
    return jax.tree_util.Partial(_Average(), tuple(map(as_partial, steps)))


@dataclass(frozen=True)
class _Average:
    """The step of an ensemble: a value, so that ensembles of equal models compile once."""

    def __call__(
        self, steps: tuple[Step, ...], states: tuple, tokens: Array, contexts: tuple | None = None
    ) -> tuple[tuple, Array, tuple]:
        """One step of every model, and the logarithm of the mean of their probabilities."""
        check_count("state of an ensemble", states, len(steps), "model")
        contexts = (None,) * len(steps) if contexts is None else contexts
        check_count("context of an ensemble", contexts, len(steps), "model")
        after: list[Any] = []
        extras: list[Any] = []
        log_ps: list[Array] = []
        for step, state, context in zip(steps, states, contexts, strict=True):
            state, logits, extra = advance(step, state, tokens, context)
            after.append(state)
            extras.append(extra)
            log_ps.append(log_probabilities(logits)[0])
        sizes = [log_p.shape[-1] for log_p in log_ps]
        if len(set(sizes)) > 1:
            raise ValueError(f"models of an ensemble must share one vocabulary, got {sizes} tokens")
        log_p = jax.nn.logsumexp(jnp.stack(log_ps), axis=0) - jnp.log(len(steps))
        return tuple(after), log_p, tuple(extras)
