"""Attempts: counted, bounded, read and recorded; returning is the first output."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from headrace import (
    BadRequest,
    Call,
    Duration,
    Next,
    Reply,
    TimedOut,
    Timeouts,
    UpstreamError,
    compose,
)
from headrace.attempts import Attempts
from headrace.attempts import Upstream as Configured
from headrace.budget import Budget
from headrace.testing import (
    Client,
    Clock,
    Upstream,
    ask,
    breaks,
    call,
    chunk,
    gateway,
    raw,
    refuses,
    says,
    sends,
    silent,
    stalls,
    text,
)
from headrace_plugins.fallback import Fallback
from headrace_plugins.retry import Retry

DONE = b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value)


ROLE = data(chunk(role="assistant", content=""))
HELLO = data(chunk(content="hello"))
STOP = data(chunk(finish="stop"))
USAGE = data(chunk(usage={"prompt_tokens": 3, "completion_tokens": 2}))


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_said_and_used_is_recorded(stream: bool) -> None:
    upstream, asked = Upstream(), call(stream=stream)
    upstream.script(says("hel", "lo", usage=(7, 0)))

    assert await text(await ask(upstream=upstream, call=asked)) == "hello"

    (attempt,) = asked.record.attempts
    assert attempt.outcome == "ok"
    assert attempt.model == "scripted"
    assert attempt.usage is not None
    assert (attempt.usage.input, attempt.usage.output, attempt.usage.estimated) == (7, 0, False)


async def test_a_stream_is_asked_for_its_usage_and_the_client_does_not_see_it() -> None:
    upstream, asked = Upstream(), call(stream=True)

    seen = await raw(await ask(upstream=upstream, call=asked))

    assert upstream.calls[0].json["stream_options"] == {"include_usage": True}
    assert b"usage" not in seen
    assert seen.endswith(DONE)


async def test_who_asked_for_usage_gets_it() -> None:
    upstream = Upstream()
    asked = call(stream=True, stream_options={"include_usage": True})

    assert b'"prompt_tokens":3' in await raw(await ask(upstream=upstream, call=asked))


async def test_an_error_before_the_first_output_is_asked_elsewhere() -> None:
    upstream, asked = Upstream(), call(stream=True, targets=["a", "b"])
    error = data({"error": {"message": "overloaded", "code": 503}})
    upstream.script(sends(ROLE, error), says("hello"))

    assert await text(await ask(Fallback(), upstream=upstream, call=asked)) == "hello"

    assert upstream.asked == ["a", "b"]
    assert [attempt.outcome for attempt in asked.record.attempts] == ["failed", "ok"]
    assert upstream.open == 0


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([ROLE, HELLO], "upstream_truncated"),
        ([ROLE, HELLO, b"not json"], "upstream_invalid"),
        ([ROLE, HELLO, b'{"error": {"message": "out of memory"}}'], "upstream_502"),
    ],
)
async def test_a_failure_after_the_first_output_is_raised_in_the_stream(
    frames: list[bytes], code: str
) -> None:
    upstream, asked = Upstream(), call(stream=True, targets=["a", "b"])
    upstream.script(sends(*frames))
    reply = await ask(Fallback(), Retry(), upstream=upstream, call=asked)

    with pytest.raises(UpstreamError) as caught:
        await text(reply)

    assert caught.value.code == code
    (attempt,) = asked.record.attempts
    assert attempt.outcome == "incomplete"
    assert attempt.usage and attempt.usage.estimated
    assert upstream.open == 0


@pytest.mark.parametrize(
    ("frames", "ends"),
    [
        ([HELLO, STOP], STOP + b"\n\n" + DONE),
        ([HELLO, STOP, b"[DONE]", HELLO], STOP + b"\n\n" + DONE),
        ([HELLO, b"[DONE]"], HELLO + b"\n\n" + DONE),
    ],
)
async def test_a_whole_stream_ends_with_one_end_mark(frames: list[bytes], ends: bytes) -> None:
    upstream = Upstream()
    upstream.script(sends(*frames))

    seen = await raw(await ask(upstream=upstream, call=call(stream=True)))

    assert seen.endswith(ends)
    assert seen.count(b"[DONE]") == 1


@pytest.mark.parametrize("frames", [[], [ROLE], [ROLE, b"[DONE]"], [USAGE, b"[DONE]"]])
async def test_a_stream_that_says_nothing_is_a_failure(frames: list[bytes]) -> None:
    upstream = Upstream()
    upstream.script(sends(*frames))

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call(stream=True))

    assert caught.value.code == "upstream_invalid"
    assert upstream.open == 0


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"choices": []}, {"choices": [1]}, {"choices": {}}, "<html>"]
)
async def test_an_answer_without_the_shape_of_one_is_a_failure(answer: Any) -> None:
    async def act(upstream: Upstream, call: Call) -> Reply:
        return Reply.plain(answer)

    upstream = Upstream()
    upstream.script(act)

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call())

    assert (caught.value.code, caught.value.status) == ("upstream_invalid", 502)


async def test_bytes_that_nobody_changes_arrive_as_the_client_wrote_them() -> None:
    upstream = Upstream()
    body = b'{ "model":"m",\n "unknown": 1.10, "messages": [] }'

    await text(await ask(upstream=upstream, call=call(body=body)))

    assert upstream.calls[0].body == body


async def test_the_targets_model_is_asked_and_the_rest_stays_byte_for_byte() -> None:
    upstream = Upstream()
    body = b'{ "model":"m",\n "unknown": 1.10 }'
    asked = call(body=body, targets=["a/fast"])

    await text(await ask(upstream=upstream, call=asked, models={"fast": "prod-7"}))

    assert upstream.calls[0].body == body.replace(b'"m"', b'"prod-7"')


async def test_a_stream_that_does_not_begin_in_time_is_given_up(clock: Clock) -> None:
    clock.jumps = True
    upstream, asked = Upstream(), call(stream=True)
    upstream.script(silent())

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=asked, timeouts=Timeouts(first_event=3))

    assert (caught.value.code, caught.value.status) == ("first_byte_timeout", 504)
    assert upstream.cancelled == 1


@pytest.mark.parametrize("operation", ["chat", "embedding"])
async def test_a_plain_answer_is_waited_for_as_long_as_a_plugin_has_patience(
    clock: Clock, operation: str
) -> None:
    clock.jumps = True
    began = clock.now
    upstream, asked = Upstream(), call(operation, targets=["a", "b"])
    upstream.script(silent(), says("hello"))

    await raw(await ask(Fallback(patience=Duration(2)), upstream=upstream, call=asked))

    assert upstream.asked == ["a", "b"]
    assert math.isclose(clock.now - began, 2, abs_tol=0.5)


@pytest.mark.parametrize(
    ("method", "headers", "asked"),
    [("GET", {}, "ab"), ("POST", {}, "a"), ("POST", {"idempotency-key": "k-1"}, "ab")],
)
async def test_what_cannot_be_asked_elsewhere_has_the_time_that_it_needs(
    clock: Clock, method: str, headers: dict[str, str], asked: str
) -> None:
    async def act(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(10)
        return Reply.plain({"id": "file-1"})

    clock.jumps = True
    upstream = Upstream()
    upstream.script(act)
    created = call("passthrough", targets=["a", "b"], headers=headers).replace(method=method)

    await raw(await ask(Fallback(patience=Duration(2)), upstream=upstream, call=created))

    assert upstream.asked == list(asked)


async def test_roles_do_not_count_as_a_beginning(clock: Clock) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(stalls(""))

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call(stream=True), timeouts=Timeouts(first_event=3))

    assert caught.value.code == "first_byte_timeout"
    assert upstream.open == 0


async def test_a_plain_answer_may_take_until_the_calls_end(clock: Clock) -> None:
    clock.jumps = True
    began = clock.now
    upstream = Upstream()
    upstream.script(silent())

    with pytest.raises(TimedOut):
        await ask(upstream=upstream, call=call(seconds=100), timeouts=Timeouts(first_event=3))

    assert math.isclose(clock.now - began, 100, abs_tol=0.5)


async def test_the_clients_own_read_timeout_bounds_the_wait(clock: Clock) -> None:
    clock.jumps = True
    began = clock.now
    upstream = Upstream()
    upstream.script(silent())
    asked = call(stream=True, headers={"x-stainless-read-timeout": "2.5"})

    with pytest.raises(UpstreamError):
        await ask(upstream=upstream, call=asked)

    assert math.isclose(clock.now - began, 2.5, abs_tol=0.5)


async def test_no_call_makes_more_attempts_than_it_may(clock: Clock) -> None:
    clock.jumps = True
    upstream, asked = Upstream(), call(targets=["a", "b"])
    upstream.script(refuses(503))

    with pytest.raises(UpstreamError) as caught:
        await ask(Fallback(), Retry(attempts=9), upstream=upstream, call=asked, most=3)

    assert upstream.asked == ["a", "a", "a"]
    assert caught.value.status == 503


async def test_our_secrets_are_scrubbed_from_what_an_upstream_says() -> None:
    upstream = Upstream()
    body = b'{"error": {"message": "bad key sk-canary", "code": "sk-canary"}}'

    async def act(upstream: Upstream, call: Call) -> Reply:
        raise UpstreamError.refused(400, body)

    upstream.script(act)

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call(), secrets=("sk-canary",))

    shown = f"{caught.value} {caught.value.message} {caught.value.code} {caught.value.body!r}"
    assert "sk-canary" not in shown


@pytest.mark.parametrize("secrets", [("sk", "sk-canary"), ("sk-canary", "sk")])
async def test_a_secret_within_another_leaves_no_rest_of_it_in_a_header(
    secrets: tuple[str, ...],
) -> None:
    upstream = Upstream()
    upstream.script(says("hello"))

    async def tells(call: Call) -> Reply:
        reply = await upstream(call)
        reply.headers["x-key"] = "sk-canary, sk"
        return reply

    reply = await ask(upstream=tells, call=call(), secrets=secrets)

    assert reply.headers["x-key"] == "***, ***"
    await reply.aclose()


@pytest.mark.parametrize(
    ("address", "said", "shown"),
    [
        ("http://10.0.0.5:8000/v1", "http://10.0.0.5:8000/v1 failed", "http://***/v1 failed"),
        ("http://10.0.0.5:8000/v1", "no route to 10.0.0.5.", "no route to ***."),
        ("http://10.0.0.5", "110.0.0.5 10.0.0.55 10.0.0.5.1", "110.0.0.5 10.0.0.55 10.0.0.5.1"),
        ("http://[fd00::1]:80", "[fd00::1]:80, fd00::1, fd00::12", "***, ***, fd00::12"),
        ("http://gpu-7.lan/v1", "GPU-7.lan:443, x.gpu-7.lan", "***, x.gpu-7.lan"),
        ("http://ollama:11434", "ollama: http://ollama, ollama:11434", "ollama: http://***, ***"),
        ("http://ollama:11434", "http://ollama:11434/v1, a-ollama:7", "http://***/v1, a-ollama:7"),
        ("", "http://10.0.0.5 failed", "http://10.0.0.5 failed"),
    ],
)  # fmt: skip
async def test_where_an_upstream_is_is_not_shown_even_if_it_says_so(
    address: str, said: str, shown: str
) -> None:
    upstream = Upstream()
    body = data({"error": {"message": said, "code": "x"}})

    async def act(upstream: Upstream, call: Call) -> Reply:
        raise UpstreamError.refused(400, body + b"\xff")

    async def act_in_words(upstream: Upstream, call: Call) -> Reply:
        raise UpstreamError.refused(400, body)

    upstream.script(act, act_in_words)

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call(), address=address)
    assert caught.value.body == data({"error": {"message": shown, "code": "x"}}) + b"\xff"

    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=upstream, call=call(), address=address)
    assert caught.value.message == str(caught.value) == shown


async def test_nor_is_it_in_the_middle_of_a_stream() -> None:
    upstream = Upstream()
    upstream.script(sends(ROLE, HELLO, data({"error": {"message": "http://10.0.0.5:8000 died"}})))
    reply = await ask(upstream=upstream, call=call(stream=True), address="http://10.0.0.5:8000")

    with pytest.raises(UpstreamError, match=r"^http://\*\*\* died$"):
        await text(reply)


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refusal_of_our_key_is_asked_elsewhere_and_is_not_the_clients(status: int) -> None:
    upstream, asked = Upstream(), call(targets=["a", "b"])
    upstream.script(refuses(status), refuses(status))

    with pytest.raises(UpstreamError) as caught:
        await ask(Fallback(), Retry(), upstream=upstream, call=asked)

    assert upstream.asked == ["a", "b"]
    assert (caught.value.status, caught.value.code) == (502, "upstream_credentials")


async def test_a_clients_fault_is_a_fault_everywhere() -> None:
    upstream, asked = Upstream(), call(targets=["a", "b"])
    upstream.script(refuses(422))

    with pytest.raises(UpstreamError) as caught:
        await ask(Fallback(), upstream=upstream, call=asked)

    assert upstream.asked == ["a"]
    assert caught.value.status == 422


async def test_a_reply_given_up_is_recorded_with_what_was_said() -> None:
    upstream, asked = Upstream(), call(stream=True)
    upstream.script(says("twelve chars", "more"))
    reply = await ask(upstream=upstream, call=asked)
    await anext(reply.events)
    await anext(reply.events)

    await reply.aclose(asyncio.CancelledError())

    (attempt,) = asked.record.attempts
    assert attempt.outcome == "cancelled"
    assert attempt.usage and (attempt.usage.output, attempt.usage.estimated) == (3, True)


async def test_what_is_wrapped_around_each_attempt_sees_every_one() -> None:
    upstream, asked = Upstream(), call(targets=["a", "b"])
    upstream.script(refuses(500), says("hello"))
    seen: list[str] = []

    class Spans:
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            seen.append(call.targets[0].upstream)  # type: ignore[union-attr]
            return await call_next(call)

    await text(
        await ask(Fallback(), upstream=upstream, call=asked.replace(each_attempt=(Spans(),)))
    )

    assert seen == ["a", "b"]


async def test_embeddings_need_data_instead_of_choices() -> None:
    upstream, asked = Upstream(), call("embedding", input="hi")

    reply = await ask(upstream=upstream, call=asked)

    assert b"0.25" in await raw(reply)


async def test_a_model_that_is_none_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="'model' must be a model's name, found 7"):
        await ask(upstream=Upstream(), call=call(model=7))


async def test_a_stream_that_breaks_early_is_tried_again(clock: Clock) -> None:
    clock.jumps = True
    upstream, asked = Upstream(), call(stream=True)
    upstream.script(breaks(), says("hello"))

    assert await text(await ask(Retry(), upstream=upstream, call=asked)) == "hello"


# Asking again, within reason


async def test_an_upstream_that_fails_is_asked_little_more_often_than_clients_ask(
    clock: Clock,
) -> None:
    clock.jumps = True
    upstream, budget = Upstream(), Budget(share=0.5)
    upstream.script(refuses(500))

    for _ in range(20):
        with pytest.raises(UpstreamError) as caught:
            await ask(Retry(attempts=3), upstream=upstream, call=call(), budget=budget)

    assert 20 + 10 + 3 <= len(upstream.asked) <= 20 + 10 + 4
    error = caught.value
    assert (error.code, error.again, error.elsewhere) == ("upstream_500", False, True)
    assert error.decided


async def test_what_one_upstream_has_used_up_another_still_has() -> None:
    upstreams = [Upstream() for _ in range(2)]
    for upstream in upstreams:
        upstream.script(refuses(500))
    attempts = Attempts(
        {
            name: Configured(name=name, forward=upstream, budget=Budget(share=0))
            for name, upstream in zip("ab", upstreams, strict=True)
        }
    )
    asked = compose([Fallback()], attempts)

    outcomes = []
    for _ in range(5):
        with pytest.raises(UpstreamError) as caught:
            await asked(call(targets=["a", "b"]))
        outcomes.append(caught.value.code)

    assert [len(upstream.asked) for upstream in upstreams] == [5, 3]
    assert outcomes == ["upstream_500"] * 5


async def test_the_budget_is_as_large_as_the_configuration_says(clock: Clock) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(refuses(500))
    made = gateway(
        """
        upstreams: {a: {forwarder: mock, retry_budget: 0, plugins: [retry: {attempts: 3}]}}
        routes: {"*": a}
        """,
        upstream=upstream,
    )
    async with made.lifespan():
        client = Client(made)
        answers = [await client.chat() for _ in range(5)]

    assert [answer.headers["x-headrace-attempts"] for answer in answers] == list("32111")
    assert {answer.status for answer in answers} == {502}


NEVER_SENT = ("dns_failed", "connect_failed", "connect_timeout")
SENT = ("connection_lost", "upstream_protocol", "idle_timeout", "upstream_500", "upstream_429")


@pytest.mark.parametrize(
    ("method", "headers", "codes", "times"),
    [
        ("POST", {}, NEVER_SENT, 2),
        ("POST", {}, SENT, 1),
        ("PATCH", {}, SENT, 1),
        ("POST", {"idempotency-key": "k-1"}, SENT, 2),
        *((method, {}, SENT, 2) for method in ("GET", "HEAD", "PUT", "DELETE")),
    ],
)
async def test_what_may_create_something_is_asked_again_only_if_nothing_was_sent(
    clock: Clock, method: str, headers: dict[str, str], codes: tuple[str, ...], times: int
) -> None:
    clock.jumps = True
    for code in codes:
        for plugin, targets in ((Retry(attempts=2), ["a"]), (Fallback(), ["a", "b"])):
            upstream = Upstream()
            status = int(code[-3:]) if code[-3:].isdecimal() else 502
            upstream.script(refuses(status, code=code))
            given = call("passthrough", targets=targets, headers=headers).replace(method=method)

            with pytest.raises(UpstreamError) as caught:
                await ask(plugin, upstream=upstream, call=given)

            assert len(upstream.asked) == times, (code, plugin)
            assert caught.value.code == code


async def test_a_chat_creates_nothing_and_is_asked_again(clock: Clock) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(refuses(code="connection_lost"), says("hello"))

    assert await text(await ask(Retry(), upstream=upstream, call=call())) == "hello"
