"""What happened to a call: written while it runs, closed once, told to observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from headrace.call import Target
from headrace.caller import Caller
from headrace.errors import UpstreamError

if TYPE_CHECKING:
    from headrace.prices import Priced

logger = logging.getLogger("headrace")

Outcome = Literal["ok", "refused", "failed", "incomplete", "client_closed"]
_KEPT = ("hit", "stale", "shared")
"""What a cache says of an answer that no attempt of this call gave."""


@dataclass(kw_only=True)
class Usage:
    """Tokens, as an upstream counted them; None is unknown, which is not zero.

    `input` is all of the prompt, `cached` the part of it that the upstream had in its cache;
    `output` is all that was generated, `reasoning` the part of it that was thought.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    estimated: bool = False


@dataclass(kw_only=True)
class Attempt:
    """One try at one target. Times are seconds of `time.monotonic`."""

    target: Target
    started: float = field(default_factory=time.monotonic)
    first_output: float | None = None
    ended: float | None = None
    outcome: Literal["ok", "failed", "incomplete", "cancelled"] | None = None
    """None while it runs; `incomplete` failed after its first output."""
    status: int | None = None
    """What the upstream answered with, where it did."""
    error: UpstreamError | None = None
    """The failure itself, where an upstream failed."""
    asked: str | None = None
    """The model that was asked there, by the name it has there."""
    model: str | None = None
    """The same; once it answered, the one it says it is."""
    reply_id: str | None = None
    """What the upstream calls its answer."""
    finish: str | None = None
    """Why the answer ended, where it says so."""
    usage: Usage | None = None
    price: Priced | None = field(default=None, repr=False)
    """What the model costs there, where that is known."""

    @property
    def cost(self) -> float | None:
        """What it has cost, in dollars; None where that is not known, which is not zero."""
        return self.price.of(self.usage) if self.price and self.usage else None

    def end(self, outcome: Literal["ok", "failed", "incomplete", "cancelled"]) -> None:
        """Close it; the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.ended = time.monotonic()


@dataclass(kw_only=True)
class Limited:
    """What one limit did with a call: the ledger of its tokens closes with the record.

    `reserved` tokens were put aside before the call was asked, `settled` is the part of them that
    it used, `released` the rest: reserved = settled + released. `beyond` is what it used over that.
    """

    policy: str
    outcome: Literal["admitted", "refused", "unchecked"]
    """`unchecked` was let in because the store did not answer."""
    dry_run: bool = False
    """Whether it only counts: nobody is refused."""
    local: bool = False
    """Whether it was counted in this process alone, because the store did not answer."""
    reserved: int = 0
    settled: int = 0
    released: int = 0
    beyond: int = 0
    estimated: bool = False
    """Whether some of what it used is an estimate: no upstream has counted it."""


@dataclass(kw_only=True)
class Cached:
    """What a cache made of a call."""

    status: Literal["hit", "stale", "shared", "miss", "bypass"]
    """`shared` is an answer that another call was being given at the same time."""
    why: str = ""
    """Why it was no hit, or was not stored; in a word or two, such as `no-store` or `too large`."""
    stored: bool = False
    age: float | None = None
    """Seconds since the answer was stored."""
    ttl: float | None = None
    """Seconds for which it is kept from now on."""
    fwd: Literal["request", "stale", "partial"] | None = None
    """Why it was asked for although something is kept, in a word of RFC 9211, 2.2: the client did
    not take it, it is beyond its time, or it is a part of the answer."""
    saved: Usage | None = None
    """The tokens that were not asked for again."""


@dataclass(kw_only=True)
class Raced:
    """What came of several targets that were asked for one call side by side."""

    plugin: str
    """Which plugin asked them."""
    winner: Target
    of: int
    """How many were asked, those that failed included."""
    margin: float | None = None
    """Seconds from the winner's reply to the next one; until the others were ended, where none had
    any; None where no other was being asked any more."""


@dataclass(kw_only=True)
class Record:
    """All that is known of one call. Every copy of the call shares it; observers get it closed."""

    id: str
    method: str
    path: str
    client: str | None = None
    """The address the request came from."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    operation: str | None = None
    caller: Caller | None = None
    asked: str | None = None
    """The model the client named."""
    route: str | None = None
    """The key of the route that matched, as the configuration has it."""
    stream: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    resting: dict[Target, float] = field(default_factory=dict)
    """Targets that were not asked because they are closed, and until when by the loop's clock."""
    answered: Attempt | None = None
    """The attempt whose reply went to the client."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    """From when until when plugins waited on purpose, by `time.monotonic`."""
    races: list[Raced] = field(default_factory=list)
    """The races that were won on the way to the answer."""
    limits: list[Limited] = field(default_factory=list)
    """The limits it met."""
    cache: Cached | None = None
    """What a cache made of it; None where none stood in its way."""
    first_byte: float | None = None
    ended: float | None = None
    status: int | None = None
    """What the client was answered with; 499 where it left before that."""
    outcome: Outcome | None = None
    code: str | None = None
    """What went wrong, as the error's code."""
    said: str | None = None
    """What went wrong, in words for the log alone."""
    left: bool = False
    """Whether the client has left, or reads no more."""
    aside: bool = False
    """Whether it is of work that went on without the call of this id, which has its own record."""
    told: float | None = None
    """When observers were told of it; attempts that were running then are told aside."""

    @property
    def usage(self) -> Usage | None:
        """What the attempt that answered used."""
        return self.answered.usage if self.answered else None

    @property
    def cost(self) -> float | None:
        """What its attempts have cost, in dollars, as far as that is known."""
        ended = [attempt.cost for attempt in self.attempts if attempt.outcome]
        known = [cost for cost in ended if cost is not None]
        return sum(known) if known else None

    @property
    def named(self) -> Attempt | None:
        """The attempt that client and log are told of: the one that answered, else the last.

        None where a cache answered.
        """
        kept = self.cache is not None and self.cache.status in _KEPT
        return self.answered or (self.attempts[-1] if self.attempts and not kept else None)

    @property
    def instead(self) -> bool:
        """Whether the model that answers stands in for another one that was asked for.

        So it does where a pattern's route names it; a route of that very name is no stand-in.
        """
        told = self.named
        if told is None or told.target.model is None or "*" not in (self.route or ""):
            return False
        return self.asked not in (None, told.target.model, str(told.target))

    @property
    def overhead(self) -> float | None:
        """Seconds to the first byte in which neither an attempt ran nor a plugin waited on purpose.

        None before the first byte.
        """
        if self.first_byte is None:
            return None
        running = [(a.started, a.first_output or a.ended or self.first_byte) for a in self.attempts]
        overhead, since = 0.0, self.started
        for began, until in sorted(running + self.waits):  # some run side by side
            overhead += max(0.0, began - since)
            since = max(since, until)
        return overhead + max(0.0, self.first_byte - since)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what a plugin waits for on purpose, which is no slowness of the gateway."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.waits.append((began, time.monotonic()))

    def close(self, outcome: Outcome) -> None:
        """The last word on this call."""
        self.outcome = outcome
        self.ended = time.monotonic()

    def beside(self) -> Record:
        """A record for work that goes on without this call, on behalf of the same caller."""
        return Record(
            id=self.id,
            method=self.method,
            path=self.path,
            client=self.client,
            operation=self.operation,
            caller=self.caller,
            asked=self.asked,
            route=self.route,
            aside=True,
        )


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that operators want to know, and that is no call.

    A configuration was taken or refused (`config.loaded`, `config.refused`), somebody used a key
    of the administration (`admin.reload`, `admin.refused`), a key has come or gone (`key.added`).
    """

    what: str
    who: str | None = None
    """Who did it, as an address or a name; None where nobody did."""
    target: str | None = None
    """What it was done to."""
    outcome: Literal["ok", "refused", "failed"] = "ok"
    details: Mapping[str, Any] = field(default_factory=dict)
    """More, as JSON has it; never a secret."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


# A class whose attribute `by_default` is true observes where the configuration names no observers.
# An observer may have an attribute `pages`, answers to GET by path: `headrace.pages.Pages`; and a
# method `happened`, which is told of every `Happening`.
Observer = Callable[[Record], None]
"""Is told of every closed record. It must not block; what it raises is logged, and that is all."""


@dataclass(frozen=True)
class Observers:
    """All who are told of closed records; told by the edge, for work that outlives its call."""

    all: tuple[Observer, ...]

    def tell(self, record: Record) -> None:
        """Show it to each of them; one that fails, fails no request."""
        record.told = time.monotonic()
        for observer in self.all:
            try:
                observer(record)
            except Exception:
                logger.exception("an observer failed")
