"""What every transport must keep, on real sockets, before a server that misbehaves."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import headrace.transport
from headrace.errors import UpstreamError
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import (
    EVENTS,
    LAST_CHUNK,
    STREAM,
    Act,
    Behaviour,
    Pause,
    Received,
    Step,
    answers,
    chunk,
    cut,
    event,
    head,
    status,
    streams,
    whole,
)
from headrace.transport import Request, Response, Transport, best
from headrace.transport.aiohttp import Aiohttp
from headrace.transport.httpx2 import Httpx2
from headrace.transport.wire import trusting

pytestmark = pytest.mark.anyio

Make = Callable[..., Aiohttp | Httpx2]


@pytest.fixture(params=[Aiohttp, Httpx2], ids=["aiohttp", "httpx2"])
def make(request: pytest.FixtureRequest) -> Make:
    """The class of the transport."""
    made: Make = request.param
    return made


@pytest.fixture
async def transport(make: Make) -> AsyncIterator[Transport]:
    transport = make(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # loading authorities takes time
    yield transport
    await transport.aclose()


@pytest.fixture
async def server() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        yield server


async def send(
    transport: Transport,
    server: Loopback,
    target: str = "/",
    *,
    url: str = "",
    method: str = "POST",
    body: bytes = b"{}",
    connect: float = 0.2,
    idle: float = 1.0,
) -> Response:
    request = Request(method=method, url=(url or server.url) + target, headers=(), body=body)
    return await transport.send(request, connect=connect, idle=idle)


async def read(response: Response) -> bytes:
    return b"".join([piece async for piece in response.chunks()])


async def ask(transport: Transport, server: Loopback) -> bytes:
    return await read(await send(transport, server))


@contextmanager
def fails(code: str, status: int = 502, *, again: bool = True) -> Iterator[None]:
    with pytest.raises(UpstreamError) as caught:
        yield
    error = caught.value
    assert (error.code, error.status, error.again) == (code, status, again)
    assert error.elsewhere
    assert not any(host in error.message for host in ("127.0.0.1", "nonexistent"))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(1):
        while not true():
            await asyncio.sleep(0.005)


# What is sent


async def test_a_request_arrives_as_it_was_given(transport: Transport, server: Loopback) -> None:
    server.script(answers({}))
    headers = (("Content-Type", "application/json"), ("x-b", "2"), ("X-A", "1"), ("x-b", "3"))
    target = "/a%2Fb//./c;d=%41/../e?q=%20+%c3%a9&q=a,b:@!$'()*~&empty="
    request = Request(method="PATCH", url=server.url + target, headers=headers, body=b"\x00{}")

    await read(await transport.send(request, connect=0.2, idle=0.2))

    [received] = server.requests
    assert (received.method, received.target, received.body) == ("PATCH", target, b"\x00{}")
    ours = [line for line in received.headers if line[0].lower() not in ("host", "content-length")]
    assert [(name.lower(), value) for name, value in ours] == [
        (name.lower(), value) for name, value in headers
    ]
    assert received.header("host") == f"127.0.0.1:{server.port}"
    assert received.header("content-length") == "3"


@pytest.mark.parametrize(("method", "length"), [("GET", None), ("HEAD", None), ("POST", "0")])
async def test_only_a_request_that_may_have_a_body_tells_its_length(
    transport: Transport, server: Loopback, method: str, length: str | None
) -> None:
    server.script((head(200, "content-length: 0"),))

    await read(await send(transport, server, method=method, body=b""))

    assert server.requests[0].header("content-length") == length


async def test_a_large_body_arrives_whole(transport: Transport, server: Loopback) -> None:
    server.script(answers({}))
    body = bytes(range(256)) * 20_000

    await read(await send(transport, server, body=body))

    assert server.requests[0].body == body


async def test_cookies_are_not_kept(transport: Transport, server: Loopback) -> None:
    server.script(answers({}, "set-cookie: session=1; Path=/"))

    await ask(transport, server)
    await ask(transport, server)

    assert server.requests[1].header("cookie") is None


async def test_the_environment_names_no_proxy(
    transport: Transport, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server.script(answers({}))

    assert await ask(transport, server) == b"{}"


# What comes back


async def test_an_answer_has_its_status_and_all_its_headers(
    transport: Transport, server: Loopback
) -> None:
    server.script(status(429, b"slow down", "Retry-After: 3", "x-a: 1", "x-a: 2"))

    response = await send(transport, server)

    assert response.status == 429
    assert response.headers["retry-after"] == "3"
    assert response.headers.getlist("x-a") == ["1", "2"]
    assert await read(response) == b"slow down"


async def test_bytes_are_handed_over_as_they_come(transport: Transport, server: Loopback) -> None:
    server.script((STREAM, chunk(b"first"), Act.STALL))

    response = await send(transport, server)

    assert await anext(response.chunks()) == b"first"
    await response.aclose()


@pytest.mark.parametrize("size", [1, 2, 7, 64])
async def test_an_answer_is_the_same_however_it_is_cut(
    transport: Transport, server: Loopback, size: int
) -> None:
    server.script(cut(size, streams(*EVENTS, b"data: h\xc3\xa9llo \xf0\x9f\x8c\x8a\n\n")))

    assert await ask(transport, server) == (
        b"".join(map(event, EVENTS)) + b"data: h\xc3\xa9llo \xf0\x9f\x8c\x8a\n\ndata: [DONE]\n\n"
    )


@pytest.mark.parametrize("odd", ["1xx", "http10"])
async def test_old_and_odd_http_is_understood(
    transport: Transport, server: Loopback, odd: str
) -> None:
    server.script(odd)

    response = await send(transport, server)

    assert response.status == 200
    assert b"Hello world" in await read(response)


async def test_a_folded_header_is_one_line(transport: Transport, server: Loopback) -> None:
    if sys.flags.dev_mode and transport.name == "aiohttp":
        pytest.skip("aiohttp refuses it in Python's development mode")
    server.script("obs-fold")

    response = await send(transport, server)

    assert response.headers["x-fold"] == "one two"
    await response.aclose()


async def test_a_redirect_is_an_answer_like_any_other(
    transport: Transport, server: Loopback
) -> None:
    server.script("redirect")

    response = await send(transport, server, method="GET", body=b"")

    assert response.status == 302
    assert await read(response) == b""
    assert len(server.requests) == 1


async def test_an_upstream_is_not_read_faster_than_its_answer(
    transport: Transport, server: Loopback
) -> None:
    def flood(_: Received) -> Iterator[Step]:
        yield STREAM
        while True:
            yield chunk(bytes(64 * 1024))

    server.script(flood)
    response = await send(transport, server)
    async with aclosing(response.chunks()) as chunks:  # type: ignore[type-var]
        await anext(chunks)
        [connection] = server.connections
        before = -1
        while connection.sent != before:
            before = connection.sent
            await asyncio.sleep(0.05)

    assert connection.sent < 16 * 2**20  # what the kernel takes on both sides, and a little of ours
    await server.closed(within=0.1)


async def test_hundreds_of_answers_can_be_open_at_once(
    transport: Transport, server: Loopback
) -> None:
    server.script((STREAM, chunk(b"first"), Act.STALL))

    responses = await asyncio.gather(*(send(transport, server, connect=5) for _ in range(150)))

    assert server.open == 150
    for response in responses:
        await response.aclose()


# Which connection


async def test_a_connection_is_used_again_after_a_complete_answer(
    transport: Transport, server: Loopback
) -> None:
    server.script(streams(*EVENTS), answers({}), (head(204),), answers({}))

    for _ in range(4):
        response = await send(transport, server)
        await read(response)
        await response.aclose()
        await response.aclose()

    assert len(server.connections) == server.open == 1


@pytest.mark.parametrize("step", [Act.CLOSE, Act.RESET])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_kept_connection_that_died_is_tried_once_more_on_a_fresh_one(
    transport: Transport, server: Loopback, method: str, step: Act
) -> None:
    server.script(answers(1), (step,), answers(2))

    await ask(transport, server)
    response = await send(transport, server, method=method)

    assert await read(response) == b"2"
    assert [(each.connection, each.nth) for each in server.requests] == [(0, 0), (0, 1), (1, 0)]


async def test_the_second_try_passes_by_other_kept_connections(
    transport: Transport, server: Loopback
) -> None:
    server.script((STREAM, chunk(b"1"), Pause(0.05), LAST_CHUNK))
    await asyncio.gather(ask(transport, server), ask(transport, server))
    server.script("keepalive-lie")

    await ask(transport, server)

    assert len(server.requests) == 4
    assert server.requests[-1].connection == 2


async def test_a_fresh_connection_that_dies_is_not_tried_again(
    transport: Transport, server: Loopback
) -> None:
    server.script(answers(1), (Act.CLOSE,))
    await ask(transport, server)

    with fails("connection_lost"):
        await send(transport, server)

    assert len(server.requests) == 3


async def test_nothing_is_tried_again_once_a_byte_has_come(
    transport: Transport, server: Loopback
) -> None:
    server.script(answers(1), "half-headers-close", answers(2))
    await ask(transport, server)

    with fails("connection_lost"):
        await send(transport, server, method="GET")

    assert len(server.requests) == 2


async def test_a_connection_closed_while_idle_is_not_used(
    transport: Transport, server: Loopback
) -> None:
    server.script((*answers(1), Act.CLOSE), answers(2))
    await ask(transport, server)
    await server.closed()

    assert await ask(transport, server) == b"2"
    assert len(server.requests) == 2


_ANSWER = head(200, "content-length: 4")
_EVIL = whole(b"EVIL")


@pytest.mark.parametrize(
    "steps",
    [
        (_ANSWER + b"good" + _EVIL,),
        (_ANSWER, b"good" + _EVIL),
        (_ANSWER, b"good", _EVIL),
        (_ANSWER, b"good", Pause(0.02), _EVIL),
        (_ANSWER + b"good" + _EVIL[:20], _EVIL[20:]),
        (head(200, "transfer-encoding: chunked"), chunk(b"good") + LAST_CHUNK + _EVIL),
        (head(204) + _EVIL,),
    ],
)
@pytest.mark.parametrize("seen", [0, 5], ids=["in the kernel", "in the loop"])
async def test_what_lies_beyond_an_answer_is_no_answer_to_the_next_request(
    transport: Transport, server: Loopback, steps: tuple[Step, ...], seen: int
) -> None:
    server.script(steps, answers("mine"))

    first = await ask(transport, server)
    length = sum(len(step) for step in steps if isinstance(step, bytes))
    await until(lambda: server.connections[0].sent == length)
    for _ in range(seen):
        await asyncio.sleep(0)

    assert first in (b"good", b"")
    assert await ask(transport, server) == b'"mine"'
    await server.closed(0, within=0.2)


# No connection


async def test_a_refused_connection(transport: Transport, server: Loopback) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        url = f"http://127.0.0.1:{once.getsockname()[1]}"

    with fails("connect_failed"):
        await send(transport, server, url=url)


async def test_a_name_that_does_not_resolve(transport: Transport, server: Loopback) -> None:
    with fails("dns_failed"):
        await send(transport, server, url="http://nonexistent.invalid")


async def test_looking_up_a_name_blocks_nobody(
    transport: Transport, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: object, **__: object) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(1)
        raise socket.gaierror(socket.EAI_NONAME, "slow")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    asking = asyncio.create_task(send(transport, server, url="http://nonexistent.invalid"))
    await asyncio.sleep(0)

    released.set()

    with fails("dns_failed"):
        await asking


async def test_a_host_that_does_not_answer_at_all(transport: Transport, server: Loopback) -> None:
    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for each in (one, two):  # the queue is full now, and the kernel drops who comes
            each.setblocking(False)
            each.connect_ex(listener.getsockname())

        with fails("connect_timeout", 504):
            await send(transport, server, url=f"http://127.0.0.1:{listener.getsockname()[1]}")


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


class Authority:
    """An authority that nobody knows, and certificates of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Nobody")])
        self.certificate = self._sign(self._name, self._key, days=1, authority=True)

    def server(self, host: str = "127.0.0.1", *, days: int = 1) -> ssl.SSLContext:
        """A server's context, with a certificate that ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        file = self._folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._sign(name, key, days=days, host=host)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trusted(self) -> ssl.SSLContext:
        """A client's context that knows this authority."""
        context = trusting()
        context.load_verify_locations(cadata=self.certificate.decode())
        return context

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        days: int,
        host: str = "",
        authority: bool = False,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if host:
            known: x509.GeneralName = (
                x509.IPAddress(ipaddress.ip_address(host))
                if host[0].isdigit()
                else x509.DNSName(host)
            )
            builder = builder.add_extension(x509.SubjectAlternativeName([known]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


async def test_an_upstream_whose_authority_is_known_is_asked(
    make: Make, authority: Authority
) -> None:
    transport = make(tls=authority.trusted())
    async with Loopback(tls=authority.server()) as server:
        server.script(answers(1), answers(2))

        assert [await ask(transport, server), await ask(transport, server)] == [b"1", b"2"]
        assert len(server.connections) == 1
        await transport.aclose()
        await server.closed(within=0.1)


@pytest.mark.parametrize(
    ("known", "host", "days"),
    [(False, "127.0.0.1", 1), (True, "127.0.0.1", -1), (True, "other.example", 1)],
    ids=["signed by nobody", "expired", "wrong host"],
)
async def test_an_upstream_that_cannot_be_verified_is_not_asked(
    make: Make, authority: Authority, known: bool, host: str, days: int
) -> None:
    transport = make(tls=authority.trusted() if known else None)
    async with Loopback(tls=authority.server(host, days=days)) as server:
        with fails("tls_failed", again=False):
            await send(transport, server)

        assert server.requests == []
    await transport.aclose()


async def test_an_upstream_that_speaks_no_tls(transport: Transport, server: Loopback) -> None:
    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(400))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        with fails("tls_failed", again=False):
            await send(transport, server, url=f"https://127.0.0.1:{port}")


async def test_old_tls_is_not_spoken_and_everything_is_verified() -> None:
    context = trusting()

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_leaving_closes_a_tls_connection_at_once(make: Make, authority: Authority) -> None:
    transport = make(tls=authority.trusted())
    async with Loopback(tls=authority.server()) as server:
        server.script((STREAM, chunk(b"first"), Act.STALL))
        response = await send(transport, server)

        await response.aclose()

        await server.closed(within=0.1)
    await transport.aclose()


# Answers that go wrong


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("wrong", ["rst", "close", "half-headers-close"])
async def test_a_connection_that_ends_before_its_answer(
    transport: Transport, server: Loopback, wrong: str, method: str
) -> None:
    server.script(wrong)

    with fails("connection_lost"):
        await send(transport, server, method=method)

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *("dup-cl", "cl-te", "garbage", "bad-status", "status-999"),
        *("huge-header", "many-headers", "101"),
    ],
)
async def test_what_is_not_http_is_refused_and_its_connection_closed(
    transport: Transport, server: Loopback, wrong: str
) -> None:
    server.script(wrong, answers("mine"))

    with fails("upstream_protocol"):
        await send(transport, server)

    await server.closed(within=0.2)
    assert await ask(transport, server) == b'"mine"'


