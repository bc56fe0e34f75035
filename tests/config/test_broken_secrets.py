"""A file with secrets in plain is broken in many small ways, and no message shows one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import pytest

from headrace import ConfigError
from headrace.config.build import build
from headrace.config.document import parse
from headrace.config.problems import Problem

pytestmark = pytest.mark.usefixtures("registered")

TEXT = """\
server:
  store: "redis://user:CANARY@127.0.0.1/0"
  admin:
    key:
      - CANARY-5b1d07c4e9f2a6830d4c93ab77
      - "CANARY-77f0e1d2c36c2e18d5f00a1bc4"
      - CANARY-9d8c7b6a31425b1d07c4e9f28e
  chain:
    - api_key: {keys: {HASH: ann}}
    - retry: {wait: 3s}
upstreams:
  one:
    forwarder:
      openai:
        base_url: https://one.example/v1
        api_key: "CANARY"
  two: {forwarder: {openai: {api_key: "CANARY", base_url: "https://two.example"}}}
  three:
    forwarder:
      openai:
        base_url: https://three.example
        api_key: |-
          CANARY
  four: {forwarder: {openai: {"api_key": 'CANARY', headers: {authorization: Bearer CANARY}}}}
  five:
    forwarder: {openai: {headers: {x-token: CANARY}, api_key: "CANARY
      CANARY"}}
  six: {forwarder: {openai: {api_key: CANARY}}}
  seven:
    forwarder:
      openai:
        headers:
          x-api-key: >-
            CANARY
            CANARY
        api_key:
          CANARY
routes:
  a: one
  b: {targets: [two, three, four], chain: [fallback]}
""".replace("HASH", "0a" * 32)
NAMES = ("key", "keys", "api_key", "authorization", "x-token", "x-api-key")


def without(characters: str) -> Iterator[str]:
    """The text without one of these characters, each of them in turn."""
    for found in re.finditer(characters, TEXT):
        yield TEXT[: found.start()] + TEXT[found.end() :]


def misspelt() -> Iterator[str]:
    """The text with one letter of a secret's name missing, wrong, twice or too late."""
    for found in re.finditer(rf"\b({'|'.join(NAMES)})(?=\"?:)", TEXT):
        for at, letter in enumerate(found[0], start=found.start()):
            for wrong in ("", "x", letter * 2):
                yield TEXT[:at] + wrong + TEXT[at + 1 :]
            yield TEXT[:at] + TEXT[at + 1] + letter + TEXT[at + 2 :]


def told(text: str) -> str:
    """All that is said of a configuration, in a terminal and on GitHub."""
    document = parse(text, "gateway.yaml", {})
    problems: Sequence[object] = document.problems
    try:
        build(document)
    except ConfigError as error:
        problems = error.problems
    return "\n".join(f"{it}\n{it.github()}" for it in problems if isinstance(it, Problem))


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is connected to, and the list of whom to trust takes longest to read."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


def test_the_file_itself_is_right() -> None:
    assert told(TEXT) == ""


@pytest.mark.parametrize(
    "broken",
    [without(" "), without("[\"']"), without(":"), without("[-\\[\\]{},]"), misspelt()],
    ids=["blank", "quote", "colon", "bracket", "letter"],
)
def test_no_small_mistake_shows_a_secret(broken: Iterator[str]) -> None:
    said = [told(text) for text in broken]

    assert sum(map(bool, said)) > 5
    assert [each for each in said if "CANARY" in each] == []
