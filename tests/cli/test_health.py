"""`headrace health`: ready or not, without curl, and in no time."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.testing import Loopback
from headrace.testing.misbehaviour import Act, answers, status

from ..end_to_end.serving import eventually, printing
from .running import command, headrace, process

READY = answers({"status": "ready"})
GATEWAY = "upstreams: {a: mock}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, without a configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.yaml"


@pytest.fixture
async def gateway() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        yield server


async def asked(*arguments: str, **environ: str) -> Result:
    """What it says, while the loop of this test answers it."""
    return await asyncio.to_thread(partial(headrace, "health", *arguments, stdin=None, **environ))


def status_of(url: str) -> int:
    """What a real gateway answers."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            found: int = answer.status
            return found
    except urllib.error.HTTPError as error:
        return error.code


async def test_a_gateway_that_serves_is_ready_until_it_stops(here: Path) -> None:
    here.write_text(f"server: {{shutdown_delay: 1m}}\n{GATEWAY}")
    async with printing(command("serve", "--port", "0"), {}) as served:
        await served.until(lambda: bool(served.url), 20)
        ready = await asyncio.to_thread(process, "health", "--url", served.url)
        served.stop()
        await eventually(lambda: status_of(served.url) == 503)
        stopping = await asyncio.to_thread(process, "health", "--url", served.url)

    assert (ready.returncode, ready.stdout, ready.stderr) == (0, "", "")
    assert stopping.returncode == 1
    assert stopping.stderr == f"Error: the gateway at {served.url} is not ready: HTTP 503\n"


async def test_it_asks_readyz_below_any_prefix(gateway: Loopback) -> None:
    gateway.script(READY)

    for url in (gateway.url, f"{gateway.url}/", f"{gateway.url}/llm", f"{gateway.url}/readyz"):
        assert (await asked("--url", url)).exit_code == 0

    paths = [request.target for request in gateway.requests]
    assert paths == ["/readyz", "/readyz", "/llm/readyz", "/readyz"]


async def test_the_environment_says_where_it_is(gateway: Loopback) -> None:
    gateway.script(READY)

    done = await asked(HOST="0.0.0.0", PORT=str(gateway.port))

    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("name", ["gateway.yaml", "other.yaml"])
async def test_the_file_says_where_it_is(name: str, gateway: Loopback, here: Path) -> None:
    gateway.script(READY)
    text = f"server: {{host: 0.0.0.0, port: {gateway.port}}}\n{GATEWAY}"
    here.with_name(name).write_text(text)

    done = await asked(**({} if name == "gateway.yaml" else {"HEADRACE_CONFIG": name}))

    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("server", "environ", "url"),
    [
        ("{port: 9}", {}, "http://127.0.0.1:9"),
        ("{host: 127.0.0.2, port: 9}", {}, "http://127.0.0.2:9"),
        ("{host: 127.0.0.2, port: 9}", {"HOST": "127.0.0.3"}, "http://127.0.0.3:9"),
        ("{host: 127.0.0.2, port: 7}", {"PORT": "9"}, "http://127.0.0.2:9"),
        ("{host: 0.0.0.0, port: 9}", {}, "http://127.0.0.1:9"),
        ("{host: '::', port: 9}", {}, "http://[::1]:9"),
        ("{port: '${HERE:-9}'}", {}, "http://127.0.0.1:9"),
        ("{port: 9, tls: {certificate: a.pem, key: b.pem}}", {}, "https://127.0.0.1:9"),
    ],
)
def test_it_is_asked_where_serve_would_listen(
    server: str, environ: dict[str, str], url: str, here: Path
) -> None:
    here.write_text(f"server: {server}\n{GATEWAY}")

    told = headrace("health", stdin=None, **environ)

    assert told.exit_code == 1
    assert told.stderr.startswith(f"Error: the gateway at {url} cannot be asked: ")


async def test_a_file_with_problems_makes_nobody_unwell(gateway: Loopback, here: Path) -> None:
    gateway.script(READY)
    here.write_text(f"server: {{port: {gateway.port}, host: '${{NONE}}'}}\nserver: [\nroutes: 1")

    done = await asked(HOST="127.0.0.1", PORT=str(gateway.port))

    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("port", ["0", "http", "65536"])
def test_a_port_that_says_not_where_is_told(port: str) -> None:
    told = headrace("health", PORT=port)

    assert told.exit_code == 1
    assert f"the gateway listens on port '{port}', which says not where" in told.stderr


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://[::1"])
def test_what_is_no_url_is_told(url: str) -> None:
    told = headrace("health", "--url", url)

    assert told.exit_code == 1
    assert "has no URL that can be asked" in told.stderr


@pytest.mark.parametrize("steps", [(Act.STALL,), (b"HTTP/1.1 200 OK\r\ncontent-", Act.STALL)])
async def test_a_gateway_that_says_nothing_is_not_ready(
    gateway: Loopback, steps: tuple[bytes | Act, ...]
) -> None:
    gateway.script(steps)

    done = await asked("--url", gateway.url, "--timeout", "200ms")

    assert done.exit_code == 1
    assert done.stderr == f"Error: the gateway at {gateway.url} does not answer within 0.2s\n"


@pytest.mark.parametrize("behaviour", ["close", "garbage", "rst"])
async def test_what_is_no_gateway_is_not_ready(gateway: Loopback, behaviour: str) -> None:
    gateway.script(behaviour)

    done = await asked("--url", gateway.url)

    assert done.exit_code == 1
    assert "cannot be asked: " in done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("code", [204, 301, 404, 500])
async def test_any_other_status_is_not_ready(gateway: Loopback, code: int) -> None:
    gateway.script(status(code))

    done = await asked("--url", gateway.url)

    assert (done.exit_code, f"HTTP {code}" in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody vouches for, made out to another name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    told = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *told))
    return file


async def test_our_own_certificate_is_not_judged_and_another_one_is(
    certificate: Path, here: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Loopback(tls=context) as gateway:
        gateway.script(READY)
        tls = f"{{certificate: {certificate}, key: {certificate}}}"
        here.write_text(f"server: {{port: {gateway.port}, tls: {tls}}}\n{GATEWAY}")

        ours = await asked()
        others = await asked("--url", gateway.url)

    assert ours.exit_code == 0, ours.stderr
    assert others.exit_code == 1


def test_it_is_quick_to_start(here: Path) -> None:
    here.write_text(f"server: {{port: 9}}\n{GATEWAY}")
    heavy = ("pydantic", "pydantic_core", "starlette", "uvicorn", "httpx2", "aiohttp", "asyncio")
    code = (
        "import sys; sys.argv[1:] = ['health']; from headrace.cli import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([command()[0], "-c", code], capture_output=True, text=True, check=True)

    assert "cannot be asked" in done.stderr
    assert not set(heavy) & set(done.stdout.split())
