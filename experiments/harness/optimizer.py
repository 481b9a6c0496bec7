"""The optimiser of the experiments: Adam, warm-up and cosine decay, clipping by value and by norm."""

import optax


def adam(
    learning_rate: float,
    steps: int,
    *,
    warmup_steps: int,
    clip_norm: float | None,
    clip_value: float | None,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) under a linear warm-up and a cosine decay to a hundredth.

    Args:
      learning_rate: the highest, reached after the warm-up.
      steps: length of the whole schedule.
      warmup_steps: steps of the warm-up; at most half of all.
      clip_norm: largest global norm of the gradient (Pascanu et al. 2013), or None.
      clip_value: each entry of the gradient is clamped to [-clip_value, clip_value] first, or None.

    Raises:
      ValueError: for a value that must be positive and is not.
    """
    positive = {"learning_rate": learning_rate, "clip_norm": clip_norm, "clip_value": clip_value}
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be 0 or more, got {warmup_steps}")
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup_steps, steps // 2), steps, learning_rate / 100
    )
    clips = [] if clip_value is None else [optax.clip(clip_value)]
    clips += [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    # A short memory of squares suits the few thousand steps of these runs.
    return optax.chain(*clips, optax.adam(schedule, b2=0.99))
