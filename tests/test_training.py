"""Truncated BPTT and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import init_state
from jaxrnn.training.truncated import truncated_step
from tests.table import random_like, random_params, relative_error

CELL = jaxrnn.GRU(4)
BATCH, TIME, IN = 2, 5, 3


def loss(params, carry, chunk, key):
    carry, ys = jaxrnn.unroll(CELL, params, chunk, carry)
    return jnp.mean((ys - jax.random.normal(key, ys.shape)) ** 2), carry


def start(optimizer, seed=0):
    params = random_params(CELL, "float32", IN)
    return init_state(params, optimizer, CELL.initial_carry((BATCH,)), jax.random.key(seed))


def chunks(count):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal((TIME, BATCH, IN)), jnp.float32) for _ in range(count)]


def test_step_is_gradient_descent_with_the_carry_held_constant():
    """Two steps by hand: the second chunk starts where the first ended, and no gradient crosses over."""
    optimizer = optax.sgd(0.1)
    state, key = start(optimizer), jax.random.key(0)
    params, carry = jax.tree.map(jnp.copy, (state.params, state.carry))
    step = truncated_step(loss, optimizer)
    for index, chunk in enumerate(chunks(2)):
        state, metrics = step(state, chunk)
        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(
            params, carry, chunk, jax.random.fold_in(key, index)
        )
        params, carry = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), after
        assert relative_error((state.params, state.carry), (params, carry)) < 1e-5
        assert float(metrics.loss) == pytest.approx(float(value), rel=1e-5)
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
        assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-5)
        assert int(state.step) == index + 1


def test_the_truncated_gradient_is_not_the_full_one():
    """What the edge cuts off is real: differentiating through both chunks gives another gradient."""
    params, (first, second) = random_params(CELL, "float32", IN), chunks(2)
    key = jax.random.key(0)

    def cut(params):
        _, carry = loss(jax.lax.stop_gradient(params), CELL.initial_carry((BATCH,)), first, key)
        return loss(params, carry, second, key)[0]

    def whole(params):
        _, carry = loss(params, CELL.initial_carry((BATCH,)), first, key)
        return loss(params, carry, second, key)[0]

    assert relative_error(jax.grad(cut)(params), jax.grad(whole)(params)) > 1e-3


@pytest.mark.parametrize(
    ("clip", "clipped"),
    [
        (optax.clip_by_global_norm(0.01), lambda g, norm: g * min(1, 0.01 / norm)),
        (optax.clip(0.002), lambda g, norm: np.clip(g, -0.002, 0.002)),
    ],
    ids=["norm", "value"],
)
def test_clipping(clip, clipped):
    optimizer = optax.chain(clip, optax.sgd(1.0))
    state = start(optimizer)
    params = jax.tree.map(jnp.copy, state.params)
    (chunk,) = chunks(1)
    grads = jax.grad(loss, has_aux=True)(params, state.carry, chunk, jax.random.fold_in(state.key, 0))[0]
    norm = float(optax.tree.norm(grads))
    assert norm > 0.01
    state, _ = truncated_step(loss, optimizer)(state, chunk)
    expected = jax.tree.map(lambda p, g: p - clipped(np.asarray(g), norm), params, grads)
    assert relative_error(state.params, expected) < 1e-6


def test_same_key_same_run_other_key_other_run():
    optimizer = optax.adam(0.01)
    step = truncated_step(loss, optimizer)

    def run(seed):
        state = start(optimizer, seed)
        for chunk in chunks(3):
            state, _ = step(state, chunk)
        return state.params

    assert relative_error(run(0), run(0)) == 0
    assert relative_error(run(0), run(1)) > 1e-3


class TestCheckpoints:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))

    def state(self, step=0, seed=0):
        state = start(self.optimizer, seed)
        arrays = random_like((state.params, state.opt_state, state.carry), seed)
        params, opt_state, carry = arrays
        return state._replace(
            params=params, opt_state=opt_state, carry=carry, step=jnp.asarray(step, jnp.int32)
        )

    def test_round_trip_is_exact(self, tmp_path):
        saved = self.state(step=3, seed=5)
        record = {"position": 17, "config": {"learning_rate": 0.1, "name": None}}
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(saved, record)
        with Checkpoints(tmp_path) as checkpoints:
            restored, restored_record = checkpoints.restore(checkpoints.latest, like=self.state())
        assert restored_record == record
        assert jax.tree.structure(restored) == jax.tree.structure(saved)
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
            assert a.dtype == b.dtype
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)

    def test_keeps_the_best_and_the_latest(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest is None
            for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None)]:
                checkpoints.save(self.state(step), {}, *([] if loss is None else [loss]))
            assert (checkpoints.best, checkpoints.latest) == (2, 5)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]

    def test_a_step_is_saved_once(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(self.state(1), {"first": True})
            checkpoints.save(self.state(1, seed=9), {"first": False})
            assert checkpoints.record(1) == {"first": True}

    def test_restores_into_the_shardings_of_like(self, tmp_path):
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(self.state(1), {})
            like = self.state()
            like = like._replace(carry=jax.device_put(like.carry, sharding))
            restored, _ = checkpoints.restore(1, like=like)
        assert restored.carry.h.sharding == sharding
        np.testing.assert_array_equal(restored.carry.h, self.state().carry.h)

    def test_reading_leaves_a_save_in_progress_alone(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(self.state(1), {})
        half = tmp_path / "2.orbax-checkpoint-tmp"
        half.mkdir()
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert checkpoints.latest == 1
        assert half.exists()
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(self.state(3), {})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["3"]

    def test_errors_name_what_is_wrong(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(ValueError, match="no checkpoint in "):
                checkpoints.restore(checkpoints.latest, like=self.state())
            checkpoints.save(self.state(1), {})
            with pytest.raises(ValueError, match="no checkpoint 7 in "):
                checkpoints.record(7)
            params = random_params(jaxrnn.GRU(4), "float32", IN + 1)
            other = self.state()._replace(params=params)
            with pytest.raises(ValueError, match=r"params/w_ih should have shape \(4, 12\), got \(3, 12\)"):
                checkpoints.restore(1, like=other)
            params = random_params(jaxrnn.LSTM(4), "float32", IN)
            with pytest.raises(ValueError, match=r"params/.* should have shape"):
                checkpoints.restore(1, like=self.state()._replace(params=params))

    def test_a_truncated_file_is_damage(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(self.state(1), {})
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.stat().st_size > 200 and "/d/" in path.as_posix():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged"),
        ):
            checkpoints.restore(1, like=self.state())
