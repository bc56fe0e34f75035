"""Whether upstreams answer, take the key they are given, and have the models that are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from time import perf_counter
from typing import Literal
from urllib.parse import urlsplit

from headrace.attempts import Upstream
from headrace.config.listening import Address
from headrace.errors import UpstreamError
from headrace.finding import Finding

_SLOW = 2.0
"""Seconds after which a list of models is late."""

State = Literal["ok", "warn", "fail"]


async def upstream_findings(
    upstream: Upstream, wanted: Mapping[str, str], *, probed: bool
) -> AsyncIterator[Finding]:
    """Ask it for its models, with its key. `wanted` are models and who asks for each of them.

    Where its forwarder lists none it is not asked, unless it is `probed` by its health anyway.
    """
    listing = getattr(upstream.forward, "models", None)
    if listing is None:
        if not probed:
            yield Finding(
                state="warn",
                says="its forwarder cannot list models, so it was not asked",
                advice="with `health: {path: ...}` it is asked for that path",
            )
        return
    began = perf_counter()
    try:
        models = await listing()
    except UpstreamError as error:
        yield _refused(error, place_of(upstream.address) or "its address")
        return
    took = perf_counter() - began
    missing = [f"{name!r} ({who})" for name, who in wanted.items() if not _among(name, models)]
    says = f"answers in {took * 1000:.0f} ms and lists {_count(models)}"
    if missing and models:
        yield Finding(
            state="warn",
            says=f"{says}, but not {', '.join(missing)}",
            advice="see how the model is called there",
        )
    elif took > _SLOW:
        yield Finding(state="warn", says=says, advice="that is slow; where is it?")
    else:
        yield Finding(says=says)


def _among(name: str, models: Iterable[str]) -> bool:
    """Whether a model is listed, be it with its tag behind, or in a folder."""
    return any(m == name or m.startswith(f"{name}:") or m.endswith(f"/{name}") for m in models)


def _count(models: Iterable[str]) -> str:
    count = len(list(models))
    return f"{count} model{'' if count == 1 else 's'}"


def place_of(url: str) -> str:
    """The host and the port of a URL, and no more of it; nothing where it has no host."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return str(Address(parts.hostname, port))


def _refused(error: UpstreamError, place: str) -> Finding:
    state, says, advice = _words(error, place)
    return Finding(state=state, says=says, advice=advice)


def _words(error: UpstreamError, place: str) -> tuple[State, str, str | None]:
    match error.said:
        case None:
            says, advice = _CODES.get(error.code or "", (f"{{}} failed with {error.code}", None))
            return "fail", says.replace("{}", place), advice
        case 401 | 403:
            says = f"it refuses the key, or wants one (HTTP {error.said})"
            return "fail", says, "see its api_key, and what that key is allowed to do"
        case 404 | 405:
            says = (
                f"it answers, but has no list of models where one was asked for (HTTP {error.said})"
            )
            return "fail", says, "see its base_url, which most often ends in /v1"
        case 402 | 429:
            says = f"it answers, but has no more to give for now (HTTP {error.said})"
            return "warn", says, "see the limits and the balance of its account"
        case status if status < 400:
            return "fail", f"it answers that it is elsewhere (HTTP {status})", "see its base_url"
        case status:
            return "fail", f"it is not well (HTTP {status})", "see what its own status page says"


_ADDRESS = "see its base_url"
_CODES = {
    "dns_failed": ("the host of {} has no address", "see its base_url, and this machine's DNS"),
    "connect_failed": ("nobody takes connections at {}", "start it, or see its base_url"),
    "connect_timeout": (
        "no connection to {} comes about",
        "see its base_url, and firewalls in between",
    ),
    "tls_failed": (
        "the TLS or the certificate of {} is not good",
        "see its base_url, and its certificate",
    ),
    "connection_lost": ("{} ends the connection without an answer", _ADDRESS),
    "upstream_protocol": ("what answers at {} does not speak HTTP", _ADDRESS),
    "upstream_invalid": ("what answers at {} is no list of models", _ADDRESS),
    "upstream_truncated": ("the answer of {} breaks off", None),
    "upstream_encoding": ("the answer of {} cannot be inflated", None),
    "upstream_too_large": ("the list of models of {} is too large", None),
    "idle_timeout": ("the answer of {} stops in the middle", None),
}
"""By the codes of transports: what that means, `{}` being where it is, and what to do."""
