"""Measure anew, and write what was found into docs/scaling.md: `python -m tests.scaling`.

`python -m tests.scaling spent` measures that table alone; `store` and `limits` are the others.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from ..stores.servers import running
from .carried import KINDS, Carried, carried
from .fleet import SITUATIONS, simulated
from .spent import all_spent
from .tables import of_limits, of_spent, of_store, write


async def asked() -> list[Carried]:
    """What a store is asked, for each kind of call."""
    with running() as server:
        return [await carried(kind, server) for kind in KINDS]


TABLES: dict[str, Callable[[], str]] = {
    "spent": lambda: of_spent(all_spent()),
    "store": lambda: of_store(asyncio.run(asked())),
    "limits": lambda: of_limits(map(simulated, SITUATIONS)),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        write(name, TABLES[name]())
