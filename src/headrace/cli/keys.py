"""`headrace keys`."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import click

from headrace.config.problems import did_you_mean
from headrace.key_file import KeyFile
from headrace.keys import Key, Moment
from headrace.options import Duration, Sha256, sha256

_ID = 12
"""So many digits of a key's SHA-256 are its id."""


class _Time(click.ParamType[timedelta]):
    """A time, such as 1d."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        try:
            return timedelta(seconds=Duration.of(value))
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(f"{value!r} {error}", ctx, param) from None


class _When(click.ParamType[Moment]):
    """A date, or a time from now."""

    name = "when"

    def convert(self, value: Any, param: Any, ctx: Any) -> Moment:
        for read in (_from_now, Moment.of):
            with suppress(ValueError, OverflowError):
                if (found := read(value)) > _now():
                    return found
                raise click.BadParameter(f"{value!r} is over already", ctx, param)
        wanted = "neither a time, such as 90d, nor a date, such as 2027-01-31"
        raise click.BadParameter(f"{value!r} is {wanted}", ctx, param)


_file = click.option(
    "--file",
    default="keys.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file that keeps the keys.",
)
_expires = click.option(
    "--expires", type=_When(), help="From when on the key is not good: 90d, or 2027-01-31."
)


@click.group("keys")
def command() -> None:
    """Make, list and take back the keys of callers that a file keeps.

    The file has only the SHA-256 of each. A gateway whose configuration names it follows a change
    within a second.
    """


@command.command("add")
@click.argument("name")
@click.option("--tenant", help="Whose data the caller works on.")
@click.option("--group", "groups", multiple=True, help="A group the caller is in; may come again.")
@click.option("--models", help="Models it is good for, with commas between: fast,gpt-*. Else all.")
@_expires
@_file
def add(
    name: str,
    tenant: str | None,
    groups: tuple[str, ...],
    models: str | None,
    expires: Moment | None,
    file: Path,
) -> None:
    """Make a key for the caller NAME and print it, this once, on standard output."""
    key = _made(
        name=name,
        tenant=tenant,
        groups=list(groups),
        models=None if models is None else [model.strip() for model in models.split(",")],
        created=_now(),
        expires=expires,
    )
    with _changing(file) as keys:
        shown = _added(keys, key)
    _tell(f"{file}: added {_named(sha256(shown), key)}; it is shown only now")
    click.echo(shown)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_file
def list_(as_json: bool, file: Path) -> None:
    """List the keys: name, id, tenant, when made, until when good, state.

    In a terminal it is a table, else a line for each key, with tabs.
    """
    try:
        keys = KeyFile(file).read()
    except FileNotFoundError:
        raise click.ClickException(
            f"there is no {file}; `headrace keys add NAME --file {file}` makes it"
        ) from None
    except OSError as error:
        raise click.ClickException(f"cannot read {file}: {error.strerror}") from None
    if as_json:
        told = [_told(digest, key) for digest, key in keys.items()]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    rows = [_row(digest, key) for digest, key in keys.items()]
    if not sys.stdout.isatty():
        lines = ["\t".join(row) for row in rows]
    else:
        rows.insert(0, ("NAME", "ID", "TENANT", "CREATED", "EXPIRES", "STATE"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for line in lines:
        click.echo(line)


@command.command("revoke")
@click.argument("key", metavar="ID|NAME")
@_file
def revoke(key: str, file: Path) -> None:
    """Take a key back. It stays in the list, marked, and is good for nothing from now on."""
    with _changing(file) as keys:
        digest = _meant(keys, key, file)
        keys[digest] = replace(keys[digest], revoked=_now())
    _tell(f"{file}: the key {digest[:_ID]} of {keys[digest].name} is revoked")


@command.command("rotate")
@click.argument("key", metavar="ID|NAME")
@click.option(
    "--overlap",
    type=_Time(),
    default="1d",
    show_default=True,
    help="How long the old key stays good beside the new one.",
)
@_expires
@_file
def rotate(key: str, overlap: timedelta, expires: Moment | None, file: Path) -> None:
    """Make a key in the place of another and print it, this once.

    The new key is good for what the old one is, and for as long as that was to live.
    """
    with _changing(file) as keys:
        digest = _meant(keys, key, file)
        old, now = keys[digest], _now()
        if old.expires and old.created and not expires:
            expires = now + (old.expires - old.created)
        keys[digest] = replace(old, expires=min(old.expires or now + overlap, now + overlap))
        new = replace(old, created=now, expires=expires)
        shown = _added(keys, new)
    _tell(f"{file}: added {_named(sha256(shown), new)}; it is shown only now")
    _tell(f"{file}: in the place of {_named(digest, keys[digest])}")
    click.echo(shown)


@contextmanager
def _changing(file: Path) -> Iterator[dict[Sha256, Key]]:
    try:
        with KeyFile(file).changing() as keys:
            yield keys
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None


def _made(**known: Any) -> Key:
    try:
        return Key(**known)
    except ValueError as error:
        raise click.ClickException(f"a key {error}") from None


def _added(keys: dict[Sha256, Key], key: Key) -> str:
    """A new key that nobody can guess; its SHA-256 is among `keys` from here on."""
    shown = f"hr-{secrets.token_urlsafe(32)}"
    keys[sha256(shown)] = key
    return shown


def _meant(keys: Mapping[Sha256, Key], given: str, file: Path) -> Sha256:
    """The one key that somebody means by an id or a name, of those that are not revoked."""
    by_id = [d for d in keys if len(given) >= _ID and d.startswith(given.lower())]
    meant = by_id or [digest for digest, key in keys.items() if key.name == given]
    left = [digest for digest in meant if not keys[digest].revoked]
    if len(left) == 1:
        return left[0]
    if left:
        several = "\n".join(f"  {_named(digest, keys[digest])}" for digest in left)
        raise click.ClickException(f"{given!r} are several; say which by its id:\n{several}")
    if meant:
        raise click.ClickException(f"{given!r} is revoked already")
    hint = did_you_mean(given, (key.name for key in keys.values()))
    hint = hint or f"; `headrace keys list --file {file}` shows those there are"
    raise click.ClickException(f"no key in {file} has the id or the name {given!r}{hint}")


def _named(digest: Sha256, key: Key) -> str:
    until = f", good until {key.expires}" if key.expires else ""
    return f"the key {digest[:_ID]} of {key.name}{until}"


def _row(digest: Sha256, key: Key) -> tuple[str, ...]:
    dates = (str(when or "-") for when in (key.created, key.expires))
    return (key.name, digest[:_ID], key.tenant or "-", *dates, key.state(_now()))


def _told(digest: Sha256, key: Key) -> dict[str, Any]:
    """All that is known of a key, for programs."""
    known = {
        name: str(value) if isinstance(value, Moment) else value
        for name, value in vars(key).items()
    }
    return {"id": digest[:_ID], "sha256": digest, "state": key.state(_now()), **known}


def _tell(line: str) -> None:
    """Say something to people, beside what programs read."""
    click.echo(line, err=True)


def _from_now(time: object) -> Moment:
    return _now() + timedelta(seconds=Duration.of(time))


def _now() -> Moment:
    return Moment.now(UTC).replace(microsecond=0)
