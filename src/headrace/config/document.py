"""YAML as plain values that remember where they stand, with `include` and `${…}`.

The rooms below, as one walks through them: `source` is the text of a file; `tree` makes nodes of
it within limits, and `syntax` explains where that fails; `include` puts the trees of several files
together; `values` makes values of them, with `scalars` for what a word means, `expansion` for
`${…}` and `surroundings` for what that may ask. What is wrong is collected on the way, all of it,
and never raised. Nothing here knows what a gateway is.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, TypeAlias

from headrace.config.include import Sections, matching
from headrace.config.problems import Place, Problem
from headrace.config.source import MAX_FILE, Source, Span
from headrace.config.surroundings import Surroundings, Version, reason, version
from headrace.config.values import Path, Spot, Values

__all__ = ["Document", "Path", "load", "parse"]

Versions: TypeAlias = tuple[tuple[Version, ...], tuple[str, ...]]


def load(
    path: str | os.PathLike[str],
    environ: Mapping[str, str],
    *,
    unset_ok: bool = False,
    again: bool = False,
) -> Document:
    """Read the configuration at `path` and all that it includes.

    It may be a pipe, but not where it is read `again`: who writes into that may never come.

    With `unset_ok`, a variable that is not set or a `${file:…}` that is not there is no problem.
    """
    file = pathlib.Path(path)
    around = Surroundings(environ=environ, unset_ok=unset_ok)
    try:
        # Only what was named on the command line may be a pipe: another could never end.
        data = around.read(file, MAX_FILE, regular=again)
    except (OSError, ValueError) as error:
        document = _read(Source(str(file), b"", file.parent), around)
        document.problems.append(Problem(None, f"cannot read {file}: {reason(error)}"))
        return document
    document = _read(Source(str(file), data, file.parent), around)
    if not (document.value or document.problems):
        # Most likely somebody is writing it; and to serve nothing is nothing to ask for.
        message = f"there is nothing in {file}; a configuration has at least 'upstreams'"
        document.problems.append(Problem(None, message))
    return document


def parse(
    text: str | bytes,
    name: str,
    environ: Mapping[str, str],
    *,
    base: str | os.PathLike[str] = ".",
    unset_ok: bool = False,
) -> Document:
    """Read a configuration that is not a file; `base` is where its relative paths begin."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    source = Source(name, data, pathlib.Path(base))
    return _read(source, Surroundings(environ=environ, unset_ok=unset_ok))


