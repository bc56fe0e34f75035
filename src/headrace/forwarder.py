"""What a forwarder is, and what it may find on the machine it runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from headrace.call import Call
from headrace.reply import Reply


class Forwarder(Protocol):
    """Ends an attempt: sends a call to one upstream and returns its reply.

    A dataclass whose fields are its options; an async context manager if it opens something. It
    knows addresses, keys and framing, and leaves the meaning of bodies alone. It may also have

    - `brings`: plugins as `gateway.yaml` writes them, put inside each attempt, such as a change of
      dialect; a plugin of the same name in the upstream's `plugins` takes their place;
    - `async def models(self) -> list[str]`: the models it offers now;
    - `async def find(cls, environ) -> list[Found]`, a class method: what there is to use without a
      configuration;
    - `timeouts`: options of an upstream's `timeouts` that suit it, where none are configured;
    - `base_url`: where it asks; what an upstream says of its own host is kept from clients;
    - `provider`: whom it asks, as OpenTelemetry calls them, where that is not the forwarder's name.
    """

    def __call__(self, call: Call, /) -> Awaitable[Reply]:
        """Send `call` and return when the reply's headers are there."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An upstream that can be used as it is: what `headrace serve` without a file starts with."""

    STAND_IN: ClassVar = 100
    """The rank of what is used only where nothing else is there."""

    name: str
    """What to call the upstream."""
    says: str
    """Where it was found, for the one who starts the gateway."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The forwarder's options, as `gateway.yaml` would have them; `${…}` is expanded."""
    models: tuple[str, ...] = ()
    """Models it is known to have; the first one answers for models that nobody has."""
    rank: int = 50
    """The lower, the sooner it stands in for others."""
