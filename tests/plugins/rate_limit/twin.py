"""A step's Lua run by itself on a real server, at a time of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import redis

_AROUND = """
local given = cjson.decode(ARGV[1])
local function step(value, now, arguments)
{lua}
end
local kept, answer = step(given.value, given.now, given.arguments)
local told = {{kept == false and 1 or 0, #answer}}
for _, number in ipairs(answer) do
    table.insert(told, string.format('%.17g', number))
end
for name, number in pairs(kept or {{}}) do
    table.insert(told, name)
    table.insert(told, string.format('%.17g', number))
end
return told
"""


def in_lua(
    client: redis.Redis,
    lua: str,
    value: Mapping[str, float],
    now: float,
    arguments: Sequence[float],
) -> tuple[Mapping[str, float] | Literal[False], tuple[float, ...]]:
    """What a step comes to, in the form that its Python gives it."""
    told = json.dumps({"value": dict(value), "now": now, "arguments": list(arguments)})
    refused, count, *rest = client.eval(_AROUND.format(lua=lua), 0, told)
    answer, fields = rest[:count], rest[count:]
    kept = {k.decode(): float(v) for k, v in zip(fields[::2], fields[1::2], strict=True)}
    return False if refused else kept, tuple(map(float, answer))
