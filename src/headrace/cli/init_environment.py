"""A `gateway.yaml` made of the variables that people already have: `headrace init --from-env`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from headrace.cli.address import is_loopback
from headrace.cli.init_services import LeftOut, Service, Variables
from headrace.config.problems import did_you_mean
from headrace.store.redis_url import location

_WIDTH = 96
_COLUMN = 47
"""Where comments behind a line begin."""


def written(environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """The file, None where no model is found; and what there is to say of it, line by line."""
    known = yaml.safe_load((files("headrace") / "presets/environment.yaml").read_text())
    services = [Service(name=name, **told) for name, told in known["services"].items()]
    variables = Variables(environ)
    return _File(known, services, variables).text(), variables.said


class _File:
    def __init__(
        self, texts: Mapping[str, str], services: Sequence[Service], variables: Variables
    ) -> None:
        self._texts = texts
        self._services = services
        self._variables = variables

    def text(self) -> str | None:
        """All of it; None where no model is found."""
        upstreams: dict[str, list[str]] = {}
        for service in self._services:
            try:
                if lines := list(service.lines(self._variables)):
                    upstreams[service.name] = lines
            except LeftOut as why:
                self._variables.leave_out(service.name, str(why))
        if not upstreams:
            return None
        found = self._in_order(upstreams)
        text = self._filled(
            "file",
            server=self._server(attempts=max(len(found), 3)),
            upstreams=[line for lines in upstreams.values() for line in ("", *lines)][1:],
            routes=list(self._routes(found)),
        )
        used = textwrap.wrap(", ".join(self._variables.used), _WIDTH)
        return _aligned(_with(text, "variables", [f"#   {line}" for line in used]))

    def _in_order(self, found: Mapping[str, Any]) -> list[Service]:
        """The services that were found, the one that is preferred first."""
        preferred = self._preferred(found)
        services = [service for service in self._services if service.name in found]
        return sorted(services, key=lambda service: service.name != preferred)

    def _preferred(self, found: Mapping[str, Any]) -> str | None:
        wanted = self._variables.get("AI_PROVIDER").lower().replace("-", "_")
        if not wanted:
            return None
        by_name = {each: service.name for service in self._services for each in service.called}
        name = by_name.get(wanted)
        if name in found:
            self._variables.use("AI_PROVIDER", f"{name} is asked first")
            return name
        hint = did_you_mean(wanted, by_name) or f"; known are {', '.join(by_name)}"
        why = f"{name} is not there" if name else f"it names no service that is known{hint}"
        self._variables.leave_out("AI_PROVIDER", why)
        return None

    def _routes(self, services: Sequence[Service]) -> Iterator[str]:
        targets = [target for each in services if (target := each.target(self._variables))]
        if len(targets) > 1:
            yield "chat: # each is asked when those before it have failed"
            yield f"  chain: {self._texts['several']}"
            yield "  targets:"
            yield from (f"    - {target}" for target in targets)
        elif targets:
            yield f"chat: {targets[0]} # change the model as you like"
        for service in services:
            if service.pattern:
                yield f"{service.pattern}: {service.name} # the model's name goes through"
        yield f'"*": {services[0].name} # any other model, by the name it has there'

    def _server(self, *, attempts: int) -> list[str]:
        variables = self._variables
        host = variables.get("HOST")
        port = variables.number("PORT")
        if host:
            variables.use("HOST")
        text = self._filled(
            "alone" if not host or is_loopback(host) else "guarded",
            host="${HOST:-127.0.0.1}" if host else "127.0.0.1",
            port="${PORT:-8080}" if port else "8080",
            store=self._store(),
            attempts=str(attempts),
        )
        return text.splitlines()

    def _store(self) -> str:
        """Where what is shared is kept: in Redis, if its variables make sense."""
        variables = self._variables
        if url := variables.get("REDIS_URL"):
            if not (why := _no_redis(url)):
                variables.use("REDIS_URL", "the store is there")
                return "${REDIS_URL}"
            variables.leave_out("REDIS_URL", f"it {why}")
        if not variables.get("REDIS_HOST"):
            return "memory://"
        variables.use("REDIS_HOST", "the store is there")
        # Kubernetes sets it to tcp://... where a service is called redis.
        port = ":${REDIS_PORT}" if variables.number("REDIS_PORT") else ""
        return f"redis://${{REDIS_HOST}}{port}"

    def _filled(self, text: str, **parts: str | Sequence[str]) -> str:
        """One of the known texts with these parts in the place of its marks."""
        filled = self._texts[text]
        for name, part in parts.items():
            filled = _with(filled, name, part)
        return filled


def _with(text: str, name: str, part: str | Sequence[str]) -> str:
    """A text with a part in the place of its mark; of lines, each as deep as the mark stands."""
    if isinstance(part, str):
        return text.replace(f"<<{name}>>", part)
    before, mark, after = text.partition(f"<<{name}>>")
    assert mark, f"there is no mark {name}"
    above, _, indent = before.rpartition("\n")
    lines = [f"{indent}{line}".rstrip() for line in part]
    return "\n".join([above, *lines]) + after


def _aligned(text: str) -> str:
    """A text whose comments behind lines stand below each other."""

    def aligned(line: re.Match[str]) -> str:
        return f"{line[1]:<{_COLUMN - 1}} #"

    return re.sub(r"^( *[^#\s][^#\n]*?) +#(?= )", aligned, text, flags=re.MULTILINE)


def _no_redis(url: str) -> str | None:
    try:
        location(url)
    except ValueError as error:
        return str(error)
    return None
