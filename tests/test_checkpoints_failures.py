"""Checkpoints: paths that Orbax cannot write, a full disk, a damaged best, containers of another kind."""

import errno
import logging
import os
import re

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from jaxrnn.training.arrays import check_path
from jaxrnn.training.checkpoint import Checkpoints
from tests.test_checkpoints import small


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a\\b", r"'\\\\'"),
        ("a[x]", r"'\[x\]'"),
        ("[]a]/b", r"'\[\]a\]'"),
        ("a**", r"'\*\*'"),
        ("logs:", "'gs:/'"),
        ("a\udcff", r"'\\udcff'"),
        ("\ud800", r"'\\ud800'"),
    ],
)
def test_a_path_that_orbax_cannot_write_is_refused(tmp_path, name, what):
    for open_ in (check_path, Checkpoints):
        with pytest.raises(ValueError, match=rf"has {what} in it, where Orbax cannot write checkpoints"):
            open_(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a*?x", *(pytest.param(n, marks=pytest.mark.slow) for n in ["[/]", "a[x", "[]", "é: %{|}\n~"])]
)
def test_other_paths_are_written(tmp_path, name):
    with Checkpoints(tmp_path / name) as checkpoints:
        checkpoints.save(small(1, w=3.0), {})
        checkpoints.save(small(2, w=4.0), {})
    with Checkpoints(tmp_path / name) as checkpoints:
        assert float(checkpoints.restore(2, like=small())[0].params) == 4


@pytest.mark.slow
def test_a_damaged_best_is_called_damaged(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1), {}, 0.5)
        (tmp_path / "1" / "state" / "_METADATA").write_text("{")
        with pytest.raises(ValueError, match=r"checkpoint 1 in .* is damaged: "):
            checkpoints.save(small(1), {}, 0.6)
        checkpoints.save(small(1), {"better": True}, 0.4)
        assert checkpoints.restore(1, like=small())[1] == {"better": True}


FULL = "RESOURCE_EXHAUSTED: Error writing: Failed to write: No space left [os_error_code='28'] [source]"


@pytest.mark.parametrize("error", [ValueError(FULL), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f")])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.slow
def test_a_full_disk(tmp_path, monkeypatch, caplog, error, replaced):
    """What orbax does where it cannot write: its threads log, its temporary folder stays."""

    def save(_, directory, *args, **kwargs):
        logging.getLogger("absl").error("[thread=%s] _SignalingThread.run() raised an exception", "x")
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task>")
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1), {}, 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(ocp.StandardCheckpointHandler, "save", save)
            patch.setattr(ocp.StandardCheckpointHandler, "async_save", save)
            step = 1 if replaced else 2
            with pytest.raises(
                OSError, match=rf"^checkpoint {step} could not be written to .*: No space"
            ) as e:
                checkpoints.save(small(step, w=9.0), {}, 0.4)
        said = rf"{re.escape(str(tmp_path))}: {os.strerror(errno.ENOSPC)} \([\d,]+ bytes are free\)$"
        assert re.search(said, str(e.value))
        assert not caplog.records
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert float(checkpoints.restore(1, like=small())[0].params) == 1
        checkpoints.save(small(2, w=9.0), {}, 0.4)
        assert checkpoints.latest == 2


ONE = jnp.float32(1)
NAMED, PLACED = r"a dict, or of named fields", "a list or tuple"


@pytest.mark.parametrize(
    ("saved", "like", "message"),
    [
        ({"w": {"0": ONE}}, {"w": (ONE,)}, f"params/w should be {PLACED}, got {NAMED}"),
        ([ONE, {1: ONE}], [ONE, {"1": ONE}], None),
        ((ONE,), {0: ONE}, f"params should be {NAMED}, got {PLACED}"),
        ([(ONE,)], ([ONE],), None),
        ({"a": (), "b": ONE}, {"a": {}, "b": ONE}, None),
        ({"a": (), "b": ONE}, {"b": ONE}, "params/a should be nothing, got an empty container"),
        ([ONE], [ONE, {}], "params/1 should be an empty container, got nothing"),
    ],
)
def test_another_container_does_not_fit(tmp_path, saved, like, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(1)._replace(params=saved), {}, 0.5)
        if message is None:
            assert checkpoints.restore(1, like=small(1)._replace(params=like))[0].params == like
            return
        with pytest.raises(ValueError, match=f"does not fit: {message}$"):
            checkpoints.restore(1, like=small(1)._replace(params=like))
        with pytest.raises(ValueError, match="is the best, with loss"):
            checkpoints.save(small(1)._replace(params=like), {}, 0.6)
