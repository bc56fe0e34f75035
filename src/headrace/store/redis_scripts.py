"""The Lua that Redis runs for a store: steps put together into one script, and leases.

Numbers travel as text of 17 digits, which is a double to its last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from headrace.store import Step
from headrace.store.redis_replies import Garbage


class StepFailed(RuntimeError):
    """A step's Lua has a mistake in it."""


@dataclass(frozen=True)
class Script:
    """A script, and the name by which Redis knows it once it has run there."""

    text: str

    @cached_property
    def name(self) -> str:
        """Its SHA-1, which is no secret but Redis's own choice."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=256)
def script_of(bodies: tuple[str, ...]) -> Script:
    """The script for any row of steps whose Lua is among `bodies`."""
    functions = "".join(f"function(value, now, arguments)\n{body}\nend,\n" for body in bodies)
    return Script(f"local functions = {{\n{functions}}}\n{_STEPS}")


def bodies_of(steps: Sequence[Step]) -> tuple[str, ...]:
    """The different bodies, in one order whatever the steps', so that the script is the same."""
    return tuple(sorted({step.lua for step in steps}))


def arguments_of(steps: Sequence[Step], keys: Sequence[str]) -> list[str | int]:
    """What the script is told: for each step its function, key, time to live, and arguments."""
    functions = {body: number for number, body in enumerate(bodies_of(steps), 1)}
    places = {key: number for number, key in enumerate(keys, 1)}
    told: list[str | int] = []
    for step in steps:
        told += [functions[step.lua], places[step.key], milliseconds(step.ttl)]
        told += [len(step.arguments), *(f"{number:.17g}" for number in step.arguments)]
    return told


def milliseconds(seconds: float) -> int:
    """A time to live as Redis wants it: whole, at most a century, and never rounded to nothing."""
    return math.ceil(min(seconds, 100 * 365 * 86400.0) * 1000)


def answers_of(reply: object, count: int) -> list[tuple[float, ...]]:
    """The answers of so many steps. Raises `StepFailed` with what a step's Lua said."""
    match reply:
        case [1, *answers] if len(answers) == count:
            return [_numbers(answer) for answer in answers]
        case [0, bytes(said)]:
            raise StepFailed(f"a step fails: {said.decode(errors='replace')}")
    raise Garbage("no answers of steps")


def _numbers(answer: object) -> tuple[float, ...]:
    if not isinstance(answer, list):
        raise Garbage("no answer of a step")
    return tuple(map(float, answer))


_STEPS = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local values, times, answers, refused = {}, {}, {1}, false
local stale, fields = {}, {}

local function value_of(key)
    local found, value = redis.call('HGETALL', key), {}
    stale[key] = {}
    for n = 1, #found, 2 do
        value[found[n]] = tonumber(found[n + 1])
        stale[key][found[n]] = true
    end
    return value
end

local function run()
    local at = 1
    while ARGV[at] do
        local key, arguments, answer = KEYS[tonumber(ARGV[at + 1])], {}, {}
        for n = 1, tonumber(ARGV[at + 3]) do
            arguments[n] = tonumber(ARGV[at + 3 + n])
        end
        values[key] = values[key] or value_of(key)
        local value, said = functions[tonumber(ARGV[at])](values[key], now, arguments)
        if value == false then
            refused = true
        else
            values[key] = value or {}
        end
        for n, number in ipairs(said) do
            answer[n] = string.format('%.17g', number)
        end
        answers[#answers + 1] = answer
        times[key] = ARGV[at + 2]
        at = at + 4 + #arguments
    end
    for key, value in pairs(values) do
        fields[key] = {}
        for name, number in pairs(value) do
            table.insert(fields[key], name)
            table.insert(fields[key], string.format('%.17g', number))
            stale[key][name] = nil
        end
    end
end

local done, mistake = pcall(run)
if not done then
    return {0, tostring(type(mistake) == 'table' and mistake.err or mistake)}
end
if not refused then
    for key, written in pairs(fields) do
        if written[1] then  -- first of all, for then a memory that is full refuses all of it
            redis.call('HSET', key, unpack(written))
            redis.call('PEXPIRE', key, times[key])
        end
        for name in pairs(stale[key]) do
            redis.call('HDEL', key, name)
        end
    end
end
return answers
"""

TAKE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIREAT', KEYS[1], redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
return 1
""")
"""Take a slot for a lease (its name, all slots, milliseconds), on the server's own clock."""

TRY = Script("redis.call('SET', KEYS[1], '', 'PX', 1000)\nreturn 1")
"""Write, as calls do."""
