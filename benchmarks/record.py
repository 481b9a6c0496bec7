"""What the record of a measurement says of its origin."""

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def provenance(module: str) -> dict[str, Any]:
    """The command line, the commit, and how busy the machine was; ``module`` is ``python -m``'s."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "commit": git_commit(),
        "load_average_at_start": round(os.getloadavg()[0], 2),  # over a minute; other work spoils times
    }


def git_commit() -> str | None:
    """The checked-out commit, with ``+changes`` if files other than results differ; None without git."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    try:
        commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        changes = git(["git", "--no-optional-locks", "status", "--porcelain", "--", ".", ":!*/results/*"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes.stdout.strip() else "")
