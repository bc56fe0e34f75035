"""Ask the next target when one fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace import Call, Next, Reply, UpstreamError


@dataclass(kw_only=True)
class Fallback:
    """Ask the next target when one fails before its first output.

    Targets are asked in the order of the route. What a client did wrong is wrong everywhere and is
    not asked again; what an upstream refuses for its own reasons (its key, its limits, its state)
    is asked elsewhere.
    """

    divides: ClassVar = True

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Go through the targets until one answers; the last one's failure is the client's."""
        *others, last = call.targets
        for target in others:
            try:
                return await call_next(call.towards(target))
            except UpstreamError as error:
                if not error.elsewhere:
                    raise
        return await call_next(call.towards(last))
