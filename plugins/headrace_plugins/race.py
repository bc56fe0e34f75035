"""Ask several targets at once and take the first good reply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from headrace import Call, Next, Reply, Rests, first_good


@dataclass(kw_only=True)
class Race:
    """Ask several targets at once and take the first good reply.

    It is as fast as the fastest of them, and costs as much as all of them. A failure never wins.
    When one has won, the others are cancelled, and their connections closed, before its reply goes
    on.
    """

    divides: ClassVar = True
    keeps_answers: ClassVar = True

    width: int | None = None
    """How many are asked at once; else all. When one fails, the next takes its place.

    All together make no more attempts than `server: {attempts: …}` says."""
    rests: Rests = field(default_factory=Rests.of_server)

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, found {self.width}")

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Start them in the order of the route, those that rest last."""
        call = call.replace(targets=self.rests.awake_first(call))
        return await first_good(call, call_next, by="race", width=self.width)
