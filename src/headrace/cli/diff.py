"""`headrace diff`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from headrace.cli.check import checked
from headrace.cli.group import fail
from headrace.config.changes import ABSENT, Change, changes
from headrace.config.plan import Plan
from headrace.errors import ConfigError


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--unset-ok", is_flag=True, help="Take variables and files that are not here as good."
)
def command(old: Path, new: Path, as_json: bool, unset_ok: bool) -> None:
    """Say what would change if NEW took the place of OLD.

    The exit status is 0 if nothing would, 1 if something would, and 2 if one of them has problems.
    No secret is shown: of a key it says that it has changed.
    """
    found = changes(*_plans((old, new), unset_ok=unset_ok))
    if as_json:
        click.echo(json.dumps([_told(each) for each in found], indent=2, ensure_ascii=False))
    else:
        for each in found:
            click.echo(each)
        click.echo(_counted(found), err=True)
    raise SystemExit(1 if found else 0)


def _plans(files: Sequence[Path], *, unset_ok: bool) -> list[Plan]:
    plans: list[Plan] = []
    problems: list[object] = []
    for file in files:
        try:
            plans.append(checked(file, unset_ok=unset_ok)[1])
        except ConfigError as error:
            problems += error.problems
    if problems:
        fail(ConfigError(problems), status=2)
    return plans


def _told(change: Change) -> dict[str, Any]:
    """A change as JSON; what is not there is left out."""
    values = {"old": change.old, "new": change.new}
    return {
        "says": str(change),
        "section": change.section,
        "names": change.names,
        "path": change.path,
        **{name: value for name, value in values.items() if value is not ABSENT},
        "restart": change.restart,
        "lost": change.lost or None,
    }


def _counted(found: Sequence[Change]) -> str:
    count = len(found)
    told = f"{count} change{'s' if count != 1 else ''}" if count else "no changes"
    waiting = sum(change.restart for change in found)
    if not waiting:
        return told
    return f"{told}, {waiting} of which need{'s' if waiting == 1 else ''} a restart"
