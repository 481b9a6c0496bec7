"""Checkpoints: what stays, what is latest and best, what another process sees, what is damaged."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training import arrays, processes
from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import TrainState, init_state
from tests.table import random_like, random_params

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))
IN = 3


def at(step=0, seed=0):
    cell = jaxrnn.GRU(4)
    state = init_state(
        random_params(cell, "float32", IN), OPTIMIZER, cell.initial_carry((2,)), jax.random.key(seed)
    )
    params, opt_state, carry = random_like((state.params, state.opt_state, state.carry), seed)
    return state._replace(
        params=params, opt_state=opt_state, carry=carry, step=jnp.asarray(step, jnp.int32)
    )


def small(step=0, w=1.0):
    return TrainState(jnp.float32(w), (), (), jnp.int32(step), jax.random.key(0))


def test_round_trip_is_exact(tmp_path):
    saved = at(step=3, seed=5)
    record = {"position": 17, "config": {"learning_rate": 0.1, "name": None}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, record)
    with Checkpoints(tmp_path) as checkpoints:
        restored, restored_record = checkpoints.restore(checkpoints.latest, like=at())
    assert restored_record == record
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_keeps_the_best_and_the_latest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None)]:
            checkpoints.save(at(step), {}, *([] if loss is None else [loss]))
        assert (checkpoints.best, checkpoints.latest) == (2, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]


NAN, INF = math.nan, math.inf


ORDERS = [
    ([(1, 1.0), (2, NAN), (3, 2.0)], 1, 3),
    ([(1000, 1.0), (1500, 0.5), (1400, 0.7)], 1500, 1400),
    ([(1000, 1.0), (1500, 2.0), (1400, 0.5)], 1400, 1400),
    ([(1, NAN), (2, NAN)], 2, 2),
    ([(1, 1.0), (2, 1.0), (3, 2.0)], 2, 3),
    # from here on in the full check alone
    ([(1, NAN), (2, 1.0), (3, NAN)], 2, 3),
    ([(1, 1.0), (2, NAN), (3, NAN)], 1, 3),
    ([(1, INF), (2, NAN), (3, INF)], 3, 3),
    ([(1, 5.0), (2, INF), (3, NAN)], 1, 3),
    ([(1, 0.0), (2, -INF), (3, -1.0), (4, NAN)], 2, 4),
    ([(1, 0.0), (2, -0.0)], 2, 2),
    ([(1000, 1.0), (1500, 2.0), (1400, NAN), (1450, INF)], 1000, 1450),
    ([(5, 1.0), (0, 1.0)], 0, 0),
    ([(9, INF), (8, INF), (10, INF), (7, INF)], 7, 7),
]


@pytest.mark.parametrize(
    ("saves", "best", "latest"),
    [*ORDERS[:5], *(pytest.param(*order, marks=pytest.mark.slow) for order in ORDERS[5:])],
)
def test_best_and_latest(tmp_path, saves, best, latest):
    """A loss of NaN is no loss; what was written last is the latest, whatever its step."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss in saves:
            checkpoints.save(small(step), {"loss": str(loss)}, loss)
            assert checkpoints.latest == step
        assert (checkpoints.best, checkpoints.latest) == (best, latest)
    assert {int(path.name) for path in tmp_path.iterdir()} == {best, latest}
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best, checkpoints.latest) == (best, latest)
        assert checkpoints.record(best) == {"loss": str(dict(saves)[best])}


def test_checkpoints_without_a_number_of_writing_go_by_their_step(tmp_path):
    """As earlier versions wrote them."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(8), {}, 1.0)
        checkpoints.save(small(9), {}, 2.0)
    for step, loss in [(8, "1.0"), (9, "NaN")]:
        (tmp_path / str(step) / "metrics" / "metrics").write_text(f'{{"loss": {loss}}}')
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best, checkpoints.latest) == (8, 9)
        checkpoints.save(small(3), {}, 3.0)
        assert (checkpoints.best, checkpoints.latest) == (8, 3)


@pytest.mark.parametrize(
    "loss",
    [
        np.float32(0.5),
        np.float64(0.5),
        np.array(0.5),
        np.array(0.5, jnp.bfloat16),
        jnp.array(0.5),
        jnp.bfloat16(0.5),
    ],
)
def test_a_loss_of_numpy_or_jax(tmp_path, loss):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1), {}, loss)
        checkpoints.save(small(2), {}, 1)
        assert checkpoints.best == 1


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("loss", [None, "0.5", 1j, True, [0.5], np.zeros(1), jnp.zeros(2)], ids=repr)
def test_a_loss_that_is_no_number(tmp_path, loss):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="loss must be a number, got "):
            checkpoints.save(small(1), {}, loss)
        assert not list(tmp_path.iterdir())


def test_of_several_processes_the_first_decides(tmp_path, monkeypatch):
    """Another may not see yet, on a network file system, what that one has written."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(step=3), {}, loss=2.0)
        seen = [[3, {"loss": 2.0, "written": 1}], [5, {"loss": 1.0, "written": 2}]]
        monkeypatch.setattr(processes, "gathered", lambda own: [json.loads(json.dumps(seen)), own])
        assert (checkpoints.latest, checkpoints.best) == (5, 5)
    with Checkpoints(tmp_path, read_only=True) as alone:
        assert (alone.latest, alone.best) == (3, 3)


