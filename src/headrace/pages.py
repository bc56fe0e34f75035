"""What the gateway answers by itself: whether it lives, whether it is ready, what it is.

An observer may have pages, too: see `Pages`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

import orjson
from starlette.requests import HTTPConnection

from headrace.dialect import OPENAI
from headrace.errors import CallError
from headrace.version import __version__

logger = logging.getLogger("headrace")

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.05rem; margin-top: 2rem; }
pre { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; }
code { font: 14px/1.5 ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
.dot { display: inline-block; width: .6em; height: .6em; border-radius: 50%; background: #2a9d5c; }
footer { margin-top: 3rem; opacity: .7; font-size: .9rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_SAFE = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


OWN = ("/", "/health", "/healthz", "/readyz")
"""Where the gateway's own pages are."""


class Page(NamedTuple):
    """An answer of the gateway's own, or of an observer's: no call, so nobody is told of it."""

    status: int
    headers: dict[str, str]
    body: bytes


Answer: TypeAlias = Callable[[HTTPConnection], Awaitable[Page]]
"""What answers a request for a page; to refuse, it raises a `CallError`."""
Asked = TypeVar("Asked", bound=HTTPConnection)
Pages: TypeAlias = Mapping[str, Answer]
"""Pages by their paths, for GET: an observer's attribute `pages`.

Nobody has asked for a key by then: each page decides for itself who may see it.
"""


async def shown(answer: Callable[[Asked], Awaitable[Page]], asked: Asked) -> Page:
    """What an observer's page answers; a failure is told as OpenAI tells errors."""
    try:
        return await answer(asked)
    except CallError as error:
        return refused(error)
    except Exception:
        logger.exception("the page at %s failed", asked.scope["path"])
        return refused(CallError("the gateway failed; its log says why"))


def refused(error: CallError) -> Page:
    """An error in place of a page."""
    told = {"content-type": "application/json", "cache-control": "no-store"}
    headers = {**error.headers, **told, "x-request-id": f"req_{uuid4().hex}"}
    return Page(error.status, headers, OPENAI.error(error))


def health() -> Page:
    """That the process lives, for `/healthz` and, with its version, `/health`."""
    return _json(200, {"status": "ok", "version": __version__})


def ready(ready: bool, *, degraded: Iterable[str] = ()) -> Page:
    """Whether new calls should be sent here: not before the start, and not while stopping.

    What is `degraded` is told, and is no reason to send calls elsewhere: it would be so there, too.
    """
    status = "ready" if ready else "not ready"
    told = {"status": status, **({"degraded": list(degraded)} if degraded else {})}
    return _json(200 if ready else 503, told)


def home(base_url: str, models: Iterable[tuple[str, str]], *, closed: bool) -> Page:
    """The page for people: what this is, what is live, and how to point a client at it.

    `models` are names and who answers them; a gateway that wants keys (`closed`) tells none.
    """
    listed = list(models)
    plain = [name for name, _ in listed if re.fullmatch(r"[\w./:@-]+", name)]  # fits in quotes
    example = plain[0] if plain and not closed else "MODEL"
    url = html.escape(base_url)
    key = "YOUR_KEY" if closed else "none-needed"
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(owner)}</td></tr>"
        for name, owner in listed
    )
    models_part = (
        "<p>This gateway wants a key. With yours, <code>GET /v1/models</code> lists what you "
        "may use.</p>"
        if closed
        else f"<table><tr><th>model</th><th>answered by</th></tr>{rows}</table>"
    )
    bearer = " -H 'authorization: Bearer YOUR_KEY'" if closed else ""
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Headrace</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>Headrace</h1>
<p><span class="dot"></span> This AI gateway is live. Point any OpenAI client at it by its
<code>base_url</code> and change nothing else.</p>
<h2>Models</h2>
{models_part}
<h2>Python</h2>
<pre><code>from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
for chunk in client.chat.completions.create(
    model="{example}", stream=True,
    messages=[{{"role": "user", "content": "Say hello."}}],
):
    print(chunk.choices[0].delta.content or "", end="")</code></pre>
<h2>curl</h2>
<pre><code>curl -N {url}/v1/chat/completions -H 'content-type: application/json'{bearer} \\
  -d '{{"model": "{example}", "stream": true,
       "messages": [{{"role": "user", "content": "Say hello."}}]}}'</code></pre>
<footer>Headrace {html.escape(__version__)} · <code>/health</code> · <code>/readyz</code></footer>
</body></html>
"""
    headers = {"content-type": "text/html; charset=utf-8", **_SAFE}
    return Page(200, headers, body.encode())


def _json(status: int, value: object) -> Page:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return Page(status, headers, orjson.dumps(value))
