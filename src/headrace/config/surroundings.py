"""What a configuration may ask for outside its own text: the environment, and other files."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

Version: TypeAlias = tuple[int, int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where the names in its files lead."""

    environ: Mapping[str, str]
    unset_ok: bool
    """Whether a variable or a secret file may be absent."""
    files: dict[pathlib.Path, Version] = field(default_factory=dict)
    """All that were asked for, as they were read."""

    def read(self, path: pathlib.Path, limit: int, *, regular: bool = True) -> bytes:
        """The bytes of a file, at most one more than `limit`. Raises OSError or ValueError."""
        self.files[path] = None
        if regular and not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        with path.open("rb") as file:
            self.files[path] = _version(file)
            return file.read(limit + 1)


def version(path: pathlib.Path) -> Version:
    """What distinguishes a file from its next version; None where it cannot be read, or is a pipe.

    It is opened, so that one that could not be read is another as soon as it can be: its mode is
    changed, or a descriptor is free again. Links are followed: Kubernetes swaps one to change all
    files of a volume at once.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return _version(file)
    except (OSError, ValueError):
        return None


def _version(file: BinaryIO) -> Version:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def reason(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without its name or anything that is in it."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be opened"
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
