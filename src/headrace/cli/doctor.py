"""`headrace doctor`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from headrace.cli.doctor_looks import examined
from headrace.cli.group import Time, colored
from headrace.config.document import Document, load
from headrace.config.found import default_file, document_of, look
from headrace.finding import Finding

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--timeout",
    type=Time(),
    default="5s",
    show_default=True,
    help="How long to wait for each, all at the same time.",
)
def command(file: Path | None, as_json: bool, timeout: float) -> None:
    """Try whether all that FILE leans on is there: upstreams, store, keys, clocks, this machine.

    It asks as a gateway would, with the keys of FILE, and says what to do where something is not
    well. The exit status is 1 if something failed. Without FILE it tries what `serve` would serve.
    """
    file = file or default_file(os.environ)
    document = load(file, os.environ) if file else _found()
    findings = asyncio.run(_told(document, timeout, as_json=as_json))
    raise SystemExit(any(finding.state == "fail" for finding in findings))


def _found() -> Document:
    found = asyncio.run(look(os.environ))
    names = ", ".join(one.name for _, one in found)
    click.echo(
        f"no configuration is named, and there is no ./gateway.yaml; found: {names}", err=True
    )
    return document_of(found, os.environ)


async def _told(document: Document, timeout: float, *, as_json: bool) -> Sequence[Finding]:
    """Everything that is found, told as soon as all is there."""
    findings = await examined(document, timeout, progress=_progress)
    # Here, and not once the loop is closed: that waits for names that nobody resolves.
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            _tell(finding)
    failed = sum(finding.state == "fail" for finding in findings)
    click.echo(f"{failed} of {len(findings)} failed" if failed else "nothing failed", err=True)
    return findings


def _tell(finding: Finding) -> None:
    state = "FAIL" if finding.state == "fail" else finding.state
    color = colored(sys.stdout)
    shown = (
        click.style(f"{state:<5}", fg=_COLORS[finding.state], bold=True) if color else f"{state:<5}"
    )
    advice = f"; {finding.advice}" if finding.advice else ""
    click.echo(f"{shown} {finding.about}: {finding.says}{advice}", color=color)


def _progress(done: int, total: int) -> None:
    """In a terminal, how far it is, in a line that goes again."""
    if sys.stderr.isatty():
        click.echo(
            f"\r\x1b[K{done} of {total} …" if done < total else "\r\x1b[K", nl=False, err=True
        )
