"""Services of models, by the variables that people have for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from headrace.http_exchange import check_base_url

_OFF = ("false", "0", "no", "off")


class LeftOut(Exception):
    """A service is not written; says why."""


class Variables:
    """What is set, which of it is used, and what there is to say of it. No value is ever said."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.used: dict[str, None] = {}
        """Their names, in the order in which they are used."""
        self.said: list[str] = []

    def get(self, name: str) -> str:
        """A value; empty where it is not set."""
        return self._environ.get(name, "").strip()

    def use(self, name: str, says: str = "") -> None:
        """Note that it is used."""
        self.used[name] = None
        if says:
            self.said.append(f"{name}: {says}")

    def leave_out(self, what: str, why: str) -> None:
        """Say why something is not used."""
        self.said.append(f"{what}: left out, {why}")

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these that is set, which is used; the others are left out."""
        there = [name for name in names if self.get(name)]
        for other in there[1:]:
            self.leave_out(other, f"{there[0]} is there")
        if there:
            self.use(there[0])
        return there[0] if there else None

    def number(self, name: str) -> bool:
        """Whether it is set to the number of a port, and used."""
        value = self.get(name)
        good = value.isdecimal() and value.isascii() and 0 < int(value) < 65536
        if good:
            self.use(name)
        elif value:
            self.leave_out(name, "it is no port's number")
        return good


@dataclass(frozen=True, kw_only=True)
class Service:
    """One that is known, as presets/environment.yaml describes it."""

    name: str
    about: str
    called: Sequence[str]
    needs: Sequence[Sequence[str]]
    keys: Sequence[str]
    forwarder: str
    models: Sequence[str]
    page: str
    address: str = ""
    path: str = ""
    base_url: str = ""
    model: str = ""
    pattern: str = ""
    unused: Mapping[str, str] = field(default_factory=dict)

    def lines(self, variables: Variables) -> Iterator[str]:
        """Its upstream; nothing where nothing of it is set. Raises `LeftOut`."""
        switch = self._switch(variables)
        on = switch and variables.get(switch).lower() not in _OFF
        if not (on or any(map(variables.get, (*self.keys, self.address)))):
            return
        if switch and not on:
            raise LeftOut(f"{switch} says so")
        for needed in self.needs:
            if not any(map(variables.get, needed)):
                raise LeftOut(f"{' or '.join(needed)} is not set")
        address, key = self._address(variables), variables.first(self.keys)
        found = [name for name in (key, self.address) if name and variables.get(name)]
        if switch and not found:
            variables.use(switch)
        variables.said.append(f"{self.name}: found by {' and '.join(found) or switch}")
        for name, why in self.unused.items():
            if variables.get(name):
                variables.leave_out(name, why)
        yield f"{self.name}: # {self.about}"
        yield "  forwarder:"
        yield f"    {self.forwarder}:"
        yield f"      base_url: {address}"
        if key:
            yield f"      api_key: ${{{key}}}"

    def target(self, variables: Variables) -> str | None:
        """Who answers where all services are asked: a model of it, if one is known."""
        if name := variables.first(self.models):
            return f"{self.name}/${{{name}}}"
        if self.model:
            return f"{self.name}/{self.model}"
        names = " or ".join(self.models)
        variables.said.append(
            f"{self.name}: not among those that answer chat, for {names} is not set; it is there "
            f"as {self.name}/NAME"
        )
        return None

    def _switch(self, variables: Variables) -> str | None:
        switches = [f"{name.upper()}_ENABLED" for name in self.called]
        return next(filter(variables.get, switches), None)

    def _address(self, variables: Variables) -> str:
        """How its address is written; raises `LeftOut` where the variable holds none."""
        name, value = self.address, variables.get(self.address)
        if not value:
            return self.base_url
        try:
            bare = not urlsplit(check_base_url(value)).path
        except ValueError as error:
            raise LeftOut(f"{name} is no address: {error}") from None
        variables.use(name)
        if not (bare and self.path):
            return f"${{{name}}}"
        path = self.path.removeprefix("/") if value.endswith("/") else self.path
        variables.said.append(f"{name}: {self.path} is written behind it, for it has no path")
        return f"${{{name}}}{path} # as {name} is now, without a path"
