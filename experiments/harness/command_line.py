"""Command lines from dataclasses: sub-commands, resumed settings, and errors without tracebacks."""

import dataclasses
import errno
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro

from experiments.harness import lock
from experiments.harness.devices import use_all_cores
from experiments.harness.distributed import connect, leave, losses_named, one_speaks
from experiments.harness.run import NOT_OF_THE_RUN, check_out, default_directory, saved_settings
from experiments.harness.settings import RunSettings, TrainingSettings, check, check_saved
from experiments.harness.streams import end, lasting
from jaxrnn.training import processes

# By name, a frozen dataclass of settings and the function that takes it.
Commands = Mapping[str, tuple[type, Callable[[Any], None]]]


def main(
    description: str,
    commands: Commands,
    arguments: list[str] | None = None,
    *,
    split_cores: bool = True,
) -> None:
    """Run one of several sub-commands, the first of which is the default; exits with 2 on bad input.

    Args:
      description: the experiment's docstring.
      commands: the sub-commands.
      arguments: the command line; by default the process's own.
      split_cores: whether every core becomes a device, which pays off where a step's gradients, that the
        devices must exchange, are small beside its work; else the cores share one device's operations.
    """
    if split_cores:
        use_all_cores()
    arguments = sys.argv[1:] if arguments is None else arguments
    default = next(iter(commands))
    if arguments and arguments[0] in commands:
        name, arguments = arguments[0], arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        with lasting():
            _fail(f"unknown command {arguments[0]!r}; known: {', '.join(commands)}")
    else:
        name = default
        if len(commands) > 1:
            description += f"\n\nCommands (COMMAND --help): {', '.join(commands)}."
    settings, run = commands[name]
    module = _module(run)
    program = f"python -m {module}" + ("" if name == default else f" {name}")
    with lasting() as output:
        try:
            config = _parse(settings, arguments, program, description if name == default else None)
            check(config)
            if isinstance(config, TrainingSettings):
                connect(config)
            with one_speaks(), losses_named():
                run(_with_folder(config, module))
        except (ValueError, OSError) as error:
            _fail(f"{error}{_room(error)}", code=1 if isinstance(error, ConnectionError) else 2)
        except FloatingPointError as error:
            _fail(str(error), code=1)
        except SystemExit as ended:
            if not ended.code:  # help was asked for
                end(output, files=False)
            raise
        except KeyboardInterrupt:
            _fail("interrupted", code=130)
        except Exception:
            if processes.several():
                traceback.print_exc()
                leave(1)
            raise
        finally:
            lock.release()
        end(output, files="out" in _names(settings))


def _module(run: Callable[[Any], None]) -> str:
    """The module that is run: "experiments.char_lm", say."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = run.__module__ if spec is None else spec.name
    if name.partition(".")[0] not in ("experiments", "benchmarks"):  # called from elsewhere, a test say
        name = run.__module__
    return name.removesuffix(".__main__")


def _with_folder(config: Any, module: str) -> Any:
    """Settings of a run with its folder, which must be free, or hold the run that is to be continued."""
    if not isinstance(config, RunSettings):
        return config
    out = config.out or default_directory("_".join(module.split(".")[1:]))
    out = Path(processes.gathered(str(out))[0])
    processes.on_first(lambda: check_out(out, resume=config.resume))
    return dataclasses.replace(config, out=out)


def note(message: str) -> None:
    """Tell the user, beside the result, what does not belong into it."""
    print(f"note: {message}", file=sys.stderr)


def _parse(settings: type, arguments: list[str], program: str, description: str | None) -> Any:
    """Settings from the command line; with ``--resume`` those of the run, which may not differ."""
    given: Any = tyro.cli(settings, args=arguments, prog=program, description=description)
    if getattr(given, "resume_from", None) is not None and not given.resume:
        arguments = [*arguments, "--resume"]
        given = dataclasses.replace(given, resume=True)
    if not getattr(given, "resume", False):
        return given
    if given.out is None:
        raise ValueError("--resume needs --out DIR, the run to continue")
    saved = {name: value for name, value in saved_settings(given.out).items() if name in _names(settings)}
    try:
        check_saved(settings, saved)
    except ValueError as error:
        raise ValueError(f"{given.out / 'config.json'} is damaged: {error}") from error
    of_the_run = dataclasses.replace(given, **saved)
    asked = tyro.cli(settings, args=arguments, prog=program, default=of_the_run)
    for name in sorted(_names(settings) - NOT_OF_THE_RUN):
        if getattr(asked, name) != getattr(of_the_run, name):
            raise ValueError(
                f"--resume: {name} is {getattr(of_the_run, name)!r} in the run in {given.out}, "
                f"got {getattr(asked, name)!r}"
            )
    return asked


def _names(settings: type) -> set[str]:
    return {field.name for field in dataclasses.fields(settings)}


def _room(error: Exception) -> str:
    """How much is free where there is no space left, if the error tells where."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC or error.filename is None:
        return ""
    folder = next(folder for folder in Path(error.filename).absolute().parents if folder.exists())
    return f" ({shutil.disk_usage(folder).free:,} bytes are free)"


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    leave(code)
    raise SystemExit(code)
