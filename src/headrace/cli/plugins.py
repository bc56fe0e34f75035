"""`headrace plugins`."""

from __future__ import annotations

import inspect
import json
from typing import Any, get_args

import click

from headrace import registry
from headrace.config.parts import options_of
from headrace.config.problems import did_you_mean
from headrace.config.schema import default_of
from headrace.registry import Group


@click.command("plugins")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(name: str | None, as_json: bool) -> None:
    """List what can be named in gateway.yaml, or tell what NAME is for and its options."""
    groups: tuple[Group, ...] = get_args(Group)
    if name is None:
        listed = {
            group: {n: _sentence(group, n) for n in registry.names(group)} for group in groups
        }
        click.echo(json.dumps(listed, indent=2) if as_json else _list(listed))
        return
    homes = [group for group in groups if name in registry.names(group)]
    if not homes:
        known = sorted({n for group in groups for n in registry.names(group)})
        raise click.ClickException(f"nothing is called {name!r}{did_you_mean(name, known)}")
    described = [_described(group, name) for group in homes]
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo("\n\n".join(map(_text, described)))


def _list(listed: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for group in listed.values() for name in group)
    return "\n\n".join(
        "\n".join([group, *(f"  {name:<{width}}  {sentence}" for name, sentence in names.items())])
        for group, names in listed.items()
    )


def _sentence(group: Group, name: str) -> str:
    return _doc(group, name).partition("\n")[0]


def _doc(group: Group, name: str) -> str:
    try:
        return inspect.getdoc(registry.named(group, name)) or ""
    except ImportError as error:
        return f"needs more to be installed: {error}"


def _described(group: Group, name: str) -> dict[str, Any]:
    options = options_of(registry.named(group, name)).values()
    return {
        "name": name,
        "group": group,
        "doc": _doc(group, name),
        "options": [
            {"name": o.name, "doc": o.doc, "required": o.required, "default": default_of(o)}
            for o in options
        ],
    }


def _text(described: dict[str, Any]) -> str:
    lines = [f"{described['name']} ({described['group'].removesuffix('s')})", "", described["doc"]]
    for option in described["options"]:
        told = "required" if option["required"] else f"default {json.dumps(option['default'])}"
        lines += ["", f"  {option['name']} ({told})"]
        lines += [f"    {line}" for line in option["doc"].splitlines()]
    return "\n".join(lines)
