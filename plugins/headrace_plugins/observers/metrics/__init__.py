"""What Prometheus scrapes."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from headrace import Forbidden, Page, Pages, Record, Secret, Unauthorized, Vitals
from headrace_plugins.observers.metrics.labels import OTHER

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from headrace_plugins.observers.metrics.folder import Folder
    from headrace_plugins.observers.metrics.meters import Meters

logger = logging.getLogger("headrace")

_EVERY = 1.0
"""Seconds after which workers know of each other again what is so at the moment."""
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FORWARDED = re.compile("forwarded|x-forwarded.*|x-real-ip|.*client-ip|.*connecting-ip|via")
"""Headers that say that somebody asks for somebody else."""
_SHORTEST = 16
"""Characters of a token that nobody guesses."""


@dataclass(kw_only=True)
class Metrics:
    """Count every call, and tell Prometheus at `/metrics`.

    Counts come from closed records. Labels are names of the configuration; what a client
    chose, such as a model or a path, is none. Without `token` and `open`, only who asks from this
    machine is told, and not through a proxy.
    """

    path: str = "/metrics"
    """Where it is served, below the gateway's own prefix."""
    token: Secret | None = None
    """What who asks must send, as `Authorization: Bearer`: 16 characters or more."""
    open: bool = False
    """Whether everybody who reaches the port may read it."""
    tenants: list[str] = field(default_factory=list)
    """Tenants of callers that are told apart, each in counters of its own; all others are `other`.

    Where none is named, tenants are not counted."""
    vitals: Vitals = field(default_factory=Vitals.of_server)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[\w.-]+)+", self.path, re.ASCII):
            raise ValueError("path must be a path such as /metrics")
        if self.token and self.open:
            raise ValueError("needs a token, or is open to everybody; take one of them out")
        if self.token and len(self.token.reveal()) < _SHORTEST:
            make = "make one with: openssl rand -hex 16"
            raise ValueError(f"token must have {_SHORTEST} characters or more; {make}")
        if _FOLDER in os.environ and not os.path.isdir(os.environ[_FOLDER]):
            raise ValueError(f"{_FOLDER} must name a folder that is there, or not be set")

        self._saying: asyncio.Task[None] | None = None

    def follows(self, before: Self) -> None:
        """Go on with the numbers of the one in whose place this one stands."""
        if meters := vars(before).get("_meters"):
            vars(self)["_meters"] = meters

    async def __aenter__(self) -> Self:
        """Be ready to count, and let other workers know of this one."""
        # Files are made there, and it is waited for others who make theirs.
        meters = await asyncio.to_thread(lambda: self._meters)
        if meters.folder:
            self._saying = asyncio.create_task(self._go_on_saying(meters.folder))
        return self

    async def __aexit__(self, *error: object) -> None:
        """Say nothing more; numbers stay as long as the process."""
        if self._saying:
            self._saying.cancel()
            await asyncio.wait((self._saying,))
            self._saying = None

    def __call__(self, record: Record) -> None:
        """Count a closed record."""
        self._meters.count(record)
        tenant = record.caller.tenant if record.caller else None
        if tenant is not None and self.tenants:
            self._meters.count_tenant(record, tenant if tenant in self.tenants else OTHER)

    @property
    def pages(self) -> Pages:
        """The one page."""
        return {self.path: self.page}

    async def page(self, asked: HTTPConnection) -> Page:
        """Everything that was counted, for who may read it."""
        self._admit(asked)
        from headrace_plugins.observers.metrics.now import Now

        self._meters.note(self.vitals)
        # With several workers it reads files, so it is done beside the event loop.
        body = await asyncio.to_thread(self._meters.told, Now.of(self.vitals))
        headers = {
            "content-type": "text/plain; version=0.0.4; charset=utf-8",
            "cache-control": "no-store",
        }
        return Page(200, headers, body)

    def _admit(self, asked: HTTPConnection) -> None:
        """Refuse who may not read it."""
        if self.token:
            if not _shown(self.token, asked):
                raise Unauthorized("send the token for metrics as 'Authorization: Bearer TOKEN'")
        elif not (self.open or _from_here(asked)):
            raise Forbidden(
                "metrics are for this machine alone; to read them from elsewhere, give the "
                "observer 'metrics' a 'token' and send it as 'Authorization: Bearer TOKEN'",
                code="metrics_closed",
            )

    @cached_property
    def _meters(self) -> Meters:
        folder = _folder()
        # Imported late: prometheus-client takes a while, and looks at the environment once.
        from headrace_plugins.observers.metrics.meters import Meters

        return Meters(folder)

    async def _go_on_saying(self, folder: Folder) -> None:
        heard = True
        while True:
            try:
                await self._say(folder)
                heard = True
            except OSError as error:
                if heard:
                    logger.warning("other workers do not know of this one: %s", error)
                heard = False
            await asyncio.sleep(_EVERY)

    async def _say(self, folder: Folder) -> None:
        """Tell the other workers what is so in this one at this moment."""
        from headrace_plugins.observers.metrics.now import Now

        self._meters.note(self.vitals)
        await asyncio.to_thread(folder.say, Now.of(self.vitals).written())


def _folder() -> Folder | None:
    """Where several processes put together what they count; None where each is alone."""
    if _FOLDER not in os.environ:
        return None
    from headrace_plugins.observers.metrics.folder import Folder  # not on Windows

    try:
        return Folder(os.environ[_FOLDER])
    except OSError as error:
        says = "this process counts for itself, because there is no room in %s: %s"
        logger.warning(says, os.environ.pop(_FOLDER), error)
        return None


def _shown(token: Secret, asked: HTTPConnection) -> bool:
    """Whether the token came along (RFC 6750, 2.1)."""
    scheme, _, shown = asked.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(shown.strip().encode("latin-1"), token.reveal().encode())
    return same and scheme.lower() == "bearer"


def _from_here(asked: HTTPConnection) -> bool:
    """Whether a process of this machine asks, for itself."""
    if asked.client is None or any(_FORWARDED.fullmatch(name) for name in asked.headers):
        return False
    # The name, too: a page in a browser can bend its own to this machine.
    return _is_local(asked.client.host) and _is_local(asked.url.hostname or "localhost")


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
