"""Stand-ins for plugins, so that what is tested of configurations depends on none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from headrace import Call, Duration, Next, Plugins, Reply, Secret, Sha256, Transport, registry
from headrace.store.memory import Memory
from headrace.store.redis import Redis


class Passing:
    async def __call__(self, call: Call, call_next: Next) -> Reply:
        return await call_next(call)


@dataclass(kw_only=True)
class ApiKey(Passing):
    """Let in the callers whose key is listed."""

    keys: dict[Sha256, str]
    """Caller names by the SHA-256 of their key."""

    authenticates: ClassVar = True


@dataclass(kw_only=True)
class Cache(Passing):
    """Answer again what was answered before."""

    ttl: Duration = field(default_factory=lambda: Duration(60))
    """How long an answer is kept."""


@dataclass(kw_only=True)
class Fallback(Passing):
    """Ask the next target when one fails."""

    divides: ClassVar = True


@dataclass(kw_only=True)
class Limit(Passing):
    """Keep the limits of callers."""

    name: str = "limit"
    """What it counts under."""
    per_worker: bool = False
    """Whether each worker may count for itself."""

    counts: ClassVar = True
    enforces_limits: ClassVar = True


@dataclass(kw_only=True)
class Either(Passing):
    """Let in whoever one of some plugins lets in."""

    plugins: Plugins
    """Those that are asked."""

    authenticates: ClassVar = True
    shorthand: ClassVar = "plugins"


@dataclass(kw_only=True)
class Race(Passing):
    """Ask all targets, and keep the first answer."""

    divides: ClassVar = True


@dataclass(kw_only=True)
class Rule:
    """What to do about an answer."""

    status: int
    """The answer's status."""


@dataclass(kw_only=True)
class Retry(Passing):
    """Ask again."""

    attempts: int = 3
    """How often at most."""
    wait: Duration = field(default_factory=lambda: Duration(0.2))
    """How long to wait."""
    rules: list[Rule] = field(default_factory=list)
    """When to ask again."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, found {self.attempts}")


@dataclass(kw_only=True)
class Transform(Passing):
    """Change calls and replies."""

    to: str | None = None
    """The dialect that the upstream speaks."""

    @property
    def inside_attempt(self) -> bool:
        return self.to is not None

    def __post_init__(self) -> None:
        if self.to not in (None, "ollama"):
            raise ValueError(f"no dialect is called {self.to!r}")


@dataclass(kw_only=True)
class Weigh(Passing):
    """Put targets in order."""

    orders: ClassVar = True


class Asking:
    async def __call__(self, call: Call) -> Reply:
        raise AssertionError("nobody is asked here")


@dataclass(kw_only=True)
class OpenAI(Asking):
    """Ask a server that speaks OpenAI's API."""

    base_url: str = "https://api.openai.com/v1"
    """Where its API begins."""
    api_key: Secret | None = None
    """Sent to this server alone."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request."""
    transport: Transport = field(default_factory=Transport.of_server)

    def __post_init__(self) -> None:
        if not self.base_url.startswith("https://"):
            raise ValueError(f"base_url must begin with https://, found {self.base_url}")


@dataclass(kw_only=True)
class Ollama(Asking):
    """Ask an Ollama server."""

    base_url: str
    """Where it is."""

    brings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"transform": {"to": "ollama"}},)
    timeouts: ClassVar = {"first_event": "300s"}


@dataclass(kw_only=True)
class Mock(Asking):
    """Answer without a model."""


@dataclass(kw_only=True)
class Told:
    """Hear of every call."""

    def __call__(self, record: object) -> None: ...


def missing() -> type:
    raise ModuleNotFoundError("No module named 'azure_sdk'")


@dataclass
class Point:
    """An entry point to a class that is here, or to one that is not."""

    value: str
    load: Callable[[], type]


def points(**kinds: type | None) -> dict[str, Point]:
    return {
        name: Point(f"{kind.__module__}:{kind.__qualname__}", lambda kind=kind: kind)  # type: ignore[misc]
        if kind
        else Point("nowhere:Azure", missing)
        for name, kind in kinds.items()
    }


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only plugins there are."""
    found = {
        "plugins": points(
            api_key=ApiKey,
            cache=Cache,
            either=Either,
            fallback=Fallback,
            limit=Limit,
            race=Race,
            retry=Retry,
            transform=Transform,
            weigh=Weigh,
        ),
        "forwarders": points(azure=None, mock=Mock, ollama=Ollama, openai=OpenAI),
        "observers": points(access_log=Told, metrics=Told),
        "stores": points(memory=Memory, redis=Redis),
        "dialects": {},
    }
    monkeypatch.setattr(registry, "_found", found.get)
