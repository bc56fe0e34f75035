"""What can be written in the sections of `gateway.yaml`; each field is an option."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from headrace.call import Timeouts
from headrace.caller import Quota
from headrace.config.listening import checked
from headrace.health import Health
from headrace.options import Duration, File, Secret, Size
from headrace.prices import Price, installed

Number = TypeVar("Number", bound=float)


def _some(value: Number) -> Number:
    if not value > 0:
        raise ValueError("must be more than 0")
    return value


def _mark(name: str) -> str:
    # It goes into the header CDN-Loop (RFC 8586), among others' names.
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError("must be at most 64 letters, digits, '.', '_' or '-'")
    return name


Time = Annotated[Duration, AfterValidator(_some)]
Bytes = Annotated[Size, AfterValidator(_some)]
Share = Annotated[float, AfterValidator(_some)]
Said = str | bool | int | float
"""What a claim can be compared with."""
Switch = Annotated[bool | None, BeforeValidator(lambda value: None if value == "" else value)]
"""What `${NAME:+true}` gives is as good as false where the variable is not set."""


@dataclass(kw_only=True)
class TimeoutOptions:
    """How long to wait for an upstream."""

    connect: Time | None = None
    """For a connection."""
    first_event: Time | None = None
    """For the first output of a stream; a plain answer may take until `total`."""
    idle: Time | None = None
    """Between two reads of an answer."""
    total: Time | None = None
    """For the whole call, all attempts and the last byte included."""

    def over(self, timeouts: Timeouts) -> Timeouts:
        """`timeouts` with what is written here in their place."""
        written = {name: float(value) for name, value in vars(self).items() if value is not None}
        return Timeouts(**{**vars(timeouts), **written})


@dataclass(kw_only=True)
class Tls:
    """HTTPS without a proxy in front."""

    certificate: File
    """A file in PEM: the certificate, and behind it those that lead to its authority."""
    key: File
    """A file in PEM: its private key, without a password."""


def _long(key: Secret) -> Secret:
    text = key.reveal()
    if len(text) < _SHORTEST_KEY or len(set(text)) < _FEWEST_LETTERS or not text.isascii():
        raise ValueError(
            f"must have {_SHORTEST_KEY} characters or more, and not the same few again and again; "
            "make one with: openssl rand -hex 32"
        )
    return key


_SHORTEST_KEY = 32
_FEWEST_LETTERS = 10
AdminKey = Annotated[Secret, AfterValidator(_long)]


@dataclass(kw_only=True)
class AdminOptions:
    """How those are let in who operate the gateway."""

    key: AdminKey | list[AdminKey]
    """What they show as `Authorization: Bearer`; several, so that one can be replaced."""

    @property
    def keys(self) -> list[Secret]:
        """All of them."""
        return self.key if isinstance(self.key, list) else [self.key]


@dataclass(kw_only=True)
class Server:
    """The gateway itself."""

    name: Annotated[str, AfterValidator(_mark)] | None = None
    """Marks calls that passed here, so that a loop of gateways is seen; replicas may share it."""
    host: str = "127.0.0.1"
    """The address `headrace serve` listens on; `--host` and `HOST` come first."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port `headrace serve` listens on; `--port` and `PORT` come first."""
    internal: Annotated[str, AfterValidator(checked)] | None = None
    """A second address, such as `127.0.0.1:9090`: pages for operators are served there alone."""
    tls: Tls | None = None
    """The certificate to serve HTTPS with; without it, `headrace serve` speaks HTTP."""
    workers: Annotated[int, Field(ge=1)] = 1
    """How many processes serve the port; `--workers` and `WEB_CONCURRENCY` come first."""
    auth: Literal["none"] | None = None
    """`none` lets everybody in; without it, some plugin in `chain` must authenticate."""
    max_body: Bytes = field(default_factory=lambda: Size(32_000_000))
    """The largest request body."""
    max_event: Bytes = field(default_factory=lambda: Size(16 * 1024 * 1024))
    """The largest event of an upstream's stream."""
    max_answer: Bytes = field(default_factory=lambda: Size(100_000_000))
    """The largest plain answer of an upstream."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """How many attempts one call may make, retries and other targets included."""
    store: Any = "memory://"
    """What workers and replicas share: a URL, or a store's name with options."""
    timeouts: TimeoutOptions = field(default_factory=TimeoutOptions)
    """Every upstream's defaults."""
    prices: Annotated[dict[str, Price | Literal["genai"]], AfterValidator(installed)] = field(
        default_factory=dict
    )
    """What models cost, by `upstream/model`; `*` stands for any text. `genai` asks genai-prices."""
    body_timeout: Time = field(default_factory=lambda: Duration(30))
    """How long a request's body may take to arrive."""
    write_stall: Time = field(default_factory=lambda: Duration(60))
    """How long a client may read nothing before its call is cut."""
    pings: Time | None = field(default_factory=lambda: Duration(15))
    """How often a stream that is silent tells its client that it goes on; `null` is never."""
    early_pings: Time | None = None
    """Begin silent streams after so long, with status 200 whatever comes; else all wait."""
    shutdown_delay: Duration = field(default_factory=lambda: Duration(0))
    """How long to go on accepting after a signal to stop, while readiness already says no."""
    drain: Duration = field(default_factory=lambda: Duration(30))
    """How long calls under way may go on after that, before they are cut with an error."""
    admin: AdminOptions | None = None
    """Its administration; without it, there is none."""
    watch: Time | None = None
    """How often to look whether the configuration's files have changed; else nobody looks."""
    middleware: list[Any] = field(default_factory=list)
    """ASGI middleware by import path (`package.module:Class`), outermost first."""
    observers: list[Any] | None = None
    """Who is told of every call, refused ones too; where it is not written, the access log is."""
    chain: Any = field(default_factory=list)
    """Plugins that every call passes before its route is looked up."""


