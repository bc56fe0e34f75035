"""The steps of `bucket.py` once more, for stores that run Lua; line by line the same."""

from __future__ import annotations

from headrace_plugins.rate_limit.bucket import SLACK

_BEGIN = """
    local kept, rows = {}, {}
    for name, number in pairs(value) do
        kept[name] = number
    end
    local function fill(first)
        local passed = math.max(0, now - (value.at or now))
        kept.at = now
        for at = first, #arguments, 4 do
            local tokens, period = arguments[at] ~= 0, arguments[at + 1]
            local amount, capacity = arguments[at + 2], arguments[at + 3]
            local name = (tokens and 'tokens' or 'requests') .. string.format('%g', period)
            kept[name] = math.min(capacity, (value[name] or capacity) + passed * amount / period)
            rows[#rows + 1] = {name = name, tokens = tokens, capacity = capacity}
        end
    end
    local function give(tokens)
        for _, row in ipairs(rows) do
            if row.tokens then
                kept[row.name] = math.min(row.capacity, kept[row.name] + tokens)
            end
        end
    end
    local function finish(call, used)
        local reserved = kept['reserved' .. call] or 0
        kept['until' .. call], kept['reserved' .. call] = nil, nil
        give(reserved - used)
    end
"""

_TAKE = f"""
    local call, lease, slots, tokens = unpack(arguments, 1, 4)
    fill(5)
    local running = 0
    for name, till in pairs(value) do
        if string.sub(name, 1, 5) == 'until' then
            if till > now then
                running = running + 1
                kept[name] = math.min(till, now + lease)
            else
                finish(string.sub(name, 6), 0)
            end
        end
    end
    local fits = slots < 0 or running < slots
    local answer = {{0, running}}
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
    if call ~= 0 then
        call = string.format('%.0f', call)
        kept['until' .. call], kept['reserved' .. call] = now + lease, tokens
    end
"""

TAKE = f"""{_BEGIN}{_TAKE}
    return fits and kept, answer
"""

PEEK = f"""{_BEGIN}{_TAKE}
    return false, answer
"""

SETTLE = f"""{_BEGIN}
    local call, used, again = unpack(arguments, 1, 3)
    call = string.format('%.0f', call)
    fill(4)
    if kept['until' .. call] then
        finish(call, used)
    elseif again == 0 then
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
