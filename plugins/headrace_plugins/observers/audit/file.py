"""A file to which several processes append lines, and which is put aside when it is full or old."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger("headrace.audit")

_TRIES = 10
_STAMP = "%Y-%m-%dT%H-%M-%S.%fZ"
_STAMPED = re.compile(r"\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}Z")


class AppendedFile:
    """Lines of JSON, each with its `time`, whole and in order, whichever process wrote them.

    All is done while the file is locked. Who has waited for the lock looks whether it is still the
    file of that name: another process, or a person, may have put it aside.
    """

    def __init__(self, path: str | Path, *, size: int, age: float | None, keep: int) -> None:
        self._path = Path(path).absolute()
        self._size = size
        self._age = age
        self._keep = keep
        self._handle: int | None = None
        self._began = datetime.now(UTC)
        self._stuck = False
        """Whether it could not be put aside."""

    def append(self, lines: bytes) -> None:
        """Write these at its end. Raises OSError; nothing of them is there then."""
        handle = self._locked()
        try:
            before = os.fstat(handle).st_size
            if before and self._is_due(before + len(lines)) and self._put_aside():
                handle, before = self._locked(), 0
            _write(handle, lines, at=before)
        finally:
            if self._handle is not None:
                fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _locked(self) -> int:
        """The file of that name, locked by nobody else."""
        for _ in range(_TRIES):
            if self._handle is None:
                self._handle = self._opened()
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._handle), self._path.stat()):
                    return self._handle
            self.close()
        raise OSError(f"{self._path} is put aside again and again by somebody else")

    def _opened(self) -> int:
        # A pipe would have us wait for whoever reads from it.
        how = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(self._path, how, 0o600)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(f"{self._path} is no regular file")
        self._began = _began(handle)
        return handle

    def _is_due(self, size: int) -> bool:
        old = (datetime.now(UTC) - self._began).total_seconds()
        return size > self._size or (self._age is not None and old >= self._age)

    def _put_aside(self) -> bool:
        """Give it a name with the time, and forget the oldest such. Whether that could be done."""
        stamp = datetime.now(UTC).strftime(_STAMP)
        try:
            self._path.rename(self._path.with_name(f"{self._path.name}.{stamp}"))
        except OSError as error:
            if not self._stuck:
                logger.error("%s grows on, for it cannot be put aside: %s", self._path, error)
            self._stuck = True
            return False
        self._stuck = False
        self.close()
        kept = sorted(filter(self._is_aside, self._path.parent.iterdir()))
        for oldest in kept[: max(0, len(kept) - self._keep)]:
            with suppress(OSError):
                oldest.unlink()
        return True

    def _is_aside(self, path: Path) -> bool:
        name = self._path.name
        return path.name.startswith(name) and bool(_STAMPED.fullmatch(path.name[len(name) :]))


def _write(handle: int, lines: bytes, *, at: int) -> None:
    """All of it, or nothing."""
    left = memoryview(lines)
    try:
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, at)
        raise


def _began(handle: int) -> datetime:
    """When the first line of a file was written; now, where it has none."""
    first = os.pread(handle, 1 << 16, 0).partition(b"\n")[0]
    try:
        return datetime.fromisoformat(json.loads(first)["time"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError):
        return datetime.now(UTC)
