"""The works of a gateway: what one configuration was made into, and the calls that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import Scope

from headrace.admin import Admin, Operated
from headrace.attempts import Attempts
from headrace.call import Limits
from headrace.caller import Caller
from headrace.chain import compose
from headrace.config.plan import Plan
from headrace.config.problems import Problem
from headrace.dialect import OPENAI
from headrace.edge import Edge, path_below
from headrace.errors import ConfigError
from headrace.intake import Bounds
from headrace.pages import Answer
from headrace.routing import Router
from headrace.sending import Pings


class Works:
    """All that serves a call, from the edge to the upstreams, as one plan describes it.

    `caller` and `open` are the gateway's. Raises `ConfigError` where nobody is asked for a key.
    """

    def __init__(
        self,
        plan: Plan,
        gateway: Operated,
        *,
        caller: Callable[[Scope], Caller | None] | None,
        open: bool,
    ) -> None:
        if not (plan.authenticates or caller or open or plan.server.auth == "none"):
            raise ConfigError([Problem(None, _UNGUARDED)])
        self.plan = plan
        self.closed = plan.authenticates or caller is not None
        """Whether a key is needed."""
        self.connections = 0
        """How many requests these works serve, those for pages included."""
        dialects = (OPENAI,)
        self.router = Router(
            plan.routes,
            plan.upstreams,
            Attempts(
                plan.upstreams,
                most=plan.server.attempts,
                limits=Limits(event=plan.server.max_event, answer=plan.server.max_answer),
                rests=plan.vitals.rests,
            ),
            dialects=dialects,
            listings={
                name: upstream.forward.models
                for name, upstream in plan.upstreams.items()
                if hasattr(upstream.forward, "models")
            },
        )
        self.edge = Edge(
            compose(plan.admitting, self.router),
            name=plan.name,
            dialects=dialects,
            observers=plan.observers,
            bounds=Bounds(
                body=plan.server.max_body,
                read=plan.server.body_timeout,
                write_stall=plan.server.write_stall,
            ),
            pings=Pings(every=plan.server.pings, early=plan.server.early_pings),
            caller=caller,
            local_only=not (plan.authenticates or caller or plan.server.auth == "none"),
            serving=plan.vitals.serving,
        )
        admin = plan.server.admin
        self.admin = Admin(admin.keys, gateway) if admin else None
        self._pages: Mapping[str, Answer] = {
            path: page
            for observer in plan.observers
            for path, page in getattr(observer, "pages", {}).items()
        }

    def page(self, scope: Scope) -> Answer | None:
        """What answers at this path in place of a call."""
        return self._pages.get(path_below(scope))


_UNGUARDED = (
    "nobody is asked for a key: no plugin in 'server: {chain: [...]}' authenticates. Add one "
    "('headrace plugins' lists them); or write 'server: {auth: none}' to let in everybody who "
    "reaches the port; or run 'headrace serve' on a loopback address"
)
