"""What a command's output may do without ending it, and how it ends where nobody reads on."""

import errno
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from experiments.harness import command_line
from experiments.harness.reports import part

TEXT = "ħ = λ\n" * 100_000  # more than a stream or a pipe holds


@dataclass(frozen=True)
class Train:
    out: Path | None = None


@dataclass(frozen=True)
class Sample:
    seed: int = 0


def run(name, monkeypatch, stream, command, *arguments):
    """A command line whose standard output is the stream."""
    monkeypatch.setattr(sys, "stdout", stream)
    commands = {"train": (Train, command), "sample": (Sample, command)}
    command_line.main("", commands, [name, *arguments], split_cores=False)


class TestPart:
    def test_what_fails_costs_itself_and_a_warning(self, capsys):
        done = []
        for reason in ("no space\nleft", "", None):
            with part("the plot"):
                if reason is not None:
                    raise RuntimeError(reason)
                done.append("after")
        assert done == ["after"]
        lines = ["no space left", "RuntimeError"]
        assert capsys.readouterr() == ("", "".join(f"warning: the plot failed: {line}\n" for line in lines))

    @pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
    def test_what_ends_a_process_ends_it(self, end):
        with pytest.raises(end), part("the plot"):
            raise end


@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_terminal_that_cannot_show_a_character(name, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run(name, monkeypatch, stream, lambda config: sys.stdout.write("ħ\ud800"))
    assert stream.buffer.getvalue() == b"\\u0127\\ud800"


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def full_disk():
    return open("/dev/full", "w", encoding="utf-8")


class HungUp(io.StringIO):
    """A terminal whose session is closed."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


FAILING = {
    "pipe": (broken_pipe, 141, ""),
    "terminal": (HungUp, 141, ""),
    "disk": (full_disk, 1, "standard output: No space left on device"),
}


@pytest.mark.parametrize(("stream", "code", "message"), FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("text", [TEXT, "short"], ids=["long", "short"])
def test_output_that_nobody_can_read(stream, code, message, text, monkeypatch, capsys):
    """What leaves files goes on to its end; what only prints ends as other tools do."""
    done = []

    def command(config):
        sys.stdout.write(text)
        sys.stdout.flush()
        sys.stdout.write(text)
        done.append(config)

    with stream() as opened:
        run("train", monkeypatch, opened, command)
    assert len(done) == 1
    assert capsys.readouterr().err == (f"warning: {message}\n" if message else "")
    with stream() as opened, pytest.raises(SystemExit) as stopped:
        run("sample", monkeypatch, opened, command)
    assert stopped.value.code == code
    assert capsys.readouterr().err == (f"error: {message}\n" if message else "")


@pytest.mark.parametrize("name", ["train", "sample"])
@pytest.mark.parametrize(("stream", "code", "message"), FAILING.values(), ids=FAILING)
def test_help_that_nobody_can_read(stream, code, message, name, monkeypatch, capsys):
    with stream() as opened, pytest.raises(SystemExit) as stopped:
        run(name, monkeypatch, opened, print, "--help")
    assert stopped.value.code == code
    assert capsys.readouterr().err == (f"error: {message}\n" if message else "")


@pytest.mark.parametrize("module", ["experiments.name", "experiments.name.__main__"])
def test_help_shows_the_command_as_it_is_typed(module, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(module, None))
    with pytest.raises(SystemExit):
        command_line.main(
            "",
            {"train": (Train, print), "sample": (Sample, print)},
            ["sample", "--help"],
            split_cores=False,
        )
    assert capsys.readouterr().out.startswith("usage: python -m experiments.name sample ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "sample"])
@pytest.mark.parametrize("output", ["| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", ">&-"])
def test_in_a_shell(name, output):
    """Not a word, nor when Python ends, about a reader that is gone or never was."""
    script = """from tests.test_command_line import *
from experiments.harness import progress
def command(config):
    with progress.counted("work"):
        print(TEXT)
commands = {"train": (Train, command), "sample": (Sample, command)}
command_line.main("", commands, split_cores=False)"""
    ended = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {name} {output}', sys.executable, script],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.stderr == ""
    assert ended.returncode == (141 if name == "sample" and "head" in output else 0)
