"""The sockets of a gateway: where everybody reaches it, and where operators do."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from headrace.cli.address import check_apart
from headrace.config.listening import Address
from headrace.config.problems import Place, Problem
from headrace.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Sockets that are bound."""

    public: socket.socket
    internal: socket.socket | None = None

    @property
    def all(self) -> list[socket.socket]:
        """The public one first."""
        return [self.public, *([self.internal] if self.internal else [])]


def address_of(listener: socket.socket) -> Address:
    """Where it listens."""
    return Address(*listener.getsockname()[:2])


@contextmanager
def listening(
    public: Address, internal: Address | None = None, place: Place | None = None
) -> Iterator[Listeners]:
    """Sockets for those addresses. Raises `ConfigError` where there can be none.

    `place` is where the internal one is written.
    """
    with ExitStack() as stack:
        outer = stack.enter_context(_bound(public, None, "--host", "--port"))
        if internal is None:
            yield Listeners(public=outer)
            return
        check_apart(address_of(outer), internal, place)
        inner = stack.enter_context(_bound(internal, place, "address", "port"))
        check_apart(address_of(outer), address_of(inner), place)
        yield Listeners(public=outer, internal=inner)


def _bound(address: Address, place: Place | None, host: str, port: str) -> socket.socket:
    """A socket; `host` and `port` are what can be changed where there can be none."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except (OSError, ValueError) as error:
        listener.close()
        advice = f"this machine has no such address; choose another {host}"
        match error:
            case OSError(errno=errno.EADDRINUSE):
                advice = f"something listens there already; stop it, or choose another {port}"
            case OSError(errno=errno.EACCES):
                advice = f"this port is not for everybody; choose another {port}, above 1023"
        raise ConfigError([Problem(place, f"cannot listen on {address}: {advice}")]) from None
    return listener
