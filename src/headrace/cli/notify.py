"""What a service manager is told of a process: sd_notify(3), systemd's protocol."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Self

logger = logging.getLogger("headrace")

READY = b"READY=1"


class Notify:
    """Tells how the process is; `tell` sends a message, `alive_every` are the watchdog's seconds.

    Of a watchdog half the time is taken, as sd_watchdog_enabled(3) advises.
    """

    def __init__(
        self,
        tell: Callable[[bytes], object] = lambda message: None,
        *,
        alive_every: float | None = None,
    ) -> None:
        self._tell = tell
        self._stopping = False
        self.alive_every = alive_every

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Self:
        """For the service manager that the variables name, which no child sees any more."""
        address = environ.pop("NOTIFY_SOCKET", "")
        pid = environ.pop("WATCHDOG_PID", None)
        micros = environ.pop("WATCHDOG_USEC", "")
        if address[:1] not in ("/", "@") or not address[1:]:
            return cls()
        mine = micros.isdecimal() and int(micros) > 0 and pid in (None, str(os.getpid()))
        return cls(_sending(address), alive_every=int(micros) / 2e6 if mine else None)

    def ready(self) -> None:
        """It serves; or it does again what it did before it was reloading."""
        if not self._stopping:
            self._tell(READY)

    def reloading(self) -> None:
        """It reads its configuration again."""
        self._tell(b"RELOADING=1\nMONOTONIC_USEC=%d" % (time.monotonic_ns() // 1000))

    def stopping(self) -> None:
        """It comes to its end, and is not ready any more whatever it still does."""
        self._stopping = True
        self._tell(b"STOPPING=1")

    def alive(self) -> None:
        """It is not stuck."""
        self._tell(b"WATCHDOG=1")


def _sending(address: str) -> Callable[[bytes], None]:
    """What sends a message there; where nobody takes it, the log says so."""
    where = f"\0{address[1:]}" if address[0] == "@" else address  # Linux's abstract names

    def send(message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.1)
            try:
                sender.sendto(message, where)
            except OSError as error:
                logger.warning("the service manager takes no message: %s", error)

    return send
