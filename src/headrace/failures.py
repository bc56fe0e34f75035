"""Which failures are meant, as plugins that ask again take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

from headrace.errors import UpstreamError
from headrace.options import Option


class Failure(Option, str):
    """A failure of an upstream: the status it answered with (`429`, `5xx`), or an error's code
    (`connect_failed`, `first_byte_timeout`)."""

    __slots__ = ()
    forms = ({"type": "integer", "minimum": 300, "maximum": 599}, {"type": "string"})
    examples = ("429", "5xx", "connect_failed", "first_byte_timeout")

    @classmethod
    def parse(cls, text: str) -> Self:
        """A status, a class of them, or a code."""
        if not re.fullmatch(r"[345]\d\d|[345]xx|[a-z]+(?:_[a-z0-9]+)*", text):
            raise ValueError(
                "is no failure; write a status such as 429, a class such as 5xx, or the code of "
                "an error such as first_byte_timeout"
            )
        return cls(text)

    def fits(self, error: UpstreamError) -> bool:
        """Whether `error` is such a failure."""
        said = str(error.said or "")
        if self[0].isdigit():
            return said == self or (self.endswith("xx") and said[:1] == self[0])
        return error.code == self


def meant(failures: Sequence[Failure] | None, error: UpstreamError, *, else_: bool) -> bool:
    """Whether `error` is one of `failures`; where none are written, or it is decided, `else_`."""
    if failures is None or error.decided:
        return else_
    return any(failure.fits(error) for failure in failures)
