"""`headrace explain`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, BinaryIO

import click
from click.core import ParameterSource

from headrace.cli.group import default_file
from headrace.cli.outline import followed, outlined
from headrace.config.document import load
from headrace.config.outline import outline
from headrace.errors import HeadraceError
from headrace.explain import plan_of, request_of
from headrace.store import Store


@click.command("explain")
@click.argument("file", default=default_file, type=click.Path(path_type=Path))
@click.option("--model", help="Explain a chat completion that asks for this model.")
@click.option(
    "--request",
    type=click.File("rb"),
    help="Explain the request whose JSON body is in this file; - is standard input.",
)
@click.option(
    "--path", default="/v1/chat/completions", show_default=True, help="The path of the request."
)
@click.option(
    "--method", type=click.Choice(("GET", "POST", "DELETE")), help="Else GET without a body."
)
@click.option("--caller", help="Explain what it is for this entry of `callers`.")
@click.option("--connect", is_flag=True, help="Ask the store whether an answer is kept.")
@click.option("--tenant", help="Whose answer, with --connect; of a key or id that has none.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--unset-ok", is_flag=True, help="Take variables and files that are not here as good."
)
@click.pass_context
def command(
    ctx: click.Context,
    file: Path,
    model: str | None,
    request: BinaryIO | None,
    path: str,
    method: str | None,
    caller: str | None,
    connect: bool,
    tenant: str | None,
    as_json: bool,
    unset_ok: bool,
) -> None:
    """Print what was understood of FILE; for a request the route, the plugins, and what is sent.

    It touches nothing: no connection is opened, but for that to the store with --connect. Secrets
    are masked.
    """
    document = load(file, os.environ, unset_ok=unset_ok)
    plan = plan_of(document)
    store = plan.store
    if connect:
        plan = plan_of(document, reads=store)
    told: dict[str, Any]
    if not (model or request or ctx.get_parameter_source("path") is ParameterSource.COMMANDLINE):
        told = outline(plan)
        text = outlined(told)
    else:
        body = request.read() if request else None
        asked = request_of(
            plan,
            method=method,
            path=path,
            model=model,
            body=body,
            caller=caller,
            tenant=tenant,
            looks=connect,
        )
        try:
            told = asyncio.run(_closing(store, asked))
        except HeadraceError as error:
            raise click.BadParameter(str(error), param_hint="--caller") from None
        text = followed(told)
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else text)


async def _closing(store: Store, asked: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await asked
    finally:
        await store.aclose()
