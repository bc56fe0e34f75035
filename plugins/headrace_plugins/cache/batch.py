"""Embeddings: each input of a call is an answer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from headrace import Call, UpstreamError, Usage
from headrace_plugins.cache.flight import Flight
from headrace_plugins.cache.key import canonical, key_of
from headrace_plugins.cache.stored import Part, Stored

_MOST = 256
"""A call with more inputs is kept as a whole."""

Input: TypeAlias = "str | list[int]"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The inputs of a call, and where the answer to each is kept."""

    inputs: Sequence[Input]
    keys: Sequence[str]

    def without(self, known: Mapping[int, Stored]) -> Batch:
        """Those that are still to be asked."""
        left = [n for n in range(len(self.inputs)) if n not in known]
        return Batch(inputs=[self.inputs[n] for n in left], keys=[self.keys[n] for n in left])


def batch_of(call: Call, *, cache: str, shared: bool) -> Batch | None:
    """The inputs of an embedding call; None of any other. Raises ValueError as `canonical` does."""
    inputs = _inputs(call) if call.operation == "embedding" else None
    if inputs is None:
        return None
    asked = [canonical({**call.members, "input": ["one", one]}) for one in inputs]
    return Batch(inputs=inputs, keys=[key_of(call, a, cache=cache, shared=shared) for a in asked])


def _inputs(call: Call) -> Sequence[Input] | None:
    match call.members.get("input"):
        case str(text):
            return [text]
        case [int(), *_] as tokens:
            return [[*tokens]]
        case [_, *_] as several if len(several) <= _MOST and all(map(_is_input, several)):
            return [*several]
    return None


def _is_input(value: Any) -> bool:
    return isinstance(value, str | list)


def answers_of(flight: Flight, batch: Batch, *, at: float) -> list[Stored]:
    """An answer for each input, with its part of the usage; none where they do not fit."""
    value = flight.events[0].json
    entries = _entries(value, len(batch.inputs))
    if entries is None:
        return []
    rest = {name: inner for name, inner in value.items() if name not in ("data", "usage")}
    tokens = _shares(flight.usage, [len(one) for one in batch.inputs])
    return [
        Stored(
            at=at,
            framing="json",
            parts=[Part(0, orjson.dumps(entry)), Part(0, orjson.dumps(rest))],
            usage=usage,
        )
        for entry, usage in zip(entries, tokens, strict=True)
    ]


def combined(batch: Batch, known: Mapping[int, Stored], asked: Any | None) -> dict[str, Any]:
    """The whole answer, of what was kept and what was `asked`. Raises `UpstreamError`."""
    missing = len(batch.inputs) - len(known)
    fresh = _entries(asked, missing) if asked else []
    if fresh is None:
        raise UpstreamError("the upstream answered other inputs", code="upstream_invalid")
    entries = iter(fresh)
    data = [
        orjson.loads(known[n].parts[0].data) if n in known else next(entries)
        for n in range(len(batch.inputs))
    ]
    rest = {} if asked else orjson.loads(known[0].parts[1].data)
    whole = {**rest, **(asked or {}), "data": [{**e, "index": n} for n, e in enumerate(data)]}
    if saved := saved_by(known):
        told = whole.get("usage")
        usage = dict(told) if isinstance(told, dict) else {}
        for name in ("prompt_tokens", "total_tokens"):
            count = usage.get(name)
            usage[name] = (count if type(count) is int else 0) + (saved.input or 0)
        whole["usage"] = usage
    return whole


def saved_by(known: Mapping[int, Stored]) -> Usage | None:
    """The tokens of the inputs that were not asked again; None where that is not known."""
    counts = [one.usage.input for one in known.values() if one.usage and one.usage.input]
    return Usage(input=sum(counts)) if counts else None


def _entries(value: Any, count: int) -> list[dict[str, Any]] | None:
    """The answers to `count` inputs in their order; None where these are others."""
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, list) or len(data) != count:
        return None
    entries = [e for e in data if isinstance(e, dict) and type(e.get("index", 0)) is int]
    by_index = {e.get("index", n): e for n, e in enumerate(entries)}
    return [by_index[n] for n in range(count)] if set(by_index) == set(range(count)) else None


def _shares(usage: Usage | None, lengths: Sequence[int]) -> list[Usage | None]:
    """The tokens of a call, shared out by the lengths of its inputs; they add up to the whole."""
    if usage is None or usage.input is None:
        return [None] * len(lengths)
    total, shares, so_far, given = sum(lengths) or 1, [], 0, 0
    for length in lengths:
        so_far += length
        until = usage.input * so_far // total
        shares.append(Usage(input=until - given))
        given = until
    return [*shares]
