"""What a client shows to be let in."""

from __future__ import annotations

from headrace.call import Call
from headrace.errors import Unauthorized

_OTHER_HEADERS = ("x-api-key", "api-key")
_HOW = "send it as 'Authorization: Bearer KEY'"


def bearer(call: Call) -> str:
    """The key or token a client sent: `Authorization: Bearer` (RFC 6750, 2.1), or as Anthropic's
    (`x-api-key`) and Azure's clients (`api-key`) send theirs. Never from the URL.

    Raises `Unauthorized` where there is none, or more than one that differ.
    """
    found = {value for name in _OTHER_HEADERS for value in call.headers.getlist(name)}
    for value in call.headers.getlist("authorization"):
        scheme, _, credentials = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(f"the Authorization header is not of the Bearer scheme; {_HOW}")
        found.add(credentials.strip())
    found.discard("")
    if not found:
        raise Unauthorized(f"this gateway wants an API key; {_HOW}", code="missing_api_key")
    if len(found) > 1:
        raise Unauthorized(f"the request shows more than one key; {_HOW}, once")
    return found.pop()
