"""Options with a unit, and secrets: what is written, what is held, what is shown."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
from dataclasses import asdict, dataclass, field

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from headrace.options import Count, Duration, File, Rate, Secret, Sha256, Size, sha256

FUZZ = settings(max_examples=int(os.environ.get("FUZZ_CASES", "200")))
HASH = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"


@dataclass(kw_only=True)
class Options:
    """A plugin's, as pydantic sees it."""

    ttl: Duration = field(default_factory=lambda: Duration(600))
    body: Size = field(default_factory=lambda: Size(32_000_000))
    tokens: Count = field(default_factory=lambda: Count(100))
    rate: Rate = field(default_factory=lambda: Rate(60, 60))
    key: Secret | None = None
    keys: dict[Sha256, str] | None = None


OPTIONS = TypeAdapter(Options)


def refusal(**written: object) -> str:
    """What is said about options that are not taken."""
    with pytest.raises(ValidationError) as caught:
        OPTIONS.validate_python(written)
    return str(caught.value.errors()[0]["msg"]).removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("200ms", 0.2, "200ms"),
        ("5s", 5, "5s"),
        ("1.5s", 1.5, "1.5s"),
        ("10m", 600, "10m"),
        ("90m", 5400, "1h30m"),
        ("1h30m", 5400, "1h30m"),
        ("1d", 86400, "1d"),
        ("1m5ms", 60.005, "1m5ms"),
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float, shown: str) -> None:
    duration = Duration.parse(text)

    assert duration == seconds
    assert str(duration) == f"{duration}" == shown
    assert OPTIONS.validate_python({"ttl": text}).ttl == seconds


@pytest.mark.parametrize("bare", [5, 5.0, "5", "1.5"])
def test_a_duration_without_a_unit_is_refused(bare: object) -> None:
    assert refusal(ttl=bare) == "has no unit; write a unit, e.g. 5s"


@pytest.mark.parametrize("wrong", ["", "s", "5x", "-5s", "30m1h", "5 s", True, None, [], "٥s"])
def test_what_is_no_duration_is_refused(wrong: object) -> None:
    assert refusal(ttl=wrong).startswith("is not a duration; write one such as 200ms")


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_a_duration_that_code_makes_can_always_be_shown(seconds: float) -> None:
    assert str(Duration(seconds)) == f"{seconds:g}s"


@pytest.mark.fuzz
@FUZZ
@given(st.integers(0, 10**12))
def test_a_duration_can_be_read_as_it_is_shown(milliseconds: int) -> None:
    duration = Duration(milliseconds / 1000)

    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("written", "size", "shown"),
    [
        (512, 512, "512B"),
        ("512", 512, "512B"),
        ("64KB", 64_000, "64KB"),
        ("64kb", 64_000, "64KB"),
        ("64KiB", 65_536, "64KiB"),
        ("32MB", 32_000_000, "32MB"),
        ("1GiB", 1024**3, "1GiB"),
        ("1.5MB", 1_500_000, "1500KB"),
        (0, 0, "0"),
    ],
)
def test_a_size_is_bytes(written: object, size: int, shown: str) -> None:
    body = OPTIONS.validate_python({"body": written}).body

    assert body == size
    assert str(body) == f"{body}" == shown


@pytest.mark.parametrize("wrong", ["32M", "1.0001KB2", "0.5B", "-1", -1, "MB", "1TB", True, None])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    assert refusal(body=wrong) == "is not a size; write one such as 512, 64KB, 32MB or 1GiB"


@pytest.mark.fuzz
@FUZZ
@given(st.integers(0, 2**45))
def test_a_size_can_be_read_as_it_is_shown(size: int) -> None:
    assert Size.parse(str(Size(size))) == size


@pytest.mark.parametrize(
    ("written", "count", "shown"),
    [(100, 100, "100"), ("600k", 600_000, "600k"), ("2M", 2_000_000, "2M"), ("1.5K", 1500, "1500")],
)
def test_a_count_is_a_number(written: object, count: int, shown: str) -> None:
    tokens = OPTIONS.validate_python({"tokens": written}).tokens

    assert tokens == count
    assert str(tokens) == shown


@pytest.mark.parametrize("wrong", ["2m", "1_000", "-1", "1.5", "k", "", None, False])
def test_what_is_no_count_is_refused(wrong: object) -> None:
    assert refusal(tokens=wrong) == "is not a number; write one such as 100, 600k or 2M"


