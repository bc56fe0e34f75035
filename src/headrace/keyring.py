"""Several keys for one upstream: asked with in turn, and one that is refused rests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from headrace.errors import UpstreamError
from headrace.options import Secret
from headrace.reply import Reply

logger = logging.getLogger("headrace")

_REFUSED = 300.0
"""Seconds for which a key rests that the upstream has refused."""
_LIMITED = 60.0
"""Seconds for which a key rests at most because its limit is used up."""


def bearing(key: Secret | None, headers: Mapping[str, str]) -> dict[str, str]:
    """An upstream's own headers: its key as `Authorization: Bearer` (RFC 6750, 2.1), and others."""
    shown = {"authorization": f"Bearer {key.reveal()}"} if key else {}
    return {**shown, **{name.lower(): value for name, value in headers.items()}}


class Keyring:
    """The keys that an upstream takes, in turn; none at all is fine, too.

    A key that is refused (401, 402, 403) rests for five minutes, and the same attempt goes on with
    the next one: the upstream has done nothing yet. A key whose limit is used up (429) rests for as
    long as the upstream says. Where all rest, the one that is free first is taken.
    """

    def __init__(self, keys: Secret | Sequence[Secret] | None) -> None:
        self.keys = (keys,) if isinstance(keys, Secret) else tuple(keys or ())
        self._next = 0
        self._until = [0.0] * len(self.keys)

    @property
    def first(self) -> Secret | None:
        """The key for what is asked beside calls, such as a list of models."""
        return self.keys[0] if self.keys else None

    async def ask(self, send: Callable[[Secret | None], Awaitable[Reply]]) -> Reply:
        """What `send` replies, given a key. Raises what it raises."""
        if len(self.keys) < 2:
            return await send(self.first)
        tried: set[int] = set()
        while True:
            number = self._turn(tried)
            tried.add(number)
            try:
                return await send(self.keys[number])
            except UpstreamError as error:
                if error.code == "upstream_credentials":
                    self._rest(number, _REFUSED)
                    logger.warning(
                        "key %d of %d is refused (HTTP %s) and rests",
                        number + 1, len(self.keys), error.said,
                    )  # fmt: skip
                    if len(tried) < len(self.keys):
                        continue
                elif error.said == 429:
                    self._rest(number, min(error.retry_after or 1.0, _LIMITED))
                raise

    def _turn(self, tried: set[int]) -> int:
        """The number of the next key that is awake, else of the one that is free first."""
        now = asyncio.get_running_loop().time()
        count = len(self.keys)
        order = [(self._next + step) % count for step in range(count)]
        left = [number for number in order if number not in tried]
        number = min(left, key=lambda number: max(0.0, self._until[number] - now))
        self._next = number + 1
        return number

    def _rest(self, number: int, seconds: float) -> None:
        self._until[number] = asyncio.get_running_loop().time() + seconds
