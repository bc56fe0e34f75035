"""Secrets that can be recognised are sent through everything, and looked for in all that is told.

The log is at its most talkative. What must be found nowhere: the upstream's key, the key of the
administration, the store's password. What a client showed is its own: it must be found nowhere but
in what that client sent itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace import sha256
from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    Act,
    Received,
    answers,
    status,
    streams,
)

from ..stores.servers import VALKEY, running
from .serving import Served, eventually, serving

KEYS = {
    "UPSTREAM_KEY": "sk-canary-upstream-0a1b2c3d4e5f",
    "UPSTREAM_HEADER": "canary-header-77f0e1d2c3",
    "ADMIN_KEY": "canary-admin-5b1d07c4e9f2a6830d4c",
    "STORE_PASSWORD": "canary-store-6c2e18d5f0",
}
CLIENT, FORGED = "sk-canary-client-9d8c7b6a", "eyJhbGciOiJub25lIn0.canary-token.canary"
COOKIE, PROMPT = "canary-cookie-31", "canary-prompt-42"
EVERYWHERE = [*KEYS.values(), CLIENT, "canary-token", COOKIE, PROMPT]
CONFIG = """
    server:
      store: "redis://:${STORE_PASSWORD}@127.0.0.1:${STORE_PORT}/0"
      admin: {key: "${ADMIN_KEY}"}
      observers: [access_log, metrics, audit: {file: "${FOLDER}/audit.jsonl"}]
      timeouts: {first_event: 1s, idle: 1s, total: 3s}
      chain:
        - tracing
        - api_key: {keys: {CLIENT_HASH: ann}}
        - rate_limit: {policies: [{by: key, requests: 40/minute}]}
    upstreams:
      a:
        forwarder:
          openai:
            base_url: "${UPSTREAM}/v1"
            api_key: "${UPSTREAM_KEY}"
            headers: {x-token: "${UPSTREAM_HEADER}"}
        models: [m]
        plugins: [breaker: {failures: 50, least: 50}]
      gone: {forwarder: {openai: {base_url: "http://127.0.0.1:9/v1", api_key: "${UPSTREAM_KEY}"}}}
    routes:
      m: {targets: [a/m, gone/m], chain: [cache, fallback, retry]}
      alone: {targets: a/m}
      /v1/files*: {targets: a}
""".replace("CLIENT_HASH", sha256(CLIENT))


def echo(code: int) -> Any:
    """An upstream that says all that it was told, in its body and in its headers."""

    def behave(received: Received) -> Any:
        told = " ".join(f"{name}: {value}" for name, value in received.headers)
        error = {"message": f"{told} {received.body!r}", "code": told[:60], "type": told}
        return status(code, {"error": error}, f"x-request-id: {KEYS['UPSTREAM_KEY']}")

    return behave


ANSWERS: list[Any] = [
    answers(COMPLETION),
    streams(*EVENTS),
    *(echo(code) for code in (400, 401, 403, 404, 422, 429, 500, 503)),
    streams(EVENTS[0], {"error": {"message": KEYS["UPSTREAM_KEY"]}}, done=False),
    (Act.STALL,),
    (Act.RESET,),
    status(200, KEYS["UPSTREAM_KEY"].encode()),
]


class Told:
    """All that was told, and by whom."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, where: str, text: str | bytes) -> None:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        self.texts[where] = self.texts.get(where, "") + text + "\n"

    def found(self, secrets: list[str], *, but: str = "-") -> list[str]:
        return [
            f"{secret} in {where}: …{text[max(0, text.index(secret) - 80) :][:200]}"
            for where, text in self.texts.items()
            for secret in secrets
            if secret in text and not where.startswith(but)
        ]


@asynccontextmanager
async def collecting() -> AsyncIterator[Loopback]:
    async with Loopback() as collector:
        collector.script(status(200))
        yield collector


