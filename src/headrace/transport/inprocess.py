"""Requests to an ASGI application in this process, streamed, and left as a server reports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import unquote

import httpx2
from starlette.types import ASGIApp, Message


class Visit:
    """One request to `app`. Leaving tells the application `http.disconnect` and cancels nothing,
    which is how servers do it (asgi.readthedocs.io, "HTTP & WebSocket", Disconnect)."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        **scope: Any,
    ) -> None:
        path, _, query = target.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in headers],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            **scope,
        }
        self._app = app
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._more = True
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)
        self.task = asyncio.ensure_future(self._run())

    async def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers, when the application sends them."""
        message = await self._next()
        return message["status"], list(message.get("headers", ()))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it is sent. Raises `ConnectionError` where it ends without its end."""
        while self._more:
            message = await self._next()
            self._more = message.get("more_body", False)
            yield message.get("body", b"")
        self._left.set()

    def leave(self) -> None:
        """Be gone: from now on the application talks to nobody."""
        self._left.set()
        if not self._sent.empty():
            self._sent.get_nowait()

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._end()
            raise
        await self._end()

    async def _end(self) -> None:
        if not self._left.is_set():
            await self._sent.put(None)

    async def _next(self) -> Message:
        message = await self._sent.get()
        if message is None:
            await self.task
            raise ConnectionError("the application ended without completing its response")
        return message

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._left.is_set():
            await self._sent.put(message)


class InProcess(httpx2.AsyncBaseTransport):
    """An HTTP client's way to `app` without a socket; streams, and leaves when closed early."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and return when its headers are there."""
        body = await request.aread()
        target = request.url.raw_path.decode()
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
        headers.append((b"host", b"localhost"))  # whatever the base URL calls it, it is here
        visit = Visit(self._app, request.method, target, headers, body)
        try:
            status, headers = await visit.start()
        except BaseException:
            visit.leave()
            raise
        return httpx2.Response(status, headers=headers, stream=_Body(visit))


def client(app: ASGIApp, *, base_url: str) -> httpx2.AsyncClient:
    """An HTTP client whose every request goes to `app`, without time-outs of its own."""
    return httpx2.AsyncClient(transport=InProcess(app), base_url=base_url, timeout=None)


class _Body(httpx2.AsyncByteStream):
    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._visit.chunks():
            yield chunk

    async def aclose(self) -> None:
        self._visit.leave()
