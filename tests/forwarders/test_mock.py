"""`mock`: it answers every call at once, and says that no model was asked."""

from __future__ import annotations

import math

import orjson
import pytest

from headrace import OPENAI, PASSTHROUGH, Duration, UpstreamError
from headrace.testing import Clock, ask, call, raw, text
from headrace_plugins.forwarders.mock import Mock


@pytest.mark.parametrize("operation", ["chat", "completion"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_every_text_is_the_same(operation: str, stream: bool) -> None:
    asked = call(operation, stream=stream)

    assert await text(await ask(upstream=Mock(says="one two  three"), call=asked)) == (
        "one two  three"
    )


async def test_it_says_what_it_is() -> None:
    assert "no model was asked" in await text(await ask(upstream=Mock(), call=call()))


async def test_a_stream_has_all_that_a_stream_of_openai_has() -> None:
    asked = call(stream=True, stream_options={"include_usage": True})

    reply = await ask(upstream=Mock(says="one two"), call=asked)
    *chunks, usage, end = [event async for event in reply.events]
    await reply.aclose()

    assert chunks[0].json["choices"][0]["delta"] == {"role": "assistant"}
    assert [OPENAI.text(chunk) for chunk in chunks[1:3]] == ["one", " two"]
    assert OPENAI.finish(chunks[3]) == "stop"
    assert (usage.json["choices"], usage.json["usage"]["completion_tokens"]) == ([], 2)
    assert end.raw == b"data: [DONE]\n\n"
    assert len({chunk.json["id"] for chunk in chunks}) == 1


async def test_usage_is_told_only_to_who_asks_for_it() -> None:
    asked = call(stream=True)

    assert b"usage" not in await raw(await ask(upstream=Mock(), call=asked))

    assert asked.record.attempts[0].usage
    assert not asked.record.attempts[0].usage.estimated


@pytest.mark.parametrize("options", ["x", ["include_usage"], {"include_usage": "no"}, None, 1])
async def test_options_of_a_stream_that_are_none_do_no_harm(options: object) -> None:
    asked = call(stream=True, stream_options=options)

    assert await raw(await ask(upstream=Mock(), call=asked, ask_usage=False))


@pytest.mark.parametrize(
    ("given", "count"),
    [("hi", 1), (["hi", "ho"], 2), ([15339, 1917], 1), ([[15339], [1917]], 2), ([], 0)],
)
async def test_each_text_has_its_embedding(given: object, count: int) -> None:
    answer = await Mock()(call("embedding", input=given))

    embedded = orjson.loads(await raw(answer))["data"]

    assert [(item["index"], len(item["embedding"])) for item in embedded] == [
        (index, 8) for index in range(count)
    ]


async def test_the_pace_is_between_words_and_the_reply_is_there_with_the_first(
    clock: Clock,
) -> None:
    clock.jumps = True
    began = clock.now

    reply = await ask(upstream=Mock(says="one two three", pace=Duration(5)), call=call(stream=True))
    first = clock.now - began
    await raw(reply)

    assert math.isclose(first, 5, abs_tol=0.1)
    assert math.isclose(clock.now - began, 15, abs_tol=0.1)


async def test_it_knows_no_other_paths_and_another_upstream_may() -> None:
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream=Mock(), call=call(PASSTHROUGH))

    assert (caught.value.status, caught.value.code) == (404, "mock_unsupported")
    assert caught.value.elsewhere
    assert not caught.value.again


async def test_it_is_always_there_and_never_asked_before_others() -> None:
    [found] = await Mock.find({})

    assert (found.name, list(found.models), found.rank) == ("mock", ["mock"], found.STAND_IN)
    assert await Mock().models() == ["mock"]
