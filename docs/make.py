"""Write the parts of the docs that are made of the code: `make docs`.

A part stands between two comments, and what is between them is written anew each time:

    <!-- made of: options plugins/retry -->
    ...
    <!-- end -->

Everything else on a page is written by hand. A test fails when a part is stale.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

import headrace
import headrace.testing
from headrace import (
    Count,
    Duration,
    Failure,
    File,
    Key,
    Moment,
    Plugins,
    Quota,
    Rate,
    Secret,
    Sha256,
    Size,
    registry,
)
from headrace.call import Timeouts
from headrace.cli import _COMMANDS
from headrace.config import settings
from headrace.config.fields import Option, options_of
from headrace.config.schema import default_of
from headrace.health import Health
from headrace.prices import Price
from headrace.registry import Group
from headrace_plugins.rate_limit import Policy

ROOT = Path(__file__).parents[1]
PART = re.compile(
    r"(?P<begin><!-- made of: (?P<kind>\w+) ?(?P<name>[\w/.]*) -->\n)"
    r"(?P<old>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def main() -> int:
    """Write every page anew where it has changed, and say which."""
    for page in pages():
        old = page.read_text()
        new = remade(page, old)
        if new != old:
            page.write_text(new)
            sys.stderr.write(f"{page.relative_to(ROOT)}: made anew\n")
    return 0


def pages() -> list[Path]:
    """Every page that may have parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def remade(page: Path, text: str) -> str:
    """The text of a page with all its parts as they should be now."""

    def made(part: re.Match[str]) -> str:
        written = _KINDS[part["kind"]](part["name"]).strip()
        units = Path(os.path.relpath(ROOT / "docs/configuration.md", page.parent))
        home = "" if page.name == units.name else units.as_posix()
        written = written.replace("limits](UNITS)", f"limits]({home}#limits)")
        return f"{part['begin']}{written.replace('UNITS', f'{home}#units')}\n{part['end']}"

    return PART.sub(made, text)


# What can be named, and its options


def page_of(group: str, name: str) -> str:
    """Where the page of a thing is, from the folder of the docs."""
    return f"forwarders/{name}.md" if group == "dialects" else f"{group}/{name}.md"


def _about(path: str) -> str:
    """A thing's docstring."""
    return inspect.getdoc(_part(path)) or ""


def _options(path: str) -> str:
    """A thing's options, each with its sentence."""
    rows = [
        (f"`{option.name}`", _written(option), _default(option), _line(option.doc))
        for option in options_of(_part(path)).values()
    ]
    if not rows:
        return "It has no options."
    return _table(("option", "written as", "default", "what it is for"), rows)


def _named(group: str) -> str:
    """What is in a group, each with its first sentence and a link to its page."""
    kinds = typing.cast("Group", group)
    rows = [
        (f"[`{name}`]({page_of(group, name)})", _first(registry.named(kinds, name)))
        for name in registry.names(kinds)
    ]
    return _table((group.removesuffix("s"), "what it is for"), rows)


def _part(path: str) -> Any:
    group, _, name = path.partition("/")
    if group == "settings":
        return getattr(settings, name)
    if group.startswith("headrace"):
        return getattr(importlib.import_module(group), name)
    return registry.named(typing.cast("Group", group), name)


_ANY = {
    "chain": "[chain](#chains)",
    "plugins": "[chain](#chains)",
    "forwarder": "name, or name with options",
    "targets": "[targets](#targets)",
    "store": "URL, or name with options",
}
_KIND: Mapping[Any, str] = {
    Duration: "[duration](UNITS)",
    Size: "[size](UNITS)",
    Count: "[count](UNITS)",
    Rate: "[rate](UNITS)",
    Moment: "[date](UNITS)",
    Failure: "[failure](UNITS)",
    File: "[file](UNITS)",
    Secret: "[secret](UNITS)",
    Sha256: "[SHA-256](UNITS)",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Any: "any value",
    settings.TimeoutOptions: "[timeouts](#timeouts)",
    settings.AdminOptions: "[administration](#admin)",
    settings.Tls: "[certificate](#tls)",
    Health: "[health](#health)",
    Price: "[price](#prices)",
    Quota: "[limits](UNITS)",
    Policy: "[policies](#policies)",
    typing.get_type_hints(Policy)["by"]: "[one of these](#whose-calls), or a list of them",
    Key: "[more of it](#what-is-known-of-a-key)",
    Plugins: "list of plugins, or a chain's name",
    dict[str, settings.Said | list[settings.Said]]: "mapping of names to a value, or to several",
}


