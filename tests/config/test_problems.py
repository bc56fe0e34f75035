"""How a problem is shown: to a person, to GitHub, and never with a secret."""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config.fields import options_of
from headrace.config.problems import (
    COLUMNS,
    Place,
    Problem,
    did_you_mean,
    guarded,
    looks_secret,
    mask,
    meant_secret,
)
from headrace.config.settings import SECTIONS

LINE = "  careful: [cache: {tll: 10m}, fallback]"
FUZZ = settings(max_examples=int(os.environ.get("FUZZ_CASES", "200")))


def caret(problem: Problem) -> str:
    """What the caret points at."""
    _, line, below = str(problem).splitlines()
    return line[below.index("^") : below.rindex("^") + 1]


def test_a_problem_names_the_place_and_points_at_it() -> None:
    problem = Problem(
        Place("gateway.yaml", 41, 21, 3, LINE), "cache has no option 'tll'; did you mean 'ttl'?"
    )

    assert str(problem) == (
        "gateway.yaml:41:21: cache has no option 'tll'; did you mean 'ttl'?\n"
        "  41 |   careful: [cache: {tll: 10m}, fallback]\n"
        "     |                     ^^^"
    )


def test_a_problem_without_a_place_is_its_message() -> None:
    assert str(Problem(None, "cannot read gateway.yaml")) == "cannot read gateway.yaml"
    assert Problem(None, "a\nb").github() == "::error::a%0Ab"


def test_an_empty_line_is_not_shown() -> None:
    assert str(Problem(Place("g.yaml", 1, 1), "is empty")) == "g.yaml:1:1: is empty"


def test_github_is_told_in_its_own_words() -> None:
    problem = Problem(Place("a,b:c%.yaml", 3, 5, 2, "x"), "50% of\r\nit: no, none")

    assert problem.github() == (
        "::error file=a%2Cb%3Ac%25.yaml,line=3,col=5::50%25 of%0D%0Ait: no, none"
    )


def test_a_long_line_is_cut_around_the_caret() -> None:
    source = "a" * 300 + "tll" + "b" * 300
    problem = Problem(Place("g.yaml", 7, 301, 3, source), "no")

    line = str(problem).splitlines()[1].removeprefix("  7 | ")
    assert caret(problem) == "tll"
    assert len(line) == COLUMNS
    assert line.startswith("…a")
    assert line.endswith("b…")


def test_a_line_is_cut_only_where_it_is_too_long() -> None:
    start = str(Problem(Place("g.yaml", 1, 1, 3, "tll" + "b" * 300), "no"))
    end = str(Problem(Place("g.yaml", 1, 301, 3, "a" * 300 + "tll"), "no"))

    assert "| tllb" in start
    assert "b…\n" in start
    assert "| …a" in end
    assert "tll\n" in end


def test_the_caret_ends_where_the_line_is_cut() -> None:
    problem = Problem(Place("g.yaml", 1, 1, 500, "a" * 500), "no")

    assert caret(problem) == "a" * (COLUMNS - 2)


def test_what_is_no_secret_is_shown_whatever_its_key_is_called() -> None:
    place = Place("g.yaml", 1, 7, 7, "{key: *******, password: a}", clear="tls.key")

    assert "| {key: tls.key, password: *}" in str(Problem(place, "no"))


def test_tabs_and_wide_characters_do_not_move_the_caret() -> None:
    tab = Problem(Place("g.yaml", 1, 3, 3, "a\ttll"), "no")
    wide = Problem(Place("g.yaml", 1, 5, 3, "a漢e\u0301tll"), "no")

    assert str(tab).splitlines()[2] == "    |      ^^^"
    assert str(wide).splitlines()[2] == "    |     ^^^"


