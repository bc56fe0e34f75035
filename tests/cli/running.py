"""The command `headrace`: in this process where that is honest, in one of its own where not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from click.testing import CliRunner, Result

from headrace.cli import _COMMANDS
from headrace.cli.group import group

MINE = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME")


def headrace(*arguments: str, stdin: bytes | None = None, **environ: str) -> Result:
    """What a command that ends by itself says; in the current folder, with this environment."""
    hidden = {name: None for name in os.environ if name not in MINE}
    runner = CliRunner(env={**hidden, **environ})
    return runner.invoke(group(_COMMANDS), arguments, input=stdin, prog_name="headrace")


def process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    kept = {name: os.environ[name] for name in MINE if name in os.environ}
    return subprocess.run(
        command(*arguments), env={**kept, **environ}, capture_output=True, text=True, timeout=30
    )


def command(*arguments: str, without: Sequence[str] = ()) -> list[str]:
    """A command line, for a machine `without` some packages."""
    hiding = "".join(f"sys.modules[{name!r}] = None; " for name in without)
    code = f"import sys; {hiding}from headrace.cli import main; main()"
    return [sys.executable, "-c", code, *arguments]