def fails(*_):
    raise OSError("broken")


class TestAStepThatIsThere:
    def test_the_same_state_is_written_once(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {"first": True}, 0.5)
            inode = (tmp_path / "1").stat().st_ino
            for loss in (INF, NAN, 0.5):
                checkpoints.save(small(1), {"first": False}, loss)
            assert checkpoints.record(1) == {"first": True}
            assert (tmp_path / "1").stat().st_ino == inode

    def test_a_loss_measured_later_counts(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {}, 0.7)
            checkpoints.save(small(2), {})
            checkpoints.save(small(2), {}, 0.5)
            assert (checkpoints.best, checkpoints.latest) == (2, 2)
            checkpoints.save(small(3), {})
            assert checkpoints.best == 2

    def test_saved_again_after_a_roll_back_it_is_the_latest(self, tmp_path):
        """Stopped right after the roll-back, the run goes on from there; the loss stays."""
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {}, 0.5)
            checkpoints.save(small(2), {}, 0.7)
            state, _ = checkpoints.restore(checkpoints.best, like=small())
            checkpoints.save(state, {})
            checkpoints.save(small(3), {}, 0.6)
            assert (checkpoints.best, checkpoints.latest) == (1, 3)

    @pytest.mark.parametrize(
        ("loss", "best"),
        [(0.6, 1), *(pytest.param(*p, marks=pytest.mark.slow) for p in [(0.4, 2), (NAN, 1)])],
    )
    def test_other_work_replaces_it(self, tmp_path, loss, best):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {}, 0.5)
            checkpoints.save(small(2), {}, 0.7)
            checkpoints.save(small(2, w=9.0), {"other": True}, loss)
            assert (checkpoints.best, checkpoints.latest) == (best, 2)
            state, record = checkpoints.restore(2, like=small())
            assert float(state.params) == 9
            assert record == {"other": True}
        assert {int(path.name) for path in tmp_path.iterdir()} == {best, 2}

    @pytest.mark.parametrize("loss", [0.6, *(pytest.param(p, marks=pytest.mark.slow) for p in (INF, NAN))])
    def test_other_work_that_is_no_better_does_not_replace_the_best(self, tmp_path, loss):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(2), {}, 0.5)
            checkpoints.save(small(1), {}, 0.7)
            with pytest.raises(
                ValueError, match=r"checkpoint 2 in .* is the best, with loss 0\.5, and of other"
            ):
                checkpoints.save(small(2, w=9.0), {}, loss)
            assert (checkpoints.best, checkpoints.latest) == (2, 1)
            assert float(checkpoints.restore(2, like=small())[0].params) == 1

    @pytest.mark.slow
    def test_the_same_numbers_of_another_type_are_other_work(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {"dtype": "float32"})
            checkpoints.save(small(1)._replace(params=jnp.bfloat16(1)), {"dtype": "bfloat16"})
            assert checkpoints.record(1) == {"dtype": "bfloat16"}

    def test_one_that_was_moved_away_is_not_there(self, tmp_path):
        with Checkpoints(tmp_path / "run") as checkpoints:
            checkpoints.save(small(1), {}, 0.5)
            (tmp_path / "run" / "1").rename(tmp_path / "kept")
            assert checkpoints.latest is None
            checkpoints.save(small(1, w=9.0), {}, 0.6)
            assert float(checkpoints.restore(checkpoints.best, like=small())[0].params) == 9

    @pytest.mark.slow
    def test_a_damaged_one_is_replaced(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {})
            (tmp_path / "1" / "state" / "_METADATA").write_text("{")
            checkpoints.save(small(1), {"again": True})
            assert checkpoints.restore(1, like=small())[1] == {"again": True}

    def test_a_failed_replacement_leaves_the_first(self, tmp_path, monkeypatch):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {}, 0.5)
            with monkeypatch.context() as patch:
                patch.setattr(arrays, "write", fails)
                with pytest.raises(OSError, match=r"checkpoint 1 could not be written to .*: broken"):
                    checkpoints.save(small(1, w=9.0), {}, 0.4)
            assert float(checkpoints.restore(checkpoints.best, like=small())[0].params) == 1

    @pytest.mark.parametrize("written", [False, True])
    def test_a_kill_while_it_is_replaced_leaves_one_of_the_two(self, tmp_path, written):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {})
        shutil.copytree(tmp_path / "1", tmp_path / "1.replaced")
        if not written:
            shutil.rmtree(tmp_path / "1")
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.restore(checkpoints.latest, like=small())[1] == {}
        assert [path.name for path in tmp_path.iterdir()] == ["1"]


