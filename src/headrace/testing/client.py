"""A client in the same process that streams, and leaves as a server would report it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp

from headrace.transport.inprocess import Visit


class Response:
    """What the application answers: status and headers now, the body as it comes."""

    def __init__(self, visit: Visit, status: int, headers: Headers) -> None:
        self._visit = visit
        self.status = status
        self.headers = headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it is sent. Raises `ConnectionError` where it ends without its end."""
        async for chunk in self._visit.chunks():
            yield chunk

    async def read(self) -> bytes:
        """The whole body; returns when the application has ended."""
        body = b"".join([chunk async for chunk in self.chunks()])
        await self._visit.task
        return body

    async def json(self) -> Any:
        """The whole body as JSON."""
        return orjson.loads(await self.read())

    async def leave(self) -> None:
        """Disconnect, and wait until the application has ended."""
        self._visit.leave()
        await self._visit.task


class Client:
    """Asks `app` as one client after the other. Leaving sends it `http.disconnect`, no more."""

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = dict(headers or {})

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **scope: Any,
    ) -> Visit:
        """A request under way, for tests of what happens before its answer."""
        sent = {"host": "localhost", **self.headers, **(headers or {})}
        if json is not None:
            body = orjson.dumps(json)
            sent.setdefault("content-type", "application/json")
        lines = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        return Visit(self.app, method, path, lines, body or b"", **scope)

    async def request(self, method: str, path: str, **options: Any) -> Response:
        """The response, when its headers are there."""
        visit = self.ask(method, path, **options)
        status, headers = await visit.start()
        return Response(visit, status, Headers(raw=headers))

    async def get(self, path: str, **options: Any) -> Response:
        """GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        """POST, most often with `json=`."""
        return await self.request("POST", path, **options)

    async def chat(self, text: str = "hi", *, model: str = "m", **members: Any) -> Response:
        """A chat completion."""
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **members}
        return await self.post("/v1/chat/completions", json=body)


async def settled() -> None:
    """Let everything run that can run without waiting."""
    for _ in range(20):
        await asyncio.sleep(0)