async def test_many_long_headers_are_too_many(transport: Transport, server: Loopback) -> None:
    server.script((whole(b"", *(f"x-{n}: {'a' * 1000}" for n in range(70))),))

    with fails("upstream_protocol"):
        await send(transport, server)


async def test_interim_answers_without_end(transport: Transport, server: Loopback) -> None:
    def flood(_: Received) -> Iterator[Step]:
        while True:
            yield head(103, f"link: <{'a' * 1000}>")

    server.script(flood)

    with fails("upstream_protocol"):
        await send(transport, server)

    await server.closed(within=0.2)


async def test_a_hundred_header_lines_are_fine(transport: Transport, server: Loopback) -> None:
    server.script((whole(b"ok", *(f"x-{n}: {'a' * 500}" for n in range(99))),))

    assert await ask(transport, server) == b"ok"


async def test_a_body_that_stops_being_http(transport: Transport, server: Loopback) -> None:
    server.script("bad-chunk", answers("mine"))
    response = await send(transport, server)

    with fails("upstream_protocol"):
        await read(response)

    await server.closed(within=0.2)
    assert await ask(transport, server) == b'"mine"'


@pytest.mark.parametrize(
    "wrong",
    [
        *("close-midstream", "rst-midstream", "truncated-chunked", "truncated-cl"),
        (head(200) + b"Hello, no length", Pause(0.02), Act.RESET),
    ],
)
async def test_a_body_that_breaks_off(
    transport: Transport, server: Loopback, wrong: str | Behaviour
) -> None:
    server.script(wrong)
    response = await send(transport, server)
    came = b""

    with fails("upstream_truncated"):
        async for piece in response.chunks():
            came += piece

    assert b"Hello" in came
    assert server.open == 0


