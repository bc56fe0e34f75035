"""A Starlette application with a gateway under /llm, for the users the application knows."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import Scope

from headrace import Caller, Gateway

USERS = {"Bearer example-ann": "ann", "Bearer example-bob": "bob"}


class Users(AuthenticationBackend):
    """Finds out who asks. Your own application has something better."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = USERS.get(conn.headers.get("authorization", ""))
        return (AuthCredentials(), SimpleUser(name)) if name else None


def caller(scope: Scope) -> Caller | None:
    """The user that the application has found; who is None is refused."""
    if "user" not in scope:  # the middleware was not passed: it is this application itself
        return Caller("app")
    user = scope["user"]
    return Caller(user.display_name) if user.is_authenticated else None


async def greeting(request: Request) -> PlainTextResponse:
    """The application asks the gateway too, without a socket."""
    answer = await request.app.state.llm.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "Greet our users."}]
    )
    return PlainTextResponse(answer.choices[0].message.content)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """A mounted application's own lifespan is not run by its host, so it is entered here."""
    async with gateway.lifespan(app), gateway.client() as http:
        app.state.llm = AsyncOpenAI(base_url="http://headrace/v1", api_key="none", http_client=http)
        yield


access = logging.getLogger("headrace.access")
access.addHandler(logging.StreamHandler(sys.stdout))
access.setLevel(logging.INFO)

gateway = Gateway.load(Path(__file__).with_name("gateway.yaml"), caller=caller)
app = Starlette(
    routes=[Mount("/llm", gateway), Route("/greeting", greeting)],
    middleware=[Middleware(AuthenticationMiddleware, backend=Users())],
    lifespan=lifespan,
)
