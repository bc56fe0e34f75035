"""From options to the source of keys; what does not go together is told when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace_plugins.jwt_auth.jwks import Jwks
from headrace_plugins.jwt_auth.keys import ASYMMETRIC, SYMMETRIC, Algorithm, KeySet
from headrace_plugins.jwt_auth.reading import check_cryptography, of_document, of_pem, of_secret
from headrace_plugins.jwt_auth.shared import Alone, Shared, key_of
from headrace_plugins.jwt_auth.sources import Address, File, Issuer, Source, check_url

if TYPE_CHECKING:
    from headrace_plugins.jwt_auth import JwtAuth

_FILE_EVERY = 1.0
"""Seconds between two looks at a file."""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A key that stands in the configuration."""

    keys: KeySet
    algorithms: tuple[Algorithm, ...]
    fetches: int = 0

    async def renewed(self) -> KeySet:
        """The same key."""
        return self.keys


def each(name: str, value: str | list[str]) -> list[str]:
    """One text or several. Raises `ValueError` where there is none."""
    values = [value] if isinstance(value, str) else value
    if not values or "" in values:
        raise ValueError(f"{name} must not be empty")
    return values


def source_of(options: JwtAuth) -> Fixed | Jwks:
    """Where the keys come from. Raises `ValueError` for what does not go together."""
    sources = ("secret", "public_key", "jwks")
    written = [name for name in sources if getattr(options, name) is not None]
    if len(written) > 1:
        raise ValueError(f"write one of {' and '.join(written)}, not both")
    algorithms = _algorithms(options)
    if options.secret:
        secret = options.secret.reveal()
        return Fixed(keys=of_secret(secret, algorithms), algorithms=algorithms)
    check_cryptography()
    if options.public_key is not None:
        return Fixed(keys=of_pem(options.public_key, algorithms), algorithms=algorithms)
    return _jwks(options, algorithms)


def _algorithms(options: JwtAuth) -> tuple[Algorithm, ...]:
    """Those that may be used: with a secret or with public keys, and never with both."""
    usable, usual = (SYMMETRIC, SYMMETRIC[:1]) if options.secret else (ASYMMETRIC, ASYMMETRIC)
    chosen = usual if options.algorithms is None else tuple(options.algorithms)
    if not chosen:
        raise ValueError("algorithms must not be empty")
    for name in chosen:
        if name not in usable:
            found = "a secret" if options.secret else "public keys"
            raise ValueError(
                f"algorithms: {name} does not go with {found}, but {', '.join(usable)} do; "
                "a public key that is taken for a secret lets in everybody who knows it"
            )
    return chosen


def _jwks(options: JwtAuth, algorithms: tuple[Algorithm, ...]) -> Jwks:
    if options.max_stale <= options.refresh or options.cool_down < 1:
        raise ValueError("cool_down must be at least 1s, and max_stale longer than refresh")
    source = _source(options)
    if isinstance(source, File):
        _check(source, algorithms)
        return Jwks(
            source=source,
            shared=Alone(),
            algorithms=algorithms,
            refresh=_FILE_EVERY,
            cool_down=_FILE_EVERY,
            max_stale=options.max_stale,
        )
    return Jwks(
        source=source,
        shared=Shared(
            store=options.store,
            key=key_of(source.name),
            cool_down=options.cool_down,
            keep=options.max_stale,
        ),
        algorithms=algorithms,
        refresh=options.refresh,
        cool_down=options.cool_down,
        max_stale=options.max_stale,
    )


def _check(file: File, algorithms: tuple[Algorithm, ...]) -> None:
    """Raise `ValueError` for a file without keys; what it says later changes nothing then."""
    try:
        of_document(file.read(), algorithms)
    except OSError as error:
        raise ValueError(f"jwks: cannot read {file.name}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"jwks: {file.name}: {error}") from None


def _source(options: JwtAuth) -> Source:
    if options.jwks is None:
        issuer, *others = each("issuer", options.issuer)
        if others:
            raise ValueError("several issuers need jwks: discovery knows the keys of one alone")
        try:
            check_url(issuer, also_http=True)
        except ValueError as error:
            raise ValueError(f"issuer {error}, or jwks must say where its keys are") from None
        return Issuer(name=issuer, transport=options.transport)
    if "://" not in options.jwks:
        return File(name=options.jwks)
    try:
        check_url(options.jwks, also_http=True)
    except ValueError as error:
        raise ValueError(f"jwks {error}") from None
    return Address(name=options.jwks, transport=options.transport)