@pytest.mark.parametrize("wrong", ["stall-before-first", "stall-midstream"])
async def test_a_body_that_falls_silent(transport: Transport, server: Loopback, wrong: str) -> None:
    server.script(wrong)
    response = await send(transport, server, idle=0.05)

    with fails("idle_timeout", 504):
        await read(response)

    await server.closed(within=0.1)


async def test_waiting_for_an_answer_is_not_idling(transport: Transport, server: Loopback) -> None:
    server.script((Pause(0.1), *answers(1)))

    assert await read(await send(transport, server, idle=0.05)) == b"1"


async def test_nobody_idles_while_nobody_reads(transport: Transport, server: Loopback) -> None:
    server.script((STREAM, chunk(b"first"), Pause(0.1), chunk(b"last") + LAST_CHUNK))
    response = await send(transport, server, idle=0.05)
    chunks = response.chunks()
    await anext(chunks)

    await until(lambda: server.connections[0].sent > len(STREAM) + 20)

    assert await anext(chunks) == b"last"
    assert [piece async for piece in chunks] == []


# Leaving


@pytest.mark.parametrize("waiting", ["never", "half-headers", "drip-headers", "1xx-flood"])
async def test_a_cancelled_request_closes_its_connection_at_once(
    transport: Transport, server: Loopback, waiting: str
) -> None:
    server.script(waiting)
    asking = asyncio.create_task(send(transport, server))
    await server.asked()

    asking.cancel()

    await server.closed(within=0.1)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_request_cancelled_while_it_is_sent_closes_its_connection_at_once(
    transport: Transport, server: Loopback
) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        asking = asyncio.create_task(send(transport, server, url=url, body=bytes(32 * 2**20)))
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            await loop.sock_recv(accepted, 1000)

            asking.cancel()

            with pytest.raises(asyncio.CancelledError):
                await asking
            async with asyncio.timeout(0.3):
                assert await _drained(accepted) < 16 * 2**20


