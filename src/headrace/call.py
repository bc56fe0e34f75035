"""A request on its way: the call, who may answer it, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from starlette.datastructures import Headers

from headrace import body as bodies
from headrace.errors import BadRequest, scrubbed

if TYPE_CHECKING:
    from headrace.caller import Caller
    from headrace.chain import Plugin
    from headrace.dialect import Dialect
    from headrace.errors import UpstreamError
    from headrace.record import Record

Fact = TypeVar("Fact")

PASSTHROUGH = "passthrough"
"""The operation of a call whose body nobody reads."""

_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")


@dataclass(frozen=True)
class Target:
    """An upstream's name and the model to ask there; None asks for the model the client named."""

    upstream: str
    model: str | None = None
    _: KW_ONLY
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}" if self.model else self.upstream


Targets: TypeAlias = "tuple[Target | Targets, ...]"
"""Who may answer, best first; a tuple inside the tuple is a group."""


def leaves(targets: Targets) -> Iterator[Target]:
    """Every single target, in order, groups opened."""
    for target in targets:
        if isinstance(target, Target):
            yield target
        else:
            yield from leaves(target)


def fitting(targets: Targets, fits: Callable[[Target], bool]) -> Targets:
    """The targets that fit, in their groups, none of which is empty."""
    kept: list[Target | Targets] = []
    for target in targets:
        if isinstance(target, Target):
            kept += [target] if fits(target) else []
        elif group := fitting(target, fits):
            kept.append(group)
    return tuple(kept)


@dataclass(frozen=True)
class Deadline:
    """A moment on the event loop's clock by which the call must be over."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The moment `seconds` from now."""
        return cls(asyncio.get_running_loop().time() + seconds)

    def left(self) -> float:
        """Seconds that are left; never below zero."""
        return max(0.0, self.at - asyncio.get_running_loop().time())


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long to wait for an upstream, in seconds; told to each call by its attempt."""

    connect: float = 5.0
    """For a connection."""
    first_event: float = 60.0
    """For the first output of a stream; a plain answer may take until `total`."""
    idle: float = 60.0
    """Between two reads of an answer."""
    total: float = 600.0
    """For the whole call, all attempts and the last byte included."""


@dataclass(frozen=True)
class Patience:
    """How many seconds a plugin would wait for a first output; told to the attempts below it."""

    seconds: float


@dataclass(frozen=True)
class Others:
    """Targets that a plugin asks instead when one fails; told to those below, who need not wait."""

    asked_after: Callable[[UpstreamError], bool]
    """Whether one of them is asked at once after such a failure."""


@dataclass(frozen=True)
class Resolved:
    """What a route's name stands for, told by the router: the same text for the same targets,
    plugins and upstreams, in every replica."""

    fingerprint: str


@dataclass(frozen=True)
class WithUsage:
    """Told by a plugin that shares a stream among clients: the usage in it is kept from nobody."""


@dataclass(frozen=True)
class Outgoing:
    """Headers that the upstream gets beside its own; told by a plugin to the forwarder below."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class Provider:
    """Whose upstream an attempt asks; told to what is wrapped around the attempt."""

    name: str = ""
    """As OpenTelemetry calls it, such as `openai`; empty where nobody knows."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must never be shown of what is said there."""

    def scrubbed(self, text: str) -> str:
        """What is said there, without the secrets."""
        return scrubbed(text, self.secrets)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much an upstream may send, in bytes; told to each call by its attempt."""

    event: int = 16 * 1024 * 1024
    """One event of a stream."""
    answer: int = 100 * 1000 * 1000
    """A whole answer that must be read before it goes on."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request on its way to an upstream: whole, immutable, safe to send twice."""

    id: str
    method: str
    path: str
    """As the client wrote it, below the gateway's own prefix, percent-decoded."""
    query: str
    headers: Headers
    body: bytes
    dialect: Dialect
    """The client's shape: how to read this call and its reply."""
    operation: str
    """chat, completion, embedding, ... or passthrough."""
    targets: Targets = ()
    caller: Caller | None = None
    deadline: Deadline
    record: Record
    """What happened so far; shared by every copy of the call."""
    each_attempt: tuple[Plugin, ...] = ()
    """Wrapped around every attempt below here."""
    facts: tuple[object, ...] = field(default=(), repr=False)

    @cached_property
    def json(self) -> Any:
        """The body, read once; raises `BadRequest` where it is no usable JSON. Do not change it."""
        return bodies.read(self.body)

    @property
    def members(self) -> dict[str, Any]:
        """The body's top-level members; raises `BadRequest` where it is not a JSON object."""
        if not isinstance(self.json, dict):
            found = type(self.json).__name__
            raise BadRequest(f"the body must be a JSON object, not {found}", code="invalid_json")
        return self.json

    @property
    def idempotent(self) -> bool:
        """Whether asking twice does no more than asking once.

        What is passed through may create something (a file, a batch), unless its method says that
        it does not (RFC 9110, 9.2.2).
        """
        return self.operation != PASSTHROUGH or self.method in _IDEMPOTENT

    def replace(self, **changes: Any) -> Call:
        """This call with other values in some fields."""
        call = replace(self, **changes)
        if "caller" in changes:
            self.record.caller = call.caller
        if "body" not in changes and "json" in self.__dict__:
            call.__dict__["json"] = self.json
        return call

    def towards(self, target: Target | Targets) -> Call:
        """This call for one target alone, or for the members of one group."""
        return self.replace(targets=(target,) if isinstance(target, Target) else target)

    def edit(self, /, **members: Any) -> Call:
        """This call with top-level members of its body set; all others stay byte for byte.

        `headrace.REMOVED` as a value takes a member away.
        """
        edited = {**self.members, **members}
        call = self.replace(body=bodies.edit(self.body, members))
        call.__dict__["json"] = {k: v for k, v in edited.items() if v is not bodies.REMOVED}
        return call

    def telling(self, *facts: object) -> Call:
        """This call with facts for the plugins below; one of each class, the last one counts."""
        kinds = {type(fact) for fact in facts}
        others = tuple(known for known in self.facts if type(known) not in kinds)
        return self.replace(facts=(*others, *facts))

    def told(self, kind: type[Fact]) -> Fact | None:
        """The fact of this class that a plugin above has told, if any."""
        return next((fact for fact in self.facts if isinstance(fact, kind)), None)
