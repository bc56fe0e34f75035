"""`headrace check`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from headrace.cli.address import check_guarded
from headrace.config.document import load
from headrace.config.problems import Problem
from headrace.errors import ConfigError
from headrace.explain import plan_of


@click.command("check")
@click.argument("file", default="gateway.yaml", type=click.Path(path_type=Path))
@click.option(
    "--unset-ok", is_flag=True, help="Take variables and secret files that are not here as good."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "github")),
    default="text",
    help="How to print problems; github annotates a pull request.",
)
def command(file: Path, unset_ok: bool, form: str) -> None:
    """Say every problem of FILE, and nothing else. The exit status is 1 if there is one."""
    try:
        document = load(file, os.environ, unset_ok=unset_ok)
        plan = plan_of(document)
        check_guarded(plan, plan.server.host, document.place(("server", "host")))
    except ConfigError as error:
        if form == "text":
            raise
        for problem in error.problems:
            assert isinstance(problem, Problem)
            click.echo(problem.github())
        raise SystemExit(1) from None
    click.echo(f"{file}: no problems", err=True)