def test_control_characters_are_shown_not_sent() -> None:
    problem = Problem(Place("g.yaml", 1, 2, 3, "\x1btll\u202e"), "found \x1b[31m")

    assert str(problem) == ("g.yaml:1:2: found \\x1b[31m\n  1 | \\x1btll\\u202e\n    |     ^^^")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("api_key: sk-1234", "api_key: *******"),
        ("  - api_key: 'it''s'  # why", "  - api_key: *******  # why"),
        ("password: a,b}c d # why", "password: ******* # why"),
        ('{api_key: a b, tll: 10m, secret: "a, b"}', "{api_key: ***, tll: 10m, secret: ******}"),
        ('{"api_key":"sk","a":1}', '{"api_key":****,"a":1}'),
        ("api_keys: [a, b] # c", "api_keys: ****** # c"),
        ("api_key: {header: x, a: [b]}, b: c", "api_key: {header: *, a: ***}, b: c"),
        ("{api_key: {a: {b: c}, d: e}, f: g}", "{api_key: {a: {b: *}, d: *}, f: g}"),
        ("{keys: {abc: d}, e: f}", "{keys: ********, e: f}"),
        ("{key: {abc: d, ABC: e, f1: g}, h: i}", "{key: {abc: *, ***: *, **: *}, h: i}"),
        ("{\"api_ke\"y: 'abc', a: b}", '{"api_ke"y: *****, a: b}'),
        ("{keys: a, b], c: d, e: f}", "{keys: *****, c: d, e: f}"),
        ("{key: 'it's it', a: 1}", "{key: *********, a: 1}"),
        ("api_key: ${KEY}", "api_key: ${KEY}"),
        ("api_key: ${KEY:-abc}", "api_key: ${KEY:-***}"),
        ("key: x${file:/run/x}y", "key: *${file:/run/x}*"),
        ("api_key:sk-1", "api_key:****"),
        ("password: *abc", "password: ****"),
        ('password: "abc', "password: ****"),
        ("# token: abc", "# token: ***"),
        ("api_key: ${KEY}     # or ${OTHER}", "api_key: ${KEY}     # or ${OTHER}"),
        ("api_key: ab cd      # why", "api_key: *****      # why"),
        ('{key: "${KEY}"}', '{key: "${KEY}"}'),
        ("{key: '${KEY:-abc}', a: 1}", "{key: '${KEY:-***}', a: 1}"),
        ('key: "${A}b${C}"', 'key: "${A}*${C}"'),
        ('key: "a${B}"', "key: **${B}*"),
        ("{key: abc  # why", "{key: ***  # why"),
        ("limits: {tokens: 2M/day, requests: 5/s}", "limits: {tokens: 2M/day, requests: 5/s}"),
        ("store: redis://u:p@ss@h:1/0", "store: redis://u:****@h:1/0"),
        ("store: redis://:${PW}@h", "store: redis://:${PW}@h"),
        ("url: https://token@h/p", "url: https://*****@h/p"),
        ("url: https://h:80/p?a=b&api_key=c&d=e", "url: https://h:80/p?a=b&api_key=*&d=e"),
        ("x-header: Bearer abc", "x-header: Bearer ***"),
        ("extra: sk-proj-12345678", "extra: ****************"),
        ("base_url: http://ollama:11434", "base_url: http://ollama:11434"),
    ],
)
def test_a_line_is_shown_without_its_secrets(line: str, shown: str) -> None:
    assert mask(line) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("tokn: abc", "tokn: ***"),
        ("- x-api-kye: abc", "- x-api-kye: ***"),
        ('  "pasword": abc', '  "pasword": ***'),
        ("api_key abc", "api_key ***"),
        ("  - secret abc: d", "  - secret ******"),
        ("{a: b, 'key' c, d: e}", "{a: b, 'key' ********"),
        ("- api_key  # why", "- api_key  # why"),
        ("limits: {tokens: 2M/day}", "limits: {tokens: 2M/day}"),
        ("store: redis://h", "store: redis://h"),
        ("redis//u:abc@h", "redis//u:***@h"),
        ("# the key is here", "# the key is here"),
    ],
)
def test_a_broken_line_is_shown_without_its_secrets(line: str, shown: str) -> None:
    assert guarded(line) == shown


def test_a_message_repeats_no_secret() -> None:
    message = "the caller's key: x has no option 'key:abc', found \"token a'bc\"; it has 'key: a'"

    assert str(Problem(None, message)) == (
        "the caller's key: x has no option 'key:***', found \"token ****\"; it has 'key: *'"
    )


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "key",
        "keys",
        "OPENAI_API_KEY",
        "x-api-key",
        "api_key_2",
        "client_secret",
        "token",
        "access_token",
        "password",
        "Authorization",
        "credentials",
        "passwd",
    ],
)
def test_a_name_that_says_secret_is_believed(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["ky", "kye", "kezs", "tokn", "X_API_KYE", "pasword", "apikye"])
def test_a_misspelt_name_of_a_secret_is_told(name: str) -> None:
    assert meant_secret(name)


def test_no_option_there_is_is_taken_for_a_misspelt_secret() -> None:
    groups = ("plugins", "forwarders", "observers", "stores")
    found = [point for group in groups for point in entry_points(group=f"headrace.{group}")]
    names = {name for point in found for name in (point.name, *options_of(point.load()))}

    assert len(names) > 50
    assert [name for name in names | {*SECTIONS} if looks_secret(name) != meant_secret(name)] == []


@pytest.mark.parametrize("name", ["tokens", "max_tokens", "model", "ttl", "keyed", "base_url"])
def test_another_name_hides_nothing(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("tll", "; did you mean 'ttl'?"),
        ("TTL", "; did you mean 'ttl'?"),
        ("fallbck", "; did you mean 'Fallback'?"),
        ("something", ""),
        ("", ""),
        ("t" * 100_000, ""),
    ],
)
def test_a_word_like_another_is_taken_for_it(word: str, hint: str) -> None:
    assert did_you_mean(word, ["ttl", "size", "Fallback"]) == hint


@pytest.mark.fuzz
@FUZZ
@given(st.text(), st.integers(1, 300), st.integers(1, 300))
def test_any_line_can_be_shown(source: str, column: int, width: int) -> None:
    shown = str(Problem(Place("g.yaml", 1, column, width, source), "no"))

    assert len(mask(source)) == len(source)
    assert re.fullmatch(r"g.yaml:1:\d+: no(\n  1 \| .*\n    \|  *\^+)?", shown)
