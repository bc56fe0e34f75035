"""Ask the next target when one fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from headrace import (
    Call,
    Duration,
    Failure,
    Next,
    Others,
    Patience,
    Reply,
    Rests,
    UpstreamError,
    leaves,
    meant,
)


@dataclass(kw_only=True)
class Fallback:
    """Ask the next target when one fails before its first output.

    Targets are asked in the order of the route; one that rests, because it asked to wait or has
    failed too often, after the others. What a client did wrong is wrong everywhere and is not asked
    again; what an upstream refuses for its own reasons (its key, its limits, its state) is asked
    elsewhere.
    """

    when: list[Failure] | None = None
    """Failures after which the next target is asked, and no others; else all that are not the
    client's: 408, 409, 429, 5xx, the gateway's key, and whatever is no answer."""
    patience: Duration | None = None
    """How long to wait for a target's first output, the whole of a plain answer, before the next
    one is asked; the last one has the time that its upstream has anyway."""
    rests: Rests = field(default_factory=Rests.of_server)

    divides: ClassVar = True
    keeps_answers: ClassVar = True

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Go through the targets until one answers; the last one's failure is the client's."""
        targets = self.rests.awake_first(call)
        failed: UpstreamError | None = None
        for number, target in enumerate(targets, 1):
            asked = call.towards(target)
            if others := targets[number:]:
                would = partial(self._asks, call.replace(targets=others))
                asked = asked.telling(Others(would))
                if self.patience:
                    asked = asked.telling(Patience(self.patience))
            try:
                return await call_next(asked)
            except UpstreamError as error:
                # That somebody is not asked for the moment says less than why another has failed.
                failed = failed if failed and error.code == "upstream_resting" else error
                if not self._goes_on(error):
                    break
        assert failed, "a route has targets"
        raise failed

    def _goes_on(self, error: UpstreamError) -> bool:
        return meant(self.when, error, else_=error.elsewhere)

    def _asks(self, others: Call, error: UpstreamError) -> bool:
        """Whether one of `others` is asked after such a failure: not where all are closed."""
        rests = [self.rests.of(target, others) for target in leaves(others.targets)]
        return self._goes_on(error) and not all(rest and rest.closed for rest in rests)
