"""An Ollama server, by its own API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from headrace import (
    PASSTHROUGH,
    Call,
    Found,
    Reply,
    Secret,
    Transport,
    UpstreamError,
    bearing,
    check_base_url,
    check_headers,
    exchange,
    fetch_json,
)

_LISTING_SIZE = 4_000_000
_PORT = 11434
_QUICK = 0.5


@dataclass(kw_only=True)
class Ollama:
    """Ask an Ollama server, on this machine or elsewhere.

    Calls are put into Ollama's dialect on the way, which tells errors in mid-stream and takes
    Ollama's own options. Paths that are passed through reach the server as they are, so that
    Ollama's own clients work too.
    """

    base_url: str = f"http://127.0.0.1:{_PORT}"
    """Where the server is; a `/v1` at the end makes no difference."""
    api_key: Secret | None = None
    """Sent as `Authorization: Bearer`, to this server alone; one on this machine needs none."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request."""
    transport: Transport = field(default_factory=Transport.of_server)

    brings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"transform": {"to": "ollama"}},)
    timeouts: ClassVar[Mapping[str, str]] = {
        "first_event": "300s",  # a model loads in silence
        "idle": "300s",  # a tool call comes whole, in one line
    }

    def __post_init__(self) -> None:
        self.base_url = check_base_url(self.base_url).removesuffix("/v1").rstrip("/")
        check_headers(bearing(self.api_key, self.headers))

    async def __call__(self, call: Call) -> Reply:
        """Send the call to the path it is for; without the change of dialect, to `/v1`."""
        try:
            return await exchange(
                call,
                self.transport,
                base_url=self.base_url,
                path=_path(call),
                headers=bearing(self.api_key, self.headers),
            )
        except UpstreamError as error:
            if error.said == 404 and call.operation != PASSTHROUGH:
                error.code, error.elsewhere = "model_not_found", True
            raise

    async def models(self) -> list[str]:
        """The names of `GET /api/tags`, each with its tag."""
        return [str(model["name"]) for model in await self._tags(2)]

    @classmethod
    async def find(cls, environ: Mapping[str, str]) -> list[Found]:
        """An Ollama where `OLLAMA_BASE_URL` or `OLLAMA_HOST` says, else on its own port."""
        written = environ.get("OLLAMA_BASE_URL") or environ.get("OLLAMA_HOST") or "127.0.0.1"
        key = environ.get("OLLAMA_API_KEY")
        transport = Transport.of_server()
        try:
            base_url = _address(written)
            server = cls(
                base_url=base_url, api_key=Secret(key) if key else None, transport=transport
            )
            async with asyncio.timeout(_QUICK):
                tags = await server._tags(_QUICK)
        except (UpstreamError, TimeoutError, ValueError):
            return []  # nobody is there, or nobody who is an Ollama
        finally:
            await transport.aclose()
        return [
            Found(
                name="ollama",
                says=f"Ollama answers at {base_url}",
                options={"base_url": base_url, **({"api_key": "${OLLAMA_API_KEY}"} if key else {})},
                models=tuple(_names(sorted(tags, key=_only_embeds))),
            )
        ]

    async def _tags(self, patience: float) -> list[Any]:
        listed = await fetch_json(
            self.transport,
            f"{self.base_url}/api/tags",
            bearing(self.api_key, self.headers),
            patience=patience,
            limit=_LISTING_SIZE,
        )
        try:
            return [model for model in listed["models"] or () if model["name"]]
        except (KeyError, TypeError):
            raise UpstreamError("its list of models is none", code="upstream_invalid") from None


def _path(call: Call) -> str:
    if call.operation == PASSTHROUGH or call.path.startswith("/api/"):
        return call.path
    return f"/v1{call.dialect.path(call.operation)}"


def _address(written: str) -> str:
    """The URL that `OLLAMA_HOST` stands for, read as Ollama's own clients read it."""
    bare = "://" not in written
    url = urlsplit(f"http://{written}" if bare else written)
    host = url.hostname or "127.0.0.1"
    if host in ("0.0.0.0", "::"):  # noqa: S104  where a server listens, which is no place to reach it at
        host = "127.0.0.1"
    port = url.port or (_PORT if bare else None)
    place = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{place}{f':{port}' if port else ''}{url.path.rstrip('/')}"


def _names(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What each model can be called: `llama3.2:latest` is `llama3.2` too."""
    for model in models:
        name = str(model["name"])
        yield name
        if name.endswith(":latest"):
            yield name.removesuffix(":latest")


def _only_embeds(model: Mapping[str, Any]) -> bool:
    """Whether a model gives embeddings and no text, as far as the list tells."""
    details = model.get("details")
    family = details.get("family") if isinstance(details, dict) else None
    return "bert" in str(family) or model.get("capabilities") == ["embedding"]
