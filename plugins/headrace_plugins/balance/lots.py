"""Targets in the order of lots: drawn by chance, or by a key and then always the same.

Each lot is a time that is distributed exponentially, with the weight as its rate, and the shortest
comes first: so each target is the first as often as its share of all weights says, and the first
member of a group as often as all of its members.

With a hash of key and target instead of chance this is rendezvous hashing (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", 1998) with weights (Schindelhauer and Schomaker,
"Weighted distributed hash tables", 2005): a target that is added takes its share and moves no other
call, one that is taken away leaves its calls to those that come next for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import TypeAlias

from headrace import Target, Targets, leaves

Draw: TypeAlias = Callable[[Target], float]
"""A number above 0 and up to 1 for a target."""


def drawn(targets: Targets, draw: Draw) -> Targets:
    """The targets in the order of their lots."""

    def lot(target: Target | Targets) -> float:
        return min(-math.log(draw(member)) / member.weight for member in leaves((target,)))

    return tuple(sorted(targets, key=lot))


def by_chance(random: Random) -> Draw:
    """Lots that differ from call to call."""
    return lambda target: 1.0 - random.random()


def by_key(key: bytes) -> Draw:
    """Lots that are the same for the same key, of at most 64 bytes."""

    def draw(target: Target) -> float:
        digest = blake2b(str(target).encode(), key=key, digest_size=8).digest()
        return (int.from_bytes(digest) + 1) / 2**64

    return draw
