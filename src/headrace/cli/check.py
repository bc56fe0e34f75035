"""`headrace check`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from headrace.cli.address import check_apart, check_guarded, internal_of
from headrace.cli.group import default_file
from headrace.config.document import Document, load
from headrace.config.listening import Address
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.config.workers import check_workers, workers_of
from headrace.errors import ConfigError
from headrace.explain import plan_of
from headrace.store import Unavailable


@click.command("check")
@click.argument("file", default=default_file, type=click.Path(path_type=Path))
@click.option(
    "--unset-ok", is_flag=True, help="Take variables and files that are not here as good."
)
@click.option("--connect", is_flag=True, help="Ask what the gateway leans on whether it is there.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "github")),
    default="text",
    help="How to print problems; github annotates a pull request.",
)
def command(file: Path, unset_ok: bool, connect: bool, form: str) -> None:
    """Say every problem of FILE, and nothing else. The exit status is 1 if there is one."""
    try:
        document, plan = checked(file, unset_ok=unset_ok)
        if connect:
            asyncio.run(_connect(plan, document))
    except ConfigError as error:
        if form == "text":
            raise
        for problem in error.problems:
            assert isinstance(problem, Problem)
            click.echo(problem.github())
        raise SystemExit(1) from None
    click.echo(f"{file}: no problems", err=True)


def checked(file: Path, *, unset_ok: bool) -> tuple[Document, Plan]:
    """What a file says, without anything opened. Raises `ConfigError` with every problem."""
    document = load(file, os.environ, unset_ok=unset_ok)
    plan = plan_of(document)
    check_guarded(plan, plan.server.host, document.place(("server", "host")))
    check_apart(Address(plan.server.host, plan.server.port), *internal_of(plan))
    check_workers(plan, workers_of(plan, os.environ))
    return document, plan


async def _connect(plan: Plan, document: Document) -> None:
    """Ask the store whether it answers, and say what it is."""
    try:
        click.echo(f"store: {await plan.store.probe()}", err=True)
    except Unavailable as error:
        store = f"the store{plan.store.place and f' at {plan.store.place}'}"
        place = document.place(("server", "store"))
        raise ConfigError([Problem(place, f"{store} does not answer: {error}")]) from None
    finally:
        await plan.store.aclose()
