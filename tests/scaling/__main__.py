"""Measure anew, and write what was found into docs/scaling.md: `python -m tests.scaling`."""

from __future__ import annotations

import asyncio

from ..stores.servers import running
from .carried import KINDS, Carried, carried
from .fleet import SITUATIONS, simulated
from .tables import of_limits, of_store, write


async def asked() -> list[Carried]:
    """What a store is asked, for each kind of call."""
    with running() as server:
        return [await carried(kind, server) for kind in KINDS]


if __name__ == "__main__":
    write("store", of_store(asyncio.run(asked())))
    write("limits", of_limits(map(simulated, SITUATIONS)))
