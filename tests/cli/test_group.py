"""What all commands have in common: version, help, colours, and how they fail."""

from __future__ import annotations

import os
import subprocess
from importlib import import_module
from pathlib import Path

import click
import pytest

from headrace.version import __version__

from .running import command, headrace, process

COMMANDS = ["serve", "check", "explain", "keys", "plugins", "schema"]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_it_tells_its_version(option: str) -> None:
    done = process(option)

    assert (done.returncode, done.stdout) == (0, f"headrace {__version__}\n")
    assert headrace(option).stdout == done.stdout


def test_telling_the_version_imports_next_to_nothing() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--version']; from headrace.cli import main; main();"
        "print(*sys.modules)"
    )
    told = subprocess.run([command()[0], "-c", code], capture_output=True, text=True, check=True)

    assert not {"click", "yaml", "pydantic", "starlette", "uvicorn"} & set(told.stdout.split())


def test_help_lists_every_command() -> None:
    told = headrace("--help")

    assert told.exit_code == 0
    assert all(f"\n  {name}" in told.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    told = headrace(name, "--help")

    assert told.exit_code == 0
    assert told.stdout.startswith(f"Usage: headrace {name}")
    command = import_module(f"headrace.cli.{name}").command
    assert all(each.help for each in command.params if isinstance(each, click.Option))


def test_python_m_headrace_is_the_same() -> None:
    code = [command()[0], "-m", "headrace", "--version"]

    assert subprocess.run(code, capture_output=True, check=True).stdout.startswith(b"headrace ")


def test_an_unknown_command_is_told_what_it_could_have_been() -> None:
    told = headrace("chek")

    assert told.exit_code == 2
    assert "there is no command 'chek'; did you mean 'check'?" in told.stderr


def in_a_terminal(*arguments: str, **environ: str) -> str:
    """What a command says to a terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        command(*arguments), stderr=theirs, stdout=theirs, env={**os.environ, **environ}
    ) as child:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
        child.wait(30)
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_problems_are_red_in_a_terminal_unless_no_color_is_set(
    no_color: str, colored: bool, tmp_path: Path
) -> None:
    said = in_a_terminal("check", str(tmp_path / "none.yaml"), NO_COLOR=no_color)

    assert "cannot read" in said
    assert ("\x1b[" in said) is colored


def test_problems_have_no_colour_in_a_file(tmp_path: Path) -> None:
    assert "\x1b[" not in process("check", str(tmp_path / "none.yaml")).stderr
