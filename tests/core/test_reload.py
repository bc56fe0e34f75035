"""Another configuration is taken while the gateway runs, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import resource
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace import ConfigError, Gateway, Happening, HeadraceError
from headrace.testing import Client, Clock, Loopback, settled
from headrace.testing.misbehaviour import COMPLETION, answers
from headrace_plugins.breaker import Breaker
from headrace_plugins.jwt_auth import JwtAuth

SAYS = """
    upstreams:
      a:
        forwarder: {{mock: {{says: {says}, pace: 1s}}}}
        plugins: [breaker: {{failures: {failures}}}]
    routes: {{'*': a}}
"""


class Served:
    """A gateway of a file that can be written anew, and its client."""

    def __init__(self, file: Path) -> None:
        self.gateway = Gateway.load(file, environ={}, open=True)
        self.client = Client(self.gateway)
        self.file = file

    def write(self, text: str, **values: Any) -> None:
        self.file.write_text(textwrap.dedent(text).format(**values))

    async def reload(self, text: str, **values: Any) -> bool:
        self.write(text, **values)
        return await self.gateway.reload()

    async def says(self) -> str:
        answer = await (await self.client.chat()).json()
        said: str = answer["choices"][0]["message"]["content"]
        return said

    @property
    def breaker(self) -> Breaker:
        (plugin,) = self.gateway.plan.upstreams["a"].plugins
        assert isinstance(plugin, Breaker)
        return plugin


Serve = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serve(text: str = SAYS, **values: Any) -> AsyncIterator[Served]:
        file = tmp_path / "gateway.yaml"
        values = {"says": "old", "failures": 5, **values}
        file.write_text(textwrap.dedent(text).format(**values))
        served = Served(file)
        async with served.gateway.lifespan():
            yield served

    return serve


async def test_the_next_call_is_answered_by_what_is_written_now(serve: Serve) -> None:
    async with serve() as served:
        before = await served.says()
        changed = await served.reload(SAYS, says="new", failures=5)

        assert (before, await served.says(), changed) == ("old", "new", True)


async def test_a_file_that_says_the_same_changes_nothing(serve: Serve) -> None:
    async with serve() as served:
        before = served.gateway.plan

        assert await served.gateway.reload() is False
        assert served.gateway.plan is before


async def test_a_file_with_problems_changes_nothing_and_says_so(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as served:
        with pytest.raises(ConfigError) as refused:
            await served.reload("upstreams: {{a: mock}}\nroutes: {{'*': b}}\n")

        assert "gateway.yaml:2:15" in str(refused.value)
        assert await served.says() == "old"
        assert served.gateway.vitals.reloads == {"failed": 1}
        assert "gateway.yaml:2:15" in (served.gateway.vitals.refused or "")
        assert "stays as it was" in caplog.text


async def test_a_file_that_is_empty_for_a_moment_is_no_configuration(serve: Serve) -> None:
    async with serve() as served:
        with pytest.raises(ConfigError, match="there is nothing in"):
            await served.reload("")

        assert await served.says() == "old"


async def test_a_refusal_is_forgotten_once_a_file_was_taken(serve: Serve) -> None:
    async with serve() as served:
        with pytest.raises(ConfigError):
            await served.reload("upstreams: 3\n")
        await served.reload(SAYS, says="new", failures=5)

        assert served.gateway.vitals.refused is None
        assert served.gateway.vitals.reloads == {"failed": 1, "ok": 1}


async def test_a_stream_under_way_ends_as_it_began(serve: Serve, clock: Clock) -> None:
    async with serve(says="one two three") as served:
        asked = asyncio.create_task(served.client.chat(stream=True))
        await settled()
        clock.advance(1)
        response = await asked
        await served.reload(SAYS, says="new", failures=6)
        reading = asyncio.create_task(response.read())
        while not reading.done():
            clock.advance(1)
            await settled()

        assert b"three" in reading.result()
        assert await served.says() == "new"


async def test_what_only_the_old_one_had_is_closed_after_its_last_call(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []

    async def note(self: Breaker, *error: object) -> None:
        closed.append(self.failures)

    monkeypatch.setattr(Breaker, "__aexit__", note)
    async with serve(says="one two three") as served:
        asked = asyncio.create_task(served.client.chat(stream=True))
        await settled()
        clock.advance(1)
        response = await asked
        await served.reload(SAYS, says="new", failures=6)
        during = list(closed)
        await response.leave()
        await settled()

        assert (during, closed) == ([], [5])
    assert closed == [5, 6]


async def test_what_did_not_change_stays_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as served:
        before = served.breaker
        opened: list[Breaker] = []

        async def note(self: Breaker) -> Breaker:
            opened.append(self)
            return self

        monkeypatch.setattr(Breaker, "__aenter__", note)
        await served.reload(SAYS, says="new", failures=5)

        assert served.breaker is before
        assert opened == []


async def test_what_cannot_be_opened_leaves_all_as_it_was(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Breaker) -> Breaker:
        raise OSError("no more files")

    async with serve() as served:
        monkeypatch.setattr(Breaker, "__aenter__", fail)
        with pytest.raises(OSError, match="no more files"):
            await served.reload(SAYS, says="new", failures=6)

        assert await served.says() == "old"
        assert served.gateway.vitals.refused == "no more files"


async def test_the_store_and_the_connections_are_handed_over(serve: Serve) -> None:
    async with serve() as served:
        before = served.gateway.plan
        await served.reload(SAYS, says="new", failures=6)
        after = served.gateway.plan

        assert after is not before
        assert (after.store, after.transport) == (before.store, before.transport)
        assert (after.name, after.vitals) == (before.name, before.vitals)


LIMITED = """
    server:
      auth: none
      chain: [rate_limit: {{policies: [{{requests: {limit}/hour}}]}}]
    upstreams: {{a: mock, b: mock}}
    routes: {{'*': {target}}}