@dataclass(kw_only=True)
class Document:
    """What a configuration says, and where it says it."""

    value: dict[str, Any]
    """The sections of all files together."""
    problems: list[Problem]
    """What is wrong with the YAML itself, in the order of the files and their lines."""
    expanded: set[Path]
    """Values that came, wholly or partly, from `${…}`: never to be printed."""
    unset: set[Path]
    """Values that could not be had; what stands there instead means nothing."""
    files: list[pathlib.Path]
    """Every file that was asked for, those of `${file:…}` included."""
    patterns: list[str]
    """Every `include`, as `glob` takes it: a new file that it matches would be read too."""
    versions: Versions
    """What distinguishes those files from their next versions, and what the patterns matched."""
    folders: Mapping[Path, pathlib.Path]
    """Where relative paths begin: of all of it, and of what other folders' files have added."""
    unset_ok: bool = False
    """Whether a file that is not there is as good as one that is."""
    beside: Mapping[pathlib.Path, Version] = field(default_factory=dict)
    """The files among them that parts have read as they were made."""
    _spots: dict[Path, Spot] = field(repr=False)

    def versions_now(self) -> Versions:
        """The versions of its files as they are by now; others where it should be read again."""
        names = [name for pattern in self.patterns for name in matching(pattern)]
        return tuple(map(version, self.files)), tuple(names)

    def read_beside(self, files: Mapping[pathlib.Path, Version]) -> None:
        """Note files that parts have read as they were made."""
        new = {file: found for file, found in files.items() if file not in self.files}
        self.beside = {**files, **self.beside}
        self.files += new
        self.versions = ((*self.versions[0], *new.values()), self.versions[1])

    def repeats(self, before: Document) -> bool:
        """Whether it says what the one before says, and its parts would read what they have read.

        Their files are its own, too, then.
        """
        if self.problems or (self._text, self.folders) != (before._text, before.folders):
            return False
        if before.beside != {file: version(file) for file in before.beside}:
            return False
        self.read_beside(before.beside)
        return True

    def as_json(self) -> dict[str, Any]:
        """All that another process needs to serve the same, as JSON has it; secrets are in it."""
        told = {name: getattr(self, name) for name in ("value", "patterns", "versions")}
        told |= {name: [*getattr(self, name)] for name in ("expanded", "unset")}
        beside = [(str(file), found) for file, found in self.beside.items()]
        folders = [(path, str(folder)) for path, folder in self.folders.items()]
        files = [*map(str, self.files)]
        return {**told, "files": files, "folders": folders, "beside": beside}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Self:
        """A document without problems that another process has read; it knows no lines any more."""
        files = [*map(pathlib.Path, told["files"])]
        name = str(files[0]) if files else "the configuration"
        found, matching = told["versions"]
        return cls(
            value=told["value"],
            problems=[],
            expanded={tuple(path) for path in told["expanded"]},
            unset={tuple(path) for path in told["unset"]},
            files=files,
            patterns=told["patterns"],
            versions=(tuple(map(_as_version, found)), tuple(matching)),
            folders={tuple(path): pathlib.Path(folder) for path, folder in told["folders"]},
            beside={pathlib.Path(file): _as_version(found) for file, found in told["beside"]},
            _spots={(): Spot(None, Span(Source(name, b"", pathlib.Path(".")), 0, 0))},
        )

    @cached_property
    def _text(self) -> str:
        # Compared as values, mappings have no order, and 1 is as good as true.
        return json.dumps(self.value)

    @cached_property
    def hash(self) -> str:
        """The same for the same configuration, whatever came from `${…}`."""
        told = json.dumps(self._masked((), self.value), default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _masked(self, path: Path, value: Any) -> Any:
        if path in self.expanded:
            return "***"
        if isinstance(value, dict):
            # As pairs: the order of some sections means something.
            return [[str(key), self._masked((*path, key), inner)] for key, inner in value.items()]
        if isinstance(value, list):
            return [self._masked((*path, number), inner) for number, inner in enumerate(value)]
        return value

    def folder(self, path: Path) -> pathlib.Path:
        """Where a relative path begins that is the value at `path`."""
        ways = (path[:length] for length in range(len(path), -1, -1))
        return next(self.folders[way] for way in ways if way in self.folders)

    def place(self, path: Path, *, clear: bool = False) -> Place:
        """Where the value at `path` stands, or the nearest one around it.

        A value that is `clear` is shown whatever its key is called.
        """
        return self._nearest(path).value.place(clear=clear)

    def key_place(self, path: Path) -> Place:
        """Where the key of the value at `path` stands, or the nearest one around it."""
        spot = self._nearest(path)
        return (spot.key or spot.value).place()

    def _nearest(self, path: Path) -> Spot:
        ways = (path[:length] for length in range(len(path), -1, -1))
        return next(self._spots[way] for way in ways if way in self._spots)


def _read(first: Source, around: Surroundings) -> Document:
    """The document that begins with the file `first`."""
    sections = Sections(first, around)
    values = Values(sections.tree(), around)
    return Document(
        value=values.value,
        problems=[problem for source in sections.sources for problem in source.problems()],
        expanded=values.expanded,
        unset=values.unset,
        files=list(around.files),
        patterns=sections.patterns,
        # As they were when they were read: what has come since then is still to be read.
        versions=(tuple(around.files.values()), tuple(sections.names)),
        folders=_folders(first.folder, values.spots),
        unset_ok=around.unset_ok,
        _spots=values.spots,
    )


def _folders(first: pathlib.Path, spots: Mapping[Path, Spot]) -> dict[Path, pathlib.Path]:
    """The folder of all, and those of what other files have added to it."""
    found = {path: spot.value.source.folder for path, spot in spots.items() if len(path) <= _ADDED}
    found[()] = first
    return {path: it for path, it in found.items() if not path or it != found[path[:-1]]}


_ADDED = 2
"""So long is the way to what a file may add: a section, or something in one."""


def _as_version(found: Sequence[int] | None) -> Version:
    if found is None:
        return None
    device, inode, size, changed = found
    return device, inode, size, changed
