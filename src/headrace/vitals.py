"""What can be seen of a running gateway at any moment, beside the records of its calls."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace.given import given
from headrace.record import Happening, Observer
from headrace.rests import Rests

if TYPE_CHECKING:
    from headrace.store import Store

logger = logging.getLogger("headrace")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The configuration that is in force."""

    hash: str
    """The same for the same configuration, whatever its secrets are."""
    files: tuple[str, ...]
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class Vitals:
    """What is known of one gateway as long as it runs, whichever configuration it has."""

    def __init__(self) -> None:
        self.began = datetime.now(UTC)
        self.rests = Rests()
        """The targets that rest."""
        self.issuers: set[str] = set()
        """Whose tokens let somebody in, or did so in a configuration before."""
        self.store: Store | None = None
        """Where parts keep what they share."""
        self.serving: set[Any] = set()
        """The requests under way."""
        self.config: Loaded | None = None
        self.reloads: Counter[str] = Counter()
        """How often a configuration was taken (`ok`) or refused (`failed`) since the start."""
        self.refused: str | None = None
        """What is wrong with the configuration that was refused last; None once one was taken."""
        self.lost: Counter[str] = Counter()
        """What was dropped instead of written, by the name of the part that dropped it."""
        self.observers: tuple[Observer, ...] = ()

    @staticmethod
    def of_server() -> Vitals:
        """Those of the gateway that is being built; outside of one, some of their own."""
        return given(Vitals) or Vitals()

    @property
    def calls(self) -> int:
        """How many requests are under way."""
        return len(self.serving)

    def lose(self, what: str, count: int = 1) -> None:
        """Count what was dropped instead of written."""
        self.lost[what] += count

    def tell(self, happening: Happening) -> None:
        """Tell the observers that want to know what happens beside calls."""
        for observer in self.observers:
            if happened := getattr(observer, "happened", None):
                try:
                    happened(happening)
                except Exception:  # an observer fails nothing
                    logger.exception("an observer failed")