@dataclass(kw_only=True)
class UpstreamOptions:
    """A server that can answer."""

    forwarder: Any
    """Who speaks with it: a forwarder's name, or its name with options."""
    enabled: Switch = True
    """A disabled upstream is skipped wherever it is a target."""
    labels: dict[str, str] = field(default_factory=dict)
    """What is true of it, such as its region."""
    models: list[str] | dict[str, str] = field(default_factory=list)
    """Its models; as a mapping, what each is called there."""
    plugins: Any = field(default_factory=list)
    """For calls to this upstream, around each of its attempts."""
    timeouts: TimeoutOptions = field(default_factory=TimeoutOptions)
    """Where they differ from the server's."""
    retry_budget: Annotated[float, Field(ge=0)] = 0.2
    """Attempts after failed ones that may fail, too: this share of the calls that begin there, and
    three."""
    health: Health | None = None
    """How it is asked, beside all calls, whether it is well; else it is not asked that."""
    ask_usage: bool = True
    """Whether a stream is asked for its token counts when the client did not ask."""


@dataclass(kw_only=True)
class RouteOptions:
    """Who answers the model, or the path, that a route is named after."""

    targets: Any
    """`upstream`, `upstream/model`, or a list; a list inside the list is a group."""
    chain: Any = field(default_factory=list)
    """How they are tried: a chain's name, or a list of plugins."""


@dataclass(kw_only=True)
class CallerOptions:
    """Who may ask, for what, how often; `default` is for whom nothing else fits."""

    match: dict[str, Said | list[Said]] = field(default_factory=dict)
    """What is true of it: `id`, `tenant`, `groups`, the SHA-256 of its `key`, or any claim.

    All of it must hold, each in one of its values. Where nothing is written, `id` is its name."""
    models: list[str] | None = None
    """Names and patterns of the models it may use, and of paths; else all of them."""
    limits: Quota = field(default_factory=Quota)
    """How often, and how much, all that go by this name together."""
    only: dict[str, str] = field(default_factory=dict)
    """Labels that an upstream must have to answer it."""


SECTIONS = {
    "server": "the gateway itself",
    "callers": "who may ask, for what, how often",
    "upstreams": "servers that can answer, by name",
    "chains": "plugins in order, by name",
    "routes": "the model asked for, or a path, to who answers it",
}
