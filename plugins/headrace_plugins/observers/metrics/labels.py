"""The values of labels: names of the configuration, and few others.

Nothing that a client or an upstream chose becomes one, so there are never more series than the
configuration has names for.
"""

from __future__ import annotations

from http import HTTPStatus

from headrace import Attempt, Caller

NONE = "none"
"""There is none: no route matched, nobody answered, nothing went wrong."""
OTHER = "other"
"""There is one, but it is not one of those that are known beforehand."""

_STATUSES = {*map(int, HTTPStatus), 499, 529}
_MOST_CODES = 60


def of_caller(caller: Caller | None) -> str:
    """An entry of `callers`."""
    if caller is None:
        return NONE
    return caller.name if caller.listed else OTHER


def of_status(status: int | None) -> str:
    """A status that is known; of any other, its class."""
    if status is None:
        return NONE
    return str(status) if status in _STATUSES else f"{status // 100}xx"


def of_bool(value: bool) -> str:
    """Whether it is so."""
    return "true" if value else "false"


class Codes:
    """The codes of failed attempts: our own, and the status where an upstream says its own.

    The code in an upstream's answer is text of its own choice. All others stand in the code of
    the gateway and its plugins; should one of these be careless, the first sixty count.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, attempt: Attempt) -> str:
        """What went wrong with an attempt."""
        error = attempt.error
        if error is None:
            return OTHER if attempt.outcome in ("failed", "incomplete") else NONE
        if error.said is not None:
            return f"upstream_{of_status(error.said)}"
        code = error.code or OTHER
        if len(self._known) < _MOST_CODES:
            self._known.add(code)
        return code if code in self._known else OTHER
