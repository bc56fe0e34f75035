"""`headrace serve`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import hangup
from headrace.cli.address import check_guarded, internal_of, is_loopback
from headrace.cli.group import colored
from headrace.cli.notify import Notify
from headrace.cli.output import ErrorOutput, Output
from headrace.config.build import build
from headrace.config.document import Document, load
from headrace.config.found import default_file, document_of, look
from headrace.config.listening import Address
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.config.workers import check_workers, workers_of
from headrace.errors import ConfigError
from headrace.gateway import Gateway
from headrace.version import __version__

if TYPE_CHECKING:
    from headrace.cli.server import Live

_LEVELS = ("debug", "info", "warning", "error", "critical")


class _Number(click.IntRange):
    """A whole number, within bounds."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            bounds = f"from {self.min} to {self.max}" if self.max else f"from {self.min} on"
            self.fail(f"{value!r} is not a number {bounds}", param, ctx)


@click.command("serve")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on. Else HOST, the file, 127.0.0.1.")
@click.option("--port", type=_Number(0, 65535), help="Port. Else PORT, the file, 8080.")
@click.option("--workers", type=_Number(1), help="Else WEB_CONCURRENCY, the file, 1.")
@click.option("--log-level", type=click.Choice(_LEVELS), help="Else LOG_LEVEL, or info.")
@click.option("--worker", type=int, hidden=True, help="The errand that it is on.")
def command(
    file: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    log_level: str | None,
    worker: int | None,
) -> None:
    """Serve the gateway that FILE describes.

    Without FILE it is HEADRACE_CONFIG, or ./gateway.yaml. Without any of them, what can be found is
    served: keys in the environment, an Ollama on its port, the local model, or else a mock.
    """
    hangup.hold()
    level = log_level or os.environ.get("LOG_LEVEL") or "info"
    logs = _Logs(level, of_several=worker is not None)
    if worker is not None:
        sys.exit(_work(worker, logs))
    notify = Notify.of(os.environ)
    file = file or default_file(os.environ)
    document = load(file, os.environ) if file else _found()
    plan = build(document)
    address = host or os.environ.get("HOST") or plan.server.host
    count = workers or workers_of(plan, os.environ)
    check = partial(_check, host=address, count=count)
    check(plan)
    if not (plan.authenticates or is_loopback(address)):
        logging.getLogger("headrace").warning("everybody who reaches %s may ask: no key", address)
    from headrace.cli.listening import listening
    from headrace.cli.reminders import Reminders
    from headrace.cli.server import run

    public = Address(address, port if port is not None else _port(plan))
    with listening(public, *internal_of(plan)) as listeners:
        if count == 1:
            gateway = Gateway(plan, open=True, source=_source(file), check=check)
            logs.count_lost(gateway)
            status = run(
                gateway,
                listeners,
                certificate=plan.certificate,
                write_stall=plan.server.write_stall,
                banner=partial(banner, workers=1),
                notify=notify,
                look=Reminders(plan),
            )
            sys.exit(status)
        from headrace.cli.errand import Errand, tls_alone
        from headrace.cli.workers import Workers

        errand = Errand(
            document=document,
            secured=tls_alone(document),
            write_stall=plan.server.write_stall,
            file=file,
            host=address,
            count=count,
            sockets=tuple(listener.fileno() for listener in listeners.all),
            alive_every=notify.alive_every,
            parent=os.getpid(),
        )
        together = Workers(
            [sys.executable, "-m", "headrace", "serve", "--log-level", level],
            errand,
            listeners,
            plan,
            notify=notify,
            look=Reminders(plan),
        )
        sys.exit(together.run())


def _work(number: int, logs: _Logs) -> int:
    """Be one of several workers, and go on the errand of this number."""
    from headrace.cli.errand import Errand
    from headrace.cli.server import run
    from headrace.cli.workers import Telling, take_signals

    take_signals()
    errand = Errand.taken(number)
    if not errand.speaks:
        logging.getLogger("headrace").addFilter(_briefly)
    plan = build(errand.document)
    telling = Telling(socket.socket(fileno=errand.tells), plan)
    gateway = Gateway(
        plan,
        open=True,
        source=_source(errand.file),
        check=partial(_check, host=errand.host, count=errand.count),
    )
    gateway.workers, gateway.tell_others = errand.count, telling.tell_others
    logs.count_lost(gateway)
    return run(
        gateway,
        errand.listeners(),
        certificate=errand.certificate(plan),
        write_stall=errand.write_stall,
        banner=partial(banner, workers=errand.count) if errand.first else None,
        notify=Notify(telling.say, alive_every=errand.alive_every),
        look=telling.look,
        parent=errand.parent,
    )


