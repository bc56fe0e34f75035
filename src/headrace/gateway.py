"""The gateway: an ASGI application built from a configuration, which can be changed as it runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import pages
from headrace.admin import Misses, is_path
from headrace.caller import Caller
from headrace.caretaker import Caretaker
from headrace.config.build import build
from headrace.config.changes import Change, changes
from headrace.config.document import Document, load
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.config.workers import check_workers, workers_of
from headrace.edge import Edge, path_below
from headrace.errors import ConfigError, HeadraceError, NoSource, NotFound, Overloaded
from headrace.record import Happening
from headrace.routing import Router
from headrace.vitals import Loaded, Vitals
from headrace.watching import watch
from headrace.works import Works

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("headrace")

_FORGOTTEN = (
    "this gateway was not started: it is mounted without its lifespan. Hand it to the application "
    "around it, Starlette(..., lifespan=gateway.lifespan), or enter it in your own lifespan: "
    "async with gateway.lifespan(app)"
)
_WORKS = "headrace.works"
_READING = 30.0
"""Seconds that its files may take to be read again: a disk may hang."""
_MOST_TOLD = 50
"""Changes that the log tells, line by line."""
_OPENING = 120.0
"""Seconds that the parts of another configuration may take to open."""


class Gateway:
    """An AI gateway as an ASGI application.

    Serve it as it is, or mount it under a prefix of a Starlette or FastAPI application, which then
    gets `gateway.lifespan`. Mounted, it touches no signal handler, no event loop and no logging.

    `caller` finds the user in an ASGI scope that the host application has already found; who is
    None is refused. `open` says that everybody on this machine may ask without a key. `source`
    reads the configuration again for `reload`, and `check` raises `ConfigError` where a new one
    does not fit the place where it runs.

    Raises `ConfigError` where nothing in `server.chain` finds out who asks and neither `caller`,
    `open` nor `server: {auth: none}` says that this is meant.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        caller: Callable[[Scope], Caller | None] | None = None,
        open: bool = False,
        source: Callable[[], Document] | None = None,
        check: Callable[[Plan], None] = lambda plan: None,
    ) -> None:
        self.draining = False
        self.internal: int | None = None
        """The port where what operators ask is served alone; None where every port serves it."""
        self.workers = 1
        """How many processes serve the port."""
        self.tell_others: Callable[[], None] = lambda: None
        """Lets the other processes take a configuration that this one has taken."""
        self.misses = Misses()
        """The wrong keys that were shown to its administration."""
        self._make = partial(Works, gateway=self, caller=caller, open=open)
        self._works = self._make(plan)
        self._app = self._around(plan)
        self._live = [self._works]
        """The works that serve calls, those that were replaced included."""
        self._next: Works | None = None
        """Those that are being opened."""
        self._source = source
        self._check = check
        self._read = plan.document
        """The document that was read last, be it good or not."""
        self._running = 0
        self._caretaker = Caretaker(self._needed)
        self._one_at_a_time = asyncio.Lock()
        self._is_in_force(plan)

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

        def check(plan: Plan) -> None:
            check_workers(plan, workers_of(plan, environ))

        read = partial(load, Path(path), environ)
        source = partial(read, again=True)
        gateway = cls.of(read(), caller=caller, open=open, source=source, check=check)
        check(gateway.plan)
        return gateway

    @classmethod
    def of(cls, document: Document, **options: Any) -> Self:
        """The gateway that a document describes."""
        return cls(build(document), **options)

    @property
    def plan(self) -> Plan:
        """The configuration in force."""
        return self._works.plan

    @property
    def router(self) -> Router:
        """What answers the calls that come now."""
        return self._works.router

    @property
    def edge(self) -> Edge:
        """Where the calls come in that come now; it knows of all that are under way."""
        return self._works.edge

    @property
    def vitals(self) -> Vitals:
        """What is known of this gateway as long as it runs."""
        return self.plan.vitals

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Open what plugins, forwarders and stores need, and close it again at the end."""
        if self._running:
            raise RuntimeError(
                "this gateway is running already; give its lifespan to one application"
            )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.plan.transport.aclose)
            await stack.enter_async_context(self._caretaker.at_work())
            await self._caretaker.open([*self.plan.parts, *self.plan.watchers])
            self._tell_loaded()
            await stack.enter_async_context(self._watching())
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1

    # Another configuration

    async def reload(self) -> bool:
        """Take the configuration as it is written now; whether it is another one.

        Calls under way end as they began. Raises `ConfigError` with every problem where it has
        some, and whatever a part raises that cannot be opened: all is as before then.
        """
        if self._source is None:
            raise NoSource("nobody has said where the configuration of this gateway is written")
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_READING):
                    document = await asyncio.to_thread(self._source)
                return await self._take(document)
            except Exception as error:
                self._is_refused(error)
                raise

    async def _take(self, document: Document) -> bool:
        self._read = document
        now = self.plan
        if now.document and document.repeats(now.document):
            self._is_in_force(now)
            return False
        plan = await asyncio.to_thread(build, document, before=now)
        self._check(plan)
        _check_against(now, plan)
        changed = await asyncio.to_thread(changes, now, plan)
        works = self._make(plan)
        app = self._app if plan.middleware == now.middleware else self._around(plan)
        plan.handover.succeed()
        self._next = works
        try:
            if self._running:
                await self._caretaker.open([*plan.parts, *plan.watchers], within=_OPENING)
        except TimeoutError:
            raise HeadraceError(f"its parts were not open within {_OPENING:g} s") from None
        finally:
            self._next = None
        self._works, self._app = works, app
        self._live.append(works)
        self._is_in_force(plan)
        self.vitals.reloads["ok"] += 1
        self._tell_loaded(changed)
        logger.info("another configuration is in force (%s)", plan.hash)
        for change in changed[:_MOST_TOLD]:
            logger.info("  %s", change)
        if more := len(changed[_MOST_TOLD:]):
            logger.info("  and %d more; headrace diff tells them all", more)
        self._tidy()
        return True

    def _tidy(self) -> None:
        """Close what only those works have that serve no call any more."""
        self._live = [works for works in self._live if works.connections or works is self._works]
        if self._running:
            self._caretaker.tidy()

    def _needed(self) -> Iterator[object]:
        """The parts in use. Upstreams are looked after as the plan in force says, and no other."""
        coming = [self._works, *([self._next] if self._next else [])]
        for works in (*self._live, *coming):
            yield from works.plan.parts
        for works in coming:
            yield from works.plan.watchers

    def _is_in_force(self, plan: Plan) -> None:
        vitals = plan.vitals
        vitals.store, vitals.observers, vitals.refused = plan.store, plan.observers, None
        if vitals.config is None or vitals.config.hash != plan.hash:
            vitals.config = Loaded(hash=plan.hash, files=plan.files)

    def _tell_loaded(self, changed: Iterable[Change] = ()) -> None:
        plan = self.plan
        details = {"files": [*plan.files], "changes": [*map(str, changed)]}
        plan.vitals.tell(Happening(what="config.loaded", target=plan.hash, details=details))

    def _is_refused(self, error: Exception) -> None:
        vitals = self.vitals
        vitals.reloads["failed"] += 1
        vitals.refused = str(error) or type(error).__name__
        said = "the configuration stays as it was; the new one has problems:\n%s"
        logger.error(said, error, exc_info=None if isinstance(error, HeadraceError) else error)
        why = {"why": vitals.refused}
        vitals.tell(Happening(what="config.refused", outcome="failed", details=why))

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Look at the files of the configuration as often as it says."""

        async def changed() -> None:
            with suppress(Exception):  # it was told
                await self.reload()

        looking = asyncio.create_task(
            watch(lambda: self.plan.server.watch, lambda: self._read, changed)
        )
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait((looking,))

    def client(self) -> httpx2.AsyncClient:
        """An HTTP client that reaches this gateway in the same process, without a socket.

        `openai.AsyncOpenAI(base_url="http://localhost/v1", http_client=gateway.client(), ...)`
        """
        from headrace.transport.inprocess import client

        return client(self, base_url="http://localhost/v1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: HTTP, or the lifespan where it stands alone."""
        if scope["type"] == "lifespan":
            await self._live_and_die(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        works = self._works
        works.connections += 1
        try:
            await self._app({**scope, _WORKS: works}, receive, send)
        finally:
            works.connections -= 1
            if not works.connections and works is not self._works:
                self._tidy()

    def _around(self, plan: Plan) -> ASGIApp:
        """The middleware of a plan; it stays while others do the work inside."""
        app: ASGIApp = self._inside
        for middleware, options in reversed(plan.middleware):
            app = middleware(app, **options)
        return app

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        works: Works = scope[_WORKS]
        page = await self._page(works, scope, receive)
        if page is None:
            await works.edge(scope, receive, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in page.headers.items()]
        headers.append((b"content-length", str(len(page.body)).encode()))
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else page.body
        await send({"type": "http.response.body", "body": body})

    async def _page(self, works: Works, scope: Scope, receive: Receive) -> pages.Page | None:
        if not self._running:
            logger.critical(_FORGOTTEN)
            return pages.refused(Overloaded(_FORGOTTEN, code="not_started"))
        reads = scope["method"] in ("GET", "HEAD")
        path = path_below(scope)
        if reads and path in ("/health", "/healthz"):
            return pages.health()
        if reads and path == "/readyz":
            degraded = ["store"] if works.plan.store.fault else []
            return pages.ready(not self.draining, degraded=degraded)
        here = tuple(scope.get("server") or ())[1:]
        inside = self.internal is not None and here == (self.internal,)
        operates = inside or self.internal is None
        if reads and operates and (page := works.page(scope)):
            return await pages.shown(page, HTTPConnection(scope))
        if works.admin and is_path(path):
            if operates:
                return await pages.shown(partial(works.admin, path=path), Request(scope, receive))
            return pages.refused(NotFound("nothing is served here", code="unknown_url"))
        if inside:
            return pages.refused(NotFound(_INTERNAL, code="unknown_url"))
        if reads and path == "/":
            listed = {} if works.closed else await works.router.listed()
            return pages.home(_base_url(scope), listed.items(), closed=works.closed)
        return None

    async def _live_and_die(self, receive: Receive, send: Send) -> None:
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


def _check_against(now: Plan, plan: Plan) -> None:
    """Raise `ConfigError` where a plan looks like a mistake beside the one that is in force."""
    for section in ("upstreams", "routes"):
        if getattr(now, section) and not getattr(plan, section):
            message = (
                f"there are no {section} any more, as in a file that somebody is writing; "
                "if that is meant, start the gateway anew"
            )
            raise ConfigError([Problem(None, message)])
    if now.authenticates and not plan.authenticates and plan.server.auth != "none":
        message = "nobody is asked for a key any more; if that is meant, write 'auth: none'"
        raise ConfigError([Problem(None, message)])


_INTERNAL = (
    "this port is for those who operate the gateway: its metrics and its administration. Calls go "
    "to the other one, 'server: {port: …}'"
)


def _base_url(scope: Scope) -> str:
    host = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"host"), "127.0.0.1")
    prefix: str = scope.get("root_path", "")
    return f"{scope.get('scheme', 'http')}://{host}{prefix.rstrip('/')}"
