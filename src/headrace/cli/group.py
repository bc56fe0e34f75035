"""Subcommands that are imported when they are called, and what several of them share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from headrace.config.problems import did_you_mean
from headrace.errors import ConfigError
from headrace.version import __version__


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._sentences and not name.startswith("-"):
            hint = did_you_mean(name, self._sentences)
            ctx.fail(f"there is no command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail(error)


def group(sentences: Mapping[str, str]) -> click.Group:
    """The command `headrace`, with a subcommand for each key."""
    version = click.version_option(__version__, "-V", "--version", message="headrace %(version)s")
    return version(_Lazy(sentences))


def default_file() -> str:
    """The configuration of who names none: `HEADRACE_CONFIG`, or `gateway.yaml`."""
    return os.environ.get("HEADRACE_CONFIG") or "gateway.yaml"


def fail(error: ConfigError, *, status: int = 1) -> NoReturn:
    """Print every problem and exit."""
    for problem in error.problems:
        first, *below = str(problem).splitlines()
        click.secho(first, fg="red", bold=True, err=True, color=colored(sys.stderr))
        for line in below:
            click.echo(line, err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s' if count != 1 else ''}", err=True)
    raise SystemExit(status)


class Time(click.ParamType[float]):
    """A time to wait, such as 3s, in seconds; a default may be in seconds already."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """What is written, in seconds."""
        if isinstance(value, float):
            return value
        from headrace.options import Duration  # not for the default: each health check starts anew

        try:
            if (found := Duration.of(value)) > 0:
                return found
            raise ValueError("must be more than 0")
        except ValueError as error:
            raise click.BadParameter(f"{value!r} {error}", ctx, param) from None


def colored(stream: object) -> bool:
    """Whether to colour what goes to a stream: in a terminal, unless `NO_COLOR` (no-color.org)."""
    return not os.environ.get("NO_COLOR") and bool(getattr(stream, "isatty", lambda: False)())
