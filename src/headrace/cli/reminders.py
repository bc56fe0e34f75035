"""What operators have to do about a gateway that runs, said in its log."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from headrace.config.changes import RESTART
from headrace.config.plan import Plan
from headrace.config.settings import Server

logger = logging.getLogger("headrace")

_DAY = 24 * 60 * 60.0


class Reminders:
    """Looks at the plan in force, as often as it is called; `plan` is the one of the start."""

    def __init__(self, plan: Plan) -> None:
        self._first = self._last = plan
        self._next = time.monotonic()

    def __call__(self, plan: Plan) -> None:
        """Say what is new, and once a day what is still to be done."""
        if plan is not self._last:
            before, self._last = self._last.certificate, plan
            if plan.certificate and before and plan.certificate.pem != before.pem:
                logger.info(plan.certificate.renewed())
                self._next = time.monotonic()
            if waiting := [*_waiting(self._first.server, plan.server)]:
                logger.warning("this needs a restart, in server: %s", ", ".join(waiting))
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _DAY
            if plan.certificate and (warning := plan.certificate.warning(datetime.now(UTC))):
                logger.warning(warning)


def _waiting(first: Server, now: Server) -> list[str]:
    """Options that have another value than at the start, which a reload cannot change."""
    # Another certificate is taken, but not one where there was none.
    return [
        name
        for name in RESTART
        if getattr(first, name) != getattr(now, name)
        and (name != "tls" or None in (first.tls, now.tls))
    ]