@pytest.mark.parametrize(
    ("text", "amount", "period", "shown"),
    [
        ("60/minute", 60, 60, "60/minute"),
        ("2M/day", 2_000_000, 86400, "2M/day"),
        ("10/s", 10, 1, "10/second"),
        ("100/5m", 100, 300, "100/5m"),
        ("1/h", 1, 3600, "1/hour"),
    ],
)
def test_a_rate_is_so_many_in_a_time(text: str, amount: int, period: float, shown: str) -> None:
    rate = OPTIONS.validate_python({"rate": text}).rate

    assert rate == Rate(amount, period)
    assert rate.per_second == amount / period
    assert str(rate) == shown
    assert Rate.parse(shown) == rate


@pytest.mark.parametrize("wrong", ["60", 60, "60/", "/minute", "60/5", "60/fortnight", "a/b", None])
def test_what_is_no_rate_is_refused(wrong: object) -> None:
    assert refusal(rate=wrong) == "is not a rate; write one such as 60/minute, 10/s or 100/5m"


@pytest.mark.parametrize("zero", ["0/minute", "60/0s"])
def test_a_rate_of_zero_is_refused(zero: str) -> None:
    assert refusal(rate=zero) == "must not be zero; write a rate such as 60/minute"


def test_a_secret_is_shown_to_nobody() -> None:
    secret = Secret("hunter2")
    options = Options(key=secret)

    shown = [str(secret), repr(secret), f"{secret:>20}", repr(options)]
    dumped = [
        OPTIONS.dump_json(options),
        json.dumps(secret, default=str),
        orjson.dumps(secret, str),
    ]
    pickled = [
        pickle.dumps(secret),
        pickle.dumps(options),
        repr(pickle.loads(pickle.dumps(secret))),
    ]
    assert "hunter2" not in repr([*shown, *dumped, *pickled, asdict(options), dir(secret)])
    assert secret.reveal() == "hunter2"


def test_a_copy_of_a_secret_is_the_secret() -> None:
    secret = Secret("hunter2")

    assert copy.copy(secret) is copy.deepcopy(secret) is secret


def test_secrets_are_equal_to_secrets_alone() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("\udc80") != Secret("é")


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_secret_is_refused(empty: object) -> None:
    with pytest.raises(ValidationError, match="is empty"):
        TypeAdapter(Secret).validate_python(empty)


def test_a_secret_that_may_be_absent_may_be_nothing() -> None:
    assert OPTIONS.validate_python({"key": None}).key is None


@pytest.mark.parametrize("wrong", [12345, True, ["12345"], {"a": "12345"}])
def test_a_secret_is_text_and_never_repeated(wrong: object) -> None:
    said = refusal(key=wrong)

    assert said == "is not text; put it in quotes"


def test_nothing_is_taken_off_a_secret() -> None:
    assert TypeAdapter(Secret).validate_python(" a\n").reveal() == " a\n"


@pytest.mark.parametrize("text", [HASH, HASH.upper(), f"sha256:{HASH}"])
def test_a_sha256_is_64_lower_hexadecimal_digits(text: str) -> None:
    keys = OPTIONS.validate_python({"keys": {text: "a"}}).keys

    assert keys == {sha256("secret"): "a"} == {HASH: "a"}


@pytest.mark.parametrize("wrong", ["sk-hunter2", "", HASH[1:], HASH + "0", "g" * 64])
def test_what_is_no_sha256_is_told_how_to_make_one(wrong: str) -> None:
    assert refusal(keys={wrong: "a"}) == (
        'is not a SHA-256; make one with: printf %s "$KEY" | sha256sum'
    )


def test_what_is_an_option_already_is_left_alone() -> None:
    key, ttl = Secret("a"), Duration(5)

    options = OPTIONS.validate_python({"key": key, "ttl": ttl})

    assert options.key is key
    assert options.ttl is ttl


def test_options_are_written_as_a_person_writes_them() -> None:
    dumped = json.loads(OPTIONS.dump_json(Options(key=Secret("a"), keys={sha256("secret"): "b"})))

    assert dumped == {
        "ttl": "10m",
        "body": "32MB",
        "tokens": "100",
        "rate": "60/minute",
        "key": "***",
        "keys": {HASH: "b"},
    }
    assert OPTIONS.validate_python({**dumped, "key": "a"}).ttl == Duration(600)


@pytest.mark.parametrize("option", [Duration, Size, Count, Rate, Secret, Sha256, File])
def test_an_editor_is_told_what_an_option_is(option: type[Duration | Rate | Secret]) -> None:
    schema = TypeAdapter(option).json_schema()

    texts = [form for form in schema.get("anyOf", [schema]) if form.get("type") == "string"]
    assert schema["description"]
    for example in schema["examples"]:
        assert re.search(texts[0].get("pattern", ""), example)
        assert option.parse(example)
    assert re.search(texts[0].get("pattern", ""), "${NAME:-x}")
    assert "pattern" not in texts[0] or not re.search(texts[0]["pattern"], "5 something")
