"""One line of JSON for each request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import orjson

from headrace import Cached, Limited, Raced, Record

logger = logging.getLogger("headrace.access")


@dataclass(kw_only=True)
class AccessLog:
    """Write one line of JSON for each request: who asked what, who answered, how it went.

    Lines go to the logger `headrace.access` at INFO; `headrace serve` writes it to standard output.
    Never bodies, headers or keys. Times are seconds; what is not known is left out.
    """

    by_default: ClassVar = True

    def __call__(self, record: Record) -> None:
        """Write the line of a closed record."""
        if logger.isEnabledFor(logging.INFO):
            logger.info(orjson.dumps(_present(line(record))).decode())


def line(record: Record) -> dict[str, Any]:
    """The members of a line, in the order in which a person reads them."""
    usage, caller = record.usage, record.caller
    return {
        "time": record.began.isoformat(timespec="milliseconds"),
        "id": record.id,
        "aside": record.aside or None,
        "client": record.client,
        "caller": caller.name if caller else None,
        "who": caller.id if caller and caller.id != caller.name else None,
        "tenant": caller.tenant if caller else None,
        "method": record.method,
        "path": record.path,
        "operation": record.operation,
        "asked": record.asked,
        "route": record.route,
        "upstream": record.answered.target.upstream if record.answered else None,
        "model": record.answered.model if record.answered else None,
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
                    "first_output": _since(attempt.started, attempt.first_output),
                    "seconds": _since(attempt.started, attempt.ended),
                    "tokens": _present(asdict(attempt.usage)) if attempt.usage else None,
                }
            )
            for attempt in record.attempts
        ],
        "cache": _met_cache(record.cache) if record.cache else None,
        "races": [_raced(raced) for raced in record.races] or None,
        "passed_over": [str(target) for target in record.resting] or None,
        "tokens": _present(asdict(usage)) if usage else None,
        "limits": [_met(limit) for limit in record.limits] or None,
        "first_byte": _since(record.started, record.first_byte),
        "overhead": round(record.overhead, 6) if record.overhead is not None else None,
        "seconds": _since(record.started, record.ended),
    }


def _met_cache(cached: Cached) -> dict[str, Any]:
    """What a cache made of the call; `saved` are tokens that were not asked for again."""
    told = {name: value for name, value in asdict(cached).items() if value not in (None, "", False)}
    if cached.saved:
        told["saved"] = _present(asdict(cached.saved))
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
