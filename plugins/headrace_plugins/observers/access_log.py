"""One line for each request: JSON for programs, or one that people read."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from headrace import Cached, Limited, Raced, Record, json_line

logger = logging.getLogger("headrace.access")

_LONGEST = 120
"""Characters of what a client or an upstream chose, in a line for people."""
_COLORS = {"ok": "32", "refused": "33", "client_closed": "33"}
_RED, _FAINT = "31", "2"


@dataclass(kw_only=True)
class AccessLog:
    """Write one line for each request: who asked what, who answered, how it went.

    Lines go to the logger `headrace.access` at INFO; `headrace serve` writes it to standard output.
    Never bodies, headers or keys. Times are seconds; what is not known is left out.
    """

    form: Literal["json", "console", "auto"] = "auto"
    """`json` is for programs, `console` for people, with the most important in one line.

    `auto` is `console` where standard output is a terminal, else `json`."""

    by_default: ClassVar = True

    def __post_init__(self) -> None:
        terminal = sys.stdout.isatty()
        self._for_people = self.form == "console" or (self.form == "auto" and terminal)
        self._colored = terminal and not os.environ.get("NO_COLOR")  # no-color.org

    def __call__(self, record: Record) -> None:
        """Write the line of a closed record."""
        if logger.isEnabledFor(logging.INFO):
            logger.info(self._written(record))

    def _written(self, record: Record) -> str:
        if not self._for_people:
            return json_line(line(record))
        paint = _painted if self._colored else _plain
        return "  ".join(paint(text, color) for text, color in told(record))


def line(record: Record) -> dict[str, Any]:
    """The members of a line, in the order in which a person reads them."""
    usage, caller, named = record.usage, record.caller, record.named
    return {
        "time": record.began.isoformat(timespec="milliseconds"),
        "id": record.id,
        "aside": record.aside or None,
        "client": record.client,
        "caller": caller.name if caller else None,
        "who": caller.id if caller and caller.id != caller.name else None,
        "tenant": caller.tenant if caller else None,
        "issuer": caller.issuer if caller else None,
        "method": record.method,
        "path": record.path,
        "operation": record.operation,
        "asked": record.asked,
        "route": record.route,
        "upstream": named.target.upstream if named else None,
        "model": named.model if named else None,
        "instead": record.instead or None,
        "stream": record.stream,
        "status": record.status,
        "outcome": record.outcome,
        "code": record.code,
        "said": record.said,
        "attempts": [
            _present(
                {
                    "upstream": attempt.target.upstream,
                    "model": attempt.model,
                    "status": attempt.status,
                    "outcome": attempt.outcome,
                    "code": attempt.error.code if attempt.error else None,
                    "reply_id": attempt.reply_id,
                    "finish": attempt.finish,
                    "first_output": _since(attempt.started, attempt.first_output),
                    "seconds": _since(attempt.started, attempt.ended),
                    "tokens": _present(vars(attempt.usage)) if attempt.usage else None,
                    "cost": _dollars(attempt.cost),
                }
            )
            for attempt in record.attempts
        ],
        "cache": _met_cache(record.cache) if record.cache else None,
        "races": [_raced(raced) for raced in record.races] or None,
        "passed_over": [str(target) for target in record.resting] or None,
        "tokens": _present(vars(usage)) if usage else None,
        "cost": _dollars(record.cost),
        "limits": [_met(limit) for limit in record.limits] or None,
        "first_byte": _since(record.started, record.first_byte),
        "overhead": round(record.overhead, 6) if record.overhead is not None else None,
        "seconds": _since(record.started, record.ended),
    }


def told(record: Record) -> Iterator[tuple[str, str]]:
    """The pieces of a line for people, each with its colour."""
    outcome, took = record.outcome or "", (record.ended or record.started) - record.started
    color = _COLORS.get(outcome, _RED)
    yield record.began.astimezone().strftime("%H:%M:%S"), _FAINT
    yield f"{record.status or '-'} {outcome}", color
    if record.code:
        yield _safe(record.code), color
    yield f"{took:.3f}s", ""
    asked = record.asked or f"{record.method} {record.path}"
    yield _safe(f"{record.operation or ''} {asked}".strip()), ""
    if named := record.named:
        yield _safe(f"→ {named.target.upstream}/{named.model or '?'}"), ""
    elif record.cache and record.cache.status in ("hit", "stale", "shared"):
        yield "→ cache", ""
    if len(record.attempts) > 1:
        yield f"{len(record.attempts)} attempts", "33"
    if record.cache:
        yield f"cache {record.cache.status}", _FAINT
    if usage := record.usage:
        about = "~" if usage.estimated else ""
        yield f"{_count(usage.input)}+{about}{_count(usage.output)} tokens", _FAINT
    if (cost := record.cost) is not None:
        yield f"${cost:.6f}", _FAINT
    if record.caller:
        yield _safe(record.caller.name), _FAINT
    yield _safe(record.id), _FAINT


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _safe(text: str) -> str:
    """Text as a terminal may get it: none of it moves the cursor, ends the line or turns it."""
    cut = f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _painted(text: str, color: str) -> str:
    """Text in a colour (ECMA-48, 8.3.117)."""
    return f"\x1b[{color}m{text}\x1b[0m" if color else text


def _plain(text: str, color: str) -> str:
    return text


def _dollars(cost: float | None) -> float | None:
    return None if cost is None else round(cost, 9)


def _met_cache(cached: Cached) -> dict[str, Any]:
    """What a cache made of the call; `saved` are tokens that were not asked for again."""
    told = {name: value for name, value in asdict(cached).items() if value not in (None, "", False)}
    if cached.saved:
        told["saved"] = _present(vars(cached.saved))
    times = {name: round(told[name], 3) for name in ("age", "ttl") if name in told}
    return told | times


def _raced(raced: Raced) -> dict[str, Any]:
    winner = {"upstream": raced.winner.upstream, "model": raced.winner.model}
    margin = None if raced.margin is None else round(raced.margin, 6)
    return _present({"plugin": raced.plugin, **winner, "of": raced.of, "margin": margin})


def _met(limit: Limited) -> dict[str, Any]:
    """What a limit did, without what it did not."""
    return {name: value for name, value in asdict(limit).items() if value}


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 6)


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
