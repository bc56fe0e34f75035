"""Where Redis may be: behind a password, TLS, sentinels, in a cluster; and what a probe says."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from headrace import Unavailable
from headrace.store.redis import Redis
from headrace.store.redis_replies import as_it_is
from headrace.testing import Clock
from headrace.testing.contracts.steps import upto

from .asking import OPERATIONS, back, failing, opened
from .between import Between, proxy
from .servers import REDIS, VALKEY, Server, cluster, free_port, running, sentinel
from .servers import until as real_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def certificate(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def secure(tls: Between) -> str:
    return tls.url.replace("redis:", "rediss:")


async def works(store: Redis) -> None:
    for ask in OPERATIONS.values():
        await ask(store)
    assert await store.get("key") is None  # deleted


# What a probe says


@pytest.mark.parametrize(
    ("binary", "name"), [(VALKEY, "Valkey 9.1"), (REDIS, "Redis 8.2")], ids=["valkey", "redis"]
)
async def test_a_probe_says_what_is_there_and_where(binary: str, name: str) -> None:
    with running(binary) as server:
        async with opened(server.url) as store:
            said = await store.probe()

    assert re.fullmatch(rf"{name} at 127\.0\.0\.1:{server.port}, \d+\.\d ms", said)


async def test_a_probe_asks_whatever_was_noticed_before(own: Server) -> None:
    async with opened(own.url) as store:
        own.kill()
        await failing(store, OPERATIONS["get"])
        own.start()

        assert "Valkey" in await store.probe()
        assert store.fault  # until the store itself has tried, which changes nothing for a probe


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://127.0.0.1:{free}", "it refuses connections"),
        ("redis://nowhere.invalid:6379", "its name cannot be resolved"),
        ("redis://:wrong@127.0.0.1:{port}", "it wants a user and a password, and not these"),
        ("redis://127.0.0.1:{port}", "it wants a user and a password, and not these"),
        ("redis://nobody:wrong@127.0.0.1:{port}", "it wants a user and a password"),
        ("redis://:right@127.0.0.1:{port}/99", "it says: DB index is out of range"),
        ("redis+cluster://:right@127.0.0.1:{port}", "cluster support disabled"),
        ("redis+sentinel://:right@127.0.0.1:{port}/main", "none of its sentinels helps: it says"),
        ("redis+sentinel://127.0.0.1:{free}/main", "none of its sentinels helps: it refuses"),
    ],
)
async def test_a_probe_says_in_words_why_not(url: str, why: str) -> None:
    with running(VALKEY, password="right") as server:
        async with opened(url.format(port=server.port, free=free_port())) as store:
            with pytest.raises(Unavailable) as raised:
                await store.probe()

    assert why in str(raised.value)
    assert "right" not in str(raised.value)


async def test_a_probe_tells_a_replica(own: Server) -> None:
    own.tell("REPLICAOF", "127.0.0.1", free_port())
    async with opened(own.url) as store:
        with pytest.raises(Unavailable, match="it is a read-only replica"):
            await store.probe()


async def test_a_node_of_a_cluster_is_none_alone(nodes: list[Server]) -> None:
    said = []
    for node in nodes:
        async with opened(node.url, prefix="a") as store:
            try:
                said.append(await store.probe())  # that has the key which is tried
            except Unavailable as error:
                said.append(str(error))

    assert sum("it is a node of a cluster; write redis+cluster://" in each for each in said) == 2


async def test_a_probe_of_what_is_silent_gives_up(own: Server) -> None:
    own.pause()
    async with opened(own.url, timeout=0.05) as store:
        with pytest.raises(Unavailable, match="nothing came"):
            await store.probe()


# Who is asking


async def test_a_password_with_signs_of_a_url_opens() -> None:
    with running(VALKEY, password="a/b?c#d@e:f%") as server:
        url = server.url.replace("//", "//:a%2Fb%3Fc%23d%40e%3Af%25@")
        async with opened(url) as store:
            await works(store)


async def test_each_database_is_its_own(own: Server) -> None:
    one = opened(own.url, prefix="a")
    other = opened(own.url.replace("/0", "/3"), prefix="a")
    async with one as first, other as second:
        await first.set("key", b"value", ttl=60)

        assert await second.get("key") is None
        assert own.tell("INFO", "keyspace")["db0"]


async def test_a_user_with_the_rights_that_are_written_down_can_do_everything(
    own: Server,
) -> None:
    page = (ROOT / "docs/stores/redis.md").read_text()
    [rights] = re.findall(r"^ACL SETUSER headrace (.*)$", page, re.MULTILINE)
    own.tell("ACL", "SETUSER", "headrace", *rights.replace(">…", ">secret").split())

    url = own.url.replace("//", "//headrace:secret@")
    async with opened(url, prefix="headrace") as store:
        await works(store)
        await store.probe()
        windows = store.windows()
        assert await windows.incr("key", 60) == 1
        assert await windows.get("key") == 1
        with pytest.raises(Unavailable, match="this user may not do what a store must"):
            await store._open.ask(b"", ("FLUSHALL",), as_it_is)


# TLS


async def test_all_goes_through_tls(own: Server, authority: trustme.CA, ca: str) -> None:
    async with proxy(own, certificate(authority)) as tls:
        async with opened(secure(tls), ca=ca) as store:
            await works(store)
        async with opened(f"{secure(tls)}?ca={ca}") as store:
            await works(store)


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    own: Server, authority: trustme.CA
) -> None:
    async with proxy(own, certificate(authority)) as tls, opened(secure(tls)) as store:
        with pytest.raises(Unavailable, match="its certificate cannot be verified: "):
            await store.probe()


async def test_a_certificate_of_another_host_is_not_trusted(
    own: Server, authority: trustme.CA, ca: str
) -> None:
    other = certificate(authority, "elsewhere.example")
    async with proxy(own, other) as tls, opened(secure(tls), ca=ca) as store:
        with pytest.raises(Unavailable, match="cannot be verified: IP address mismatch"):
            await store.probe()


async def test_tls_before_1_2_is_none(own: Server, authority: trustme.CA, ca: str) -> None:
    old = certificate(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with proxy(own, old) as tls, opened(secure(tls), ca=ca) as store:
        with pytest.raises(Unavailable, match=r"it takes no connection|it speaks no TLS"):
            await store.probe()


async def test_a_server_without_tls_is_not_spoken_to(own: Server, ca: str) -> None:
    async with opened(own.url.replace("redis:", "rediss:"), ca=ca, timeout=0.2) as store:
        with pytest.raises(Unavailable, match=r"nothing came within 200ms|it speaks no TLS"):
            await store.probe()


# Sentinels


@pytest.fixture
def pair() -> Iterator[list[Server]]:
    """A master and its replica, of which a sentinel knows."""
    with running(VALKEY) as master, running(VALKEY) as replica:
        replica.tell("REPLICAOF", "127.0.0.1", master.port)
        real_until(lambda: replica.tell("INFO", "replication")["master_link_status"] == "up")
        yield [master, replica]


async def test_when_the_master_dies_its_replica_is_asked(clock: Clock, pair: list[Server]) -> None:
    master, replica = pair
    with sentinel(master) as watching:
        real_until(lambda: watching.tell("SENTINEL", "REPLICAS", "main"))
        url = f"redis+sentinel://127.0.0.1:{watching.port}/main"
        async with opened(url, prefix="a") as store:
            await store.set("key", b"value", ttl=600)
            assert f" at 127.0.0.1:{master.port}, " in await store.probe()
            real_until(lambda: replica.tell("EXISTS", "a:v:key") == 1)

            master.kill()
            await failing(store, OPERATIONS["get"])
            await back(store, clock)

            assert await store.get("key") == b"value"
            assert await store.apply(upto(5)) == [(1, 1)]
            assert f" at 127.0.0.1:{replica.port}, " in await store.probe()


async def test_a_master_that_was_made_a_replica_is_left(pair: list[Server]) -> None:
    master, replica = pair
    with sentinel(master) as watching:
        async with opened(f"redis+sentinel://127.0.0.1:{watching.port}/main") as store:
            assert await store.apply(upto(5)) == [(1, 1)]

            replica.tell("REPLICAOF", "NO", "ONE")
            master.tell("REPLICAOF", "127.0.0.1", replica.port)
            watching.tell("SENTINEL", "REMOVE", "main")
            watching.tell("SENTINEL", "MONITOR", "main", "127.0.0.1", replica.port, 1)

            with pytest.raises(Unavailable, match="it is a read-only replica"):
                await store.apply(upto(5))
            assert await store.apply(upto(5)) == [(1, 2)]


async def test_a_sentinel_that_is_silent_or_gone_is_passed_over(
    clock: Clock, valkey: Server, watched: Server
) -> None:
    with running(VALKEY) as silent:
        silent.pause()
        hosts = ",".join(f"127.0.0.1:{p}" for p in (silent.port, free_port(), watched.port))
        async with opened(f"redis+sentinel://{hosts}/main", timeout=0.3) as store:
            with pytest.raises(Unavailable):
                await store.get("key")
            await works(store)


async def test_a_master_nobody_knows_is_said(watched: Server) -> None:
    async with opened(f"redis+sentinel://127.0.0.1:{watched.port}/other") as store:
        with pytest.raises(Unavailable, match="they know no master of this name"):
            await store.probe()


async def test_sentinels_get_the_password_only_if_they_want_one() -> None:
    with running(VALKEY, password="secret") as master:
        for password in (None, "secret"):
            with sentinel(master, password=password) as watching:
                url = f"redis+sentinel://:secret@127.0.0.1:{watching.port}/main"
                async with opened(url) as store:
                    await works(store)


async def test_sentinels_and_master_are_asked_through_tls(
    own: Server, authority: trustme.CA, ca: str
) -> None:
    async with proxy(own, certificate(authority)) as master:
        with sentinel(own) as watching:
            watching.tell("SENTINEL", "REMOVE", "main")
            watching.tell("SENTINEL", "MONITOR", "main", "127.0.0.1", master.port, 1)
            async with proxy(watching, certificate(authority)) as tls:
                url = f"rediss+sentinel://127.0.0.1:{tls.port}/main"
                async with opened(url, ca=ca) as store:
                    await works(store)


# A cluster


@pytest.fixture
def three() -> Iterator[list[Server]]:
    """A cluster for one test alone."""
    with cluster() as servers:
        yield servers


def at(*nodes: Server) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


async def test_one_node_is_enough_to_find_them_all(nodes: list[Server]) -> None:
    async with opened(at(nodes[0])) as store:
        keys = [f"key{number}" for number in range(50)]
        for key in keys:
            await store.set(key, key.encode(), ttl=60)

        assert [await store.get(key) for key in keys] == [key.encode() for key in keys]
        for node in nodes:
            assert f"127.0.0.1:{node.port}" in await store.probe()
            assert len(node.tell("KEYS", f"{store.prefix}:v:*")) > 5


async def test_a_node_that_is_gone_for_ever_may_stand_first_in_the_url(
    nodes: list[Server],
) -> None:
    gone = Server(VALKEY)
    async with opened(at(gone, nodes[0], gone)) as store, store:
        assert store.fault is None
        for number in range(50):
            assert await store.set(f"key{number}", b"value", ttl=60)


async def test_a_node_that_is_silent_is_not_asked_for_ever(
    clock: Clock, nodes: list[Server], own: Server
) -> None:
    own.pause()
    async with opened(at(own, *nodes), timeout=0.3) as store, store:
        await back(store, clock)
        assert await store.set("key", b"value", ttl=60)


async def test_a_key_that_moves_is_followed_and_nothing_is_lost(three: list[Server]) -> None:
    async with opened(at(three[0]), prefix="a") as store:
        await store.apply(upto(9, "{tag}1"), upto(9, "{tag}2"))
        slot = three[0].tell("CLUSTER", "KEYSLOT", "tag")
        names = {node.tell("CLUSTER", "MYID").decode(): node for node in three}
        old = next(node for node in three if node.tell("CLUSTER", "COUNTKEYSINSLOT", slot))
        new = next(node for node in three if node is not old)
        ids = {node.port: name for name, node in names.items()}

        new.tell("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old.port])
        old.tell("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new.port])
        assert await store.get("{tag}new") is None  # ASK, for it is not there any more
        for key in ("a:n:{tag}1", "a:n:{tag}2"):
            old.tell("MIGRATE", "127.0.0.1", new.port, key, 0, 1000)
        assert await store.apply(upto(9, "{tag}1"), upto(9, "{tag}2")) == [(1, 2), (1, 2)]
        for node in three:
            node.tell("CLUSTER", "SETSLOT", slot, "NODE", ids[new.port])

        assert await store.apply(upto(9, "{tag}1")) == [(1, 3)]
        assert store.fault is None


async def test_a_cluster_with_a_node_less_does_not_answer_until_it_is_back(
    clock: Clock, three: list[Server]
) -> None:
    for node in three:
        node.tell("CONFIG", "SET", "cluster-node-timeout", 500)
    async with opened(at(*three)) as store:
        keys = [f"key{number}" for number in range(30)]
        for key in keys:
            await store.set(key, b"value", ttl=600)

        three[1].kill()
        await failing_somewhere(store, keys)
        three[1].start()
        await back(store, clock)

        for key in keys:
            await store.set(key, b"value", ttl=600)


async def failing_somewhere(store: Redis, keys: list[str]) -> None:
    async with asyncio.timeout(30):
        while store.fault is None:
            for key in keys:
                await asyncio.gather(store.get(key), return_exceptions=True)
