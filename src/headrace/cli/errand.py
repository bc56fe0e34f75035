"""What a worker is told by the process that starts it, through memory that both of them see."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.cli.listening import Listeners
from headrace.config.build import build
from headrace.config.certificate import Certificate
from headrace.config.document import Document
from headrace.config.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Errand:
    """To serve this configuration, whatever stands in its files by now, on sockets that are there.

    Sockets go by their numbers.
    """

    document: Document
    file: Path | None
    """Where it can be read again."""
    secured: Document | None
    """The last configuration of a certificate, alone; none where the start was without HTTPS."""
    write_stall: float
    """As it was when the first process started."""
    host: str
    count: int
    """How many workers there are."""
    sockets: tuple[int, ...]
    """The public one, and the one for operators if there is one."""
    tells: int = -1
    """Where it says how it is."""
    alive_every: float | None
    """Seconds between two signs of life, if somebody wants them."""
    parent: int
    """The process without which it ends."""
    first: bool = False
    """Whether it says that the gateway is live."""
    speaks: bool = True
    """Whether it tells in full what all workers have to tell, such as what a reload changes."""

    def hand_over(self) -> int:
        """The number of a file of memory that says all of this."""
        document, secured = self.document.as_json(), self.secured and self.secured.as_json()
        file = self.file and str(self.file)
        return remembered({**vars(self), "document": document, "secured": secured, "file": file})

    @classmethod
    def taken(cls, number: int) -> Errand:
        """What that file says."""
        told = recalled(number)
        told["document"] = Document.of_json(told["document"])
        told["secured"] = told["secured"] and Document.of_json(told["secured"])
        told["file"] = told["file"] and Path(told["file"])
        return cls(**{**told, "sockets": tuple(told["sockets"])})

    def taking(self, document: Document) -> Errand:
        """The errand with another configuration; what takes a restart is as it was."""
        secured = self.secured and (tls_alone(document) or self.secured)
        return replace(self, document=document, secured=secured)

    def certificate(self, plan: Plan) -> Certificate | None:
        """What HTTPS is served with, although the plan may have none any more, or one by now."""
        if self.secured is None:
            return None
        return plan.certificate or build(self.secured).certificate

    def listeners(self) -> Listeners:
        """The sockets, in the worker."""
        public, *internal = (socket.socket(fileno=number) for number in self.sockets)
        return Listeners(public=public, internal=internal[0] if internal else None)


def tls_alone(document: Document) -> Document | None:
    """The certificate of a configuration, and nothing else of it; None where it has none."""
    tls = (document.value.get("server") or {}).get("tls")
    if tls is None:
        return None
    expanded = {path for path in document.expanded if path[:2] == ("server", "tls")}
    return replace(document, value={"server": {"tls": tls}}, expanded=expanded)


def remembered(told: Any) -> int:
    """The number of a file of memory that says this, as JSON."""
    number = os.memfd_create("headrace")  # and no file on a disk, for secrets are in it
    with open(number, "w", closefd=False) as file:
        json.dump(told, file)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def recalled(number: int) -> Any:
    """What such a file says; it is closed then."""
    os.lseek(number, 0, os.SEEK_SET)
    with open(number) as file:
        return json.load(file)
