"""`access_log`: one line for each request, and nothing in it that must not be there."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from headrace import Attempt, Caller, Record, Target, Usage
from headrace.prices import Price
from headrace.testing import Client, Upstream, breaks, gateway, refuses, says, sends, stalls
from headrace_plugins.observers.access_log import AccessLog

MILLION = 1_000_000
FILE = """
server: {observers: [access_log]}
upstreams: {a: mock, b: mock}
routes:
  fast: {chain: [fallback], targets: [a/small, b/large]}
  raced: {chain: [race], targets: [a/small, b/large]}
  "*": a/small
"""


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "headrace.access")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "headrace.access"]


async def logged(
    log: pytest.LogCaptureFixture, upstream: Upstream, *, leave: bool = False, **asked: Any
) -> dict[str, Any]:
    """The line of one request."""
    asking = gateway(FILE, upstream=upstream)
    async with asking.lifespan():
        response = await Client(asking).chat(**asked)
        if leave:
            await anext(response.chunks())
            await response.leave()
        else:
            await response.read()
    [line] = lines(log)
    told: dict[str, Any] = json.loads(line)
    return told


async def test_a_line_tells_who_asked_what_and_who_answered(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    upstream.script(says("hello", usage=(7, 0)))

    line = await logged(log, upstream, model="fast")

    assert line["id"].startswith("req_")
    assert (line["method"], line["path"]) == ("POST", "/v1/chat/completions")
    assert (line["operation"], line["asked"], line["route"]) == ("chat", "fast", "fast")
    assert (line["upstream"], line["model"]) == ("a", "scripted")
    assert (line["status"], line["outcome"], line["stream"]) == (200, "ok", False)
    assert line["tokens"] == {"input": 7, "output": 0, "estimated": False}
    assert 0 <= line["overhead"] <= line["first_byte"] <= line["seconds"]


async def test_a_line_has_every_attempt(log: pytest.LogCaptureFixture, upstream: Upstream) -> None:
    upstream.script(refuses(503), says("hello"))

    line = await logged(log, upstream, model="fast")

    first, second = line["attempts"]
    assert (first["upstream"], first["model"], first["outcome"]) == ("a", "small", "failed")
    assert (first["status"], first["code"]) == (503, "upstream_503")
    assert (second["upstream"], second["outcome"]) == ("b", "ok")
    assert line["upstream"] == "b"


async def test_a_call_that_failed_names_the_upstream_that_its_client_is_told(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    upstream.script(refuses(503))

    line = await logged(log, upstream, model="fast")

    assert (line["outcome"], line["upstream"], line["model"]) == ("failed", "b", "large")


async def test_a_line_says_who_won_a_race_and_what_the_others_cost(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    line = await logged(log, upstream, model="raced")

    [raced] = line["races"]
    assert 0 <= raced.pop("margin") < 1
    assert raced == {"plugin": "race", "upstream": "a", "model": "small", "of": 2}
    assert [attempt["outcome"] for attempt in line["attempts"]] == ["ok", "cancelled"]
    loser = line["attempts"][1]
    assert loser["tokens"] == {"input": 3, "output": 2, "estimated": False}


async def test_a_model_that_stands_in_is_told(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    line = await logged(log, upstream, model="gpt-9")

    assert (line["asked"], line["route"], line["instead"]) == ("gpt-9", "*", True)


async def test_a_stream_that_broke_is_incomplete(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    upstream.script(breaks("twelve chars"))

    line = await logged(log, upstream, stream=True)

    assert (line["status"], line["outcome"]) == (200, "incomplete")
    assert line["code"] == "upstream_truncated"
    assert line["tokens"] == {"output": 3, "estimated": True}


async def test_a_client_that_left_is_told_from_one_that_was_answered(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    upstream.script(stalls("twelve chars"))

    line = await logged(log, upstream, stream=True, leave=True)

    assert line["outcome"] == "client_closed"
    assert line["tokens"] == {"output": 3, "estimated": True}


async def test_what_is_refused_before_any_upstream_is_asked_has_its_line(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    line = await logged(log, upstream, model="")

    assert (line["status"], line["outcome"], line["code"]) == (400, "refused", "invalid_model")
    assert line["attempts"] == []
    assert "upstream" not in line


async def test_no_body_no_header_and_no_query_is_in_it(
    log: pytest.LogCaptureFixture, upstream: Upstream
) -> None:
    upstream.script(sends(b'{"choices": [{"delta": {"content": "canary"}}]}', b"[DONE]"))
    asking = gateway(FILE, upstream=upstream)
    body = {"model": "m", "stream": True, "user": "canary", "messages": [{"content": "canary"}]}
    headers = {"authorization": "Bearer canary", "cookie": "canary", "user-agent": "canary"}

    async with asking.lifespan():
        path = "/v1/chat/completions?key=canary"
        await (await Client(asking).post(path, json=body, headers=headers)).read()

    [line] = lines(log)
    assert "canary" not in line


@pytest.mark.parametrize("path", ['/a%0A{"id":"forged"}', "/%1b[2J", "/%E2%80%A8", "/%ff"])
async def test_a_client_cannot_write_lines_of_its_own(
    log: pytest.LogCaptureFixture, upstream: Upstream, path: str
) -> None:
    asking = gateway(FILE, upstream=upstream)

    async with asking.lifespan():
        await (await Client(asking).get(path)).read()

    [line] = lines(log)
    assert json.loads(line)["status"] in (400, 404)
    assert "\n" not in line
    assert "\x1b" not in line


NASTY = "fast\n\r\x1b[31m\x07\x7f\x9b2J\u2028\u202e\u200b"


@pytest.mark.parametrize("form", ["json", "console"])
def test_text_that_a_client_chose_does_nothing_to_a_terminal(
    form: Any, log: pytest.LogCaptureFixture
) -> None:
    record = Record(id="req_1", method="POST", path="/", asked=NASTY, code=NASTY)
    record.caller = Caller(NASTY)
    record.answered = Attempt(target=Target("a"), model=NASTY, reply_id=NASTY)

    AccessLog(form=form)(record)

    [line] = lines(log)
    assert line.isprintable()
    assert r"\x1b[31m" in line or r"\u001b[31m" in line


def test_a_text_of_ten_kilobytes_is_cut_for_people(log: pytest.LogCaptureFixture) -> None:
    AccessLog(form="console")(Record(id="i" * 10_000, method="POST", path="/" + "p" * 10_000))

    [line] = lines(log)
    assert len(line) < 400


def test_people_get_the_most_important_in_a_line(log: pytest.LogCaptureFixture) -> None:
    record = Record(id="req_1", method="POST", path="/v1/chat/completions", operation="chat")
    record.asked, record.caller, record.status = "fast", Caller("payments"), 200
    used = Usage(input=9, output=12, estimated=True)
    for outcome in ("failed", "ok"):
        attempt = Attempt(target=Target("b"), model="gpt-4o", usage=used)
        attempt.price = Price(input=MILLION, output=0)
        attempt.end("ok" if outcome == "ok" else "failed")
        record.attempts.append(attempt)
    record.answered = attempt
    record.close("ok")
    record.ended = record.started + 0.412

    AccessLog(form="console")(record)

    [line] = lines(log)
    assert line.split("  ")[1:] == [
        *("200 ok", "0.412s", "chat fast", "→ b/gpt-4o", "2 attempts", "9+~12 tokens"),
        *("$18.000000", "payments", "req_1"),
    ]


@pytest.mark.parametrize(
    ("form", "terminal", "environ", "people", "colors"),
    [
        ("auto", True, {}, True, True),
        ("auto", True, {"NO_COLOR": "1"}, True, False),
        ("auto", False, {}, False, False),
        ("console", False, {}, True, False),
        ("json", True, {}, False, False),
    ],
)
def test_people_sit_at_terminals(
    form: Any,
    terminal: bool,
    environ: dict[str, str],
    people: bool,
    colors: bool,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)

    AccessLog(form=form)(Record(id="req_1", method="GET", path="/"))

    [line] = lines(log)
    assert line.startswith("{") is not people
    assert ("\x1b[" in line) is colors


def test_a_line_has_what_it_cost_and_what_the_upstream_calls_it(
    log: pytest.LogCaptureFixture,
) -> None:
    record = Record(id="req_1", method="POST", path="/")
    for tokens in (1, 2):
        attempt = Attempt(target=Target("a"), usage=Usage(input=tokens), price=Price(input=MILLION))
        attempt.reply_id, attempt.finish = f"chatcmpl-{tokens}", "stop"
        attempt.end("ok")
        record.attempts.append(attempt)

    AccessLog()(record)

    [line] = map(json.loads, lines(log))
    assert line["cost"] == 3
    assert [attempt["cost"] for attempt in line["attempts"]] == [1, 2]
    told = [(attempt["reply_id"], attempt["finish"]) for attempt in line["attempts"]]
    assert told == [("chatcmpl-1", "stop"), ("chatcmpl-2", "stop")]


def test_a_record_of_which_little_is_known_has_a_line(log: pytest.LogCaptureFixture) -> None:
    record = Record(id="req_1", method="GET", path="/")
    record.attempts.append(Attempt(target=Target("a")))

    AccessLog()(record)

    [line] = map(json.loads, lines(log))
    assert line["attempts"] == [{"upstream": "a"}]
    assert None not in line.values()


def test_nothing_is_written_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headrace.access")

    AccessLog()(Record(id="req_1", method="GET", path="/"))

    assert caplog.records == []