def _briefly(record: logging.LogRecord) -> bool:
    """Cut short what another worker tells in full; whether anything is left."""
    told = record.getMessage()
    record.msg, record.args = " ".join(told.split("\n")[:2]), ()
    return not told.startswith("  ")  # what has changed, line by line


def _source(file: Path | None) -> Callable[[], Document] | None:
    return partial(load, file, os.environ, again=True) if file else None


def _check(plan: Plan, *, host: str, count: int) -> None:
    """Raise `ConfigError` where a plan cannot be served there, by so many workers."""
    written = plan.document if host == plan.server.host else None
    check_guarded(plan, host, written.place(("server", "host")) if written else None)
    check_workers(plan, count)


def banner(live: Live, *, workers: int) -> None:
    """Tell on standard error what is live, and a line that works when it is pasted."""
    plan, models = live.plan, live.models
    say = _Sayer()
    say(f"Headrace {__version__} is live at {live.url}", bold=True)
    if live.internal:
        say(f"  for operators: {live.internal}")
    for name, upstream in plan.upstreams.items():
        say(f"  upstream {name}: {', '.join(upstream.models) or 'any model it has'}")
    for name in plan.disabled:
        say(f"  upstream {name}: disabled")
    say(f"  models: {', '.join(models[:12]) or 'none'}{' …' if len(models) > 12 else ''}")
    say(f"  runs on {live.runs_on}{f', {workers} workers' if workers > 1 else ''}")
    model = models[0] if models else "MODEL"
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Say hello."}],
    }
    say("Try it:")
    key = " -H 'authorization: Bearer YOUR_KEY'" if plan.authenticates else ""
    data = json.dumps(body).replace("'", "'\\''")
    asking = f"curl -N {live.url}/v1/chat/completions -H 'content-type: application/json'"
    say(f"  {asking}{key} -d '{data}'")


class _Sayer:
    def __call__(self, line: str, *, bold: bool = False) -> None:
        click.secho(line, bold=bold, err=True, color=colored(sys.stderr))


def _found() -> Document:
    """The configuration that is made of what this machine has."""
    found = asyncio.run(look(os.environ))
    click.echo("no configuration is named, and there is no ./gateway.yaml; found:", err=True)
    for _, one in found:
        click.echo(f"  {one.name}: {one.says}", err=True)
    if all(one.rank >= one.STAND_IN for _, one in found):
        click.echo(_NOTHING, err=True)
    return document_of(found, os.environ)


_NOTHING = (
    "  no model. Set a key such as OPENAI_API_KEY or HF_TOKEN, start Ollama, or install "
    "headrace[local]"
)


def _port(plan: Plan) -> int:
    written = os.environ.get("PORT")
    if not written:
        return plan.server.port
    if not written.isdecimal() or int(written) > 65535:
        raise ConfigError([Problem(None, f"PORT must be a port's number, found {written!r}")])
    return int(written)


class _Logs:
    """Lines for people to standard error; the access log, which is for programs, to output."""

    def __init__(self, level: str, *, of_several: bool) -> None:
        self._people = ErrorOutput()
        self._access = Output()
        if level.lower() not in _LEVELS:
            message = f"LOG_LEVEL must be one of {', '.join(_LEVELS)}, found {level!r}"
            raise ConfigError([Problem(None, message)])
        people = logging.StreamHandler(sys.stderr)
        name = "%(name)s[%(process)d]" if of_several else "%(name)s"
        people.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[people])
        logging.getLogger("headrace").setLevel(level.upper())
        # What clients do wrong is a warning there, and anybody could fill a disk with it.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        access = logging.getLogger("headrace.access")
        self._access.setFormatter(logging.Formatter("%(message)s"))
        access.handlers = [self._access]
        access.propagate = False

    def count_lost(self, gateway: Gateway) -> None:
        """Count with the gateway's vitals what nobody reads in time."""
        self._people.lose = partial(gateway.vitals.lose, "stderr")
        self._access.lose = partial(gateway.vitals.lose, "access_log")