"""


async def test_what_was_counted_still_counts(serve: Serve) -> None:
    async with serve(LIMITED, limit=2, target="a") as served:
        await served.says()
        await served.says()
        await served.reload(LIMITED, limit=2, target="b")
        refused = await served.client.chat()

        assert refused.status == 429


async def test_a_file_that_lets_in_everybody_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    key = "ab" * 32
    upstream = "upstreams: {a: mock}\nroutes: {'*': a}\n"
    file.write_text(f"server: {{chain: [api_key: {{keys: {{{key}: ann}}}}]}}\n{upstream}")
    gateway = Gateway.load(file, environ={})
    async with gateway.lifespan():
        file.write_text(upstream)
        with pytest.raises(ConfigError, match="nobody is asked for a key"):
            await gateway.reload()
        refused = await Client(gateway).chat()

    assert refused.status == 401


KEYED = f"server: {{{{chain: [api_key: {{{{keys: {{{{{'ab' * 32}: ann}}}}}}}}]}}}}"
A = "upstreams: {{a: mock}}"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (f"{A}\nroutes: {{{{m: a}}}}", A, "there are no routes any more"),
        (f"{A}\nroutes: {{{{}}}}", "upstreams: {{}}", "there are no upstreams any more"),
        (f"{KEYED}\n{A}", A, "nobody is asked for a key any more"),
    ],
)
async def test_what_looks_like_half_a_file_is_not_taken(
    serve: Serve, before: str, after: str, said: str
) -> None:
    async with serve(before) as served:
        with pytest.raises(ConfigError, match=said):
            await served.reload(after)


async def test_whoever_means_to_be_open_to_all_says_so(serve: Serve) -> None:
    async with serve(f"{KEYED}\n{A}") as served:
        assert await served.reload(f"server: {{{{auth: none}}}}\n{A}")


async def test_a_secret_is_not_told_with_the_problems(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams: {a: mock}\nroutes: {'*': a}\n")
    environ: dict[str, str] = {}
    gateway = Gateway.load(file, environ=environ, open=True)
    environ["KEY"] = "canary-5e1f"
    async with gateway.lifespan():
        file.write_text("upstreams: {a: {forwarder: {mock: {pace: '${KEY}'}}}}\n")
        with pytest.raises(ConfigError):
            await gateway.reload()

    assert "canary" not in (gateway.vitals.refused or "")


async def test_of_very_many_changes_the_log_tells_some(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    text = "upstreams: {{a: mock}}\nroutes: {{'*': a{routes}}}"
    routes = "".join(f", m{number}: a" for number in range(99))
    async with serve() as served:
        with caplog.at_level("INFO", logger="headrace"):
            assert await served.reload(text, routes=routes)

    told = [line.message for line in caplog.records if line.message.startswith("  ")]
    assert len(told) == 51
    assert told[-1].startswith("  and ")


async def test_observers_that_want_to_know_are_told(serve: Serve) -> None:
    told: list[Happening] = []

    class Listens:
        def __call__(self, record: object) -> None:
            """Calls are not what this one is about."""

        def happened(self, happening: Happening) -> None:
            told.append(happening)

    async with serve() as served:
        served.gateway.vitals.observers = (Listens(),)
        with pytest.raises(ConfigError):
            await served.reload("upstreams: 3\n")

    assert [(one.what, one.outcome) for one in told] == [("config.refused", "failed")]
    assert "upstreams must be a mapping" in told[0].details["why"]


async def test_it_is_told_what_has_changed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headrace")
    async with serve() as served:
        await served.reload(SAYS, says="old", failures=6)

    assert "breaker failures 5 -> 6" in caplog.text


async def test_two_who_ask_at_once_are_served_in_turn(serve: Serve) -> None:
    async with serve() as served:
        served.write(SAYS, says="new", failures=6)
        changed = await asyncio.gather(*(served.gateway.reload() for _ in range(5)))

        assert sorted(changed) == [False, False, False, False, True]
        assert await served.says() == "new"


async def test_a_gateway_of_no_file_says_that_it_cannot_be_changed() -> None:
    from headrace.testing import gateway

    made = gateway()
    async with made.lifespan():
        with pytest.raises(HeadraceError, match="where the configuration"):
            await made.reload()


# What must not come between


class Slow:
    """Lets the opening of breakers wait, and notes which are open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: list[int] = []
        self.may = asyncio.Event()
        slow = self

        async def enter(self: Breaker) -> Breaker:
            await slow.may.wait()
            slow.open.append(self.failures)
            return self

        async def leave(self: Breaker, *error: object) -> None:
            slow.open.remove(self.failures)

        self.may.set()
        monkeypatch.setattr(Breaker, "__aenter__", enter)
        monkeypatch.setattr(Breaker, "__aexit__", leave)


