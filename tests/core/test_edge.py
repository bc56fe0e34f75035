"""The edge: requests read, replies and errors sent, disconnects seen, records closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from headrace import Call, Caller, Event, Gateway, Record, Reply
from headrace.testing import (
    Client,
    Clock,
    Upstream,
    breaks,
    down,
    gateway,
    refuses,
    says,
    settled,
    silent,
    stalls,
)


class Served:
    """A gateway that runs, its client, its scripted upstream, and the records it closed."""

    def __init__(self, text: str, **options: Any) -> None:
        self.upstream = Upstream()
        made = gateway(text, upstream=self.upstream, **options)
        self.records: list[Record] = []
        made.edge.observers = (self.records.append,)
        self.gateway: Gateway = made
        self.client = Client(made)


@asynccontextmanager
async def serving(text: str = "", **options: Any) -> AsyncIterator[Served]:
    served = Served(text, **options)
    async with served.gateway.lifespan():
        yield served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as one:
        yield one


async def test_a_stream_arrives_event_by_event(served: Served) -> None:
    served.upstream.script(says("hel", "lo"))

    response = await served.client.chat(stream=True)
    chunks = [chunk async for chunk in response.chunks()]

    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert [c for c in chunks if b'"hel"' in c or b'"lo"' in c] == chunks[1:3]
    assert chunks[-1] == b"data: [DONE]\n\n"  # with the body's end, when all is free


async def test_every_response_says_who_answered(served: Served) -> None:
    response = await served.client.chat()

    assert (await response.json())["choices"][0]["message"]["content"] == "hello"
    assert response.headers["x-headrace-upstream"] == "a"
    assert response.headers["x-headrace-model"] == "scripted"
    assert response.headers["x-headrace-attempts"] == "1"
    assert float(response.headers["x-headrace-overhead-ms"]) < 1000
    await settled()
    assert response.headers["x-request-id"] == served.records[0].id


async def test_a_request_keeps_the_id_its_client_gave_it(served: Served) -> None:
    good = await served.client.get("/v1/models", headers={"x-request-id": "mine-1"})
    bad = await served.client.get("/v1/models", headers={"x-request-id": "a b\x1b"})

    assert good.headers["x-request-id"] == "mine-1"
    assert bad.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_first_byte_cancels_its_call(
    served: Served, stream: bool
) -> None:
    served.upstream.script(silent())
    visit = served.client.ask("POST", "/v1/chat/completions", json={"model": "m", "stream": stream})
    await served.upstream.began.wait()

    visit.leave()
    await visit.task

    assert served.upstream.cancelled == 1
    (record,) = served.records
    assert (record.outcome, record.status) == ("client_closed", 499)


async def test_a_client_that_leaves_in_the_middle_cancels_its_call(served: Served) -> None:
    served.upstream.script(stalls("twelve chars"))
    response = await served.client.chat(stream=True)
    await anext(response.chunks())

    await response.leave()

    assert served.upstream.open == 0
    (record,) = served.records
    assert (record.outcome, record.status) == ("client_closed", 200)
    assert record.usage and (record.usage.output, record.usage.estimated) == (3, True)


async def test_a_client_that_leaves_during_a_wait_is_not_asked_for_again(clock: Clock) -> None:
    text = """
        upstreams: {a: {forwarder: mock, plugins: [retry: {wait: 5m, longest: 5m}]}}
        routes: {"*": a}
    """
    async with serving(text) as served:
        served.upstream.script(down())
        visit = served.client.ask("POST", "/v1/chat/completions", json={"model": "m"})
        await served.upstream.began.wait()
        await settled()

        visit.leave()
        await visit.task
        clock.advance(4000)
        await settled()

        assert served.upstream.asked == ["a"]
        assert served.records[0].outcome == "client_closed"


async def test_a_client_that_leaves_while_it_sends_is_forgotten(served: Served) -> None:
    leaving: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return leaving.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be told")

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await served.gateway(scope, receive, send)

    assert served.records[0].outcome == "client_closed"
    assert served.upstream.asked == []


async def test_a_failure_in_the_stream_is_told_in_the_stream(served: Served) -> None:
    served.upstream.script(breaks("hello"))

    body = await (await served.client.chat(stream=True)).read()

    last = body.rstrip().split(b"\n\n")[-1]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_truncated"
    assert b"[DONE]" not in body
    assert served.records[0].outcome == "incomplete"


async def test_what_is_held_is_free_before_the_client_knows_the_end() -> None:
    async with serving() as served:
        response = await served.client.chat(stream=True)
        still_open: list[int] = []
        async for _ in response.chunks():
            still_open.append(served.upstream.open)

        assert still_open[-1] == 0


@pytest.mark.parametrize(
    ("status", "shown", "kind", "retry"),
    [
        (400, 400, "invalid_request_error", None),
        (404, 404, "invalid_request_error", None),
        (429, 429, "rate_limit_error", None),
        (500, 502, "upstream_error", None),
        (503, 503, "overloaded_error", None),
        (401, 502, "upstream_error", None),
    ],
)
async def test_an_upstreams_refusal_keeps_its_class(
    served: Served, status: int, shown: int, kind: str, retry: str | None
) -> None:
    served.upstream.script(refuses(status))

    response = await served.client.chat()
    error = (await response.json())["error"]

    assert (response.status, error["type"]) == (shown, kind)
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers.get("x-should-retry") == retry


async def test_after_our_own_attempts_the_client_need_not_try_again() -> None:
    text = """
        upstreams: {a: {forwarder: mock, plugins: [retry: {attempts: 3, wait: 1ms}]}}
        routes: {"*": a}
    """
    async with serving(text) as served:
        served.upstream.script(refuses(503))

        response = await served.client.chat()

        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-headrace-attempts"] == "3"


async def test_retry_after_is_passed_on_in_both_ways(served: Served) -> None:
    served.upstream.script(refuses(429, retry_after=1.5))

    response = await served.client.chat()

    assert response.headers["retry-after"] == "2"
    assert 1000 < int(response.headers["retry-after-ms"]) <= 1500  # less what has gone by


async def test_an_unknown_model_is_told_with_its_neighbours() -> None:
    text = "upstreams: {a: mock}\nroutes: {gpt-4o: a, gpt-4o-mini: a, llama: a}"
    async with serving(text) as served:
        response = await served.client.chat(model="gpt-4o-mimi")
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "gpt-4o-mini, gpt-4o" in error["message"]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"method": "GET", "path": "/v1/chat/completions"}, 405, "method_not_allowed"),
        ({"method": "POST", "path": "/v1/nothing"}, 404, "unknown_url"),
        ({"method": "POST", "path": "/v1/../admin"}, 400, "invalid_path"),
        ({"method": "POST", "path": "/v1/a%0d%0ab"}, 400, "invalid_path"),
        ({"method": "GET", "path": "/v1/" + "a" * 9000}, 414, "url_too_long"),
        ({"path": "/v1/embeddings", "body": b"{"}, 400, "invalid_json"),
        ({"path": "/v1/embeddings", "body": b"[]"}, 400, "invalid_json"),
        ({"path": "/v1/embeddings", "body": b"{}"}, 400, "missing_model"),
        ({"path": "/v1/embeddings", "body": b'{"model": 1}'}, 400, "invalid_model"),
        ({"path": "/v1/chat/completions", "body": b'{"model": "a\\r\\nb"}'}, 400, "invalid_model"),
        (
            {"path": "/v1/chat/completions", "body": b'{"model": "m", "stream": "yes"}'},
            400,
            "invalid_type",
        ),
        ({"headers": {"content-type": "text/plain"}, "body": b"{}"}, 415, "content_type"),
        ({"headers": {"content-encoding": "gzip"}, "body": b"{}"}, 415, "content_encoding"),
        ({"headers": {"content-length": "9999999999"}}, 413, "request_too_large"),
        ({"headers": {f"x-{n}": "1" for n in range(101)}}, 431, "headers_too_large"),
        ({"headers": {"x": "1" * 70_000}}, 431, "headers_too_large"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    served: Served, request_: dict[str, Any], status: int, code: str
) -> None:
    asked = {"method": "POST", "path": "/v1/chat/completions", **request_}
    asked["headers"] = {"content-type": "application/json", **request_.get("headers", {})}

    response = await served.client.request(**asked)
    error = (await response.json())["error"]

    assert (response.status, error["code"]) == (status, code)
    assert error["message"]
    assert served.upstream.asked == []
    assert served.records[0].status == status


async def test_a_body_that_grows_beyond_the_limit_is_refused() -> None:
    text = "server: {max_body: 1KB}\nupstreams: {a: mock}\nroutes: {'*': a}"
    async with serving(text) as served:
        response = await served.client.post(
            "/v1/chat/completions", body=b" " * 1001, headers={"content-type": "application/json"}
        )

    assert response.status == 413


async def test_a_call_that_comes_back_is_refused(served: Served) -> None:
    name = served.gateway.plan.name

    response = await served.client.get("/v1/models", headers={"cdn-loop": f"cdn.example, {name}"})

    assert response.status == 508
    assert (await response.json())["error"]["code"] == "loop"


async def test_a_bug_is_told_without_its_details(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(upstream: Upstream, call: Call) -> Reply:
        raise ZeroDivisionError("secret detail")

    served.upstream.script(bug)

    response = await served.client.chat()
    body = await response.read()

    assert response.status == 500
    assert b"secret detail" not in body
    assert "secret detail" in caplog.text


async def test_an_observer_that_fails_fails_no_request(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(record: Record) -> None:
        raise RuntimeError("no")

    served.gateway.edge.observers = (fails, served.records.append)

    assert (await served.client.chat()).status == 200
    await settled()
    assert len(served.records) == 1
    assert "an observer failed" in caplog.text


async def test_calls_that_are_cut_off_are_told_why(served: Served) -> None:
    served.upstream.script(stalls("hello"))
    response = await served.client.chat(stream=True)
    chunks = response.chunks()
    await anext(chunks)

    served.gateway.edge.cut()

    rest = b"".join([chunk async for chunk in chunks])
    assert b"shutting_down" in rest
    assert b"[DONE]" not in rest
    assert served.upstream.open == 0


async def test_the_end_of_the_calls_time_cuts_a_stream(served: Served, clock: Clock) -> None:
    served.upstream.script(stalls("hello"))
    response = await served.client.chat(stream=True)
    chunks = response.chunks()
    await anext(chunks)

    clock.advance(601)

    rest = b"".join([chunk async for chunk in chunks])
    assert b"total_timeout" in rest
    assert b"[DONE]" not in rest
    await settled()
    assert served.records[0].attempts[0].outcome == "incomplete"
    assert served.upstream.open == 0


async def test_a_client_that_stops_reading_is_cut_off(clock: Clock) -> None:
    async with serving() as served:
        served.upstream.script(says(*["word"] * 10))
        visit = served.client.ask(
            "POST", "/v1/chat/completions", json={"model": "m", "stream": True}
        )
        await served.upstream.began.wait()
        await settled()

        clock.advance(61)
        await settled()

        assert served.upstream.open == 0
        assert served.records[0].outcome == "client_closed"
        visit.leave()
        await visit.task


async def test_the_host_applications_user_is_the_caller() -> None:
    def who(scope: Any) -> Caller | None:
        return Caller(scope["user"]) if "user" in scope else None

    async with serving(caller=who, open=False) as served:
        known = await served.client.request(
            "POST", "/v1/chat/completions", json={"model": "m"}, user="ada"
        )
        unknown = await served.client.chat()

    assert (known.status, unknown.status) == (200, 401)
    assert served.upstream.calls[0].caller == Caller("ada")


async def test_a_gateway_whose_lifespan_was_forgotten_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await Client(gateway()).chat()

    assert response.status == 503
    assert response.headers["x-request-id"].startswith("req_")
    error = (await response.json())["error"]
    assert error["code"] == "not_started"
    assert "lifespan=gateway.lifespan" in error["message"]
    assert "lifespan=gateway.lifespan" in caplog.text


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/"])
async def test_anybody_may_ask_how_it_is(served: Served, path: str) -> None:
    response = await served.client.get(path)

    assert response.status == 200
    assert served.records == []


async def test_readiness_ends_before_the_gateway_does(served: Served) -> None:
    served.gateway.draining = True

    assert (await served.client.get("/readyz")).status == 503
    assert (await served.client.get("/healthz")).status == 200


async def test_a_binary_body_is_passed_on_as_it_comes() -> None:
    text = "upstreams: {a: mock}\nroutes: {'/v1/audio*': a}"

    async def sound(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            yield Event(b"\x00\xff")
            yield Event(b"\x01")

        return Reply(events(), framing="raw", headers={"content-type": "audio/mpeg"})

    async with serving(text) as served:
        served.upstream.script(sound)
        response = await served.client.post("/v1/audio/speech", body=b"not json")

        assert response.headers["content-type"] == "audio/mpeg"
        assert await response.read() == b"\x00\xff\x01"
        assert served.upstream.calls[0].body == b"not json"
        assert served.upstream.calls[0].path == "/v1/audio/speech"


async def test_many_calls_leave_nothing_behind(served: Served) -> None:
    for _ in range(20):
        visits = [
            served.client.ask("POST", "/v1/chat/completions", json={"model": "m", "stream": True})
            for _ in range(10)
        ]
        for visit in visits:
            await visit.start()
            visit.leave()
        await asyncio.wait([visit.task for visit in visits])

    assert served.upstream.open == 0
    assert served.gateway.edge.serving == 0
    assert len(served.records) == 200


async def test_the_end_mark_comes_when_everything_is_free(served: Served) -> None:
    response = await served.client.chat(stream=True)

    async for chunk in response.chunks():
        if b"[DONE]" in chunk:
            assert served.upstream.open == 0
            return
    pytest.fail("the stream had no end mark")


async def test_a_plugin_that_cannot_reach_its_server_is_a_fault_of_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(upstream: Upstream, call: Call) -> Reply:
        raise ConnectionRefusedError("a store is down")

    served.upstream.script(refused)

    response = await served.client.chat()

    assert response.status == 500
    assert (await response.json())["error"]["type"] == "internal_error"
    assert "a store is down" in caplog.text
    assert served.records[0].outcome == "failed"


async def test_middleware_that_works_on_after_the_end_changes_no_outcome() -> None:
    async with serving() as served:

        async def lingering(scope: Any, receive: Any, send: Any) -> None:
            async def slow(message: Any) -> None:
                await send(message)
                if message.get("more_body") is False:
                    await settled()

            await served.gateway(scope, receive, slow)

        response = await Client(lingering).chat()
        await response.read()

        assert served.records[0].outcome == "ok"


async def test_a_host_that_fails_to_tell_its_user_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(caller=lambda scope: scope["user"], open=False) as served:
        response = await served.client.chat()

        assert response.status == 500
        await response.read()
        assert (served.records[0].status, served.records[0].outcome) == (500, "failed")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.7", "[::2]:80"])
async def test_an_open_gateway_answers_for_this_machine_alone(served: Served, host: str) -> None:
    response = await served.client.get("/v1/models", headers={"host": host})

    assert response.status == 403
    assert (await response.json())["error"]["code"] == "foreign_host"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:80", "[::1]:80", "[::1]"]
)
async def test_this_machine_has_many_names(served: Served, host: str) -> None:
    assert (await served.client.get("/v1/models", headers={"host": host})).status == 200


async def test_a_gateway_that_is_meant_to_be_open_answers_for_any_name() -> None:
    text = "server: {auth: none}\nupstreams: {a: mock}\nroutes: {'*': a}"
    async with serving(text) as served:
        response = await served.client.get("/v1/models", headers={"host": "ai.example"})

    assert response.status == 200


async def test_a_body_without_a_type_is_not_taken_for_json(served: Served) -> None:
    response = await served.client.post("/v1/chat/completions", body=b'{"model": "m"}')

    assert response.status == 415
    assert "found none" in (await response.json())["error"]["message"]


async def test_a_page_of_another_site_reaches_no_path_that_is_passed_through() -> None:
    text = "upstreams: {a: mock}\nroutes: {'/v1/files*': a}"
    async with serving(text) as served:
        foreign = {"sec-fetch-site": "cross-site", "content-type": "text/plain"}
        simple = await served.client.post("/v1/files", body=b"{}", headers=foreign)
        asked_before = await served.client.post(
            "/v1/files", body=b"{}", headers={**foreign, "authorization": "Bearer k"}
        )

    assert (simple.status, asked_before.status) == (403, 200)


async def test_of_several_upstreams_the_one_that_is_free_first_says_when_to_come_back() -> None:
    text = """
        upstreams: {a: mock, b: mock}
        routes: {"*": {chain: [fallback], targets: [a, b]}}
    """
    async with serving(text) as served:
        served.upstream.script(refuses(429, retry_after=2), refuses(429, retry_after=30))

        response = await served.client.chat()

    assert int(response.headers["retry-after"]) == 2
    assert response.headers["x-should-retry"] == "false"


async def test_who_leaves_while_models_are_listed_takes_them_from_nobody() -> None:
    release = asyncio.Event()

    class Listing(Upstream):
        async def models(self) -> list[str]:
            await release.wait()
            return ["one"]

    made = gateway("upstreams: {a: mock}", upstream=Listing())
    async with made.lifespan():
        leaver = Client(made).ask("GET", "/v1/models")
        stayer = Client(made).ask("GET", "/v1/models")
        await settled()
        leaver.leave()
        await leaver.task
        release.set()

        await stayer.start()
        body = b"".join([chunk async for chunk in stayer.chunks()])

    assert [model["id"] for model in orjson.loads(body)["data"]] == ["a/one"]
