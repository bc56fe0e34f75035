"""The file that keeps keys: `headrace keys` writes it, plugins read it. It is YAML.

Of a key only the SHA-256 is in it.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from headrace.config.document import parse
from headrace.config.fields import options_of
from headrace.config.parts import Parts
from headrace.config.problems import Problem, did_you_mean
from headrace.config.source import MAX_FILE
from headrace.errors import ConfigError
from headrace.keys import Key, Moment
from headrace.options import Sha256


class KeyFile:
    """A file of keys: to read, to look whether it has changed, to change as a whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)

    def mark(self) -> object:
        """What differs once the file does, be it behind links; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> dict[Sha256, Key]:
        """Its keys. Raises OSError, or `ConfigError` with every problem it has."""
        # A pipe would have us wait for whoever writes into it.
        with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", str(self.path))
            return self._parsed(file.read(MAX_FILE + 1))

    @contextmanager
    def changing(self) -> Iterator[dict[Sha256, Key]]:
        """Its keys, to be changed: what they are at the end is in the file, at once or not at all.

        Whoever else wants to change it waits. A file that is not there is made. Raises OSError, or
        `ConfigError` where it could not be read.
        """
        import fcntl  # not on Windows, where the file can be read all the same

        real = self.path.resolve()
        folder = os.open(real.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # not the file, which another takes the place of
            keys = self.read() if real.exists() and real.stat().st_size else {}
            yield keys
            text = _text(keys)
            self._check(text, keys)
            _replace(real, text)
            os.fsync(folder)
        finally:
            os.close(folder)

    def _parsed(self, data: bytes) -> dict[Sha256, Key]:
        parts = Parts(parse(data, str(self.path), {}, base=self.path.parent))
        keys = dict(_keys(parts))
        if parts.problems:
            raise ConfigError(parts.problems)
        return keys

    def _check(self, text: str, keys: Mapping[Sha256, Key]) -> None:
        """Raise `ConfigError` where `text` would not be read as these keys."""
        try:
            same = self._parsed(text.encode()) == keys
        except ConfigError as error:
            why = str(error.problems[0]).partition("\n")[0]
        else:
            if same:
                return
            why = "it would say something else"
        message = f"{self.path} stays as it is, for it could not be read afterwards: {why}"
        raise ConfigError([Problem(None, message)])


def _keys(parts: Parts) -> Iterator[tuple[Sha256, Key]]:
    """What a document says, as far as it can be understood."""
    seen: set[Sha256] = set()
    for shown, value in _section(parts).items():
        path = ("keys", shown)
        try:
            digest = Sha256.parse(shown)
        except ValueError as error:
            parts.problem(path, f"this {error}", key=True)
            continue
        if digest in seen:
            parts.problem(path, "this SHA-256 is given twice", key=True)
        seen.add(digest)
        if key := parts.fill(Key, path, value, "this key"):
            yield digest, key


def _section(parts: Parts) -> Mapping[str, Any]:
    document = parts.document
    for name in document.value:
        if name != "keys":
            hint = did_you_mean(name, ["keys"]) or "; it has 'keys'"
            parts.problem((name,), f"a file of keys has no section {name!r}{hint}", key=True)
    if document.patterns:
        parts.problems.append(Problem(document.place(()), "a file of keys includes no other"))
    section = document.value.get("keys")
    if isinstance(section, dict):
        return section
    if not parts.problems:
        parts.problem(
            ("keys",), "expected 'keys', a mapping from the SHA-256 of each to whose it is"
        )
    return {}


_HEAD = """\
# Keys by their SHA-256; the keys themselves are not here. Made by `headrace keys`, which keeps no
# other comments. A gateway that reads this file follows a change within a second.
"""


def _text(keys: Mapping[Sha256, Key]) -> str:
    lines = [] if keys else ["  {}"]
    for digest, key in keys.items():
        lines.append(f'  "{digest}":')
        for option in options_of(Key).values():
            if (value := getattr(key, option.name)) != option.default:
                lines.append(f"    {option.name}: {_yaml(value)}")
    return "\n".join([f"{_HEAD}keys:", *lines, ""])


def _yaml(value: str | list[str] | Moment) -> str:
    if isinstance(value, Moment):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")


def _replace(file: pathlib.Path, text: str) -> None:
    """Put `text` in the place of a file at once; who may read and write it stays as it is."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # of mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as temporary:
            if file.exists():
                before = file.stat()
                os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode))
            temporary.write(text)
            temporary.flush()
            os.fsync(handle)
        os.replace(name, file)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
