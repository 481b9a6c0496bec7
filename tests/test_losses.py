"""The cross-entropy against its definition, over real positions only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.models.losses import cross_entropy

TIME, BATCH, CLASSES = 5, 3, 6
TARGETS = np.random.default_rng(0).integers(0, CLASSES, (TIME, BATCH))


def test_loss_counts_real_positions_only(dtype):
    random = np.random.default_rng(0)
    logits = random.standard_normal((TIME, BATCH, CLASSES)).astype(dtype)
    mask = random.random((TIME, BATCH)) < 0.6
    total, count = 0.0, 0
    for t, b in zip(*np.nonzero(mask), strict=True):
        row = logits[t, b].astype(np.float64)
        total += np.log(np.exp(row).sum()) - row[TARGETS[t, b]]
        count += 1
    spoiled = jnp.asarray(np.where(mask[..., None], logits, np.nan))
    nats, counted = cross_entropy(spoiled, TARGETS, jnp.asarray(mask))
    assert int(counted) == count
    assert float(nats) == pytest.approx(total, rel=1e-12 if dtype == "float64" else 1e-6)
    grad = jax.grad(lambda x: cross_entropy(x, TARGETS, jnp.asarray(mask))[0])(spoiled)
    assert np.isfinite(grad).all()
    assert not np.asarray(grad)[~mask].any()
    everything = cross_entropy(jnp.asarray(logits), TARGETS)
    assert int(everything[1]) == TIME * BATCH


def test_label_smoothing_equals_its_definition(float64):
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(3, 2, 5)), random.integers(0, 5, (3, 2))
    smooth = 0.8 * np.eye(5)[targets] + 0.2 / 5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats, count = cross_entropy(jnp.asarray(logits), targets, label_smoothing=0.2)
    assert int(count) == 6
    assert float(nats) == pytest.approx(-float((smooth * log_p).sum()), rel=1e-12)
