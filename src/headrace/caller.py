"""Who is asking, and what the section `callers` grants them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from headrace.errors import Forbidden
from headrace.given import given
from headrace.options import Count, Rate, Sha256
from headrace.patterns import glob

if TYPE_CHECKING:
    from headrace.call import Call
    from headrace.chain import Next
    from headrace.reply import Reply

Identity: TypeAlias = tuple[str, str, str]
"""Of what kind somebody is, by which name, and with which issuer, "" where there is none."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How much, and how often, somebody may ask."""

    requests: Rate | tuple[Rate, ...] | None = None
    """Calls in a time, such as 60/minute; several, such as [60/minute, 5k/day], hold together."""
    tokens: Rate | tuple[Rate, ...] | None = None
    """Tokens in a time, those of prompts and of answers together."""
    concurrent: Count | None = None
    """Calls at the same time, each to its last byte."""
    burst: Count | None = None
    """How many calls may come at once; else as many as `requests` says."""

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.requests or self.tokens or self.concurrent is not None)

    def rates(self, counts: Literal["requests", "tokens"]) -> tuple[Rate, ...]:
        """Those of one kind, be it one, several or none."""
        rates: Rate | tuple[Rate, ...] | None = getattr(self, counts)
        return (rates,) if isinstance(rates, Rate) else rates or ()


@dataclass(frozen=True)
class Caller:
    """Who is asking, once a plugin (or the host application) has found out."""

    name: str
    """As configuration, logs and limits call it: its entry in `callers`, else its `id`."""
    _: KW_ONLY
    id: str | None = None
    """Who exactly, where several go by one name: a token's subject, a key's name."""
    issuer: str | None = None
    """Who has issued its token: elsewhere, the same `id` or `tenant` is somebody else's."""
    tenant: str | None = None
    """Whose data it works on: answers of one tenant are never shown to another."""
    groups: tuple[str, ...] = ()
    key: Sha256 | None = field(default=None, repr=False)
    """The SHA-256 of the key it has shown, if it was a key."""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What a verified token says."""
    models: tuple[tuple[str, ...], ...] = ()
    """Patterns of the models it may use, and of paths; of each tuple, one must fit."""
    limits: Quota = Quota()
    only: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Labels that an upstream must have to answer it."""
    listed: bool = False
    """Whether `name` is an entry of `callers`."""

    @property
    def identity(self) -> Identity:
        """What nobody else is: an entry of `callers`, or a person whom no entry is about."""
        return ("entry", self.name, "") if self.listed else self.person

    @property
    def person(self) -> Identity:
        """Who exactly it is: by the name of its key, or by its id with whom its token is from."""
        return ("key" if self.key else "id", self.id or self.name, self.issuer or "")

    @property
    def owner(self) -> Identity:
        """Whose data it works on: its tenant's, else its own."""
        return ("tenant", self.tenant, self.issuer or "") if self.tenant else self.person

    def may(self, model: str) -> bool:
        """Whether it may use the model of that name."""
        return all(_models(patterns).fullmatch(model) for patterns in self.models)

    def may_pass(self, path: str) -> bool:
        """Whether it may use a path that is passed through, written as its route is."""
        return all(_paths(patterns).fullmatch(path) for patterns in self.models)

    def reaches(self, labels: Mapping[str, str]) -> bool:
        """Whether an upstream with these labels may answer it."""
        return all(labels.get(name) == value for name, value in self.only.items())


def network(address: str | None) -> str | None:
    """Who an address is: itself, or of IPv6 its network, for one has all addresses there."""
    if not address or ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else f"{IPv6Address(int(parsed) >> 64 << 64)}/64"


def who_asks(call: Call) -> str:
    """Whose a call is where failures are counted by caller: the caller's, else its address's."""
    if call.caller:
        return " ".join(call.caller.identity)
    return network(call.record.client) or ""