async def ask(http: httpx2.AsyncClient, model: str, number: int, **members: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": f"{PROMPT} {number}"}]}
    headers = {"cookie": f"session={COOKIE}", "authorization": f"Bearer {CLIENT}"}
    return await http.post("/v1/chat/completions", json={**body, **members}, headers=headers)


def commands(
    file: Path, served: Served, environ: dict[str, str]
) -> list[subprocess.CompletedProcess[str]]:
    """What the commands say that read this configuration."""
    broken = file.with_name("broken.yaml")
    broken.write_text(file.read_text().replace("models: [m]", "modles: [m]"))
    told = []
    for line in (
        ["check", str(broken)],
        ["explain", str(file)],
        ["explain", str(file), "--model", "m", "--connect", "--json"],
        ["diff", str(file), str(broken)],
        ["doctor", str(file), "--timeout", "1s"],
        ["cache", "clear", str(file), "--all"],
    ):
        told.append(
            subprocess.run(
                [sys.executable, "-m", "headrace", *line],
                env={**os.environ, **environ}, capture_output=True, text=True, timeout=60,
            )
        )  # fmt: skip
    return told


async def test_no_secret_is_told_by_anything(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with collecting() as collector:
        with running(VALKEY, password=KEYS["STORE_PASSWORD"]) as store:
            environ = {
                **KEYS,
                "STORE_PORT": str(store.port),
                "FOLDER": str(tmp_path),
                "UPSTREAM": server.url,
                "LOG_LEVEL": "debug",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            }
            async with serving(CONFIG, **environ) as served:
                await everything(served, server, told)
                await eventually(lambda: bool(collector.requests))
                file = tmp_path / "gateway.yaml"
                file.write_text("\n".join(line[4:] for line in CONFIG.splitlines()))
                for ended in commands(file, served, environ):
                    told.add(f"command {ended.args[3]}", ended.stdout + ended.stderr)
                store.kill()
                async with httpx2.AsyncClient(base_url=served.url) as http:
                    told.add("client", (await ask(http, "m", 99)).text)
            told.add("log", "\n".join(served.said))
            told.add("access log", json.dumps(served.rows))
        told.add("audit", (tmp_path / "audit.jsonl").read_bytes())
        for request in collector.requests:
            told.add("collector", request.body)

    assert set(told.texts) >= {"client", "log", "access log", "audit", "collector", "metrics"}
    assert not told.found([*KEYS.values(), COOKIE])
    assert not told.found([CLIENT, "canary-token"])
    assert not told.found([PROMPT], but="client")


async def everything(served: Served, server: Loopback, told: Told) -> None:
    """Whatever can be asked of a gateway, by clients and by those who operate it."""
    number = 0
    async with httpx2.AsyncClient(base_url=served.url, timeout=20) as http:
        for answer in ANSWERS:
            server.script(answer)
            for model, stream in (("m", False), ("alone", True)):
                number += 1
                got = await ask(http, model, number, stream=stream)
                told.add("client", f"{got.status_code} {dict(got.headers)} {got.text}")
        for headers in ({"authorization": f"Bearer {FORGED}"}, {"x-api-key": f"{CLIENT}x"}, {}):
            got = await http.get(f"/v1/models?key={CLIENT}", headers=headers)
            told.add("client", got.text)
        server.script(echo(418))
        own = {"authorization": f"Bearer {CLIENT}"}
        told.add("client", (await http.get(f"/v1/files/1?a={PROMPT}", headers=own)).text)
        admin = {"authorization": f"Bearer {KEYS['ADMIN_KEY']}"}
        told.add("metrics", (await http.get("/metrics")).text)
        for method, path in (
            ("GET", "/health/detailed"),
            ("GET", "/admin"),
            ("POST", "/admin/explain?model=m"),
            ("POST", "/admin/upstreams/a/rest?for=1s"),
            ("POST", "/admin/upstreams/a/resume"),
            ("GET", "/admin/ratelimit/ann"),
            ("DELETE", "/admin/cache?all=true"),
            ("POST", "/admin/reload"),
        ):
            got = await http.request(method, path, headers=admin)
            assert got.status_code == 200, (path, got.text)
            told.add(f"administration {path}", got.text)
        wrong = {"authorization": f"Bearer {KEYS['ADMIN_KEY']}x"}
        told.add("administration", (await http.get("/admin", headers=wrong)).text)
    served.process.send_signal(signal.SIGHUP)
