"""What `headrace serve` writes to standard output and standard error: nobody waits for its reader.

A pipe that nobody reads from is full at some time: lines wait then, and those that come when many
wait are lost, which `lose` is told.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from headrace.writing import Writer


class Output(logging.Handler):
    """The access log: writes lines to standard output, each with one write, in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[int], None] = lambda count: None
        self._writer = Writer(_Stream(_number(sys.stdout)), what="the access log", at_once=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if not self._writer.put(line):
            self.lose(1)

    def close(self) -> None:
        """Write what waits; logging itself asks for it, when the process ends."""
        self._writer.close()
        super().close()


class ErrorOutput(io.RawIOBase):
    """Takes the place of standard error: the log, and whatever else is told to people."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[int], None] = lambda count: None
        self._stream = _Stream(_number(sys.stderr))
        self._writer = Writer(self._stream, what="the log", at_once=0)
        self._ended = False
        if sys.stderr:
            told = sys.stderr.encoding
            sys.stderr = io.TextIOWrapper(self, told, "backslashreplace", line_buffering=True)
            atexit.register(self._end)

    def writable(self) -> bool:
        """It is, and nothing else."""
        return True

    def fileno(self) -> int:
        """That of standard error."""
        return self._stream.number

    def isatty(self) -> bool:
        """Whether somebody looks on."""
        return os.isatty(self.fileno())

    def write(self, data: Any) -> int:
        """Have this written; the last words of an interpreter, when no thread is left, at once."""
        line = bytes(data)
        if self._ended:
            self._stream.append(line)
        elif not self._writer.put(line):
            self.lose(1)
        return len(line)

    def _end(self) -> None:
        """Write what waits, and what others say at their end; who dies of an error does so, too."""
        logging.shutdown()
        self._ended = self._writer.close() == 0


class _Stream:
    def __init__(self, number: int) -> None:
        self.number = number

    def append(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            left = left[os.write(self.number, left) :]

    def close(self) -> None:
        """It is the process's own."""


def _number(stream: TextIO | None) -> int:
    """The number of a stream; of one that was closed before the start, what cannot be written."""
    return stream.fileno() if stream else -1
