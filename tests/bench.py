"""What a call through the gateway costs, beside asking the upstream directly: `make bench`.

Upstream, gateway and load run on 127.0.0.1, each in a process of its own. Machines differ, so what
counts are the ratios within one run; CPU time is the gateway's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EVENTS = 200
SECONDS = 4.0
TICKS = os.sysconf("SC_CLK_TCK")


def _chunk(delta: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**body, "choices": [choice]}).encode() + b"\n\n"


STREAM = [_chunk({"content": f"word {n} "}) for n in range(EVENTS)] + [_chunk({}, "stop")]
PLAIN = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi " * 200}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
).encode()


async def upstream() -> None:
    """Answers at once: a stream if the body says so, else a plain answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if b'"stream":true' in body or b'"stream": true' in body:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                    b"transfer-encoding: chunked\r\n\r\n"
                )
                for event in [*STREAM, b"data: [DONE]\n\n"]:
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(PLAIN), PLAIN)
                )
            await writer.drain()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@dataclass
class Load:
    """Asks one address from `clients` connections at once."""

    port: int
    stream: bool
    clients: int

    async def run(self) -> float:
        """Answers a second."""
        body = json.dumps(
            {"model": "m", "stream": self.stream, "messages": [{"role": "user", "content": "hi"}]}
        ).encode()
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        began = time.monotonic()
        answers = await asyncio.gather(
            *(self._client(request, began + SECONDS) for _ in range(self.clients))
        )
        return sum(answers) / (time.monotonic() - began)

    async def _client(self, request: bytes, until: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        count = 0
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n", 1)[0], head
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if length:
                await reader.readexactly(int(length[1]))
            else:
                await reader.readuntil(b"0\r\n\r\n")
            count += 1
        writer.close()
        return count


@contextmanager
def process(*command: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A process that ends when it is left."""
    with subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as started:
        try:
            yield started
        finally:
            started.terminate()
            started.wait(10)


@contextmanager
def answering() -> Iterator[int]:
    """The port of an upstream in a process of its own."""
    with process(sys.executable, __file__, "upstream") as asked:
        assert asked.stdout
        yield int(asked.stdout.readline())


@contextmanager
def serving(config: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A gateway in a process of its own, its port, and what it runs on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gateway.yaml")
        file.write_text(config)
        command = (sys.executable, "-m", "headrace", "serve", str(file), "--port", "0")
        with process(*command, stdout=subprocess.DEVNULL) as gateway:
            assert gateway.stderr
            lines: list[str] = []
            while not (lines and "curl" in lines[-1]):
                lines.append(gateway.stderr.readline())
                assert lines[-1], "".join(lines)  # it has ended
            port = int(re.findall(r"live at http://127\.0\.0\.1:(\d+)", "".join(lines))[0])
            yield gateway, port, next(line for line in lines if "runs on" in line).strip()


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of a processor that it has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    """Measure, and print a table."""
    with answering() as port:
        config = (
            "server: {observers: []}\n"
            f"upstreams: {{a: {{forwarder: {{openai: {{base_url: 'http://127.0.0.1:{port}/v1'}}}}}}}}\n"
            "routes: {'*': a}\n"
        )
        with serving(config) as (gateway, own, runs_on):
            print(runs_on)
            print(f"{'':24}{'direct/s':>10}{'gateway/s':>11}{'ratio':>7}{'CPU us':>9}")
            for name, stream, clients in (
                ("plain, 1 client", False, 1),
                ("plain, 50 clients", False, 50),
                (f"{EVENTS} events, 1 client", True, 1),
                (f"{EVENTS} events, 50 clients", True, 50),
            ):
                if sys.stderr.isatty():
                    print(f"measuring {name} ...", file=sys.stderr)
                direct = asyncio.run(Load(port, stream, clients).run())
                before, began = cpu(gateway), time.monotonic()
                through = asyncio.run(Load(own, stream, clients).run())
                each = (cpu(gateway) - before) / (through * (time.monotonic() - began)) * 1e6
                told = f"{each:9.0f}" + (f"  ({each / EVENTS:.1f} an event)" if stream else "")
                print(f"{name:24}{direct:10.0f}{through:11.0f}{through / direct:7.2f}{told}")


if __name__ == "__main__":
    if sys.argv[1:] == ["upstream"]:
        asyncio.run(upstream())
    else:
        main()
