"""From the model a client asks for to the route that answers it.

An exact route wins over a pattern, a longer pattern over a shorter one, any of these over
`upstream/model`, and that over `"*"`. A route whose key begins with a slash is a path; it is passed
through, unless a dialect serves that path and the route is a mere pattern.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from headrace.attempts import Upstream
from headrace.call import (
    PASSTHROUGH,
    Call,
    Deadline,
    Resolved,
    Target,
    Targets,
    fitting,
    leaves,
)
from headrace.caller import Allowances, Caller
from headrace.chain import Next, Plugin, compose
from headrace.dialect import Dialect
from headrace.errors import (
    CallError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    UpstreamError,
)
from headrace.given import given
from headrace.patterns import glob
from headrace.reply import Reply

logger = logging.getLogger("headrace")

_METHODS = ("GET", "POST")
_ASKED_EVERY = 60.0
_ASKED_FOR = 2.0
_MOST_LISTED = 2000
_COMPARED = 50
_LONG = 64


@dataclass(frozen=True, kw_only=True)
class Route:
    """A key of `routes`, who may answer it, and through which plugins."""

    key: str
    targets: Targets
    chain: tuple[Plugin, ...] = ()
    fingerprint: str = ""
    """Another one for other targets, plugins or upstreams behind the same key."""

    @property
    def is_path(self) -> bool:
        """Whether the key is a path instead of a model's name."""
        return self.key.startswith("/")

    @property
    def is_pattern(self) -> bool:
        """Whether the key has a `*`."""
        return "*" in self.key


class Routes:
    """All routes, looked up by their rules. `upstreams` are the names of those that may answer."""

    def __init__(self, routes: Iterable[Route], upstreams: Iterable[str]) -> None:
        routes = tuple(routes)
        self.exact = {route.key: route for route in routes if not route.is_pattern}
        self._upstreams = {
            name: Route(key=f"{name}/*", targets=(Target(name),)) for name in upstreams
        }
        patterns = [route for route in routes if route.is_pattern]
        patterns.sort(key=lambda route: len(route.key), reverse=True)
        self._models = [(glob(r.key), r) for r in patterns if not r.is_path and r.key != "*"]
        self._paths = [(glob(r.key), r) for r in patterns if r.is_path]
        self._any = next((route for route in patterns if route.key == "*"), None)
        self._written = routes, tuple(self._upstreams)

    @property
    def keys(self) -> list[str]:
        """The keys of all routes, as they are written."""
        return [route.key for route in self._written[0]]

    @property
    def upstreams(self) -> list[str]:
        """The names of the upstreams that may answer."""
        return list(self._upstreams)

    def __eq__(self, other: object) -> bool:
        return self._written == other._written if isinstance(other, Routes) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def of_server() -> Routes:
        """Those of the gateway that is being built, by their keys; outside of one, none."""
        return given(Routes) or Routes((), ())

    def for_model(self, model: str) -> Route | None:
        """The route for a model's name; its targets name the model where the key gives it."""
        if not model.startswith("/") and (route := self.exact.get(model)):
            return route
        if route := _match(self._models, model):
            return route
        upstream, slash, rest = model.partition("/")
        if slash and rest and (route := self._upstreams.get(upstream)):
            return Route(key=route.key, targets=(Target(upstream, rest),))
        return self._any

    def for_path(self, path: str) -> tuple[Route, str] | None:
        """The route for a path, exact or by pattern, and the path as that route writes it.

        Clients may leave out the `/v1` of its key.
        """
        for written in (path, f"/v1{path}"):
            if route := self.exact_path(written) or _match(self._paths, written):
                return route, written
        return None

    def exact_path(self, path: str) -> Route | None:
        """The route whose key is this very path."""
        return self.exact.get(path) if path.startswith("/") else None


