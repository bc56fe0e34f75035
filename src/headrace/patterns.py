"""Names with `*` in them, as routes and callers write them."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=4096)
def glob(written: str) -> re.Pattern[str]:
    """What `fullmatch`es the names that are meant; `*` stands for any text.

    Each piece is taken where it first fits, which is enough, and keeps the search linear whatever
    a client sends (atomic groups, so nothing is tried twice).
    """
    first, *pieces = map(re.escape, written.split("*"))
    if not pieces:
        return re.compile(first)
    *middle, last = pieces
    between = "".join(f"(?>.*?{piece})" for piece in middle)
    return re.compile(f"{first}{between}.*{last}", re.DOTALL)
