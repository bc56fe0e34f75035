"""Several workers on one port: started, replaced when one dies, and stopped together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

logger = logging.getLogger("headrace")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_AWAITED = (*_STOPPING, signal.SIGCHLD)
_SOON = 2.0
"""A worker that lives for less than so many seconds was not well from the start."""
_MOST_FAILURES = 3
"""So many in a row that were not well end it all."""
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder where processes put together what they count, for any part of a worker that
counts with prometheus-client (prometheus.github.io/client_python/multiprocess)."""


class Workers:
    """`count` processes that run `command` and share `listener`, whose number it is told last.

    A worker that dies is replaced at once. A signal to stop goes to all of them, each time.
    """

    def __init__(self, command: Sequence[str], listener: socket.socket, count: int) -> None:
        self._command = command
        self._listener = listener
        self._count = count
        self._running: dict[subprocess.Popen[bytes], float] = {}
        self._failures = 0
        self._stopping = False
        self._counts: str | None = None

    def run(self) -> int:
        """Go on until a signal to stop, and until the last worker has ended. The exit status."""
        # Awaited instead of handled, so that none comes between two lines.
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        self._listener.set_inheritable(True)
        with _counts() as self._counts:
            return self._watch()

    def _watch(self) -> int:
        status = 0
        for number in range(self._count):
            self._start(first=number == 0)
        while self._running:
            got = signal.sigtimedwait(_AWAITED, 1.0)
            if got and got.si_signo in _STOPPING:
                self._stop()
            status = max(status, self._replace())
        return status

    def _start(self, *, first: bool = False) -> None:
        fd = self._listener.fileno()
        told = [
            *self._command,
            "--worker",
            str(fd),
            "--parent",
            str(os.getpid()),
            *(["--first"] if first else []),
        ]
        environ = {**os.environ, **({_COUNTS: self._counts} if self._counts else {})}
        # In a session of its own: a terminal's Ctrl-C comes to this process alone, to be passed on.
        worker = subprocess.Popen(told, pass_fds=(fd,), start_new_session=True, env=environ)  # noqa: S603
        self._running[worker] = time.monotonic()

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._running:
            worker.send_signal(signal.SIGTERM)

    def _replace(self) -> int:
        """Start one for each that has ended; the worst status of those that failed for good."""
        worst = 0
        for worker in [worker for worker in self._running if worker.poll() is not None]:
            lived = time.monotonic() - self._running.pop(worker)
            self._forget(worker.pid)
            if self._stopping:
                worst = max(worst, worker.returncode)
                continue
            self._failures = self._failures + 1 if lived < _SOON else 0
            logger.error("worker %d ended with status %d", worker.pid, worker.returncode)
            if self._failures < _MOST_FAILURES:
                self._start()
            else:
                logger.critical("%d workers in a row did not start; giving up", self._failures)
                worst = max(worst, abs(worker.returncode), 1)
                self._stop()
        return worst

    def _forget(self, pid: int) -> None:
        """What a worker that has ended was doing at the moment is over; what it counted stays."""
        if self._counts:
            for gauge in Path(self._counts).glob(f"gauge_live*_{pid}.db"):
                gauge.unlink(missing_ok=True)


@contextmanager
def _counts() -> Iterator[str | None]:
    """The folder for what workers count: the one that the environment names, or a new one."""
    if named := os.environ.get(_COUNTS):
        yield named
        return
    try:
        made = TemporaryDirectory(prefix="headrace-counts-", ignore_cleanup_errors=True)
    except OSError as error:
        says = "workers count each for itself: %s; set TMPDIR to a folder that can be written"
        logger.warning(says, error)
        yield None
        return
    with made as folder:
        yield folder


def inherited(fd: int) -> socket.socket:
    """In a worker: the socket it shares. Signals are taken as usual again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
    return socket.socket(fileno=fd)
