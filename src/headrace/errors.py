"""What can go wrong, as the people concerned are told: configuration, and calls.

A failure is raised, never returned. Every `CallError` can be shown to a client in the shape its
dialect gives to errors; OpenAI's is `{"error": {"message", "type", "param", "code"}}`
(platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import orjson


class HeadraceError(Exception):
    """Anything Headrace raises on purpose."""


class ConfigError(HeadraceError):
    """A configuration that cannot be served, with every problem it has.

    `problems` are in the order of the file; each prints as `file:line:column: what to do`.
    """

    def __init__(self, problems: Sequence[object]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class NoSource(HeadraceError):
    """A configuration that is written nowhere, so that it cannot be read again."""


class CallError(HeadraceError):
    """A call that is not answered, and what its client is told.

    `status` is the HTTP status the client gets, `type` and `code` are for programs, `param` names
    the member of the request that is at fault, `headers` go out with the answer.
    """

    status: int = 500
    type: str = "internal_error"
    default_code: ClassVar[str | None] = None
    wanted: ClassVar[bool] = False
    """Whether the client has asked for it in this case, so that nothing has failed."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.headers = dict(headers or {})
        self.tried: Sequence[Mapping[str, object]] = ()
        """The attempts that were made, where there were several."""

    @property
    def for_log(self) -> str:
        """What went wrong, in the gateway's own words."""
        return self.message


class BadRequest(CallError):
    """The request cannot be understood."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(CallError):
    """Nobody known is asking."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def __init__(self, message: str, *, code: str | None = None, error: str | None = None) -> None:
        """`error` is for a token that was shown: what is wrong, in the words of RFC 6750, 3.1."""
        # RFC 9110, 11.6.1: an answer of 401 says how to show who one is.
        asked = f'Bearer error="{error}"' if error else "Bearer"
        super().__init__(message, code=code, headers={"www-authenticate": asked})


class Forbidden(CallError):
    """Somebody known asks for what is not theirs."""

    status = 403
    type = "permission_error"


class NotFound(CallError):
    """No such model, or no such path."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(CallError):
    """The path is there, but not for this method."""

    status = 405
    type = "invalid_request_error"


class Conflict(CallError):
    """What is asked cannot be done as the gateway is set up."""

    status = 409
    type = "invalid_request_error"


class TooLarge(CallError):
    """The body is larger than the gateway takes."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedMedia(CallError):
    """The body comes in a form the gateway does not read."""

    status = 415
    type = "invalid_request_error"


class RateLimited(CallError):
    """The caller asked more often than it may."""

    status = 429
    type = "rate_limit_error"


class Overloaded(CallError):
    """The gateway cannot take the call now; later it can."""

    status = 503
    type = "overloaded_error"


class TimedOut(CallError):
    """The call's own time is over."""

    status = 504
    type = "timeout_error"
    default_code = "total_timeout"


class Loop(CallError):
    """The call has passed through this gateway before (RFC 8586)."""

    status = 508
    type = "upstream_error"
    default_code = "loop"


