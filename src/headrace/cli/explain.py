"""`headrace explain`."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click

from headrace.config.build import build
from headrace.config.document import load
from headrace.explain import Capture, outline, outlined, request_of, told


@click.command("explain")
@click.argument("file", default="gateway.yaml", type=click.Path(path_type=Path))
@click.option("--model", help="Explain a chat completion that asks for this model.")
@click.option(
    "--request",
    "request_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Explain the request whose JSON body is in this file.",
)
@click.option("--path", default="/v1/chat/completions", show_default=True, help="Its path.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--unset-ok", is_flag=True, help="Take variables that are not set as good.")
def command(
    file: Path,
    model: str | None,
    request_file: Path | None,
    path: str,
    as_json: bool,
    unset_ok: bool,
) -> None:
    """Print what was understood of FILE; for a request the route, the plugins, and what is sent.

    It touches nothing: no connection is opened. Secrets are masked.
    """
    capture = Capture()
    plan = build(load(file, os.environ, unset_ok=unset_ok), through=capture)
    explained: dict[str, Any]
    if model is None and request_file is None:
        explained = outline(plan)
        text = outlined(explained)
    else:
        body = request_file.read_bytes() if request_file else None
        explained = asyncio.run(request_of(plan, capture, path=path, model=model, body=body))
        text = told(explained)
    click.echo(json.dumps(explained, indent=2, ensure_ascii=False) if as_json else text)