async def _drained(connection: socket.socket) -> int:
    """Read to the end, in order or not; returns how much came."""
    loop = asyncio.get_running_loop()
    length = 0
    with suppress(ConnectionResetError):
        while data := await loop.sock_recv(connection, 2**20):
            length += len(data)
    return length


async def test_an_answer_closed_early_closes_its_connection_at_once(
    transport: Transport, server: Loopback
) -> None:
    server.script("stall-midstream")
    response = await send(transport, server)
    await anext(response.chunks())

    await response.aclose()
    await response.aclose()

    await server.closed(within=0.1)


async def test_an_answer_that_nobody_reads_closes_its_connection(
    transport: Transport, server: Loopback
) -> None:
    server.script("stall-before-first")
    response = await send(transport, server)

    await response.aclose()

    await server.closed(within=0.1)


async def test_whoever_stops_reading_closes_the_connection(
    transport: Transport, server: Loopback
) -> None:
    server.script("stall-midstream")
    response = await send(transport, server)

    async with aclosing(response.chunks()) as chunks:  # type: ignore[type-var]
        async for _ in chunks:
            break

    await server.closed(within=0.1)


async def test_a_cancelled_reader_closes_the_connection(
    transport: Transport, server: Loopback
) -> None:
    server.script("stall-midstream")
    reading = asyncio.create_task(read(await send(transport, server)))
    await asyncio.sleep(0)

    reading.cancel()

    await server.closed(within=0.1)
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_closing_the_transport_closes_every_connection(
    transport: Transport, server: Loopback
) -> None:
    server.script(answers(1), "stall-midstream")
    idle, busy = await send(transport, server), await send(transport, server)
    await read(idle)
    await anext(busy.chunks())

    await transport.aclose()

    await until(lambda: server.open == 0)


