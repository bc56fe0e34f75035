"""HTTPS without a proxy: served, renewed while it runs, and refused where it would help nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import DONE, EVENTS, LAST_CHUNK, Act, chunk, event, streams

from .certificates import Authority
from .serving import Served, Wire, chat, post, running, wire

CONFIG = """
    server:
      drain: 60s
      tls: {certificate: FOLDER/tls.crt, key: FOLDER/tls.key}
      MORE
    upstreams:
      mock: mock
      slow: {forwarder: {openai: {base_url: "${UPSTREAM:-http://127.0.0.1:1}/v1"}}, models: [m]}
    routes: {fast: mock, m: slow}
    """
HALF = (*streams(*EVENTS[:2], done=False)[:-1], Act.STALL)
REST = (*(chunk(event(each)) for each in EVENTS[2:]), chunk(DONE), LAST_CHUNK)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def write(folder: Path, more: str = "") -> Path:
    """A configuration with a certificate in the same folder."""
    text = CONFIG.replace("FOLDER", str(folder)).replace("MORE", more)
    (folder / "gateway.yaml").write_text(textwrap.dedent(text))
    return folder / "gateway.yaml"


@asynccontextmanager
async def secured(folder: Path, more: str = "", **environ: str) -> AsyncIterator[Served]:
    command = [sys.executable, "-m", "headrace", "serve", str(write(folder, more)), "--port", "0"]
    async with running(command, environ) as served:
        yield served


@asynccontextmanager
async def connected(served: Served, context: ssl.SSLContext) -> AsyncIterator[Wire]:
    """A client of a gateway that speaks TLS."""
    port = int(served.url.rpartition(":")[2])
    opened = Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    try:
        yield opened
    finally:
        await opened.leave()


async def serial(served: Served, context: ssl.SSLContext) -> str:
    """Which certificate a new connection is shown."""
    async with connected(served, context) as client:
        shown: dict[str, Any] = client.writer.get_extra_info("peercert")
        return str(shown["serialNumber"])


def refusal(file: Path) -> str:
    """Why a gateway does not start, which `headrace check` must say, too."""
    told = []
    for command in ("serve", "check"):
        arguments = [sys.executable, "-m", "headrace", command, str(file)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1, done.stderr
        told.append(done.stderr)
    assert told[0] == told[1]
    return told[0]


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_is_served_and_says_so(authority: Authority, tmp_path: Path, workers: int) -> None:
    authority.issue(tmp_path)

    async with (
        secured(tmp_path, f"workers: {workers}") as served,
        httpx2.AsyncClient(verify=authority.trusting()) as http,
    ):
        plain = await http.post(f"{served.url}/v1/chat/completions", json=chat(model="fast"))
        stream = await http.post(
            f"{served.url}/v1/chat/completions", json=chat(model="fast", stream=True)
        )

    assert served.url.startswith("https://")
    assert plain.json()["choices"]
    assert stream.text.endswith("data: [DONE]\n\n")


async def test_old_tls_is_not_spoken_and_plain_http_gets_no_answer(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path)
    old = authority.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")

    async with secured(tmp_path) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await serial(served, old)
        async with wire(served.url.replace("https", "http")) as client:
            await client.send(post("/v1/chat/completions", chat(model="fast")))
            assert b"HTTP" not in await client.rest()
        assert await serial(served, authority.trusting())
        assert not [line for line in served.said if "ERROR" in line or "SSL" in line]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_renewed_certificate_is_taken_and_no_stream_notices(
    authority: Authority, server: Loopback, tmp_path: Path, workers: int
) -> None:
    server.script(HALF)
    context = authority.trusting()
    authority.issue(tmp_path)

    async with (
        secured(tmp_path, f"workers: {workers}", UPSTREAM=server.url) as served,
        connected(served, context) as client,
    ):
        before = await serial(served, context)
        await client.send(post("/v1/chat/completions", chat(stream=True)))
        await client.until(b"Hello")

        authority.issue(tmp_path)
        served.process.send_signal(signal.SIGHUP)
        await served.until(
            lambda: sum("is in force" in line for line in served.said) == workers, 10
        )

        after = {await serial(served, context) for _ in range(10)}
        assert len(after) == 1
        assert before not in after
        for step in REST:
            await server.connections[-1].play(step)
        assert await client.until(b"[DONE]")
        await served.until(lambda: any("tls.crt is renewed, good" in line for line in served.said))
        assert sum("is renewed" in line for line in served.said) == 1


async def test_a_renewed_certificate_is_seen_by_those_who_watch(
    authority: Authority, tmp_path: Path
) -> None:
    context = authority.trusting()
    authority.issue(tmp_path)

    async with secured(tmp_path, "watch: 100ms") as served:
        before = await serial(served, context)
        authority.issue(tmp_path)
        await served.until(lambda: any("is in force" in line for line in served.said))

        assert await serial(served, context) != before


async def test_https_goes_on_with_the_last_certificate_where_none_is_written_any_more(
    authority: Authority, tmp_path: Path
) -> None:
    context = authority.trusting()
    authority.issue(tmp_path)

    async with secured(tmp_path) as served:
        before = await serial(served, context)
        authority.issue(tmp_path)
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "is in force") == 1)
        drop_tls(tmp_path / "gateway.yaml")
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "is in force") == 2)

        assert await serial(served, context) != before


@pytest.mark.parametrize("renewed", [False, True])
async def test_workers_to_come_serve_https_with_the_last_certificate(
    authority: Authority, tmp_path: Path, renewed: bool
) -> None:
    context = authority.trusting()
    authority.issue(tmp_path)

    async with secured(tmp_path, "workers: 2", LOG_LEVEL="debug") as served:
        first = await serial(served, context)
        if renewed:
            authority.issue(tmp_path)
            await reloaded(served, 1)
        drop_tls(tmp_path / "gateway.yaml")
        await reloaded(served, 2 if renewed else 1)
        assert said(served, "this needs a restart") > 0

        await replaced(served)

        shown = {await serial(served, context) for _ in range(10)}
        assert len(shown) == 1
        assert (first in shown) is not renewed


async def test_workers_to_come_serve_http_where_a_certificate_has_been_added(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path)
    with_tls = write(tmp_path, "workers: 2").read_text()
    plain = tmp_path / "plain.yaml"
    plain.write_text(with_tls)
    drop_tls(plain)
    command = [sys.executable, "-m", "headrace", "serve", str(plain), "--port", "0"]

    async with running(command, {"LOG_LEVEL": "debug"}) as served:
        plain.write_text(with_tls)
        await reloaded(served, 1)
        assert said(served, "this needs a restart") > 0

        await replaced(served)

        for _ in range(10):
            async with httpx2.AsyncClient() as http:
                assert (await http.get(f"{served.url}/healthz")).status_code == 200


def drop_tls(file: Path) -> None:
    """Write the same configuration without a certificate."""
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "tls:" not in line))


async def reloaded(served: Served, times: int) -> None:
    """Have two workers read the configuration again, until workers to come would serve it."""
    served.process.send_signal(signal.SIGHUP)
    await served.until(lambda: said(served, "is in force") == 2 * times, 10)
    await served.until(lambda: said(served, "workers to come serve what") == times, 10)


async def replaced(served: Served) -> None:
    """Kill both workers, and wait until others serve."""
    before = children(served)
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def others_serve() -> bool:
        new = [pid for pid in children(served) if pid not in before]
        return len(new) == 2 and all(said(served, f"worker {pid} is ready") for pid in new)

    await served.until(others_serve, 20)


def children(served: Served) -> list[int]:
    found = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    return [*map(int, found.read_text().split())]


def said(served: Served, words: str) -> int:
    return sum(words in line for line in served.said)


@pytest.mark.parametrize("wrong", ["expired", "of two halves", "gone"])
async def test_a_new_certificate_that_is_no_good_is_refused_and_the_old_one_stays(
    authority: Authority, tmp_path: Path, wrong: str
) -> None:
    context = authority.trusting()
    authority.issue(tmp_path)

    async with secured(tmp_path) as served:
        before = await serial(served, context)
        if wrong == "expired":
            authority.issue(tmp_path, days=-1)
        elif wrong == "gone":
            (tmp_path / "tls.key").unlink()
        else:
            key = (tmp_path / "tls.key").read_bytes()
            authority.issue(tmp_path)
            (tmp_path / "tls.key").write_bytes(key)
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: any("server: tls: " in line for line in served.said))

        assert await serial(served, context) == before
        authority.issue(tmp_path)
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: any("is in force" in line for line in served.said))
        assert await serial(served, context) != before


def test_a_certificate_that_has_expired_is_not_served(authority: Authority, tmp_path: Path) -> None:
    authority.issue(tmp_path, days=-1)

    told = refusal(write(tmp_path))

    assert told.startswith(f"{tmp_path}/gateway.yaml:4:22: server: tls: certificate: ")
    assert f"'{tmp_path}/tls.crt' has a certificate that ended on 2" in told


async def test_one_that_ends_within_fourteen_days_is_served_with_a_warning(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path, days=13)

    async with secured(tmp_path, "workers: 2") as served:
        await served.until(lambda: any("2 workers" in line for line in served.said))

    assert sum("tls.crt ends on " in line for line in served.said) == 1


async def test_a_client_that_says_nothing_does_not_hold_up_the_end(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path)
    context = authority.trusting()

    async with (
        secured(tmp_path) as served,
        wire(served.url.replace("https", "http")),  # and no word of TLS
        connected(served, context) as idle,
    ):
        idle.stop_reading()  # so that it does not see that it is closed
        served.stop()

        assert await served.ended(within=5) == 0
        idle.writer.transport.abort()


async def test_what_is_for_operators_is_served_without_tls(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path)

    async with secured(tmp_path, "internal: '127.0.0.1:0'") as served, httpx2.AsyncClient() as http:
        await served.until(lambda: any("for operators: " in line for line in served.said))
        (line,) = (line for line in served.said if "for operators: " in line)
        answer = await http.get(f"{line.partition(': ')[2]}/readyz")

    assert answer.json() == {"status": "ready"}


async def test_an_upstream_that_cannot_be_verified_is_a_502_and_not_asked_again(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    async with Loopback(tls=context) as upstream:
        write(tmp_path)
        async with (
            secured(tmp_path, UPSTREAM=upstream.url) as served,
            httpx2.AsyncClient(verify=authority.trusting()) as http,
        ):
            answer = await http.post(f"{served.url}/v1/chat/completions", json=chat())

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "tls_failed"
    assert answer.headers["x-headrace-attempts"] == "1"
    assert upstream.requests == []
