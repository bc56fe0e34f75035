"""What is found out about a gateway's surroundings: `headrace doctor` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was tried, what came of it, and what to do.

    A plugin, observer, forwarder or store may have a method `examine`, an asynchronous generator
    of findings: it tries what the part leans on, as it would later. The part is not opened for it,
    no call is running, and whatever takes too long is cut; what it has yielded by then counts.
    """

    says: str
    """What came of it; never a secret."""
    state: Literal["ok", "warn", "fail"] = "ok"
    """With `warn` a gateway can be served, with `fail` some calls would not be answered."""
    advice: str | None = None
    """What to do about it."""
    about: str = ""
    """What was tried, in a word or two, where that is not the part itself."""
