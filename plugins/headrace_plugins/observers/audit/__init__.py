"""What was refused, and what operators did, in a file that only grows."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from headrace import Duration, File, Happening, Record, Size, Vitals, Writer, json_line

_LONGEST = 500
"""Characters of what a client chose."""
_LEAST = 64_000
_LARGEST = 16_000
"""Characters of a line; the details of a longer one are cut."""


@dataclass(kw_only=True)
class Audit:
    """Append a line of JSON to a file for each refused call, and for what operators do.

    That is a configuration that was taken or refused, and whatever is done by a key of the
    administration. Never bodies, headers or keys. No call waits for the file: lines wait for it,
    up to 10,000 of them; what is dropped then is counted in `headrace_log_dropped_total`.
    """

    file: File
    """Where, in a folder that is there. Nobody but the gateway's own user can read it."""
    size: Size = field(default_factory=lambda: Size(100_000_000))
    """How large it grows before it is put aside, and another one is begun."""
    age: Duration | None = None
    """How old it grows before that."""
    keep: int = 10
    """How many of those that were put aside are kept."""
    vitals: Vitals = field(default_factory=Vitals.of_server)

    def __post_init__(self) -> None:
        if not Path(self.file).absolute().parent.is_dir():
            raise ValueError(f"the folder of its file is not there: {Path(self.file).parent}")
        if self.size < _LEAST:
            raise ValueError(f"size must be at least 64kB, found {self.size}")
        if self.age is not None and self.age < 1:
            raise ValueError(f"age must be at least 1s, found {self.age}")
        if self.keep < 0:
            raise ValueError(f"keep must not be below 0, found {self.keep}")
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        """Begin to write what comes."""
        from headrace_plugins.observers.audit.file import AppendedFile  # not on Windows

        file = AppendedFile(self.file, size=self.size, age=self.age, keep=self.keep)
        self._writer = Writer(file, what="the audit")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Write what still waits; what cannot be written is lost."""
        if self._writer:
            writer, self._writer = self._writer, None
            self._lose(await asyncio.to_thread(writer.close))

    def __call__(self, record: Record) -> None:
        """Write down a refused call."""
        if record.outcome != "refused" or record.aside:
            return
        caller = record.caller
        self._append(
            {
                "time": record.began.isoformat(timespec="milliseconds"),
                "what": "call.refused",
                "id": record.id,
                "client": record.client,
                "caller": caller.name if caller else None,
                "who": caller.id if caller and caller.id != caller.name else None,
                "tenant": caller.tenant if caller else None,
                "issuer": caller.issuer if caller else None,
                "method": record.method,
                "path": record.path[:_LONGEST],
                "operation": record.operation,
                "asked": record.asked[:_LONGEST] if record.asked else None,
                "route": record.route,
                "status": record.status,
                "code": record.code,
                "said": record.said[:_LONGEST] if record.said else None,
            }
        )

    def happened(self, happening: Happening) -> None:
        """Write down what is no call."""
        members = {
            "time": happening.at.isoformat(timespec="milliseconds"),
            "what": happening.what,
            "who": happening.who and happening.who[:_LONGEST],
            "target": happening.target and happening.target[:_LONGEST],
            "outcome": happening.outcome,
            "process": os.getpid(),
        }
        details = json_line(happening.details)
        if len(details) > _LARGEST:
            self._append({**members, "cut": details[: _LARGEST // 2]})
        else:
            self._append({**members, "details": happening.details or None})

    def _append(self, members: dict[str, Any]) -> None:
        line = f"{json_line(members)}\n".encode()
        if self._writer is None or not self._writer.put(line):
            self._lose(1)

    def _lose(self, count: int) -> None:
        if count:
            self.vitals.lose("audit", count)
