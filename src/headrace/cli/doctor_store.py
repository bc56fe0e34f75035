"""Whether the store answers, keeps what it is given, and has this machine's time."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence

from headrace.finding import Finding
from headrace.store import New, Step, Store, Unavailable, Value

_APART = 2.0
"""Seconds by which two clocks may differ."""
_KEPT = 10.0
"""Seconds that what is written here lives at most."""


async def store_findings(store: Store) -> AsyncIterator[Finding]:
    """Write, read and delete a value that is nobody else's."""
    key = f"doctor:{secrets.token_hex(8)}"
    try:
        says = await store.probe()
        kept = await _keeps(store, key)
        ahead = await _ahead(store, key)
    except Unavailable as error:
        says = f"no answer{store.place and f' from {store.place}'}: {error}"
        advice = "start it, or see `store` of the server"
        yield Finding(about="store", state="fail", says=says, advice=advice)
        return
    if not kept:
        says = f"{says}; what was written is not what is read"
        yield Finding(about="store", state="fail", says=says, advice="see who else writes there")
        return
    yield Finding(about="store", says=f"{says}; writes, reads and deletes")
    if store.shared:
        yield _clock(ahead)


async def _keeps(store: Store, key: str) -> bool:
    value = secrets.token_bytes(16)
    await store.set(key, value, ttl=_KEPT)
    read = await store.get(key)
    await store.delete(key)
    return read == value and await store.get(key) is None


async def _ahead(store: Store, key: str) -> float:
    """By how many seconds its clock is ahead of ours."""
    began = time.time()
    [(now,)] = await store.apply(Step(key=key, run=_now, lua="return false, {now}", ttl=_KEPT))
    return now - (began + time.time()) / 2


def _now(value: Value, now: float, arguments: Sequence[float]) -> tuple[New, tuple[float, ...]]:
    return False, (now,)


def _clock(ahead: float) -> Finding:
    apart = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) < _APART:
        return Finding(about="store's clock", says=f"{apart}")
    advice = "let both machines take their time from NTP"
    return Finding(about="store's clock", state="warn", says=apart, advice=advice)