def _written(option: Option) -> str:
    """How the value of an option is written, in words."""
    if option.kind is Any:
        return _ANY[option.name]
    if option.kind == list[Any]:
        return "list of names, or names with options"
    return _in_words(option.kind)


def _in_words(kind: Any) -> str:
    if kind in _KIND:
        return _KIND[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(_in_words(each) for each in inner if each is not type(None))
    if origin is typing.Annotated:
        return _in_words(inner[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inner)
    if origin is tuple or origin is list:
        return f"list of {_in_words(inner[0])}"
    if origin is dict:
        key, value = (_in_words(each) for each in inner)
        return f"mapping of {key} to {value}"
    raise TypeError(f"say in _KIND how {kind} is written")


def _default(option: Option) -> str:
    if option.required:
        return "required"
    default = default_of(option)
    return "" if default is None else f"`{_yaml(default)}`"


def _yaml(value: Any) -> str:
    """A value as gateway.yaml would have it, in one line."""
    if isinstance(value, str) and re.fullmatch(r"[\w./:-]+", value):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _timeouts(_: str) -> str:
    """The four timeouts, their defaults, and those of forwarders that want others."""
    own = {
        name: dict(getattr(registry.named("forwarders", name), "timeouts", {}))
        for name in registry.names("forwarders")
    }
    own = {name: timeouts for name, timeouts in own.items() if timeouts}
    docs = options_of(settings.TimeoutOptions)
    rows = [
        (
            f"`{name}`",
            f"`{Duration(value)}`",
            *(_own(timeouts.get(name)) for timeouts in own.values()),
            _line(docs[name].doc),
        )
        for name, value in vars(Timeouts()).items()
    ]
    heads = ("timeout", "default", *(f"of `{name}`" for name in own), "how long to wait")
    return _table(heads, rows)


def _own(timeout: str | None) -> str:
    return f"`{Duration.of(timeout)}`" if timeout else ""


# The command line


def _help(name: str) -> str:
    """What a command, or one below it such as keys/add, says to --help."""
    name, _, below = name.partition("/")
    command: click.Command = importlib.import_module(f"headrace.cli.{name}").command
    context = click.Context(command, info_name=f"headrace {name}", terminal_width=88)
    if below:
        assert isinstance(command, click.Group)
        command = command.commands[below]
        context = click.Context(command, context, below)
    return f"```text\n{command.get_help(context)}\n```"


def _commands(_: str) -> str:
    """Every command with its sentence."""
    rows = [(f"[`headrace {name}`](#{name})", said) for name, said in _COMMANDS.items()]
    return _table(("command", "what it does"), rows)


# The public API


def _names(module: str) -> str:
    """What a module offers, each with its first sentence."""
    loaded = importlib.import_module(module)
    rows = [(f"`{name}`", _sentence(loaded, name)) for name in loaded.__all__]
    return _table(("name", "what it is"), rows)


def _sentence(module: types.ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return _first(value)
    if name.startswith("__"):
        return "The version of this package."
    return _constants(module.__name__)[name]


def _constants(package: str) -> dict[str, str]:
    """The sentences below the values and aliases of a package's modules."""
    said: dict[str, str] = {}
    for file in (ROOT / "src" / package.replace(".", "/")).glob("*.py"):
        body = ast.parse(file.read_text()).body
        for statement, following in pairwise(body):
            match statement, following:
                case (
                    ast.Assign(targets=[ast.Name(id=name)])
                    | ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    said[name] = _paragraph(inspect.cleandoc(text))
    # A dialect's only object has the sentence of its class.
    return {"OPENAI": _first(type(headrace.OPENAI)), **said}


# Text


def _first(thing: object) -> str:
    return _paragraph(inspect.getdoc(thing) or "")


def _paragraph(text: str) -> str:
    return _line(text.partition("\n\n")[0])


def _line(text: str) -> str:
    """Text as it may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(heads)
    lines = [f"| {' | '.join(row)} |" for row in (names, *rows)]
    return "\n".join([lines[0], "|---" * len(names) + "|", *lines[1:]])


_KINDS: dict[str, Callable[[str], str]] = {
    "about": _about,
    "options": _options,
    "named": _named,
    "timeouts": _timeouts,
    "help": _help,
    "commands": _commands,
    "names": _names,
}


if __name__ == "__main__":
    sys.exit(main())
