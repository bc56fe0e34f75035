"""uvicorn around a gateway: starting it, telling that it is live, and stopping it gently."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType

import uvicorn

from headrace.cli import hangup
from headrace.cli.listening import Listeners, address_of
from headrace.cli.notify import Notify
from headrace.cli.protocols import HEAD_TIMEOUT, bounded
from headrace.config.certificate import Certificate
from headrace.config.plan import Plan
from headrace.gateway import Gateway

logger = logging.getLogger("headrace")

_CUT = 1.0
"""Seconds that calls have to end once they are cut, and TLS to be closed in order."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """What there is to be told of a gateway that is live."""

    plan: Plan
    url: str
    internal: str | None
    """Where operators reach it."""
    runs_on: str
    models: list[str]


def run(
    gateway: Gateway,
    listeners: Listeners,
    *,
    certificate: Certificate | None,
    write_stall: float,
    banner: Callable[[Live], None] | None = None,
    notify: Notify | None = None,
    look: Callable[[Plan], None] = lambda plan: None,
    parent: int | None = None,
) -> int:
    """Serve until a signal to stop, then drain. The exit status.

    With a `certificate` HTTPS is served, from the start to the end, and without one never, whatever
    a reload brings. `look` is shown the plan in force each second. A `parent` is the process that
    started this one, which stops when that is gone.
    """
    if listeners.internal:
        gateway.internal = address_of(listeners.internal).port
    server = _Server(
        gateway, listeners, certificate, write_stall, banner, notify or Notify(), look, parent
    )
    server.run(sockets=listeners.all)
    return 0 if server.started else 3


class _Server(uvicorn.Server):
    """Drains as a load balancer wants it: not ready at once, then closed, then cut."""

    def __init__(
        self,
        gateway: Gateway,
        listeners: Listeners,
        certificate: Certificate | None,
        write_stall: float,
        banner: Callable[[Live], None] | None,
        notify: Notify,
        look: Callable[[Plan], None],
        parent: int | None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                http=bounded(write_stall),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # an address is believed of nobody who was not named
                timeout_keep_alive=75,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._gateway = gateway
        self._listeners = listeners
        self._certificate = certificate
        self._banner = banner
        self._notify = notify
        self._look = look
        self._parent = parent
        self._signals = 0
        self._asked = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        tls = self._certificate
        plain = [each for each in sockets or [] if not tls or each is self._listeners.internal]
        await super().startup(plain)
        if tls:
            await self._start_tls(tls.context)
        self._reloading = asyncio.create_task(self._reload_when_asked())
        hangup.handle(self._asked.set)
        self._look_around()
        _favor_calls()
        self._notify.ready()
        if self._notify.alive_every:
            self._stay_alive(self._notify.alive_every)
        if self._banner:
            self._banner(await self._told("https" if tls else "http"))

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        # Not by uvicorn, which gives TLS to all of its listeners and has no limits for it.
        context.sni_callback = self._take_certificate
        serving = await asyncio.get_running_loop().create_server(
            lambda: self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            ),
            sock=self._listeners.public,
            backlog=self.config.backlog,
            ssl=context,
            ssl_handshake_timeout=HEAD_TIMEOUT,
            ssl_shutdown_timeout=_CUT,
        )
        self.servers.append(serving)

    def _take_certificate(self, asking: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Go on with the certificate that is in force by now; asked for each connection."""
        self._renew()
        if self._certificate:
            asking.context = self._certificate.context

    def _renew(self) -> None:
        """Hold on to the certificate in force, which is the last one where a plan has none."""
        if self._certificate:
            self._certificate = self._gateway.plan.certificate or self._certificate

    async def _told(self, scheme: str) -> Live:
        internal = self._listeners.internal
        return Live(
            plan=self._gateway.plan,
            url=f"{scheme}://{address_of(self._listeners.public)}",
            internal=f"http://{address_of(internal)}" if internal else None,
            runs_on=_runs_on(self._gateway),
            models=list(await self._gateway.router.listed()),
        )

    # As long as it runs

    def _look_around(self) -> None:
        """Once a second: stop when the process that started this one is gone without a word."""
        if self._parent is not None and os.getppid() != self._parent:
            logger.warning("the process that started this one is gone")
            if not self._signals:
                self.handle_exit(signal.SIGTERM, None)
            return
        self._renew()
        self._look(self._gateway.plan)
        asyncio.get_running_loop().call_later(1.0, self._look_around)

    def _stay_alive(self, every: float) -> None:
        self._notify.alive()
        asyncio.get_running_loop().call_later(every, self._stay_alive, every)

    async def _reload_when_asked(self) -> None:
        """Read the configuration again after each SIGHUP, or once after several, up to the end."""
        while await self._asked.wait():
            if self._signals:
                return
            self._asked.clear()
            self._notify.reloading()
            await self._reload()
            self._renew()
            self._look(self._gateway.plan)
            self._notify.ready()

    async def _reload(self) -> None:
        if not self._gateway.plan.files:
            logger.warning("there is no file to read again: no configuration was named")
            return
        with suppress(Exception):  # it is told there
            if not await self._gateway.reload():
                logger.info("the configuration is as it was")

    # The end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal stop being ready, and after the delay stop; the next do not wait."""
        self._signals += 1
        loop = asyncio.get_running_loop()
        if self._signals == 1:
            self._gateway.draining = True
            loop.call_soon_threadsafe(self._say_what_goes_on)
            delay = self._gateway.plan.server.shutdown_delay
            loop.call_soon_threadsafe(loop.call_later, delay, self._exit)
        elif self._signals == 2:
            loop.call_soon_threadsafe(self._cut)
        else:
            self.force_exit = self.should_exit = True

    def _say_what_goes_on(self) -> None:
        self._notify.stopping()
        settings, calls = self._gateway.plan.server, self._gateway.edge.serving
        if calls:
            going_on = f"{calls} call{'s go' if calls > 1 else ' goes'} on"
            limit = f"for {settings.drain} at most; a second signal cuts them"
            logger.warning("stopping: %s, %s", going_on, limit)

    def _exit(self) -> None:
        # Not uvicorn's own: it would raise the signal again at the end, and exit with its number.
        self.should_exit = True

    def _cut(self) -> None:
        # Nor its way to hurry: that leaves out the end of the lifespan, and the last log lines.
        self._exit()
        self._gateway.edge.cut()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let calls finish, cut those that go on beyond the limit."""
        hangup.hold()
        self._reloading.cancel()
        await asyncio.wait([self._reloading])
        drain = self._gateway.plan.server.drain
        self.config.timeout_graceful_shutdown = int(drain + 2 * _CUT)
        cutting = asyncio.get_running_loop().call_later(drain, self._gateway.edge.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()


def _favor_calls() -> None:
    """Keep what goes on beside the calls from holding them up.

    The garbage collector passes over what is there from the start, and stays: else it stops
    everything for some 50 ms, more often the more often the configuration changes
    (docs.python.org, "gc.freeze"). Threads, such as the one that reads a configuration, give way to
    the loop after one millisecond instead of five (docs.python.org, "sys.setswitchinterval").
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.001)


def _runs_on(gateway: Gateway) -> str:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    parser = "httptools" if find_spec("httptools") else "h11"
    return f"{loop}, {parser}, {gateway.plan.transport.name}"
