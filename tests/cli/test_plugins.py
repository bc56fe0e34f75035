"""`headrace plugins`: what can be named, and what it is for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace import Duration, registry

from .running import headrace


@dataclass(kw_only=True)
class Words:
    """Count the words of every reply.

    As they pass.
    """

    name: str
    """What to call the count."""
    every: Duration = field(default_factory=lambda: Duration(0.2))
    """How often to tell it.

    Not more often than that.
    """
    limit: int | None = None
    """When to stop."""
    strict: bool = False
    """Whether a number is a word."""


def absent() -> type:
    raise ModuleNotFoundError("No module named 'azure_sdk'")


class Point:
    value = "somewhere:Words"

    def __init__(self, load: Any) -> None:
        self.load = load


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "plugins": {"words": Point(lambda: Words)},
        "forwarders": {"azure": Point(absent), "words": Point(lambda: Words)},
    }
    monkeypatch.setattr(registry, "_found", lambda group: found.get(group, {}))


@pytest.mark.usefixtures("registered")
def test_everything_is_listed_with_its_sentence() -> None:
    assert headrace("plugins").stdout == (
        "plugins\n"
        "  words  Count the words of every reply.\n"
        "\n"
        "forwarders\n"
        "  azure  It cannot be loaded: No module named 'azure_sdk'.\n"
        "  words  Count the words of every reply.\n"
        "\ndialects\n\nobservers\n\nstores\n"
    )


@pytest.mark.usefixtures("registered")
def test_programs_get_the_list_as_json() -> None:
    listed = json.loads(headrace("plugins", "--json").stdout)

    assert listed["plugins"] == {"words": "Count the words of every reply."}


@pytest.mark.usefixtures("registered")
def test_one_is_told_with_its_options_wherever_it_is_called_so() -> None:
    told = headrace("plugins", "words").stdout
    first, second = told.split("\n\nwords (forwarder)\n")

    assert first == (
        "words (plugin)\n\n"
        "Count the words of every reply.\n\nAs they pass.\n\n"
        "  name (required)\n    What to call the count.\n\n"
        "  every (default 200ms)\n    How often to tell it.\n\n    Not more often than that.\n\n"
        "  limit (optional)\n    When to stop.\n\n"
        "  strict (default false)\n    Whether a number is a word."
    )
    assert "  name (required)" in second


@pytest.mark.usefixtures("registered")
def test_programs_get_one_as_json() -> None:
    (plugin, _) = json.loads(headrace("plugins", "words", "--json").stdout)

    assert plugin["group"] == "plugins"
    assert plugin["options"][1] == {
        "name": "every",
        "doc": "How often to tell it.\n\nNot more often than that.",
        "required": False,
        "default": "200ms",
    }


@pytest.mark.usefixtures("registered")
def test_one_that_is_not_installed_whole_says_so() -> None:
    told = headrace("plugins", "azure")

    assert told.exit_code == 0
    assert "It cannot be loaded: No module named 'azure_sdk'." in told.stdout


@pytest.mark.usefixtures("registered")
def test_an_unknown_name_is_told_what_it_could_have_been() -> None:
    near = headrace("plugins", "word")
    far = headrace("plugins", "xyz")

    assert (near.exit_code, near.stdout) == (1, "")
    assert "nothing is called 'word'; did you mean 'words'?" in near.stderr
    assert "`headrace plugins` lists what there is" in far.stderr


NAMES = sorted({name for group in ("plugins", "forwarders") for name in registry.names(group)})


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_installed_can_be_told(name: str) -> None:
    told = headrace("plugins", name)

    assert told.exit_code == 0
    assert json.loads(headrace("plugins", name, "--json").stdout)