class Router:
    """Finds the route of a call and sends it there; answers for the list of models itself."""

    def __init__(
        self,
        routes: Iterable[Route],
        upstreams: Mapping[str, Upstream],
        attempts: Next,
        *,
        dialects: Iterable[Dialect],
        listings: Mapping[str, Callable[[], Awaitable[list[str]]]] | None = None,
    ) -> None:
        self.routes = Routes(routes, upstreams)
        self._upstreams = upstreams
        self._attempts = attempts
        self._dialects = tuple(dialects)
        self._catalogue = Catalogue(self.routes, upstreams, listings or {})

    async def __call__(self, call: Call) -> Reply:
        """Answer a call through its route. Raises `NotFound` where there is none."""
        if route := self.routes.exact_path(call.path):
            return await self._pass_through(call, route, call.path)
        if call.operation == "models":
            return await self._models(call)
        if call.operation == "me":
            return await self._me(call)
        if call.operation == PASSTHROUGH:
            if found := self.routes.for_path(call.path):
                return await self._pass_through(call, *found)
            raise self._no_path(call)
        asked = call.dialect.asked(call)
        call.record.asked = asked
        route = self.routes.for_model(asked)
        if call.caller and not call.caller.may(asked):
            call.record.said = f"caller {call.caller.name!r} may not use {asked!r}"
            route = None
        if route is None:
            raise await self._no_model(asked, call.caller)
        return await self._along(call, route)

    async def listed(self, caller: Caller | None = None) -> dict[str, str]:
        """Every model that `caller` can ask for by name, and the upstream that answers it first."""
        return await self._catalogue.listed(caller)

    async def _pass_through(self, call: Call, route: Route, written: str) -> Reply:
        if call.caller and not call.caller.may_pass(written):
            call.record.said = f"caller {call.caller.name!r} may not use {route.key!r}"
            raise self._no_path(call)
        return await self._along(call.replace(operation=PASSTHROUGH), route)

    async def _along(self, call: Call, route: Route) -> Reply:
        call.record.route = route.key
        call.record.operation = call.operation
        if not route.targets:
            raise Overloaded(
                f"every upstream of {route.key!r} is disabled in this gateway's configuration",
                code="no_upstream_enabled",
            )
        targets = reached(route, self._upstreams, call.caller)
        if not targets:
            raise Forbidden(
                f"none of the upstreams of {route.key!r} may answer you: they lack the labels that "
                "this gateway's configuration wants for you",
                code="no_upstream_allowed",
            )
        totals = [self._upstreams[t.upstream].timeouts.total for t in leaves(targets)]
        own = Deadline.after(max(totals))
        deadline = min(own, call.deadline, key=lambda deadline: deadline.at)
        passed = call.operation == PASSTHROUGH
        asked = None if passed else call.dialect.asked(call)
        behind = [_behind(t, asked, self._upstreams[t.upstream]) for t in leaves(targets)]
        resolved = Resolved(f"{route.key} {route.fingerprint} {behind}")
        routed = call.replace(targets=targets, deadline=deadline).telling(resolved)
        return await compose(route.chain, self._attempts)(routed)

    async def _models(self, call: Call) -> Reply:
        asked = call.path.removeprefix("/v1").removeprefix("/models").strip("/")
        listed = await self.listed(call.caller)
        if not asked:
            entries = [_entry(name, owner) for name, owner in listed.items()]
            return Reply.plain({"object": "list", "data": entries})
        route = self.routes.for_model(asked)
        allowed = route and (call.caller is None or call.caller.may(asked))
        targets = reached(route, self._upstreams, call.caller) if route and allowed else ()
        if asked not in listed and not targets:
            raise await self._no_model(asked, call.caller)
        owner = listed.get(asked) or next(leaves(targets)).upstream
        return Reply.plain(_entry(asked, owner))

    async def _me(self, call: Call) -> Reply:
        caller = call.caller
        left = call.told(Allowances) or Allowances(())
        return Reply.plain(
            {
                "object": "caller",
                "name": caller and caller.name,
                "id": caller and caller.id,
                "tenant": caller and caller.tenant,
                "issuer": caller and caller.issuer,
                "groups": list(caller.groups) if caller else [],
                "models": list(await self.listed(caller)),
                "limits": [vars(allowance) for allowance in left.all],
            }
        )

    async def _no_model(self, asked: str, caller: Caller | None) -> NotFound:
        listed = list(await self.listed(caller))
        folded = {name.casefold(): name for name in listed}
        near = (
            difflib.get_close_matches(asked.casefold()[:_LONG], _some(folded, asked), n=5) or folded
        )
        known = ", ".join(folded[name] for name in list(near)[:5])
        hint = f"did you mean one of: {known}?" if known else "none is configured."
        return NotFound(
            f"the model {asked!r} does not exist here, or is not yours to use; {hint} "
            "GET /v1/models lists all that are",
            code="model_not_found",
            param="model",
        )

    def _no_path(self, call: Call) -> CallError:
        for dialect in self._dialects:
            allowed = [method for method in _METHODS if dialect.operation(method, call.path)]
            if allowed:
                return MethodNotAllowed(
                    f"{call.path} takes {' and '.join(allowed)}, not {call.method}",
                    code="method_not_allowed",
                    headers={"allow": ", ".join(allowed)},
                )
        return NotFound(
            f"nothing is served at {call.method} {call.path}; chat completions are at "
            "POST /v1/chat/completions",
            code="unknown_url",
        )


