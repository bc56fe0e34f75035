"""Subcommands that are imported when they are called, and how all of them fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module

import click

from headrace.errors import ConfigError


class _Lazy(click.Group):
    def __init__(self, sentences: Mapping[str, str]) -> None:
        super().__init__(
            help="Headrace, an AI gateway: one OpenAI-compatible door in front of every model."
        )
        self._sentences = sentences

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._sentences)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._sentences:
            return None
        command: click.Command = import_module(f"headrace.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._sentences.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail(error)


def group(sentences: Mapping[str, str]) -> click.Group:
    """The command `headrace`, with a subcommand for each key."""
    return click.version_option(package_name="headrace")(_Lazy(sentences))


def fail(error: ConfigError) -> None:
    """Print every problem and exit with 1."""
    for problem in error.problems:
        first, *below = str(problem).splitlines()
        click.secho(first, fg="red", bold=True, err=True, color=colored(sys.stderr))
        for line in below:
            click.echo(line, err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s' if count != 1 else ''}", err=True)
    raise SystemExit(1)


def colored(stream: object) -> bool:
    """Whether to colour what goes to a stream: in a terminal, unless `NO_COLOR` (no-color.org)."""
    return not os.environ.get("NO_COLOR") and bool(getattr(stream, "isatty", lambda: False)())