# Encodings


def _bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello")),
        ("GZIP", gzip.compress(b"hel") + gzip.compress(b"lo")),
        ("x-gzip", gzip.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", _bare(b"hello")),
        ("identity", b"hello"),
        ("", b"hello"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
async def test_an_encoded_body_is_inflated(
    transport: Transport, server: Loopback, encoding: str, body: bytes, size: int
) -> None:
    server.script(cut(size, (whole(body, f"content-encoding: {encoding}"),)))

    response = await send(transport, server)

    assert await read(response) == b"hello"
    assert "content-encoding" not in response.headers


async def test_an_encoded_stream_is_inflated_as_it_comes(
    transport: Transport, server: Loopback
) -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"first") + packer.flush(zlib.Z_SYNC_FLUSH)
    server.script((STREAM[:-2] + b"content-encoding: gzip\r\n\r\n", chunk(first), Act.STALL))

    response = await send(transport, server)

    assert await anext(response.chunks()) == b"first"
    await response.aclose()


async def test_an_empty_body_needs_no_inflating(transport: Transport, server: Loopback) -> None:
    server.script((whole(b"", "content-encoding: gzip"),))

    assert await ask(transport, server) == b""


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate, br", "snappy"])
async def test_an_encoding_that_cannot_be_undone(
    transport: Transport, server: Loopback, encoding: str
) -> None:
    server.script((whole(gzip.compress(b"hello"), f"content-encoding: {encoding}"),))
    response = await send(transport, server)

    with fails("upstream_encoding", again=False):
        await read(response)


@pytest.mark.parametrize(
    "wrong",
    ["gzip-corrupt", (whole(gzip.compress(b"hello")[:-9], "content-encoding: gzip"),)],
    ids=["corrupt", "cut short"],
)
async def test_a_body_that_cannot_be_inflated(
    transport: Transport, server: Loopback, wrong: str | Behaviour
) -> None:
    server.script(wrong)
    response = await send(transport, server)

    with fails("upstream_encoding"):
        await read(response)


async def test_a_bomb_is_not_inflated_beyond_the_limit(make: Make, server: Loopback) -> None:
    transport = make(inflated=300_000)
    server.script("gzip-bomb")
    response = await send(transport, server)
    inflated = 0

    with fails("upstream_too_large", again=False):
        async for piece in response.chunks():
            inflated += len(piece)

    assert inflated <= 300_000
    await server.closed(within=0.1)
    await transport.aclose()


async def test_inflating_lets_others_run(make: Make, server: Loopback) -> None:
    transport = make(inflated=2**24)
    server.script("gzip-bomb")
    response = await send(transport, server)
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    with fails("upstream_too_large", again=False):
        await read(response)
    counting.cancel()

    assert passes > 2**24 / 2**17
    await transport.aclose()


async def test_a_body_that_is_not_encoded_may_have_any_size(make: Make, server: Loopback) -> None:
    transport = make(inflated=1000)
    server.script((whole(bytes(2**20)),))

    assert len(await ask(transport, server)) == 2**20
    await transport.aclose()


# The best there is


async def test_the_best_transport_is_aiohttp_if_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert best().name == "aiohttp"

    monkeypatch.setattr(headrace.transport, "find_spec", lambda _: None)

    assert best().name == "httpx2"


async def test_no_client_is_imported_before_it_is_needed() -> None:
    code = (
        "import headrace.transport, sys; print({'aiohttp', 'httpx2', 'httpcore2'} & {*sys.modules})"
    )

    assert subprocess.check_output([sys.executable, "-c", code]) == b"set()\n"
