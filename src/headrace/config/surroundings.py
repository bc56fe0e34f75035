"""What a configuration may ask for outside its own text: the environment, and other files."""

from __future__ import annotations

import pathlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where the names in its files lead."""

    environ: Mapping[str, str]
    unset_ok: bool
    """Whether a variable or a secret file may be absent."""
    files: list[pathlib.Path] = field(default_factory=list)
    """All that were asked for."""

    def read(self, path: pathlib.Path, limit: int, *, regular: bool = True) -> bytes:
        """The bytes of a file, at most one more than `limit`. Raises OSError or ValueError."""
        self.files.append(path)
        if regular and not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        with path.open("rb") as file:
            return file.read(limit + 1)


def reason(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without its name or anything that is in it."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be opened"
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
