"""`headrace cache`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from headrace.cli.group import default_file
from headrace.config.build import build
from headrace.config.document import load
from headrace.config.plan import Plan
from headrace.keeping import all_under
from headrace.store import Unavailable


@click.group("cache")
def command() -> None:
    """Clear what caches keep in the store."""


@command.command("clear")
@click.argument("file", default=default_file, type=click.Path(path_type=Path))
@click.option("--tenant", help="Only the answers of this tenant; of a key or id that has none.")
@click.option("--route", help="Only the answers of this route, as the configuration names it.")
@click.option("--all", "everything", is_flag=True, help="All answers.")
def clear(file: Path, tenant: str | None, route: str | None, everything: bool) -> None:
    """Forget answers that the caches of FILE keep in its store.

    Whoever serves goes on meanwhile: what it asks anew, it keeps anew.
    """
    if everything == bool(tenant or route):
        raise click.UsageError("say what to clear: --tenant, --route, both of them, or --all")
    plan = build(load(file, os.environ))
    names = sorted({part.name for part in plan.parts if _caches(part)})  # type: ignore[attr-defined]
    if not names:
        raise click.ClickException(f"{file} has no cache")
    if not plan.store.shared:
        raise click.ClickException(
            "the store of this file is memory, which nobody but the process that serves can reach; "
            "start that again, or keep answers in Redis (server: {store: redis://...})"
        )
    if route and route not in _routes(plan):
        raise click.ClickException(f"{file} has no route {route!r}; it has {_named(plan)}")
    routes = _routes(plan)
    prefixes = [p for name in names for p in all_under(name, routes, tenant=tenant, route=route)]
    try:
        count = asyncio.run(_cleared(plan, prefixes))
    except Unavailable as error:
        raise click.ClickException(f"the store does not answer: {error}") from None
    click.echo(f"{count} answer{'' if count == 1 else 's'} cleared", err=True)


async def _cleared(plan: Plan, prefixes: list[str]) -> int:
    try:
        return sum([await plan.store.clear(prefix) for prefix in prefixes])
    finally:
        await plan.store.aclose()


def _routes(plan: Plan) -> list[str]:
    """The keys under which calls are answered, those of upstreams that are asked by name too."""
    return [*(route.key for route in plan.routes), *(f"{name}/*" for name in plan.upstreams)]


def _named(plan: Plan) -> str:
    return ", ".join(repr(route.key) for route in plan.routes) or "none"


def _caches(part: object) -> bool:
    return bool(getattr(part, "caches", False))
