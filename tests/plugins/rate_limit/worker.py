"""One of several processes that share limits; it asks all the time, and tells what was let in.

python -m tests.plugins.rate_limit.worker URL PREFIX SECONDS
"""

from __future__ import annotations

import asyncio
import sys
import time

from headrace import Duration, RateLimited, Secret
from headrace.store.redis import Redis
from headrace.testing import Upstream, ask, call
from headrace_plugins.rate_limit import RateLimit, budget

from .gates import policy

RATE, BURST, SLOTS = 100, 40, 6


async def main(url: str, prefix: str, seconds: float) -> None:
    """Ask until the time is over; print when each call that was let in began and ended."""
    budget.PATIENCE = 20  # this machine may be busy, and nobody is to count for himself meanwhile
    store = Redis(url=Secret(url), prefix=prefix, timeout=Duration(20))
    limits = policy(by=[], requests=f"{RATE}/s", burst=BURST, concurrent=SLOTS)
    plugin = RateLimit(store=store, policies=[limits], on_store_error="closed")
    upstream = Upstream()

    async def asking() -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                reply = await ask(plugin, upstream=upstream, call=call())
            except RateLimited:
                await asyncio.sleep(0.002)
                continue
            let_in = time.monotonic()
            await asyncio.sleep(0.005)
            print("let in", began, let_in, time.monotonic(), flush=True)
            await reply.aclose()

    async with store, plugin:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + seconds
        await asyncio.gather(*(asking() for _ in range(SLOTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
