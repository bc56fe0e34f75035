"""A transport that notes what time it is where the answers come from."""

from __future__ import annotations

import email.utils
import time

from headrace.transport import Request, Response, Transport


class Watching(Transport):
    """Sends through another transport; `ahead` is by how much our clock was, at each answer."""

    def __init__(self, through: Transport) -> None:
        self.name = through.name
        self.ahead: list[float] = []
        self._through = through

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Send it, and note the `Date` of the answer (RFC 9110, 6.6.1)."""
        response = await self._through.send(request, connect=connect, idle=idle)
        told = email.utils.parsedate_tz(response.headers.get("date", ""))
        if told:
            self.ahead.append(time.time() - email.utils.mktime_tz(told))
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._through.aclose()
