"""What Redis replies, read strictly: what is not as it should be is `Garbage`."""

from __future__ import annotations

from headrace.store.redis_url import Address


class Garbage(ValueError):
    """A reply that is none, or another question's."""


def as_it_is(reply: object) -> object:
    """Any reply, for whoever reads it himself."""
    return reply


def whole(reply: object) -> int:
    """A whole number."""
    if not isinstance(reply, int):
        raise Garbage("no whole number")
    return reply


def flag(reply: object) -> bool:
    """Whether something was there, or was done."""
    if reply not in (0, 1):
        raise Garbage("neither 0 nor 1")
    return bool(reply)


def done(reply: object) -> bool:
    """True, if it was done."""
    if reply != b"OK":
        raise Garbage("no OK")
    return True


def pong(reply: object) -> None:
    """The answer to PING."""
    if reply != b"PONG":
        raise Garbage("no PONG")


def marked(reply: object, mark: bytes) -> bytes | None:
    """A value, without the mark of its key."""
    if reply is None:
        return None
    if not isinstance(reply, bytes) or not reply.startswith(mark):
        raise Garbage("the value of another key")
    return reply[len(mark) :]


def scanned(reply: object) -> tuple[bytes | None, list[bytes]]:
    """Where SCAN goes on, if there is more, and the keys it found."""
    match reply:
        case [bytes(cursor), [*found]]:
            keys = [key for key in found if isinstance(key, bytes)]
            return cursor if cursor != b"0" else None, keys
    raise Garbage("no answer to SCAN")


def called(reply: object) -> str:
    """The server's name and version, as INFO has them."""
    told = _info(reply)
    name = "Valkey" if "valkey_version" in told else "Redis"
    version = told.get(f"{name.lower()}_version", "")
    return f"{name} {'.'.join(version.split('.')[:2])}"


def policy_of(reply: object) -> str:
    """What is thrown away when its memory is full, as INFO has it."""
    return _info(reply).get("maxmemory_policy", "unknown")


def _info(reply: object) -> dict[str, str]:
    if not isinstance(reply, bytes):
        raise Garbage("no INFO")
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def master_at(reply: object) -> Address | None:
    """Where a sentinel says that a master is, if it knows it."""
    match reply:
        case None:
            return None
        case [bytes(host), bytes(port)]:
            return Address(host.decode(), int(port))
    raise Garbage("no address of a master")


def nodes_of(reply: object, asked: str) -> list[Address]:
    """The masters that CLUSTER SLOTS names; the node that was `asked` may not know its own host."""
    found: set[Address] = set()
    for slots in reply if isinstance(reply, list) else ():
        match slots:
            case [int(), int(), [host, int(port), *_], *_]:
                found.add(Address(host.decode() if host else asked, port))
    if not found:
        raise Garbage("no nodes of a cluster")
    return sorted(found)


def well(reply: object) -> bool:
    """Whether a node says that all is well with its cluster, in CLUSTER INFO."""
    return isinstance(reply, bytes) and b"cluster_state:ok" in reply