class Catalogue:
    """The models that can be asked for by name: routes, and what upstreams list.

    An upstream that declares no models is asked for them, at most once a minute, for two seconds.
    """

    def __init__(
        self,
        routes: Routes,
        upstreams: Mapping[str, Upstream],
        listings: Mapping[str, Callable[[], Awaitable[list[str]]]],
    ) -> None:
        self._routes = routes
        self._upstreams = upstreams
        self._listings = listings
        self._known: dict[str, list[str]] = {}
        self._asked: dict[str, tuple[float, asyncio.Task[list[str]]]] = {}

    async def listed(self, caller: Caller | None) -> dict[str, str]:
        """The id of every model that `caller` may use, and the upstream that answers it first."""
        found = {
            key: next(leaves(targets)).upstream
            for key, route in self._routes.exact.items()
            if not route.is_path and (targets := reached(route, self._upstreams, caller))
        }
        answering = [
            upstream
            for upstream in self._upstreams.values()
            if caller is None or caller.reaches(upstream.labels)
        ]
        offers = await asyncio.gather(*map(self._offers, answering))
        for upstream, models in zip(answering, offers, strict=True):
            for model in models:
                found.setdefault(f"{upstream.name}/{model}", upstream.name)
        return {name: owner for name, owner in found.items() if caller is None or caller.may(name)}

    async def _offers(self, upstream: Upstream) -> list[str]:
        if upstream.models or upstream.name not in self._listings:
            return list(upstream.models)
        now = asyncio.get_running_loop().time()
        asked, work = self._asked.get(upstream.name, (-_ASKED_EVERY, None))
        if work is None or now - asked >= _ASKED_EVERY:
            work = asyncio.ensure_future(self._ask(upstream))
            self._asked[upstream.name] = (now, work)
        return await asyncio.shield(work)  # who leaves does not take the list from the others

    async def _ask(self, upstream: Upstream) -> list[str]:
        try:
            async with asyncio.timeout(_ASKED_FOR):
                listed = await self._listings[upstream.name]()
        except (CallError, TimeoutError) as error:
            if isinstance(error, UpstreamError):
                error.scrub(upstream.secrets)
            logger.warning("upstream %s does not list its models: %r", upstream.name, str(error))
        else:
            named = [model for model in listed if model.isprintable()]
            self._known[upstream.name] = named[:_MOST_LISTED]
        return self._known.get(upstream.name, [])


def _behind(target: Target, asked: str | None, upstream: Upstream) -> str:
    """What answers for a target, so that another one is told from it; however it is weighed."""
    model = target.model or asked
    there = upstream.models.get(model, model) if model else None
    return f"{target} {there} {upstream.fingerprint}"


def reached(route: Route, upstreams: Mapping[str, Upstream], caller: Caller | None) -> Targets:
    """The targets of a route that may answer `caller`, by their upstreams' labels."""
    if caller is None or not caller.only:
        return route.targets
    return fitting(route.targets, lambda target: caller.reaches(upstreams[target.upstream].labels))


def _some(names: Iterable[str], asked: str) -> list[str]:
    """Names that may be like another one: it takes long to compare it with all there are."""
    alike = [name for name in names if name[:2] == asked.casefold()[:2]]
    return [name for name in dict.fromkeys([*alike, *names]) if len(name) <= _LONG][:_COMPARED]


_STARTED = int(time.time())


def _entry(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": owner}


def _match(patterns: list[tuple[re.Pattern[str], Route]], text: str) -> Route | None:
    return next((route for pattern, route in patterns if pattern.fullmatch(text)), None)