async def test_a_call_that_ends_closes_nothing_that_is_being_opened(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with serve(says="one two three") as served:
        asked = asyncio.create_task(served.client.chat(stream=True))
        await settled()
        clock.advance(1)
        response = await asked
        await served.reload(SAYS, says="new", failures=6)
        slow.may.clear()
        reload = asyncio.create_task(served.reload(SAYS, says="newest", failures=7))
        await asyncio.sleep(0.3)
        await response.leave()
        await settled()
        slow.may.set()
        await reload
        await settled()

        assert slow.open == [7]
        assert await served.says() == "newest"
    assert slow.open == []


async def test_an_opening_that_hangs_is_given_up(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with serve() as served:
        slow.may.clear()
        reload = asyncio.create_task(served.reload(SAYS, says="new", failures=6))
        await asyncio.sleep(0.3)
        clock.advance(120)
        with pytest.raises(HeadraceError, match="not open within 120 s"):
            await reload
        slow.may.set()

        assert await served.says() == "old"
        assert await served.reload(SAYS, says="newest", failures=7)
        assert await served.says() == "newest"


async def test_a_gateway_ends_while_a_part_hangs_in_its_opening(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with serve() as served:
        slow.may.clear()
        reload = asyncio.create_task(served.reload(SAYS, says="new", failures=6))
        await asyncio.sleep(0.3)
    with pytest.raises(asyncio.CancelledError):
        await reload
    assert slow.open == []


PROBED = """
    upstreams:
      a:
        forwarder: {{openai: {{base_url: "{url}/v1"}}}}
        health: {{every: 1s, failures: 1}}
      b: {{forwarder: {{mock: {{says: one two three, pace: 1s}}}}}}
    routes: {{'*': a, slow: b}}
"""


async def test_nobody_looks_any_more_where_an_upstream_was(serve: Serve, clock: Clock) -> None:
    async with Loopback() as new:
        new.script(answers(COMPLETION))
        async with serve(PROBED, url="http://127.0.0.1:9") as served:
            await passed(lambda: bool(served.gateway.vitals.rests.all), clock)
            asked = asyncio.create_task(served.client.chat(model="slow", stream=True))
            await settled()
            clock.advance(1)
            stream = await asked
            await served.reload(PROBED, url=new.url)
            await passed(lambda: not served.gateway.vitals.rests.all, clock, step=0.01)
            for _ in range(5):
                clock.advance(1)
                await asyncio.sleep(0.02)

            assert served.gateway.vitals.rests.all == {}, "those of before have looked"
            await stream.leave()


async def passed(true: Callable[[], bool], clock: Clock, step: float = 0.2) -> None:
    """Let time pass until something is so; sockets take their own."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        clock.advance(step)
        await asyncio.sleep(0.01)


async def test_a_middleware_that_cannot_be_made_changes_nothing(serve: Serve) -> None:
    hosts = 'starlette.middleware.trustedhost:TrustedHostMiddleware: {{allowed_hosts: ["a.*.b"]}}'
    async with serve() as served:
        before = served.gateway.plan
        with pytest.raises(AssertionError):
            await served.reload(f"server: {{{{middleware: [{hosts}]}}}}\n{A}\nroutes: {{{{m: a}}}}")

        assert served.gateway.plan is before
        assert await served.says() == "old"


async def test_a_refused_file_does_not_touch_what_is_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Breaker) -> Breaker:
        raise OSError("no more files")

    smaller = LIMITED.replace("auth: none", "auth: none\n      store: {{memory: {{entries: 1}}}}")
    smaller = smaller.replace("b: mock", "b: {{forwarder: mock, plugins: [breaker]}}")
    async with serve(LIMITED, limit=1, target="a") as served:
        await served.says()
        monkeypatch.setattr(Breaker, "__aenter__", fail)
        with pytest.raises(OSError, match="no more files"):
            await served.reload(smaller, limit=1, target="a")
        refused = await served.client.chat()

        assert refused.status == 429


ORDERED = """
    callers: {{{first}: {{}}, {second}: {{}}}}
    upstreams: {{a: mock}}
"""


async def test_the_order_of_callers_is_a_part_of_the_configuration(serve: Serve) -> None:
    async with serve(ORDERED, first="free", second="tight") as served:
        assert await served.reload(ORDERED, first="tight", second="free")
        assert [entry.name for entry in served.gateway.plan.callers.entries] == ["tight", "free"]


async def test_what_is_no_file_is_not_waited_for(serve: Serve) -> None:
    async with serve() as served:
        served.file.unlink()
        os.mkfifo(served.file)
        with pytest.raises(ConfigError, match="not a regular file"):
            await served.gateway.reload()

        assert await served.says() == "old"


INNER = """
    server:
      chain:
        - any_of:
            - api_key: {{keys: {{{key}: ann}}}}
            - jwt_auth:
                issuer: https://login.example.com
                audience: headrace
                secret: {secret}
    upstreams: {{a: mock}}
"""


async def test_a_plugin_inside_of_another_is_opened_once_and_stays_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def enter(self: JwtAuth) -> JwtAuth:
        told.append("open")
        return self

    async def leave(self: JwtAuth, *error: object) -> None:
        told.append("closed")

    monkeypatch.setattr(JwtAuth, "__aenter__", enter)
    monkeypatch.setattr(JwtAuth, "__aexit__", leave)
    secret = "a secret of at least thirty-two characters"
    async with serve(INNER, key="ab" * 32, secret=secret) as served:
        await served.reload(INNER, key="cd" * 32, secret=secret)
        await settled()
        during = list(told)

    assert (during, told) == (["open"], ["open", "closed"])


# Watching

WATCHED = """
    server: {{watch: 1s}}
    upstreams: {{a: {{forwarder: {{mock: {{says: {says}}}}}}}}}
    routes: {{'*': a}}
"""


async def taken(served: Served, clock: Clock, ok: int = 1) -> None:
    """Let time pass until so many changes were seen; files are looked at beside the loop."""
    end = time.monotonic() + 20
    while served.gateway.vitals.reloads["ok"] < ok:
        assert time.monotonic() < end, "the change was not seen"
        clock.advance(0.5)
        await settled()
        time.sleep(0.001)


async def test_a_changed_file_is_taken_by_itself(serve: Serve, clock: Clock) -> None:
    async with serve(WATCHED) as served:
        served.write(WATCHED, says="newer")
        await taken(served, clock)

        assert await served.says() == "newer"


async def test_a_volume_of_kubernetes_is_swapped_as_a_whole(tmp_path: Path, clock: Clock) -> None:
    """ConfigMaps are mounted as a link to a folder that is replaced by another one."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        text = textwrap.dedent(WATCHED).format(says=version)
        (tmp_path / version / "gateway.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    served = Served(tmp_path / "gateway.yaml")
    async with served.gateway.lifespan():
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "..data")
        await taken(served, clock)

        assert await served.says() == "two"


async def test_a_changed_secret_is_a_changed_configuration(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "secret").write_text("first\n")
    served_file = tmp_path / "gateway.yaml"
    served_file.write_text(textwrap.dedent(WATCHED).format(says="'${{file:secret}}'"))
    served_file.write_text(served_file.read_text().replace("${{", "${").replace("}}'", "}'"))
    served = Served(served_file)
    async with served.gateway.lifespan():
        before = served.gateway.plan.hash
        (tmp_path / "secret").write_text("second\n")
        await taken(served, clock)

        assert await served.says() == "second"
        assert served.gateway.plan.hash == before


async def test_a_new_file_that_an_include_matches_is_seen(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "teams").mkdir()
    file = tmp_path / "gateway.yaml"
    file.write_text("include: teams/*.yaml\nserver: {watch: 1s}\nupstreams: {a: mock}\n")
    served = Served(file)
    async with served.gateway.lifespan():
        (tmp_path / "teams" / "one.yaml").write_text("routes: {fast: a}\n")
        await taken(served, clock)
        listed = await (await served.client.get("/v1/models")).json()

    assert "fast" in [model["id"] for model in listed["data"]]


async def test_a_broken_file_is_told_once_and_its_repair_is_seen(
    serve: Serve, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(WATCHED) as served:
        served.write("upstreams: 3\n")
        end = time.monotonic() + 20
        while not served.gateway.vitals.refused and time.monotonic() < end:
            clock.advance(0.5)
            await settled()
            time.sleep(0.001)
        for _ in range(50):
            clock.advance(0.5)
            await settled()
            time.sleep(0.001)
        served.write(WATCHED, says="repaired")
        await taken(served, clock)

        assert await served.says() == "repaired"
        assert caplog.text.count("stays as it was") == 1


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Files are there, and nobody can open one: not even root."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_file_that_could_not_be_read_is_told_once_and_taken_when_it_can_be(
    serve: Serve, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(WATCHED) as served:
        await served.gateway.reload()  # what that imports is loaded by now
        served.write(WATCHED, says="newer")
        with no_descriptors_left():
            with pytest.raises(ConfigError, match="Too many open files"):
                await served.gateway.reload()
            for _ in range(50):
                clock.advance(0.5)
                await settled()
                time.sleep(0.001)
        await taken(served, clock)

        assert await served.says() == "newer"
        assert caplog.text.count("stays as it was") == 1


async def test_a_file_that_nobody_may_read_is_taken_when_its_mode_allows_it(
    serve: Serve, clock: Clock
) -> None:
    async with serve(WATCHED) as served:
        served.write(WATCHED, says="newer")
        served.file.chmod(0)
        if os.access(served.file, os.R_OK):
            pytest.skip("whoever is root may read whatever the mode says")
        with pytest.raises(ConfigError, match="Permission denied"):
            await served.gateway.reload()
        served.file.chmod(0o644)
        await taken(served, clock)

        assert await served.says() == "newer"


async def test_nobody_looks_where_it_is_not_written(serve: Serve, clock: Clock) -> None:
    async with serve() as served:
        served.write(SAYS, says="new", failures=5)
        for _ in range(50):
            clock.advance(1)
            await settled()
            time.sleep(0.001)

        assert await served.says() == "old"
