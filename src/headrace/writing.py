"""A thread that writes lines, and the lines that wait for it."""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from itertools import accumulate, islice, takewhile
from typing import Protocol

logger = logging.getLogger("headrace")

_MOST = 10_000
"""Lines that wait."""
_LARGEST = 32 * 1024 * 1024
"""Bytes of them."""
_AGAIN = 1.0
"""Seconds until it is tried again to write what could not be written."""
_LEAVING = 2.0
"""Seconds that are left to write at the end."""


class File(Protocol):
    """Where lines go."""

    def append(self, lines: bytes) -> None:
        """Write all of it, or nothing and raise OSError."""

    def close(self) -> None:
        """Let go of it."""


class Writer:
    """Appends lines to a file, in the order in which they come; nobody waits for it.

    In messages, `what` stands for it, such as "the audit". Lines of so many bytes are written
    `at_once`; with 0, each for itself.
    """

    def __init__(self, file: File, *, what: str, at_once: int = 64_000) -> None:
        self._file = file
        self._what = what
        self._at_once = at_once
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        """Since the file could be written to last."""
        self._ill = False
        self._closing = False
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> bool:
        """Have a line written, and whether there was room for it."""
        with self._news:
            if len(self._waiting) >= _MOST or self._bytes + len(line) > _LARGEST:
                self._dropped += 1
                return False
            self._waiting.append(line)
            self._bytes += len(line)
            self._news.notify()
        if self._thread is None:
            # One that cannot end, because a disk hangs, does not keep the process.
            self._thread = threading.Thread(target=self._run, name=self._what, daemon=True)
            self._thread.start()
        return True

    def close(self) -> int:
        """Write what waits, in a while at most; how many lines are lost."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread:
            self._thread.join(_LEAVING)
        with self._news:
            return len(self._waiting)

    def _run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals are for the main thread
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while lines := self._next():
                try:
                    self._file.append(b"".join(lines))
                except OSError as error:
                    if not self._rest(error):
                        return
                else:
                    self._wrote(lines)
        finally:
            self._file.close()

    def _next(self) -> list[bytes]:
        """The lines to write now, which wait until they are written; none at the end."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._closing)
            sizes = accumulate(map(len, self._waiting))
            several = takewhile(lambda size: size <= self._at_once, sizes)
            return list(islice(self._waiting, max(1, sum(1 for _ in several))))

    def _wrote(self, lines: list[bytes]) -> None:
        with self._news:
            for _ in lines:
                self._bytes -= len(self._waiting.popleft())
            if self._waiting:  # to be told once, and in nobody's place
                return
            dropped, self._dropped = self._dropped, 0
        if self._ill or dropped:
            logger.warning("%s is written again; %d lines were lost", self._what, dropped)
            self._ill = False

    def _rest(self, error: OSError) -> bool:
        """Wait a while after a failure; false at the end."""
        if not self._ill:
            says = "%s cannot be written, so its lines wait, and then are lost: %s"
            logger.error(says, self._what, error)
            self._ill = True
        with self._news:
            last = self._closing
            self._news.wait_for(lambda: self._closing, _AGAIN)
            return not last