class TestAReader:
    def test_sees_what_is_written_after_it_was_opened(self, tmp_path):
        folder = tmp_path / "later"
        with Checkpoints(folder, read_only=True) as reader:
            assert (reader.latest, reader.best) == (None, None)
            assert not folder.exists()
            with Checkpoints(folder) as writer:
                for step, loss in [(1, 0.5), (2, 0.7), (3, 0.4)]:
                    writer.save(small(step, w=step), {"step": step}, loss)
                    assert (reader.latest, reader.best) == (step, 1 if step < 3 else 3)
                    assert float(reader.restore(step, like=small())[0].params) == step
                    assert reader.record(step) == {"step": step}
            with pytest.raises(ValueError, match="no checkpoint 2 in "):
                reader.record(2)

    def test_takes_nothing_else_for_a_checkpoint(self, tmp_path):
        for name in ("notes_5", "6.replaced", "7.orbax-checkpoint-tmp", ".8"):
            (tmp_path / name).mkdir()
        with Checkpoints(tmp_path, read_only=True) as reader:
            assert reader.latest is None

    def test_writes_nothing(self, tmp_path):
        with (
            Checkpoints(tmp_path, read_only=True) as reader,
            pytest.raises(ValueError, match="was opened to read only"),
        ):
            reader.save(small(1), {})
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_is_told_what_was_deleted_while_it_read(self, tmp_path, monkeypatch):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(small(1), {})
        with Checkpoints(tmp_path, read_only=True) as reader:

            def vanish(*_, **__):
                shutil.rmtree(tmp_path / "1")
                raise ValueError("not there")

            monkeypatch.setattr(arrays, "describe", vanish)
            with pytest.raises(ValueError, match=r"checkpoint 1 in .* was deleted meanwhile"):
                reader.restore(1, like=small())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"loss": "low", "written": 1e400}', '{"loss": 0.1}'])
def test_a_damaged_loss_is_damage(tmp_path, text):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1), {})
    (tmp_path / "1" / "metrics" / "metrics").write_text(text)
    what = r"checkpoint 1 .* is damaged: metrics/metrics has changed; whole: none"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=what):
        checkpoints.restore(checkpoints.latest, like=small())


@pytest.mark.slow
def test_a_damaged_record_is_damage(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1), {"a": 1})
        (tmp_path / "1" / "record" / "metadata").write_text("{")
        with pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged"):
            checkpoints.record(1)


def test_restores_into_the_shardings_of_like(tmp_path):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(1), {})
        like = at()
        like = like._replace(carry=jax.device_put(like.carry, sharding))
        restored, _ = checkpoints.restore(1, like=like)
    assert restored.carry.h.sharding == sharding
    np.testing.assert_array_equal(restored.carry.h, at().carry.h)


def test_reading_leaves_a_save_in_progress_alone(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(1), {})
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest == 1
    assert half.exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(3), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3"]


def test_errors_name_what_is_wrong(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="no checkpoint in "):
            checkpoints.restore(checkpoints.latest, like=at())
        checkpoints.save(at(1), {})
        with pytest.raises(ValueError, match="no checkpoint 7 in "):
            checkpoints.record(7)
        params = random_params(jaxrnn.GRU(4), "float32", IN + 1)
        other = at()._replace(params=params)
        with pytest.raises(ValueError, match=r"params/w_ih should have shape \(4, 12\), got \(3, 12\)"):
            checkpoints.restore(1, like=other)
        params = random_params(jaxrnn.LSTM(4), "float32", IN)
        with pytest.raises(ValueError, match=r"params/.* should have shape"):
            checkpoints.restore(1, like=at()._replace(params=params))


@pytest.mark.slow
def test_a_truncated_file_is_damage(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(1), {})
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.stat().st_size > 200 and "/d/" in path.as_posix():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged"),
    ):
        checkpoints.restore(1, like=at())
