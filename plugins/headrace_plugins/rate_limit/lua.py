"""The steps of `bucket.py` once more, for stores that run Lua; line by line the same."""

from __future__ import annotations

from headrace_plugins.rate_limit.bucket import SLACK

_BEGIN = """
    local kept, rows = {}, {}
    local back = (value.at or now) - now
    for name, number in pairs(value) do
        if back > 0 and (name == 'at' or string.sub(name, 1, 5) == 'until') then
            number = number - back
        end
        kept[name] = number
    end
    local function fill(first)
        local passed = now - (kept.at or now)
        for at = first, #arguments, 4 do
            local tokens, period = arguments[at] ~= 0, arguments[at + 1]
            local amount, capacity = arguments[at + 2], arguments[at + 3]
            local name = (tokens and 'tokens' or 'requests') .. string.format('%.10g', period)
            kept[name] = math.min(capacity, (kept[name] or capacity) + passed * amount / period)
            rows[#rows + 1] = {name = name, tokens = tokens, capacity = capacity}
        end
        kept.at = now
    end
    local function give(tokens)
        for _, row in ipairs(rows) do
            if row.tokens then
                kept[row.name] = math.min(row.capacity, kept[row.name] + tokens)
            end
        end
    end
    local function forget(group)
        kept['calls' .. group], kept['held' .. group], kept['until' .. group] = nil, nil, nil
    end
"""

_TAKE = f"""
    local group, lease, slots, tokens = unpack(arguments, 1, 4)
    fill(5)
    for name in pairs(value) do
        local lapsed = string.match(name, '^until(.*)')
        if lapsed and kept[name] <= now then
            give(kept['held' .. lapsed])
            forget(lapsed)
        end
    end
    local running = 0
    for name, number in pairs(kept) do
        if string.sub(name, 1, 5) == 'calls' then
            running = running + number
        end
    end
    local fits = slots < 0 or running < slots
    local answer = {{0, math.max(0, back), running}}
    for _, row in ipairs(rows) do
        answer[#answer + 1] = kept[row.name]
    end
    for _, row in ipairs(rows) do
        local wanted = row.tokens and tokens or 1
        fits = fits and (wanted == 0 or kept[row.name] + {SLACK!r} >= wanted)
        kept[row.name] = kept[row.name] - wanted
    end
    if fits then
        answer[1] = 1
    end
    if group ~= 0 then
        group = string.format('%.0f', group)
        kept['calls' .. group] = (kept['calls' .. group] or 0) + 1
        kept['held' .. group] = (kept['held' .. group] or 0) + tokens
        kept['until' .. group] = now + lease
    end
"""

TAKE = f"""{_BEGIN}{_TAKE}
    return fits and kept, answer
"""

PEEK = f"""{_BEGIN}{_TAKE}
    return false, answer
"""

SETTLE = f"""{_BEGIN}
    local group, reserved, used = unpack(arguments, 1, 3)
    group = string.format('%.0f', group)
    fill(4)
    if kept['calls' .. group] then
        give(reserved - used)
        kept['calls' .. group] = kept['calls' .. group] - 1
        kept['held' .. group] = kept['held' .. group] - reserved
        if kept['calls' .. group] <= 0 then
            forget(group)
        end
    else
        give(-used)
    end
    return kept, {{}}
"""

RENEW = f"""{_BEGIN}
    local till = now + arguments[1]
    for at = 2, #arguments do
        local name = 'until' .. string.format('%.0f', arguments[at])
        if kept[name] then
            kept[name] = till
        end
    end
    return kept, {{}}
"""
