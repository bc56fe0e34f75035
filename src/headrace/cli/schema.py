"""`headrace schema`."""

from __future__ import annotations

import json

import click

from headrace.config.schema import schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of gateway.yaml, for editors.

    Write it beside your file (`headrace schema > gateway.schema.json`) and begin the file with
    `# yaml-language-server: $schema=./gateway.schema.json`.
    """
    click.echo(json.dumps(schema(), indent=2, ensure_ascii=False))
