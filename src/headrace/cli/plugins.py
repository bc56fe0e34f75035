"""`headrace plugins`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, get_args

import click

from headrace import registry
from headrace.config.fields import Option, options_of
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
            str(g): {n: _doc(g, n).partition("\n")[0] for n in registry.names(g)} for g in groups
        }
        click.echo(json.dumps(listed, indent=2) if as_json else _list(listed))
        return
    homes = [group for group in groups if name in registry.names(group)]
    if not homes:
        known = sorted({n for group in groups for n in registry.names(group)})
        hint = did_you_mean(name, known) or "; `headrace plugins` lists what there is"
        raise click.ClickException(f"nothing is called {name!r}{hint}")
    described = [_described(group, name) for group in homes]
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo("\n\n".join(map(_text, described)))


def _list(listed: Mapping[str, Mapping[str, str]]) -> str:
    width = max(len(name) for names in listed.values() for name in names)
    return "\n\n".join(
        "\n".join([group, *(f"  {name:<{width}}  {sentence}" for name, sentence in names.items())])
        for group, names in listed.items()
    )


def _doc(group: Group, name: str) -> str:
    try:
        return inspect.getdoc(registry.named(group, name)) or ""
    except Exception as error:  # noqa: BLE001  somebody else's module may raise anything
        return f"It cannot be loaded: {error}."


def _described(group: Group, name: str) -> dict[str, Any]:
    options: Iterable[Option] = ()
    with suppress(ImportError):
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
        lines += ["", f"  {option['name']} ({_need(option)})"]
        lines += [f"    {line}".rstrip() for line in option["doc"].splitlines()]
    return "\n".join(lines)


def _need(option: Mapping[str, Any]) -> str:
    if option["required"]:
        return "required"
    default = option["default"]
    if default is None:
        return "optional"
    return f"default {default if isinstance(default, str) else json.dumps(default)}"
