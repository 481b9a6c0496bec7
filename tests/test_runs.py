"""The folder of a run: where it may lie, who may write into it, and with what it may be continued."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from experiments import long_memory
from experiments.char_lm import __main__ as char_lm
from experiments.gradient_check import study as gradient_check
from experiments.harness import lock, run
from experiments.harness.signals import stop_on_signal
from experiments.translation import __main__ as translation
from experiments.translation import ablation
from tests.commands import refusal, runner

ROOT = Path(__file__).parent.parent
CONFIG = {"steps": 3, "text" + run.DIGEST: "a"}


@pytest.fixture(autouse=True)
def _free_again():
    yield
    lock.release()


def fill(folder):
    (folder / "vocabulary.json").write_text("[]")
    (folder / "parts").mkdir(exist_ok=True)


def empty(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def link(tmp_path):
    (tmp_path / "link").symlink_to(empty(tmp_path))
    return tmp_path / "link"


def dangling(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    return tmp_path / "link"


def here(tmp_path):
    os.chdir(empty(tmp_path))
    return Path(".")


def mounted(tmp_path):
    """As a new file system looks."""
    (empty(tmp_path) / "lost+found").mkdir()
    return tmp_path / "run"


PLACES = [lambda tmp_path: tmp_path / "run", empty, link, dangling, here, mounted]


@pytest.mark.parametrize("place", PLACES, ids=["new", "empty", "link", "dangling", "here", "mounted"])
def test_where_a_run_may_lie(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = place(tmp_path)
    before = os.stat(out).st_ino if out.exists() else None
    run.check_out(out, resume=False)
    run.create(out, CONFIG, fill)
    assert run.load_config(out) == run.load_config(tmp_path / "run") == CONFIG
    assert before in (None, os.stat(out).st_ino)
    lock.release()
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"lost+found"}
    assert names == {"config.json", "vocabulary.json", "parts"}
    with pytest.raises(ValueError, match="already holds a run"):
        run.check_out(out, resume=False)


def test_what_is_no_place_for_a_run(tmp_path):
    (tmp_path / "notes").write_text("")
    with pytest.raises(ValueError, match="is not empty; give another --out"):
        run.check_out(tmp_path, resume=None)
    with pytest.raises(ValueError, match="notes is not a folder; give another --out"):
        run.check_out(tmp_path / "notes", resume=False)


def test_what_a_run_needs_is_on_the_disk_before_it_is_one(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(run.files, "sync", lambda path: synced.append(path.name))
    run.create(tmp_path / "run", CONFIG, fill)
    assert synced.index("vocabulary.json") < synced.index("config.json.tmp")


def test_killed_while_its_folder_is_made(tmp_path):
    """What is half made is no run, and can be begun again."""
    out = tmp_path / "run"

    def killed(folder):
        fill(folder)
        raise SystemExit

    with pytest.raises(SystemExit):
        run.create(out, CONFIG, killed)
    with pytest.raises(ValueError, match="holds no run"):
        run.load_config(out)
    run.check_out(out, resume=False)
    run.create(out, CONFIG, fill)
    assert run.load_config(out) == CONFIG
    assert not list(out.glob("*.tmp"))


COMMANDS = {
    "char_lm": char_lm.COMMANDS["train"],
    "long_memory": long_memory.COMMANDS["train"],
    "gradient_check": (gradient_check.Config, gradient_check.study_command),
    "translation": translation.COMMANDS["train"],
    "ablation": ablation.COMMANDS["train"],
}


@pytest.fixture
def taken(tmp_path):
    """A folder with a run that another process writes."""
    (tmp_path / "config.json").write_text("{}")
    with filelock.FileLock(tmp_path / lock.NAME):
        (tmp_path / lock.NAME).write_text("4711 elsewhere")
        yield tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_process_is_told_of_the_first(name, taken, capsys):
    before = {path: path.read_bytes() for path in taken.iterdir()}
    arguments = ["--out", str(taken), "--resume"]
    assert refusal(capsys, runner({"train": COMMANDS[name]}), *arguments) == (
        f"error: a run in {taken} is being written by process 4711 on elsewhere\n"
    )
    assert {path: path.read_bytes() for path in taken.iterdir()} == before


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"gradient_check"}))  # which has no checkpoints
def test_where_no_checkpoint_could_be_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = runner({"train": COMMANDS[name]})
    assert "where Orbax cannot write checkpoints" in refusal(capsys, train, "--out", "a\\b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"resume": None}, {"resume": False, "checkpoints": False}], ids=str)
def test_where_none_need_be(options, tmp_path):
    run.check_out(tmp_path / "[0.1]", **options)


def test_two_that_begin_at_once(tmp_path):
    with filelock.FileLock(tmp_path / lock.NAME):
        run.check_out(tmp_path, resume=False)  # a lock is no content
        with pytest.raises(ValueError, match="is being written by another process"):
            run.create(tmp_path, CONFIG, fill)
    run.create(tmp_path, CONFIG, fill)


def test_a_kill_frees_the_folder(tmp_path):
    script = f"""from experiments.harness import lock
from pathlib import Path
import os, signal
lock.hold(Path({str(tmp_path)!r}))
print(os.getpid(), flush=True)
signal.pause()"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline()
        with pytest.raises(ValueError, match=f"is being written by process {holder.pid} on "):
            lock.hold(tmp_path)
        holder.kill()
    assert (tmp_path / lock.NAME).exists()
    lock.hold(tmp_path)
    assert (tmp_path / lock.NAME).read_text().split()[0] == str(os.getpid())


def test_what_may_differ_in_a_continued_run(tmp_path):
    saved = CONFIG | {"corpus": "old", "hidden_size": 4}
    run.check_same_config(saved, saved | {"corpus": "new", "steps": 9}, tmp_path)
    with pytest.raises(ValueError, match="hidden_size should be 5, got 4"):
        run.check_same_config(saved, saved | {"hidden_size": 5}, tmp_path)


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        (
            {"corpus_sha256": "a"},
            {"corpus_sha256": "b", "corpus": "FILE"},
            "corpus: the text in FILE is not",
        ),
        ({}, {"valid_sha256": "b", "valid": "FILE"}, "valid: the text in FILE is not"),
        ({"valid_sha256": "a"}, {"valid": None}, "valid: what is given now is not"),
        ({"pairs_sha256": "a"}, {"pairs_sha256": "b", "data": "A,B"}, "pairs: the text in A,B is not"),
    ],
)
def test_data_that_have_changed(saved, now, message):
    with pytest.raises(ValueError, match=f"^{message} the one the run in DIR began with$"):
        run.check_same_config(saved, now, Path("DIR"))


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_closed_session(ignored):
    """SIGHUP asks for the same as SIGTERM, unless it was ignored when the process started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop_on_signal() as stopped:
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == ignored
            if not ignored:
                os.kill(os.getpid(), signal.SIGHUP)
        assert stopped.number == (None if ignored else signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
