"""uvicorn around a gateway: starting it, telling that it is live, and stopping it gently."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType

import uvicorn

from headrace.cli.protocols import bounded
from headrace.config.problems import Problem
from headrace.errors import ConfigError
from headrace.gateway import Gateway

logger = logging.getLogger("headrace")

Banner = Callable[[Gateway, str, str, list[str]], None]

_CUT = 1.0
"""Seconds that calls have to end once they are cut."""


def run(
    gateway: Gateway,
    listener: socket.socket,
    banner: Banner | None,
    *,
    parent: int | None = None,
) -> int:
    """Serve until a signal to stop, then drain. The exit status.

    A `parent` is the process that started this one, which stops when that is gone.
    """
    server = _Server(gateway, listener, banner, parent)
    server.run(sockets=[listener])
    return 0 if server.started else 3


def listen(host: str, port: int) -> socket.socket:
    """A socket for that address. Raises `ConfigError` where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, ValueError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) else None
        advice = _ADVICE.get(number or 0, "this machine has no such address; choose another --host")
        raise ConfigError([Problem(None, f"cannot listen on {host}:{port}: {advice}")]) from None
    return listener


_ADVICE = {
    errno.EADDRINUSE: "something listens there already; stop it, or choose another --port",
    errno.EACCES: "this port is not for everybody; choose another --port, above 1023",
}


class _Server(uvicorn.Server):
    """Drains as a load balancer wants it: not ready at once, then closed, then cut."""

    def __init__(
        self,
        gateway: Gateway,
        listener: socket.socket,
        banner: Banner | None,
        parent: int | None,
    ) -> None:
        settings = gateway.plan.server
        super().__init__(
            uvicorn.Config(
                gateway,
                http=bounded(settings.write_stall),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # an address is believed of nobody who was not named
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(settings.drain + 2 * _CUT),
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._gateway = gateway
        self._listener = listener
        self._banner = banner
        self._parent = parent
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._stay_with_parent()
        if self.started and self._banner:
            host, port = self._listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            models = list(await self._gateway.router.listed())
            self._banner(self._gateway, url, _runs_on(self._gateway), models)

    def _stay_with_parent(self) -> None:
        """Stop when the process that started this one is gone without a word."""
        if self._parent is None:
            return
        if os.getppid() != self._parent:
            self.handle_exit(signal.SIGTERM, None)
        else:
            asyncio.get_running_loop().call_later(1.0, self._stay_with_parent)

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
        loop = asyncio.get_running_loop()
        cutting = loop.call_later(self._gateway.plan.server.drain, self._gateway.edge.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()


def _runs_on(gateway: Gateway) -> str:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    parser = "httptools" if find_spec("httptools") else "h11"
    return f"{loop}, {parser}, {gateway.plan.transport.name}"
