"""One call through plugins to a scripted upstream, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.datastructures import Headers

from headrace.attempts import Attempts
from headrace.attempts import Upstream as ConfiguredUpstream
from headrace.call import Call, Deadline, Target, Targets, leaves
from headrace.chain import Next, Plugin, compose
from headrace.dialect import OPENAI
from headrace.record import Record
from headrace.reply import Reply

_PATHS = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
}


def call(
    operation: str = "chat",
    *,
    targets: Sequence[Any] = ("a",),
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    seconds: float = 600,
    **members: Any,
) -> Call:
    """A call as the router would hand it on. `targets` are upstream names, a list is a group."""
    path = _PATHS.get(operation, "/v1/files")
    record = Record(id="req_test", method="POST", path=path)
    said = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return Call(
        id=record.id,
        method="POST",
        path=path,
        query="",
        headers=Headers(headers or {}),
        body=orjson.dumps(said) if body is None else body,
        dialect=OPENAI,
        operation=operation,
        targets=_targets(targets),
        deadline=Deadline.after(seconds),
        record=record,
    )


async def ask(*plugins: Plugin, upstream: Next, call: Call, most: int = 9, **options: Any) -> Reply:
    """The reply to `call` through `plugins`; `upstream` answers for every target."""
    upstreams = {
        target.upstream: ConfiguredUpstream(name=target.upstream, forward=upstream, **options)
        for target in leaves(call.targets)
    }
    return await compose(plugins, Attempts(upstreams, most=most))(call)


async def text(reply: Reply) -> str:
    """All the text of a reply, read to its end and closed."""
    error: BaseException | None = None
    try:
        return "".join([OPENAI.text(event) async for event in reply.events])
    except BaseException as raised:
        error = raised
        raise
    finally:
        await reply.aclose(error)


async def raw(reply: Reply) -> bytes:
    """All the bytes of a reply, read to its end and closed."""
    try:
        return b"".join([event.raw async for event in reply.events])
    finally:
        await reply.aclose()


def _targets(targets: Sequence[Any]) -> Targets:
    return tuple(
        Target(*target.split("/", 1)) if isinstance(target, str) else _targets(target)
        for target in targets
    )
