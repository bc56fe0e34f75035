"""Where Redis is: its URLs, read strictly. What is wrong with one is said without repeating it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

from headrace.options import Secret

SCHEMES = tuple(
    f"{scheme}{kind}" for scheme in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")
)
"""What its URLs begin with; with `rediss` all of it goes through TLS."""


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Login:
    """As whom to ask, and for which database."""

    user: str | None = None
    password: Secret | None = None
    database: int = 0


@dataclass(frozen=True, kw_only=True)
class Location:
    """What a URL says."""

    kind: Literal["one", "sentinel", "cluster"]
    servers: tuple[Address, ...]
    """The server, some sentinels, or some nodes of a cluster."""
    login: Login
    tls: bool
    master: str = ""
    """What sentinels call it."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What stands behind the `?`."""

    def __str__(self) -> str:
        """Where it is, without user and password."""
        servers = ", ".join(map(str, self.servers))
        match self.kind:
            case "one":
                return servers
            case "sentinel":
                return f"{self.master} of the sentinels {servers}"
            case "cluster":
                return f"the cluster of {servers}"


def location(url: str) -> Location:
    """What `url` says. Raises ValueError with the end of a sentence, none of it taken from `url`.

    redis://user:password@host:6379/0, redis+sentinel://host:26379,host:26379/master/0,
    redis+cluster://host:6379,host:6379; all can be absent but hosts and the name of a master.
    """
    found = _URL.fullmatch(url)
    if found is None or found["scheme"] not in SCHEMES:
        raise ValueError(
            "is no URL of Redis; write one such as redis://user:password@host:6379/0, its "
            "password with / ? # @ as %2F %3F %23 %40"
        )
    base, _, several = found["scheme"].partition("+")
    master, database = _path(several, found["path"] or "")
    servers = tuple(
        _address(server, 26379 if several == "sentinel" else 6379)
        for server in found["servers"].split(",")
    )
    if len(servers) > 1 and not several:
        raise ValueError(
            "names several servers; write redis+cluster:// for a cluster, redis+sentinel:// for "
            "sentinels"
        )
    return Location(
        kind="sentinel" if several == "sentinel" else "cluster" if several else "one",
        servers=servers,
        login=Login(*_user(found["user"], found["password"]), database),
        tls=base == "rediss",
        master=master,
        parameters=dict(parse_qsl(found["query"] or "", keep_blank_values=True)),
    )


def _path(several: str, path: str) -> tuple[str, int]:
    """The name of a master, and the number of a database."""
    master, _, database = path.partition("/") if several == "sentinel" else ("", "", path)
    if several == "sentinel" and not master:
        raise ValueError("names no master; write redis+sentinel://host:26379/master/0")
    if not re.fullmatch("[0-9]{0,5}", database):
        raise ValueError(
            "ends in what is no number of a database; write host:6379/0, a password's / as %2F"
        )
    if several == "cluster" and database.strip("0"):
        raise ValueError("wants a database that a cluster has not; leave its number out")
    return unquote(master), int(database or 0)


def _user(user: str | None, password: str | None) -> tuple[str | None, Secret | None]:
    if user and not password:
        raise ValueError(
            "has a user and no password; write user:password@, or :password@ where there is no user"
        )
    return unquote(user or "") or None, Secret(unquote(password)) if password else None


def trusting(ca: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later, for certificates that these authorities vouch for, or this machine's."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError:
        raise ValueError("ca is no file of certificate authorities that can be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^\s:@/?#]*)(?::(?P<password>[^\s@/?#]*))?@)?"
    r"(?P<servers>[^\s@/?#]*)(?:/(?P<path>[^\s?#]*))?(?:\?(?P<query>[^\s#]*))?"
)
_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>[0-9]+))?")


def _address(text: str, default: int) -> Address:
    found = _SERVER.fullmatch(text)
    if found is None:
        raise ValueError("has a host that is none; write host:6379, or [::1]:6379")
    port = int(found["port"] or default) if len(found["port"] or "") < 6 else 0
    if not 0 < port < 65536:
        raise ValueError("has a port that is none; write a number from 1 to 65535")
    return Address(found["six"] or found["host"], port)
