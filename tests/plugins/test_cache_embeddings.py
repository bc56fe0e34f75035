"""`cache`: each input of an embedding call is an answer of its own."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from headrace import Call, CallError, Duration, Reply, UpstreamError
from headrace.telling import telling
from headrace.testing import Clock, Upstream, ask, raw
from headrace_plugins.cache import Cache

from .cache.asking import asked, status


async def embeds(upstream: Upstream, call: Call) -> Reply:
    """An embedding that says what its input was; a token for each character."""
    given = call.members["input"]
    inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    data = [
        {"object": "embedding", "index": n, "embedding": [float(len(one)), 0.125]}
        for n, one in enumerate(inputs)
    ]
    tokens = sum(map(len, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Reply.plain(
        {"object": "list", "data": data[::-1], "model": "e", "x_seen": True, "usage": usage}
    )


@pytest.fixture
def upstream() -> Upstream:
    upstream = Upstream()
    upstream.script(embeds)
    return upstream


async def embedded(cache: Cache, upstream: Upstream, given: Call) -> Any:
    return orjson.loads(await raw(await ask(cache, upstream=upstream, call=given)))


def wanting(*inputs: Any, **members: Any) -> Call:
    return asked("embedding", messages=None, input=list(inputs), **members)


async def test_only_what_is_missing_is_asked_for(upstream: Upstream) -> None:
    cache = Cache()
    await embedded(cache, upstream, wanting("a", "bb"))
    given = wanting("ccc", "a", "dddd", "bb")

    whole = await embedded(cache, upstream, given)

    assert upstream.calls[1].members["input"] == ["ccc", "dddd"]
    assert [entry["embedding"][0] for entry in whole["data"]] == [3, 1, 4, 2]
    assert [entry["index"] for entry in whole["data"]] == [0, 1, 2, 3]
    assert whole["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert whole["x_seen"] is True
    assert given.record.cache
    assert (given.record.cache.status, given.record.cache.why) == ("miss", "2 of 4 inputs")
    assert telling(given.record)["cache-status"] == "headrace; fwd=partial; stored"
    assert given.record.cache.saved
    assert given.record.cache.saved.input == 3


async def test_what_is_kept_wholly_is_not_asked_for(upstream: Upstream) -> None:
    cache = Cache()
    await embedded(cache, upstream, wanting("a", "bb"))
    given = wanting("bb", "a", "bb")

    whole = await embedded(cache, upstream, given)

    assert [entry["embedding"][0] for entry in whole["data"]] == [2, 1, 2]
    assert whole["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert (whole["object"], whole["model"]) == ("list", "e")
    assert status(given) == "hit"
    assert len(upstream.asked) == 1


async def test_a_text_alone_is_the_same_as_a_list_with_it(upstream: Upstream) -> None:
    cache = Cache()
    first = await embedded(cache, upstream, asked("embedding", messages=None, input="hello"))

    again = await embedded(cache, upstream, wanting("hello"))

    assert again == first
    assert len(upstream.asked) == 1


async def test_tokens_are_inputs_too(upstream: Upstream) -> None:
    cache = Cache()
    await embedded(cache, upstream, asked("embedding", messages=None, input=[1, 2, 3]))

    await embedded(cache, upstream, wanting([1, 2, 3], [1, 2]))

    assert upstream.calls[1].members["input"] == [[1, 2]]


@pytest.mark.parametrize(
    "other", [{"dimensions": 2}, {"encoding_format": "base64"}, {"model": "n"}, {"who": "bob"}]
)
async def test_other_wishes_are_other_answers(upstream: Upstream, other: Any) -> None:
    cache = Cache()
    await embedded(cache, upstream, wanting("a"))

    await embedded(cache, upstream, wanting("a", **other))

    assert len(upstream.asked) == 2


async def test_what_was_asked_for_as_base64_is_told_as_base64(upstream: Upstream) -> None:
    async def encoded(upstream: Upstream, call: Call) -> Reply:
        data = [
            {"index": n, "embedding": f"AAAA{one}"} for n, one in enumerate(call.members["input"])
        ]
        return Reply.plain({"object": "list", "data": data, "model": "e"})

    cache = Cache()
    upstream.script(encoded)
    await embedded(cache, upstream, wanting("a", encoding_format="base64"))

    whole = await embedded(cache, upstream, wanting("b", "a", encoding_format="base64"))

    assert [entry["embedding"] for entry in whole["data"]] == ["AAAAb", "AAAAa"]
    assert "usage" not in whole


async def test_texts_and_tokens_may_stand_side_by_side(upstream: Upstream) -> None:
    cache = Cache()
    await embedded(cache, upstream, wanting([7, 7], [7]))

    whole = await embedded(cache, upstream, wanting([7], [1, 2, 3], [7, 7]))

    assert upstream.calls[1].members["input"] == [[1, 2, 3]]
    assert [entry["embedding"][0] for entry in whole["data"]] == [1, 3, 2]
    assert whole["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


async def test_each_input_is_good_until_its_own_time_is_over(
    upstream: Upstream, clock: Clock
) -> None:
    cache = Cache(ttl=Duration(60))
    await embedded(cache, upstream, wanting("a"))
    clock.advance(40)
    await embedded(cache, upstream, wanting("a", "bb"))
    clock.advance(40)

    await embedded(cache, upstream, wanting("a", "bb"))

    assert [given.members["input"] for given in upstream.calls] == [["a"], ["bb"], ["a"]]


async def test_an_answer_with_other_inputs_is_not_kept(upstream: Upstream) -> None:
    async def wrong(upstream: Upstream, call: Call) -> Reply:
        return Reply.plain({"data": [{"index": 5, "embedding": [1.0]}], "model": "e"})

    cache = Cache()
    upstream.script(wrong, embeds, wrong)
    await embedded(cache, upstream, wanting("a"))
    given = wanting("a")
    await embedded(cache, upstream, given)
    assert status(given) == "miss"

    with pytest.raises(UpstreamError, match="other inputs"):
        await embedded(cache, upstream, wanting("a", "bb"))
    assert upstream.open == 0


async def test_only_if_cached_wants_all_of_it(upstream: Upstream) -> None:
    cache = Cache()
    await embedded(cache, upstream, wanting("a"))

    with pytest.raises(CallError, match="1 of 2 inputs"):
        await embedded(
            cache, upstream, wanting("a", "bb", headers={"cache-control": "only-if-cached"})
        )


async def test_more_inputs_than_are_looked_for_are_kept_as_a_whole(upstream: Upstream) -> None:
    cache = Cache()
    many = ["x" * n for n in range(1, 300)]
    for _ in range(2):
        given = wanting(*many)
        await embedded(cache, upstream, given)

    assert status(given) == "hit"
    assert len(upstream.asked) == 1