def _models(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return glob(*(pattern for pattern in patterns if not pattern.startswith("/")))


def _paths(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return glob(*(pattern for pattern in patterns if pattern.startswith("/")))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of `callers`: whom it is about, and what they may. None is not written."""

    name: str
    match: Mapping[str, tuple[str, ...]]
    """What must hold of a caller, all of it, each in one of the ways that are listed."""
    models: tuple[str, ...] | None = None
    limits: Quota = Quota()
    only: Mapping[str, str] = field(default_factory=dict)

    def fits(self, caller: Caller) -> bool:
        """Whether this entry is about `caller`."""
        return all(
            any(said in accepted for said in _said(caller, name))
            for name, accepted in self.match.items()
        )


@dataclass(frozen=True, kw_only=True)
class Callers:
    """The section `callers`: who may ask, for what, how often.

    The first entry that fits is the caller's; whom none fits has the `default`, and is refused
    where that is not written. With no section at all, everybody may everything.
    """

    entries: tuple[Entry, ...] = ()
    default: Entry | None = None
    closed: bool = False
    """Whether there is such a section, be it empty: then it lets in nobody who is not in it."""

    @staticmethod
    def of_server() -> Callers:
        """Those of the gateway that is being built; outside of one, nobody is known."""
        return given(Callers) or Callers()

    @property
    def written(self) -> tuple[Entry, ...]:
        """All entries, the default's last."""
        return (*self.entries, *((self.default,) if self.default else ()))

    @property
    def keys(self) -> Mapping[Sha256, str]:
        """The names of entries by the SHA-256 of keys that they match."""
        return {
            Sha256.parse(key): entry.name
            for entry in self.entries
            for key in entry.match.get("key", ())
        }

    def of(self, caller: Caller | None, address: str | None = None) -> Caller | None:
        """`caller` with what it was granted here. Raises `Forbidden` where nothing is.

        Where nobody found out who asks, each `address` is somebody.
        """
        if not (self.closed or self.written):
            return caller
        entry = next((e for e in self.entries if caller and e.fits(caller)), self.default)
        if entry is None:
            raise Forbidden(
                "you are known, but not listed among the callers of this gateway; "
                "ask those who run it to add you"
                if caller
                else "this gateway has a list of callers, and nobody has said who you are",
                code="caller_not_listed",
            )
        return self._granted(entry, caller or Caller("anybody", id=network(address)))

    def named(self, name: str) -> Caller | None:
        """Somebody whom the entry of that name is about; None where there is none."""
        entry = next((entry for entry in self.written if entry.name == name), None)
        return self._granted(entry, Caller(name)) if entry else None

    def _granted(self, entry: Entry, caller: Caller) -> Caller:
        listed = entry is not self.default
        return replace(
            caller,
            name=entry.name if listed else caller.name,
            id=caller.id or caller.name,
            models=(*caller.models, *(() if entry.models is None else (entry.models,))),
            limits=entry.limits,
            only=entry.only,
            listed=listed,
        )

    async def admit(self, call: Call, call_next: Next) -> Reply:
        """The plugin that stands behind those that authenticate: it grants what is written."""
        return await call_next(call.replace(caller=self.of(call.caller, call.record.client)))


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What is left to a caller of one limit; told by who keeps the limit."""

    policy: str
    """The limit's name."""
    counts: str
    """requests, tokens or concurrent."""
    limit: float
    per: float | None = None
    """The limit's time in seconds; None for what is counted at the same time."""
    remaining: float
    reset: float | None = None
    """Seconds until all of it is there again."""


@dataclass(frozen=True)
class Allowances:
    """Everything that is left to a caller, for those below to show."""

    all: tuple[Allowance, ...]


def _said(caller: Caller, name: str) -> Iterable[str]:
    """What is known of a caller under a name: one of its fields, else a claim, as texts."""
    match name:
        case "id":
            return (caller.id or caller.name,)
        case "tenant":
            return () if caller.tenant is None else (caller.tenant,)
        case "groups":
            return caller.groups
        case "key":
            return (caller.key,) if caller.key else ()
    value = caller.claims.get(name)
    values = value if isinstance(value, list) else [value]
    return tuple(text_of(one) for one in values if isinstance(one, str | int | float))


def text_of(value: str | float) -> str:
    """A claim's value, and what `match` has for it, as text that can be compared."""
    return str(value).lower() if isinstance(value, bool) else str(value)
