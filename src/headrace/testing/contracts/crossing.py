"""What may cross a forwarder, from a client to an upstream and back, and what must not."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import pytest

from headrace.call import PASSTHROUGH
from headrace.errors import CallError, UpstreamError
from headrace.testing.contracts import expect
from headrace.testing.contracts.loopback_asking import Ask, LoopbackAsking
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import status

CREDENTIALS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key")
"""What shows who the client is; an upstream is shown the forwarder's own key, if any."""

IDENTITY = (
    *("cookie", "forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip"),
    *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-user"),
)
"""What says where the client is, or which proxies it came through."""

HOP_BY_HOP = (
    *("keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "upgrade"),
    "x-named-by-connection",
)
"""What is for one connection alone (RFC 9110, 7.6.1), and a header that `Connection` names."""

OTHERS = (
    *("origin", "referer", "range", "x-request-id", "x-custom", "x-tenant-id", "x-original-url"),
    *("x-http-method-override", "x-stainless-retry-count", "sec-fetch-site", "server", "alt-svc"),
    *("set-cookie", "x-internal-host", "access-control-allow-origin"),
)

CROSSING = (
    *("content-type", "accept", "user-agent", "traceparent", "tracestate", "idempotency-key"),
    *("cdn-loop", "anthropic-version", "anthropic-beta", "openai-organization"),
)
"""What a client says to an upstream."""

RETURNING = ("content-type", "retry-after", "retry-after-ms", "x-headrace-upstream-request-id")
"""What an upstream says to a client, beside `openai-*` and `x-ratelimit-*`."""


@pytest.mark.anyio
class Crossing(LoopbackAsking):
    """Headers, keys and addresses."""

    @pytest.mark.parametrize("operation", ["chat", PASSTHROUGH])
    async def test_only_listed_headers_reach_the_upstream(
        self, server: Loopback, ask: Ask, operation: str
    ) -> None:
        server.script(self.answers("hello"))
        private = (*CREDENTIALS, *IDENTITY, *HOP_BY_HOP, *OTHERS)
        sent = _marked((*private, *CROSSING))
        sent["connection"] = "keep-alive, x-named-by-connection"

        if operation == "chat" or self.passes_through:
            await expect.read(await ask(self.given(operation, headers=sent)))

        for received in server.requests:
            seen = _crossed(received.headers)
            assert seen <= set(CROSSING), "these are between the client and the gateway"
            names = {name.lower() for name, _ in received.headers}
            assert not names & {*IDENTITY, "te", "upgrade", "x-named-by-connection"}

    async def test_only_listed_headers_come_back(self, server: Loopback, ask: Ask) -> None:
        private = (*IDENTITY, *HOP_BY_HOP, *OTHERS)
        lines = [f"{name}: {value}" for name, value in _marked(private).items()]
        lines += ["connection: x-named-by-connection", "x-ratelimit-limit-requests: 60"]
        server.script(self.answers("hello", *lines), status(429, {}, *lines))

        reply = await ask(self.given())
        await expect.read(reply)
        error = await expect.failure(ask(self.given()), "429 was taken for an answer")

        for returned in (reply.headers, error.headers):
            others = {n for n in returned if not n.startswith(("openai-", "x-ratelimit-"))}
            assert others <= set(RETURNING), "these are the upstream's own business"

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_not_followed(
        self, server: Loopback, elsewhere: Loopback, ask: Ask, code: int
    ) -> None:
        server.script(status(code, b"", f"location: {elsewhere.url}/v1/chat/completions"))

        error = await expect.failure(ask(self.given()), "a redirect was taken for an answer")

        assert isinstance(error, UpstreamError)
        assert error.status >= 500
        assert len(server.requests) == 1
        assert not elsewhere.connections, "it asked where the redirect led"

    async def test_nothing_that_a_client_sends_leads_elsewhere(
        self, server: Loopback, elsewhere: Loopback, ask: Ask
    ) -> None:
        server.script(self.answers("hello"))
        away = elsewhere.url.removeprefix("http:")
        names = ("base_url", "api_base", "endpoint", "proxy", "fallbacks")
        calls = [self.given(**dict.fromkeys(names, elsewhere.url))]
        for path in (f"{away}/v1", f"@{away[2:]}/v1", f"http:{away}/v1", f"\\\\{away[2:]}"):
            calls.append(self.given(PASSTHROUGH).replace(path=path))

        for call in calls:
            with suppress(CallError):
                await expect.read(await ask(call))

        assert not elsewhere.connections, "a client has chosen where the gateway's key goes"

    async def test_its_key_goes_to_its_server_in_a_header_and_is_shown_nowhere(
        self, server: Loopback, ask: Ask
    ) -> None:
        if not self.key:
            pytest.skip("it takes no key")
        server.script(self.answers("hello"))

        await expect.read(await ask(self.given()))

        [received] = server.requests
        assert any(self.key in value for _, value in received.headers), "the key is not sent"
        assert self.key not in received.target, "a URL is logged everywhere; send it in a header"
        assert self.key.encode() not in received.body
        async with self.opened(server.url) as forwarder:
            assert self.key not in repr(forwarder), "let the option be a `headrace.Secret`"

    async def test_a_key_that_the_upstream_repeats_is_not_told(
        self, server: Loopback, ask: Ask
    ) -> None:
        if not self.key:
            pytest.skip("it takes no key")
        said = dict.fromkeys(("message", "type", "param", "code"), f"no such key: {self.key}")
        line = f"openai-organization: {self.key}"
        server.script(self.answers("hello", line), status(400, {"error": said}, line))

        reply = await ask(self.given())
        await expect.read(reply)
        error = await expect.failure(ask(self.given()), "400 was taken for an answer")

        assert self.key not in f"{reply.headers}"
        assert self.key not in f"{error} {error!r} {vars(error)}"


_MARK = "crossed: "


def _marked(names: Iterable[str]) -> dict[str, str]:
    """Headers of these names, each with a value by which it is known again."""
    return {name: f"{_MARK}{name}" for name in names}


def _crossed(headers: Iterable[tuple[str, str]]) -> set[str]:
    """The names of those headers whose value is that of a marked one."""
    return {name.lower() for name, value in headers if _MARK in value}