class UpstreamError(CallError):
    """An upstream that refused, failed or fell silent.

    `again` says whether the same target may do better a moment later, `elsewhere` whether another
    target may. `said` is the status the upstream answered with, `body` what it wrote, both None
    where there was no answer. `retry_after` is what it asked us to wait, in seconds. `decided` says
    that `again` and `elsewhere` are the gateway's own decision, whatever plugins are told to do.
    """

    status = 502
    type = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 502,
        type: str | None = None,
        param: str | None = None,
        said: int | None = None,
        body: bytes | None = None,
        again: bool = True,
        elsewhere: bool = True,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        decided: bool = False,
    ) -> None:
        super().__init__(message, code=code, param=param, headers=headers)
        self.status = status
        self.type = type or _type_of(status)
        self.said = said
        self.body = body
        self.again = again
        self.elsewhere = elsewhere
        self.retry_after = retry_after
        self.decided = decided

    @property
    def for_log(self) -> str:
        """What went wrong, without a word of the upstream's: it may quote what it was asked."""
        if self.said is None:
            return self.message
        return f"the upstream answered with HTTP {self.said}"

    @classmethod
    def refused(
        cls,
        status: int,
        body: bytes,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """The error for an upstream that answered with a status of 300 or more.

        The upstream's own status class is kept: a client's fault stays a client's fault. A refusal
        of our own key (401, 402, 403, 407) is not the client's and becomes a 502 that says so.
        """
        if 300 <= status < 400:
            return cls(
                "the upstream answered with a redirect, which is not followed",
                code="upstream_redirect", said=status, body=body, again=False,
            )  # fmt: skip
        if status in (401, 402, 403, 407):
            return cls(
                f"the upstream refused this gateway's own credentials (HTTP {status}); "
                "whoever runs the gateway must look at its key",
                code="upstream_credentials", said=status, body=body, again=False,
            )  # fmt: skip
        told = _told(body)
        passing = status in (408, 409, 429) or status >= 500
        kept = status < 500 or status in (503, 504, 508)
        shown = status if kept else 503 if status == 529 else 502
        kind = told.get("type") if status < 500 else None
        return cls(
            told.get("message") or f"the upstream answered with HTTP {status}",
            code=told.get("code") or f"upstream_{status}",
            status=shown,
            type=kind or None,
            param=told.get("param"),
            said=status,
            body=body,
            again=passing and status != 508,  # a loop stays one
            elsewhere=passing,
            retry_after=retry_after,
            headers=headers,
        )

    def final(self, *, elsewhere: bool = False) -> UpstreamError:
        """The same failure, not to be tried again there, nor, unless said so, elsewhere."""
        return UpstreamError(
            self.message,
            code=self.code or "attempts_used_up",
            status=self.status,
            type=self.type,
            param=self.param,
            said=self.said,
            body=self.body,
            again=False,
            elsewhere=elsewhere,
            retry_after=self.retry_after,
            headers=self.headers,
            decided=True,
        )

    def scrub(self, secrets: Iterable[str], *, address: str = "") -> None:
        """Take `secrets`, and the host of `address`, out of all that can be shown of this."""
        longest_first = sorted(filter(None, secrets), key=len, reverse=True)
        hidden = [re.escape(secret) for secret in longest_first]
        if host := _host(address):
            hidden.append(host)
        if not hidden:
            return
        clean = partial(re.compile("|".join(hidden)).sub, "***")
        self.message = clean(self.message)
        self.code = self.code and clean(self.code)
        self.param = self.param and clean(self.param)
        self.type = clean(self.type)
        self.headers = {name: clean(value) for name, value in self.headers.items()}
        if self.body:
            text = self.body.decode("utf-8", "surrogateescape")
            self.body = clean(text).encode("utf-8", "surrogateescape")
        self.args = (self.message,)


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """A text without these secrets; where one is a part of another, the longer one goes first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


class Unsupported(UpstreamError):
    """The call asks for what this upstream cannot do, so it was not sent; another target may."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "unsupported_parameter",
        param: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message, code=code, param=param, status=status, again=False)


def _type_of(status: int) -> str:
    """The error type that belongs to a status of a failed upstream."""
    match status:
        case 429:
            return "rate_limit_error"
        case 503:
            return "overloaded_error"
        case 504 | 408:
            return "timeout_error"
        case _:
            return "invalid_request_error" if status < 500 else "upstream_error"


def _host(address: str) -> str:
    """A pattern of where an upstream is: its host, with a port or without; empty if unknown.

    A name without a dot is a word like others, unless it stands in a URL or before a port.
    """
    host = urlsplit(address).hostname
    if not host:
        return ""
    name, port = rf"\[?{re.escape(host)}\]?", r":\d+"
    found = f"{name}(?:{port})?"
    if not re.search("[.:]", host):
        found = f"(?:(?<=://){found}|{name}{port})"
    return rf"(?i:(?<![\w.-]){found}(?![\w-]|\.\w))"


# Characters of what an upstream says of its error that go on to clients and logs.
_LONGEST = {"message": 2000, "type": 100, "param": 100, "code": 100}


def _told(body: bytes) -> dict[str, str | None]:
    """What an error body says in OpenAI's members: an object, a plain string, or nothing."""
    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = said.get("error", said) if isinstance(said, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return {}
    # A number as the code is the status once more (llama.cpp, OpenRouter), and no code.
    told = {name: error.get(name) for name in _LONGEST}
    return {
        name: text if len(text) <= _LONGEST[name] else f"{text[: _LONGEST[name]]}…"
        for name, text in told.items()
        if isinstance(text, str)
    }
