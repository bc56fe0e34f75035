"""Headers that come to a gateway from both sides, and the few that may cross it."""

from __future__ import annotations

from collections.abc import Iterable

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

MARK = "crossed-"


def marked(names: Iterable[str]) -> dict[str, str]:
    """Headers of these names, each with a value that tells where it came from."""
    return {name: f"{MARK}{name}" for name in names}


def crossed(headers: Iterable[tuple[str, str]]) -> set[str]:
    """The names among `headers` that carry the value of a marked one, whatever they are now."""
    return {name.lower() for name, value in headers if MARK in value}
