"""The types of options that are written with a unit, name a file, or must not be shown.

A field of such a type takes what stands in the file (`ttl: 10m`) and holds what the code wants
(600.0). Every message is the end of a sentence that begins with the option's name, and none repeats
what was found: it may be a secret that went to the wrong place.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


class Option:
    """What makes a class an option: it can be read from a value, and has a schema for editors."""

    __slots__ = ()
    forms: ClassVar[tuple[Mapping[str, object], ...]]
    """The forms it may be written in, in JSON Schema's words."""
    examples: ClassVar[tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `text` says; ValueError, with what to write instead, where it says nothing."""
        raise NotImplementedError

    @classmethod
    def of(cls, value: object) -> Self:
        """The option that stands in a file as `value`."""
        if isinstance(value, cls):
            return value
        text = isinstance(value, str | int | float) and not isinstance(value, bool)
        return cls.parse(str(value) if text else "")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[object], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        shown = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(cls.of, serialization=shown)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        forms = [dict(form) for form in cls.forms]
        return {
            **(forms[0] if len(forms) == 1 else {"anyOf": forms}),
            "description": (cls.__doc__ or "").partition("\n")[0],
            "examples": list(cls.examples),
        }


def _text(pattern: str) -> Mapping[str, object]:
    """The form of text that matches, or that is not known before `${…}` is replaced."""
    return {"type": "string", "pattern": rf"^(?:{pattern})$|\$\{{"}


_INTEGER: Mapping[str, object] = {"type": "integer", "minimum": 0}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"


_DURATION = "".join(rf"(?:({_NUMBER}){unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms"))


class Duration(Option, float):
    """A time, such as 200ms, 5s, 10m, 2h, 1d or 1h30m; in code, seconds."""

    __slots__ = ()
    forms = (_text(rf"(?=[0-9]){_DURATION}|0"), {"const": 0})
    examples = ("200ms", "5s", "10m", "1h30m")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The sum of what is written: 1h30m is 5400 seconds."""
        if text == "0":
            return cls(0)
        if re.fullmatch(_NUMBER, text):
            raise ValueError("has no unit; write a unit, e.g. 5s")
        found = re.fullmatch(_DURATION, text)
        if not text or not found:
            raise ValueError("is not a duration; write one such as 200ms, 5s, 10m, 1h30m or 1d")
        parts = zip(found.groups(), _SECONDS.values(), strict=True)
        return cls(sum(Decimal(amount) * unit for amount, unit in parts if amount))

    def __str__(self) -> str:
        if not 0 < self < math.inf:
            return f"{float(self):g}s"
        left = Decimal(repr(float(self)))
        written = ""
        for unit in ("d", "h", "m"):
            count, left = divmod(left, _SECONDS[unit])
            written += f"{count}{unit}" if count else ""
        if left >= 1:
            return f"{written}{_plain(left)}s"
        return f"{written}{_plain(left * 1000)}ms" if left else written


_SECONDS = {
    "d": Decimal(86400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}


class _Whole(Option, int):
    """A whole number, with a unit behind it that multiplies it."""

    __slots__ = ()
    units: ClassVar[Mapping[str, int]]
    """As they are shown, the largest first."""
    also: ClassVar[Mapping[str, int]]
    """Other spellings."""
    wrong: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        found = re.fullmatch(rf"({_NUMBER})([A-Za-z]*)", text)
        factor = {"": 1, **cls.units, **cls.also}.get(found[2]) if found else None
        amount = Decimal(found[1]) * factor if found and factor else None
        if amount is None or amount % 1:
            raise ValueError(cls.wrong)
        return cls(amount)

    def __str__(self) -> str:
        for unit, factor in self.units.items():
            if self and self % factor == 0:
                return f"{int(self) // factor}{unit}"
        return str(int(self))


class Size(_Whole):
    """A size, such as 512, 64KB, 32MB or 1GiB; in code, bytes.

    KB, MB and GB are powers of 1000, as disks and HTTP count; KiB, MiB and GiB are powers of 1024.
    """

    __slots__ = ()
    units: ClassVar = {
        "GiB": 1024**3, "GB": 1000**3,
        "MiB": 1024**2, "MB": 1000**2,
        "KiB": 1024, "KB": 1000, "B": 1,
    }  # fmt: skip
    also: ClassVar = {unit.lower(): factor for unit, factor in units.items()} | {"kB": 1000}
    wrong = "is not a size; write one such as 512, 64KB, 32MB or 1GiB"
    forms = (_INTEGER, _text(rf"{_NUMBER}(?:[KMG]i?B|B)?"))
    examples = ("64KB", "32MB", "1GiB")


class Count(_Whole):
    """A number, such as 100, 600k or 2M."""

    __slots__ = ()
    units: ClassVar = {"G": 1000**3, "M": 1000**2, "k": 1000}
    also: ClassVar = {"K": 1000}
    wrong = "is not a number; write one such as 100, 600k or 2M"
    forms = (_INTEGER, _text(rf"{_NUMBER}[kKMG]?"))
    examples = ("100", "600k", "2M")


@dataclass(frozen=True)
class Rate(Option):
    """How many in which time, such as 60/minute, 2M/day, 10/s or 100/5m."""

    amount: int
    """How many."""
    period: float
    """In so many seconds."""

    forms = (_text(rf"{_NUMBER}[kKMG]?/(?:second|minute|hour|day|(?:{_NUMBER})?(?:ms|[smhd]))"),)
    examples = ("60/minute", "2M/day", "10/s", "100/5m")

    @classmethod
    def parse(cls, text: str) -> Self:
        """A number, a slash, and a unit of time or a duration."""
        amount, _, period = text.partition("/")
        period = _PERIODS.get(period, period)
        try:
            rate = cls(
                Count.parse(amount),
                Duration.parse(period if period[:1].isdigit() else f"1{period}"),
            )
        except ValueError:
            raise ValueError("is not a rate; write one such as 60/minute, 10/s or 100/5m") from None
        if not rate.amount or not rate.period:
            raise ValueError("must not be zero; write a rate such as 60/minute")
        return rate

    @property
    def per_second(self) -> float:
        """The same as a number, for buckets that fill evenly."""
        return self.amount / self.period

    def __str__(self) -> str:
        period = str(Duration(self.period))
        names = {short: name for name, short in _PERIODS.items()}
        return f"{Count(self.amount)}/{names.get(period, period)}"


_PERIODS = {"second": "1s", "minute": "1m", "hour": "1h", "day": "1d"}


class Secret(Option):
    """Something that must not be shown; best written as ${NAME} or ${file:/run/secrets/name}.

    Whoever prints, logs, formats, dumps or pickles one gets `***`. `reveal()` is the only way in.
    """

    __slots__ = ("__value",)
    forms = ({"type": "string", "minLength": 1},)
    examples = ("${OPENAI_API_KEY}", "${file:/run/secrets/openai}")

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("is empty")
        self.__value = value

    @classmethod
    def parse(cls, text: str) -> Self:
        """The secret, as it is."""
        return cls(text)

    @classmethod
    def of(cls, value: object) -> Self:
        """The secret that stands in a file as `value`: text, and not empty."""
        if isinstance(value, cls):
            return value
        if value is not None and not isinstance(value, str):
            raise ValueError("is not text; put it in quotes")
        return cls(value or "")

    def reveal(self) -> str:
        """The secret itself, to be sent where it belongs and kept nowhere."""
        return self.__value

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (it.__value.encode(errors="surrogatepass") for it in (self, other))
        return hmac.compare_digest(mine, theirs)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, ("***",)


class File(Option, str):
    """A file, by its path; a relative one begins in the folder of the file that it is written in.

    In code it is a path as any other, which begins where the process runs.
    """

    __slots__ = ()
    forms = ({"type": "string", "minLength": 1},)
    examples = ("keys.yaml", "/etc/headrace/keys.yaml")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The path as it is written."""
        if not text or "\0" in text:
            raise ValueError("is not the path of a file")
        if "://" in text:
            raise ValueError("is a URL; write the path of a file")
        return cls(text)

    def within(self, folder: str | os.PathLike[str]) -> Self:
        """The same from where the process runs, if it is written in a file of that folder."""
        return type(self)(pathlib.Path(folder, os.path.expanduser(self)))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[object], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        shown = core_schema.to_string_ser_schema()
        return core_schema.with_info_plain_validator_function(cls._placed, serialization=shown)

    @classmethod
    def _placed(cls, value: object, info: core_schema.ValidationInfo) -> File:
        """The file that is named; where a context is given, it says where that begins."""
        place: Callable[[File], File] | None = info.context
        return place(cls.of(value)) if place else cls.of(value)


class Sha256(Option, str):
    """The SHA-256 of a key, in hexadecimal: `printf %s "$KEY" | sha256sum`."""

    __slots__ = ()
    forms = (_text("(?:sha256:)?[0-9A-Fa-f]{64}"),)
    examples = (f"sha256:{hashlib.sha256(b'').hexdigest()}",)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digits alone, in lower case."""
        digest = text.removeprefix("sha256:").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError('is not a SHA-256; make one with: printf %s "$KEY" | sha256sum')
        return cls(digest)


def sha256(text: str) -> Sha256:
    """The SHA-256 of a key that somebody shows."""
    return Sha256(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())


def _plain(number: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    return f"{number.normalize():f}"
