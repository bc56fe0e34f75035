"""Several workers on one port: started, replaced when one dies, and stopped together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from headrace.cli.errand import Errand, recalled, remembered
from headrace.cli.listening import Listeners
from headrace.cli.notify import READY, Notify
from headrace.config.build import build
from headrace.config.document import Document
from headrace.config.plan import Plan

logger = logging.getLogger("headrace")

CHANGED = b"X_CHANGED=1"
"""What a worker says once it has another configuration, whoever told it to look."""
OTHERS = b"X_OTHERS=1"
"""What it says when it was told by one who cannot tell the others."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_TAKEN = (*_STOPPING, signal.SIGCHLD)
_AWAITED = (*_TAKEN, signal.SIGHUP)
_SOON = 2.0
"""A worker that lives for less than so many seconds was not well from the start."""
_MOST_FAILURES = 3
"""After so many in a row it is waited a while, or it ends where no other worker serves."""
_WHILE = 10.0
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder where processes put together what they count, for any part of a worker that
counts with prometheus-client (prometheus.github.io/client_python/multiprocess)."""


@dataclass(kw_only=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    began: float
    says: socket.socket
    """Where it says how it is."""
    speaks: bool
    """Whether its log has in full what they all have to tell."""
    busy: bool = True
    """Whether it has not done yet what it was asked for: to start, or to reload."""
    served: bool = False
    heard: float = 0.0
    """When it said something."""


class Workers:
    """Processes that run `command`, each on the same errand, whose number it is told last.

    One that dies is replaced at once, by one that serves what the others serve. A signal to stop
    goes to all of them, each time, and so does SIGHUP. `look` is shown the plan in force each
    second.
    """

    def __init__(
        self,
        command: Sequence[str],
        errand: Errand,
        listeners: Listeners,
        plan: Plan,
        *,
        notify: Notify,
        look: Callable[[Plan], None],
    ) -> None:
        self._command = command
        self._errand = errand
        self._listeners = listeners
        self._plan = plan
        self._notify = notify
        self._look = look
        self._workers: list[_Worker] = []
        self._failures = 0
        self._not_before = 0.0
        self._alive_at = 0.0
        self._looked = time.monotonic()
        self._unready = True
        """Whether it is still to be told that all are ready."""
        self._stopping = False
        self._counts: str | None = None

    def run(self) -> int:
        """Go on until a signal to stop, and until the last worker has ended. The exit status."""
        # Awaited instead of handled, so that none comes between two lines.
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        with _counts() as self._counts:
            self._fill(first=True)
            return self._watch()

    def _watch(self) -> int:
        status = 0
        while self._workers or not self._stopping:
            got = signal.sigtimedwait(_AWAITED, self._patience)
            if got and got.si_signo in _STOPPING:
                self._stop()
            elif got and got.si_signo == signal.SIGHUP:
                self._reload()
            self._listen()
            self._end_stuck()
            status = max(status, self._bury())
            self._fill()
            self._tell()
        return status

    @property
    def _patience(self) -> float:
        """Seconds until somebody is looked after who gives no signal."""
        return min(
            0.1 if any(worker.busy for worker in self._workers) else 1.0,
            self._notify.alive_every or 1.0,
        )

    # Their lives

    def _fill(self, *, first: bool = False) -> None:
        """Start those that are missing; the `first` of all says that the gateway is live."""
        if self._stopping or time.monotonic() < self._not_before:
            return
        while len(self._workers) < self._errand.count:
            self._workers.append(self._start(first=first and not self._workers))

    def _start(self, *, first: bool) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        speaks = not any(worker.speaks for worker in self._workers)
        errand = replace(self._errand, tells=theirs.fileno(), first=first, speaks=speaks)
        number = errand.hand_over()
        # In a session of its own: a terminal's Ctrl-C comes to this process alone, to be passed on.
        process = subprocess.Popen(  # noqa: S603
            [*self._command, "--worker", str(number)],
            pass_fds=(*errand.sockets, errand.tells, number),
            start_new_session=True,
            env={**os.environ, **({_COUNTS: self._counts} if self._counts else {})},
        )
        theirs.close()
        os.close(number)
        return _Worker(process=process, began=time.monotonic(), says=ours, speaks=speaks)

    def _bury(self) -> int:
        """Forget those that have ended; the worst status of those that failed for good."""
        worst = 0
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            worker.says.close()
            self._forget(worker.process.pid)
            status = worker.process.returncode
            if self._stopping:
                worst = max(worst, status)
                continue
            lived = time.monotonic() - worker.began
            self._failures = self._failures + 1 if lived < _SOON else 0
            again = self._failures < _MOST_FAILURES
            then = "; another one is started" if again else ""
            logger.error("worker %d ended with status %d%s", worker.process.pid, status, then)
            if again:
                continue
            if any(each.served for each in self._workers):
                logger.error("workers do not start; the next one is tried in %d s", _WHILE)
                self._not_before = time.monotonic() + _WHILE
            else:
                logger.critical("%d workers in a row did not start; giving up", self._failures)
                worst = max(worst, abs(status), 1)
                self._stop()
        return worst

    def _end_stuck(self) -> None:
        """End those that are silent for the time of the watchdog, if there is one."""
        paused, self._looked = time.monotonic() - self._looked > 2.0, time.monotonic()
        if self._notify.alive_every is None:
            return
        for worker in self._workers:
            if paused:  # all of us, most likely: what they would have said is still to come
                worker.heard = self._looked
            elif worker.served and self._looked - worker.heard > 2 * self._notify.alive_every:
                logger.error("worker %d is stuck", worker.process.pid)
                worker.served = False
                worker.process.kill()

    def _forget(self, pid: int) -> None:
        """What a worker that has ended was doing at the moment is over; what it counted stays."""
        if self._counts:
            for gauge in Path(self._counts).glob(f"gauge_live*_{pid}.db"):
                gauge.unlink(missing_ok=True)

    def _stop(self) -> None:
        self._stopping = True
        self._unready = False
        # A port is closed once nobody has it open any more, and not by the workers alone.
        for listener in self._listeners.all:
            listener.close()
        self._notify.stopping()
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)

    # What they serve

    def _reload(self) -> None:
        """Let all of them read the configuration again, and those that are to come have it."""
        if not self._stopping:
            self._unready = True
            self._notify.reloading()
            self._pass_on(self._workers)

    def _pass_on(self, workers: Iterable[_Worker]) -> None:
        for worker in workers:
            worker.busy = True
            worker.process.send_signal(signal.SIGHUP)

    def _take(self, document: Document) -> None:
        """Have workers to come serve what a worker has taken."""
        if not document.repeats(self._errand.document):
            self._errand = self._errand.taking(document)
            logger.debug("workers to come serve what the others do (%s)", document.hash)
            with suppress(Exception):  # what its parts read has changed since; workers say so
                self._plan = build(document, before=self._plan)

    def _listen(self) -> None:
        """Take in what they say."""
        for worker in self._workers:
            for said, numbers in _said(worker.says):
                worker.heard = time.monotonic()
                if said == READY:
                    worker.busy, worker.served = False, True
                    logger.debug("worker %d is ready", worker.process.pid)
                elif said == CHANGED:
                    self._take(Document.of_json(recalled(*numbers)))
                elif said == OTHERS:
                    self._pass_on(each for each in self._workers if each is not worker)

    def _tell(self) -> None:
        """Tell the service manager and the operator what they want to know."""
        ready = self._workers and not any(worker.busy for worker in self._workers)
        if self._unready and ready:
            self._unready = False
            self._notify.ready()
        if self._notify.alive_every and time.monotonic() >= self._alive_at:
            self._alive_at = time.monotonic() + self._notify.alive_every
            self._notify.alive()
        self._look(self._plan)


def _said(says: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """The messages that have come, and the files that came with them."""
    with suppress(BlockingIOError):
        while True:
            said, numbers, *_ = socket.recv_fds(says, 1024, 1)
            if not said:
                return
            yield said, numbers


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


# In a worker


class Telling:
    """Tells the process that started this worker how it is."""

    def __init__(self, says: socket.socket, plan: Plan) -> None:
        says.setblocking(False)
        self._says = says
        self._plan = plan

    def say(self, message: bytes) -> None:
        """Tell this; it may be that nobody is there any more."""
        with suppress(OSError):
            self._says.send(message)

    def tell_others(self) -> None:
        """Let the others read the configuration again."""
        self.say(OTHERS)

    def look(self, plan: Plan) -> None:
        """Tell when there is another configuration."""
        if plan is not self._plan and plan.document:
            number = remembered(plan.document.as_json())
            with suppress(OSError):  # so much else is to be told: once more in a second
                socket.send_fds(self._says, [CHANGED], [number])
                self._plan = plan
            os.close(number)


def take_signals() -> None:
    """Take signals as usual again, but for SIGHUP, which waits."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)
