"""What a configuration says, as objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from headrace.attempts import Upstream
from headrace.caller import Callers
from headrace.chain import Plugin, Plugins
from headrace.config.certificate import Certificate
from headrace.config.document import Document
from headrace.config.fields import options_of
from headrace.config.handover import Handover
from headrace.config.problems import Place
from headrace.config.settings import Server
from headrace.hands import Hands
from headrace.health import Probes
from headrace.record import Observer
from headrace.routing import Route
from headrace.store import Store
from headrace.transport import Transport
from headrace.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole configuration; `Gateway` makes it run."""

    name: str
    server: Server
    chain: tuple[Plugin, ...]
    callers: Callers
    upstreams: Mapping[str, Upstream]
    disabled: tuple[str, ...]
    routes: tuple[Route, ...]
    skipped: Mapping[str, tuple[str, ...]]
    """Targets that no call reaches because their upstream is disabled, by their route's key."""
    observers: tuple[Observer, ...]
    middleware: tuple[tuple[Any, Mapping[str, Any]], ...]
    store: Store
    transport: Transport
    vitals: Vitals = field(default_factory=Vitals)
    """What is known of the gateway as long as it runs."""
    probes: tuple[Probes, ...] = ()
    """What asks upstreams whether they are well."""
    counting: tuple[tuple[Place, Plugin], ...] = ()
    """Plugins that count in the store, and where each is written first."""
    secrets: frozenset[str] = frozenset()
    """What `${…}` gave that must not be shown, beside what is a `Secret` or an upstream's."""
    hash: str = ""
    """The same for the same configuration, whatever its secrets are."""
    document: Document | None = None
    """Where all of it is written."""
    handover: Handover = field(default_factory=Handover)
    """What the plan that takes this one's place finds here."""
    hands: Hands | None = None
    """What keeps upstreams at rest that somebody let rest; None without an administration."""
    certificate: Certificate | None = None
    """What `headrace serve` serves HTTPS with."""
    unsure: bool = False
    """Whether plugins of `chain` are missing because of values that are left unset."""

    @property
    def authenticates(self) -> bool:
        """Whether every call must show who asks."""
        return any(says(plugin, "authenticates") for plugin in self.chain)

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it is written."""
        return tuple(map(str, self.document.files)) if self.document else ()

    @property
    def parts(self) -> Iterator[object]:
        """Everything that may have to be opened, each once, in the order of the configuration."""
        parts: list[object] = [self.store, *self.observers]
        for upstream in self.upstreams.values():
            parts += [upstream.forward, *upstream.plugins, *upstream.brought]
        parts += self.chain
        for route in self.routes:
            parts += route.chain
        parts += [inner for part in parts for inner in _inside(part)]
        yield from {id(part): part for part in parts}.values()

    @property
    def watchers(self) -> tuple[object, ...]:
        """What looks after upstreams: it ends with the plan, and not with the plan's last call."""
        return (*self.probes, self.hands)

    @property
    def admitting(self) -> tuple[Plugin, ...]:
        """The chain, with what grants callers their rights behind those that find out who asks."""
        known = behind_who_asks(self.chain)
        return (*self.chain[: len(self.chain) - len(known)], self.callers.admit, *known)


def _inside(part: object) -> Iterator[object]:
    """The plugins that are options of a part, and those inside of them."""
    if is_dataclass(part):
        for option in options_of(type(part)).values():
            if option.kind == Plugins:
                for inner in getattr(part, option.name):
                    yield from (inner, *_inside(inner))


def behind_who_asks(chain: Sequence[Plugin]) -> tuple[Plugin, ...]:
    """The plugins of the front chain that know who asks: those behind all that find that out."""
    asking = [number for number, plugin in enumerate(chain, 1) if says(plugin, "authenticates")]
    return tuple(chain[max(asking, default=0) :])


def says(plugin: object, attribute: str) -> bool:
    """Whether a plugin's class says this of its plugins."""
    return bool(getattr(plugin, attribute, False))
