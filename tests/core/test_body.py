"""JSON bodies: read strictly, edited without touching the rest."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.body import REMOVED, edit, read
from headrace.errors import BadRequest

CASES = int(os.environ.get("FUZZ_CASES", "300"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "a": 2}', "member 'a' stands twice"),
        (b'{"a": {"b": 1, "b": 2}}', "member 'b' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of over 4,300 digits"),
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b'"\\ud800"', "stands without its other half"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"{} {}", "more text after the JSON value, at character 3"),
        (b"", "Expecting value"),
        (b'{"a": "\n"}', "Invalid control character"),
    ],
)
def test_what_two_parsers_may_read_differently_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(body)


def test_many_members_with_one_twice_are_refused_as_soon_as_others() -> None:
    members = b",".join(b'"%d":0' % number for number in range(100_000))

    with pytest.raises(BadRequest, match="'z' stands twice"):
        read(b'{%b,"z":1,"z":2}' % members)  # counting each name again would take minutes


def test_more_lists_than_can_be_read_in_time_are_refused() -> None:
    with pytest.raises(BadRequest, match="more than 100,000 lists and objects"):
        read(b"[" + b"[]," * 100_000 + b"0]")


def test_more_members_than_can_be_read_in_time_are_refused() -> None:
    with pytest.raises(BadRequest, match="too many members"):
        read(b"{%b}" % b",".join(b'"%d":0' % number for number in range(300_001)))


def test_a_text_full_of_brackets_is_a_text() -> None:
    assert read(b'{"a": "%b\\""}' % (b"[{,\\\\" * 300_000))["a"].startswith("[{,")


def test_sixty_four_levels_are_read() -> None:
    assert read(b"[" * 64 + b"]" * 64)


def test_integers_keep_all_their_digits() -> None:
    assert (
        read(b'{"seed": 123456789012345678901234567890}')["seed"] == 123456789012345678901234567890
    )


@pytest.mark.parametrize(
    ("members", "edited"),
    [
        ({"model": "b"}, b'{ "model" : "b" ,\t"t":1.50,\n "m":[1, 2] }'),
        ({"t": None, "m": {}}, b'{ "model" : "a/b" ,\t"t":null,\n "m":{} }'),
        ({"new": "\u00e9"}, '{ "model" : "a/b" ,\t"t":1.50,\n "m":[1, 2] ,"new":"é"}'.encode()),
        ({"model": REMOVED}, b'{ "t":1.50,\n "m":[1, 2] }'),
        ({"m": REMOVED}, b'{ "model" : "a/b" ,\t"t":1.50 }'),
        ({"absent": REMOVED}, b'{ "model" : "a/b" ,\t"t":1.50,\n "m":[1, 2] }'),
    ],
)
def test_members_are_changed_where_they_stand(members: dict[str, Any], edited: bytes) -> None:
    assert edit(b'{ "model" : "a/b" ,\t"t":1.50,\n "m":[1, 2] }', members) == edited


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "model", "é", '"', "\\"])


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.dictionaries(NAMES, JSON, max_size=5),
    st.dictionaries(NAMES, JSON | st.just(REMOVED), max_size=4),
    st.sampled_from([(None, None), (1, None), (None, (" ,\t", "\n: "))]),
)
def test_an_edited_body_reads_as_an_edited_object(
    before: dict[str, Any], members: dict[str, Any], style: tuple[Any, Any]
) -> None:
    indent, separators = style
    body = json.dumps(before, ensure_ascii=False, indent=indent, separators=separators).encode()

    after = read(edit(body, members))

    expected = {**before, **members}
    assert after == {name: value for name, value in expected.items() if value is not REMOVED}


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = read(body)
    except BadRequest:
        return
    assert value == json.loads(body)
