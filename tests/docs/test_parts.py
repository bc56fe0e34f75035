"""Everything that can be named, written, sent or told has its place in the docs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import headrace
import headrace.testing
from headrace import Record, registry
from headrace.config import settings
from headrace.config.fields import options_of
from headrace.health import Health
from headrace.prices import Price
from headrace.registry import Group

from .pages import PAGES, ROOT, Page

PARTS = [
    (group, name)
    for group in get_args(Group)
    for name in registry.names(group)
    if registry.named(group, name).__module__.startswith(("headrace.", "headrace_plugins."))
]
SETTINGS = (
    settings.Server,
    settings.Tls,
    settings.CallerOptions,
    headrace.Quota,
    Price,
    settings.UpstreamOptions,
    Health,
    settings.RouteOptions,
)
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]


def page(name: str) -> Page:
    """A page by its path."""
    found = [page for page in PAGES if page.name == name]
    assert found, f"{name} is missing"
    return found[0]


def page_of(group: str, name: str) -> Page:
    """The page of something that can be named."""
    folder = "forwarders" if group == "dialects" else group
    return page(f"docs/{folder}/{name}.md")


def flat(text: str) -> str:
    """Text with its white space and what tables escape undone."""
    return " ".join(text.replace("\\|", "|").split())


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_everything_that_can_be_named_has_a_page(group: Group, name: str) -> None:
    part, told = registry.named(group, name), page_of(group, name)
    text = flat(told.text)

    assert f"# {name}\n" in told.text, f"{told.name}:1: its heading is not {name!r}"
    first = flat((inspect.getdoc(part) or "").partition("\n\n")[0])
    assert first in text, f"{told.name}: it lacks the sentence {first!r}; run `make docs`"
    for option in options_of(part).values():
        row = f"| `{option.name}` |"
        assert row in text, f"{told.name}: it does not name the option {option.name!r}"
        assert flat(option.doc) in text, f"{told.name}: {option.name!r} lacks its sentence"
    index = page("docs/README.md").text
    assert f"[`{name}`]" in index, f"docs/README.md: it does not list {name!r}; run `make docs`"


@pytest.mark.parametrize("part", SETTINGS, ids=lambda part: part.__name__)
def test_every_option_of_a_section_has_its_sentence(part: type[Any]) -> None:
    text = flat(page("docs/configuration.md").text)
    for option in options_of(part).values():
        assert f"| `{option.name}` |" in text, f"docs/configuration.md: no {option.name!r}"
        assert flat(option.doc) in text, f"docs/configuration.md: no sentence of {option.name!r}"


def test_every_section_has_a_heading() -> None:
    told = page("docs/configuration.md")
    for name in (*settings.SECTIONS, "include"):
        assert name in told.anchors, f"docs/configuration.md: no heading for {name!r}"


def test_the_reference_shows_everything_there_is() -> None:
    text = (ROOT / "examples/reference/gateway.yaml").read_text()
    wanted = [(name, "name") for _, name in PARTS]
    kinds = [*SETTINGS, settings.TimeoutOptions, *(registry.named(g, n) for g, n in PARTS)]
    for kind in kinds:
        wanted += [
            (option.name, f"option of {kind.__name__}") for option in options_of(kind).values()
        ]
    wanted += [(name, "section") for name in (*settings.SECTIONS, "include")]
    for name, what in wanted:
        assert re.search(rf"[\s{{\[,]{name}\b", text), (
            f"examples/reference/gateway.yaml: it lacks {name!r}, the {what}"
        )


# Errors, headers, variables, the log


def test_every_code_of_an_error_is_told() -> None:
    text = page("docs/running.md").text
    missing = [f"{place}: {code}" for place, code in _codes() if f"`{code}`" not in text]
    assert not missing, "docs/running.md lacks these codes:\n" + "\n".join(missing)


def test_every_code_that_is_told_exists() -> None:
    told = page("docs/running.md")
    known = {code for _, code in _codes()}
    table = told.text.partition("### By the gateway")[2].partition("## The access log")[0]
    for row in re.findall(r"^\| [^|]+\|([^|]+)\|", table, re.MULTILINE):
        for code in re.findall(r"`([a-z_]+)`", row):
            assert code in known, f"docs/running.md: nothing in the code says {code!r}"


def _codes() -> Iterator[tuple[str, str]]:
    """Place and code of every error that the code can raise."""
    for path, tree in _trees():
        if "testing" in path.parts:
            continue
        for node in ast.walk(tree):
            for code in _codes_of(node):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", code


def _codes_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.keyword(arg="code", value=value):
            yield from _texts(value)
        case ast.Assign(targets=[ast.Name(id="default_code")], value=value):
            yield from _texts(value)
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Attribute(attr="code"), *_])], value=value):
            yield from _texts(value)
        case ast.Call(func=ast.Name(id="_refusal"), args=[_, _, code]):
            yield from _texts(code)
        case ast.Assign(targets=[ast.Name(id="_FAILURES")], value=ast.Dict(keys=keys)):
            for key in filter(None, keys):
                yield from _texts(key)


def _texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        match inner:
            case ast.Constant(value=str(text)) if re.fullmatch("[a-z]+(_[a-z]+)*", text):
                yield text


def test_every_header_of_ours_is_told() -> None:
    text = page("docs/running.md").text
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"^x-headrace-[a-z-]+$", node.value):
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    assert f"`{name}`" in text, (
                        f"docs/running.md: it does not tell {name} ({place})"
                    )


def test_every_variable_that_is_read_is_told() -> None:
    text = "".join(page.text for page in PAGES if page.name.startswith("docs/"))
    for path, tree in _trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="get", value=source),
                    args=[ast.Constant(value=str(name)), *_],
                ) if "environ" in ast.unparse(source):
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    assert f"`{name}`" in text, f"docs: nothing tells the variable {name} ({place})"


def test_every_service_that_is_found_is_told() -> None:
    from headrace_plugins.forwarders.openai import _SERVICES

    text = page("docs/forwarders/openai.md").text
    for variable, (name, base_url) in _SERVICES.items():
        row = f"| `{variable}` | `{name}` | `{base_url}`"
        assert row in text, f"docs/forwarders/openai.md: it lacks the row {row}"


def test_every_field_of_the_access_log_is_told() -> None:
    from headrace_plugins.observers.access_log import line

    text = page("docs/observers/access_log.md").text
    for name in line(Record(id="a", method="POST", path="/")):
        assert f"`{name}`" in text, f"docs/observers/access_log.md: it does not tell {name!r}"


def test_every_public_name_is_told() -> None:
    text = page("docs/api.md").text
    for module in (headrace, headrace.testing):
        for name in module.__all__:
            assert f"| `{name}` |" in text, f"docs/api.md: it lacks {name!r}; run `make docs`"
    testing = page("docs/testing.md").text
    for name in headrace.testing.__all__:
        if name not in ("ClockLoop", "chunk"):  # for those who build on it
            assert re.search(rf"\b{name}\b", testing), f"docs/testing.md: it does not show {name!r}"


@cache
def _trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in SOURCES]
