"""Names with `*` in them, as routes and callers write them."""

from __future__ import annotations

import re
from functools import lru_cache


def glob(*written: str) -> re.Pattern[str]:
    """What `fullmatch`es the names that are meant by one of the patterns; `*` is any text."""
    return _compiled(written)


@lru_cache(maxsize=4096)
def _compiled(written: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_expression, written)) or "(?!)", re.DOTALL)


def _expression(written: str) -> str:
    """One pattern as a regular expression.

    Each piece is taken where it first fits, which is enough, and keeps the search linear whatever
    a client sends (atomic groups, so nothing is tried twice).
    """
    first, *pieces = map(re.escape, written.split("*"))
    if not pieces:
        return first
    *middle, last = pieces
    between = "".join(f"(?>.*?{piece})" for piece in middle)
    return f"{first}{between}.*{last}"
