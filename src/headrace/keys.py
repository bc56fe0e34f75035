"""Keys that callers show: whose each is, what it is good for, and until when."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self

from headrace.options import Option

_WRITTEN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


class Moment(Option, datetime):
    """A date, such as 2027-01-31, which is the moment it begins at; or a date with a time.

    It is in UTC where no zone is written.
    """

    __slots__ = ()
    forms = ({"type": "string", "pattern": rf"^{_WRITTEN}$|\$\{{"},)
    examples = ("2027-01-31", "2027-01-31T18:00:00Z", "2027-01-31T18:00+01:00")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The moment, in UTC."""
        try:
            found = cls.fromisoformat(text if re.fullmatch(_WRITTEN, text) else "")
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise ValueError(
                "is not a date; write one such as 2027-01-31 or 2027-01-31T18:00:00Z"
            ) from None

    def __str__(self) -> str:
        return self.isoformat().replace("+00:00", "Z").removesuffix("T00:00:00Z")


@dataclass(frozen=True, kw_only=True)
class Key:
    """Whose a key is, what it is good for, and until when."""

    name: str
    """Who shows it, as `callers` and logs call them."""
    tenant: str | None = None
    """Whose data they work on."""
    groups: list[str] = field(default_factory=list)
    """Groups that they are in."""
    models: list[str] | None = None
    """Names and patterns of the models, and of paths, that it is good for; else all of them."""
    created: Moment | None = None
    """When it was made."""
    expires: Moment | None = None
    """From when on it is not good any more."""
    revoked: Moment | None = None
    """When it was taken back; it is not good any more, whatever is written here."""

    shorthand: ClassVar = "name"

    def __post_init__(self) -> None:
        texts = (self.name, self.tenant or "-", *self.groups, *(self.models or ()))
        if not all(text.isprintable() and text.strip() for text in texts):
            raise ValueError("needs text in name, tenant, groups and models that can be printed")

    def state(self, now: datetime) -> Literal["good", "expired", "revoked"]:
        """What is to be thought of it now."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= now else "good"
