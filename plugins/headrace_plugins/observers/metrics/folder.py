"""The folder in which several processes put together what they count."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_KINDS = ("counter", "histogram")
_ADDED = "headrace_added"
_ROOM = 1 << 20
"""Bytes that each file has from the start: where a disk has no room for them, that is told then.

Else a process would be killed (SIGBUS) that counts into a file for which there is no room left."""
_PATIENCE = 2.0
"""Seconds to wait for a process that puts files together; one that was stopped keeps nobody."""


class Folder:
    """Files of processes that count with prometheus-client.

    Each process holds a lock on a file of its own until it ends, however it ends. What those have
    counted that have ended goes into one file for all of them, so their number does not grow.
    """

    def __init__(self, path: str) -> None:
        """Make room there for what this process counts. Raises OSError where there is none."""
        self.path = Path(path)
        self._pid = os.getpid()
        for kind in _KINDS:
            _make_room(self.path / f"{kind}_{self._pid}.db")

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Be one of the processes from now on, and open files for what is counted in here."""
        with self._locked(fcntl.LOCK_EX) as alone:
            self._live()
            if alone:
                for lock in self._locks():
                    if _has_ended(lock):
                        self._put_away(lock)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While this lasts, nothing is put together."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def say(self, text: bytes) -> None:
        """Let the other processes know of this one, until it ends or says something else."""
        own = self.path / f"worker_{self._pid}.json"
        # One that took another's place and one that still has calls may speak at the same time.
        new = own.with_suffix(f".{threading.get_ident()}.new")
        new.write_bytes(text)
        new.replace(own)

    def said(self) -> Iterator[bytes]:
        """What each of the other processes has said that live."""
        for lock in self._locks():
            if lock.stem != f"worker_{self._pid}" and not _has_ended(lock):
                with suppress(FileNotFoundError):  # it has just begun
                    yield lock.with_suffix(".json").read_bytes()

    def _locks(self) -> list[Path]:
        return sorted(self.path.glob("worker_*.lock"))

    def _live(self) -> None:
        """Take the lock of this process; it is given back by nobody but the system, in the end."""
        own = os.open(self.path / f"worker_{self._pid}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # this process has it already
            os.close(own)

    def _put_away(self, lock: Path) -> None:
        """Add what a process has counted that has ended to the sum of all such."""
        pid = lock.stem.removeprefix("worker_")
        for kind in _KINDS:
            ended, sums = (self.path / f"{kind}_{name}.db" for name in (pid, "ended"))
            if ended.exists():
                _add(sums, ended)
                ended.unlink()
        lock.with_suffix(".json").unlink(missing_ok=True)
        lock.unlink()

    @contextmanager
    def _locked(self, how: int) -> Iterator[bool]:
        """Hold the lock of the folder; false where somebody did not give it back in time."""
        handle = os.open(self.path / "folder.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock(handle, how, until=time.monotonic() + _PATIENCE)
        finally:
            os.close(handle)


def _lock(handle: int, how: int, *, until: float) -> bool:
    while time.monotonic() < until:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False


def _has_ended(lock: Path) -> bool:
    """Whether the process of a lock is gone."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _make_room(file: Path) -> None:
    """Make a file of zeros, which holds nothing yet; one that is there stays."""
    if file.exists():
        return
    new = file.with_suffix(".new")
    handle = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(handle, 0, _ROOM)
        new.rename(file)
    except OSError:
        new.unlink()
        raise
    finally:
        os.close(handle)


def _add(sums: Path, ended: Path) -> None:
    """Add the values of a file to those of another, at once or not at all.

    Beside the values, it is noted whose they are: of one that was added already, nothing is added.
    """
    values = Counter(_read(sums) if sums.exists() else {})
    mark = json.dumps([_ADDED, _ADDED, {"file": f"{ended.name} {ended.stat().st_ino}"}, ""])
    if mark in values:
        return
    values.update(_read(ended))
    new = sums.with_suffix(".new")
    new.unlink(missing_ok=True)
    written = _kept()(new)
    for key, value in values.items():
        if _ADDED not in key:
            written.write_value(key, value, 0.0)
    written.write_value(mark, 0.0, 0.0)
    written.close()
    new.replace(sums)


def _read(file: Path) -> dict[str, float]:
    return {key: value for key, value, *_ in _kept().read_all_values_from_file(file)}


def _kept() -> Any:
    """What reads and writes the files, which carries no types."""
    # Imported late: whoever imports prometheus-client decides whether it counts into files.
    from prometheus_client.mmap_dict import MmapedDict

    return MmapedDict
