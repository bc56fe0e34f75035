"""What two calls must have in common to be given the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from headrace import PASSTHROUGH, Call, Outgoing, Resolved, kept_under, leaves, owner_of

_MEANING = ("openai-", "anthropic-")
"""What the names of headers begin with that go on to upstreams and may change what they say."""
_FORM = ("stream", "stream_options")
"""Members that say how an answer is sent; it is kept so that it can be sent in either way."""
_EVERYBODY = ("everybody", "")
"""Whose the answers are that all tenants share."""


def canonical(members: Mapping[str, Any]) -> bytes:
    """The same bytes for the same members, whatever their order and space between them.

    Raises ValueError where a number is beyond what can be told apart.
    """
    return json.dumps(members, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def asked(call: Call, *, both_forms: bool) -> bytes:
    """What is asked: the body, and what changes its meaning. Raises ValueError as above.

    With `both_forms`, it is the same for who wants a stream and who does not.
    """
    if call.operation == PASSTHROUGH:
        said = [call.headers.get(name, "") for name in ("content-type", "accept")]
        return joined([call.method, call.path, call.query, *said, call.body])
    left_out = _FORM if both_forms else ()
    return canonical({name: call.members[name] for name in call.members if name not in left_out})


def unasked(call: Call) -> Call:
    """The call of one who asks for nothing beside the answer, to read events by."""
    return call.replace(body=b"{}")


def key_of(call: Call, question: bytes, *, cache: str, shared: bool) -> str:
    """Where the answer is kept. With `shared`, it does not matter who asks."""
    owner = _EVERYBODY if shared else owner_of(call.caller)
    resolved = call.told(Resolved)
    parts: list[str | bytes] = [
        *owner,
        call.dialect.name,
        call.operation,
        resolved.fingerprint if resolved else "",
        joined([*map(str, leaves(call.targets))]),  # a plugin above may have chosen among them
        joined(_headers(call)),
        question,
    ]
    return kept_under(cache, call.record.route or "", owner) + sha256(joined(parts)).hexdigest()


def joined(parts: Sequence[str | bytes]) -> bytes:
    """Parts as one, so that no other parts are the same one."""
    written = [p.encode(errors="surrogatepass") if isinstance(p, str) else p for p in parts]
    return b"".join(b"%d:%b" % (len(part), part) for part in written)


def _headers(call: Call) -> list[str]:
    return [text for line in sorted(_meant(call)) for text in line]


def _meant(call: Call) -> Iterator[tuple[str, str]]:
    for name, value in call.headers.items():
        if name.lower().startswith(_MEANING):
            yield name.lower(), value
    told = call.told(Outgoing)
    for name, value in (told.headers if told else {}).items():
        yield f"> {name.lower()}", value
