"""The access log on standard output: no call waits for who reads it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from headrace.writing import Writer


class Output(logging.Handler):
    """Writes lines to standard output, each with one write, in a thread.

    A pipe that nobody reads from is full at some time: lines wait then, and those that come when
    many wait are lost, which `lose` is told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[int], None] = lambda count: None
        self._writer = Writer(_Stdout(), what="the access log", at_once=0)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if not self._writer.put(line):
            self.lose(1)

    def close(self) -> None:
        """Write what waits; logging itself asks for it, when the process ends."""
        self._writer.close()
        super().close()


class _Stdout:
    def append(self, lines: bytes) -> None:
        handle, left = sys.stdout.fileno(), memoryview(lines)
        while left:
            left = left[os.write(handle, left) :]

    def close(self) -> None:
        """It is the process's own."""
