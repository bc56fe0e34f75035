"""The gateway: an ASGI application built from a configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import pages
from headrace.attempts import Attempts
from headrace.call import Limits
from headrace.caller import Caller
from headrace.chain import compose
from headrace.config.build import build
from headrace.config.document import Document, load
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.config.workers import check_workers, workers_of
from headrace.dialect import OPENAI
from headrace.edge import Edge, path_below
from headrace.errors import ConfigError, Overloaded
from headrace.health import watched
from headrace.intake import Bounds
from headrace.routing import Router

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("headrace")

_FORGOTTEN = (
    "this gateway was not started: it is mounted without its lifespan. Hand it to the application "
    "around it, Starlette(..., lifespan=gateway.lifespan), or enter it in your own lifespan: "
    "async with gateway.lifespan(app)"
)


class Gateway:
    """An AI gateway as an ASGI application.

    Serve it as it is, or mount it under a prefix of a Starlette or FastAPI application, which then
    gets `gateway.lifespan`. Mounted, it touches no signal handler, no event loop and no logging.

    `caller` finds the user in an ASGI scope that the host application has already found; who is
    None is refused. `open` says that everybody on this machine may ask without a key.

    Raises `ConfigError` where nothing in `server.chain` finds out who asks and neither `caller`,
    `open` nor `server: {auth: none}` says that this is meant.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        caller: Callable[[Scope], Caller | None] | None = None,
        open: bool = False,
    ) -> None:
        if not (plan.authenticates or caller or open or plan.server.auth == "none"):
            raise ConfigError([Problem(None, _UNGUARDED)])
        self.plan = plan
        self.draining = False
        self._running = 0
        self._closed = plan.authenticates or caller is not None
        dialects = (OPENAI,)
        self.router = Router(
            plan.routes,
            plan.upstreams,
            Attempts(
                plan.upstreams,
                most=plan.server.attempts,
                limits=Limits(event=plan.server.max_event, answer=plan.server.max_answer),
                rests=plan.rests,
            ),
            dialects=dialects,
            listings={
                name: upstream.forward.models
                for name, upstream in plan.upstreams.items()
                if hasattr(upstream.forward, "models")
            },
        )
        self.edge = Edge(
            compose(plan.admitting, self.router),
            name=plan.name,
            dialects=dialects,
            observers=plan.observers,
            bounds=Bounds(
                body=plan.server.max_body,
                read=plan.server.body_timeout,
                write_stall=plan.server.write_stall,
            ),
            caller=caller,
            local_only=not (plan.authenticates or caller or plan.server.auth == "none"),
        )
        self._pages = {
            path: page
            for observer in plan.observers
            for path, page in getattr(observer, "pages", {}).items()
        }
        app: ASGIApp = self._inside
        for middleware, options in reversed(plan.middleware):
            app = middleware(app, **options)
        self._app = app

    @classmethod
    def load(
        cls,
        path: str | Path = "gateway.yaml",
        *,
        environ: Mapping[str, str] | None = None,
        caller: Callable[[Scope], Caller | None] | None = None,
        open: bool = False,
    ) -> Self:
        """The gateway that a file describes. Raises `ConfigError` with every problem it has."""
        environ = os.environ if environ is None else environ
        gateway = cls.of(load(Path(path), environ), caller=caller, open=open)
        check_workers(gateway.plan, workers_of(gateway.plan, environ))
        return gateway

    @classmethod
    def of(cls, document: Document, **options: Any) -> Self:
        """The gateway that a document describes."""
        return cls(build(document), **options)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Open what plugins, forwarders and stores need, and close it again at the end."""
        if self._running:
            raise RuntimeError(
                "this gateway is running already; give its lifespan to one application"
            )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.plan.transport.aclose)
            stack.push_async_callback(self.plan.store.aclose)
            for part in self.plan.parts:
                if isinstance(part, AbstractAsyncContextManager):
                    await stack.enter_async_context(part)
            await stack.enter_async_context(watched(self.plan.upstreams.values(), self.plan.rests))
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1

    def client(self) -> httpx2.AsyncClient:
        """An HTTP client that reaches this gateway in the same process, without a socket.

        `openai.AsyncOpenAI(base_url="http://localhost/v1", http_client=gateway.client(), ...)`
        """
        from headrace.transport.inprocess import client

        return client(self, base_url="http://localhost/v1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: HTTP, or the lifespan where it stands alone."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = await self._page(scope)
        if page is None:
            await self.edge(scope, receive, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in page.headers.items()]
        headers.append((b"content-length", str(len(page.body)).encode()))
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else page.body
        await send({"type": "http.response.body", "body": body})

    async def _page(self, scope: Scope) -> pages.Page | None:
        if not self._running:
            logger.critical(_FORGOTTEN)
            return pages.refused(Overloaded(_FORGOTTEN, code="not_started"))
        if scope["method"] not in ("GET", "HEAD"):
            return None
        path = path_below(scope)
        if page := self._pages.get(path):
            return await pages.shown(page, HTTPConnection(scope))
        match path:
            case "/health" | "/healthz":
                return pages.health()
            case "/readyz":
                degraded = ["store"] if self.plan.store.fault else []
                return pages.ready(not self.draining, degraded=degraded)
            case "/":
                listed = {} if self._closed else await self.router.listed()
                return pages.home(_base_url(scope), listed.items(), closed=self._closed)
        return None

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol (asgi.readthedocs.io, "Lifespan Protocol")."""
        await receive()
        phase = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            logger.exception("the gateway failed at its %s", phase)
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


_UNGUARDED = (
    "nobody is asked for a key: no plugin in 'server: {chain: [...]}' authenticates. Add one "
    "('headrace plugins' lists them); or write 'server: {auth: none}' to let in everybody who "
    "reaches the port; or run 'headrace serve' on a loopback address"
)


def _base_url(scope: Scope) -> str:
    host = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"host"), "127.0.0.1")
    prefix: str = scope.get("root_path", "")
    return f"{scope.get('scheme', 'http')}://{host}{prefix.rstrip('/')}"
