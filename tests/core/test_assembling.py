"""From the chunks of a stream to the whole answer, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import assembled, taken_apart

CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
WHOLE = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}


def stream(*deltas: dict[str, Any], finish: str = "stop", **more: Any) -> list[bytes]:
    """A stream with one choice."""
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish, **more})
    return [json.dumps({**CHUNK, "choices": [choice]}).encode() for choice in choices]


def message(chunks: list[bytes]) -> dict[str, Any]:
    """What the first choice of the whole answer says."""
    said: dict[str, Any] = json.loads(assembled(chunks))["choices"][0]["message"]
    return said


def test_text_is_joined() -> None:
    chunks = stream({"role": "assistant", "content": ""}, {"content": "Grüße, "}, {"content": "👋"})

    assert json.loads(assembled(chunks)) == {
        **WHOLE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Grüße, 👋"},
                "finish_reason": "stop",
            }
        ],
    }


def test_tool_calls_are_joined_by_their_indexes() -> None:
    def calls(*calls: dict[str, Any]) -> dict[str, Any]:
        return {"tool_calls": list(calls)}

    chunks = stream(
        {"role": "assistant", "content": None},
        calls({"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}),
        calls({"index": 1, "id": "b", "type": "function", "function": {"name": "g"}}),
        calls(
            {"index": 0, "function": {"arguments": '{"x":'}},
            {"index": 1, "function": {"arguments": "{}"}},
        ),
        calls({"index": 0, "id": None, "function": {"name": None, "arguments": " 1}"}}),
        finish="tool_calls",
    )

    assert message(chunks)["content"] is None
    assert message(chunks)["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_reasoning_refusals_and_whatever_else_a_delta_says_are_joined() -> None:
    said = message(
        stream(
            {"role": "assistant", "reasoning_content": "I "},
            {"reasoning_content": "think"},
            {"refusal": "I "},
            {"refusal": "won't"},
            {"x_thoughts": [{"a": 1}]},
            {"x_thoughts": [{"a": 2}]},
            {"reasoning_details": [{"index": 0, "type": "text", "text": "one "}]},
            {"reasoning_details": [{"index": 0, "type": "text", "text": "two"}]},
        )
    )

    assert said["reasoning_content"] == "I think"
    assert said["refusal"] == "I won't"
    assert said["x_thoughts"] == [{"a": 1}, {"a": 2}]
    assert said["reasoning_details"] == [{"index": 0, "type": "text", "text": "one two"}]


def test_choices_are_kept_apart() -> None:
    choices = [
        {"index": n, "delta": {"content": text}} for n, text in [(1, "b"), (0, "a"), (1, "B")]
    ]
    ends: list[dict[str, Any]] = [
        {"index": n, "delta": {}, "finish_reason": f"f{n}"} for n in (0, 1)
    ]
    chunks = [json.dumps({**CHUNK, "choices": [c]}).encode() for c in [*choices, *ends]]

    whole = json.loads(assembled(chunks))

    assert [choice["message"]["content"] for choice in whole["choices"]] == ["a", "bB"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["f0", "f1"]


def test_what_stands_beside_the_delta_is_as_it_was_said_last_and_logprobs_are_all_kept() -> None:
    def part(token: str, **more: Any) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": token}, "logprobs": _logprobs(token), **more}

    safe = {"content_filter_results": {"hate": {"severity": "safe"}}}
    chunks = [
        json.dumps({**CHUNK, "choices": [part(token, **safe)], "usage": None, "x_seen": n}).encode()
        for n, token in enumerate(["Hel", "lo"])
    ]
    chunks.append(json.dumps({**CHUNK, "choices": [], "usage": {"total_tokens": 5}}).encode())

    whole = json.loads(assembled(chunks))

    (choice,) = whole["choices"]
    assert choice["content_filter_results"] == safe["content_filter_results"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["Hel", "lo"]
    assert whole["usage"] == {"total_tokens": 5}
    assert whole["x_seen"] == 1


def test_completions_are_joined_by_their_text() -> None:
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "text_offset": [0]}
    chunks = [
        json.dumps(
            {
                **told,
                "choices": [
                    {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}
                ],
            }
        ).encode()
        for text, finish in [("one ", None), ("two", "stop")]
    ]

    (choice,) = json.loads(assembled(chunks))["choices"]

    assert (choice["text"], choice["finish_reason"]) == ("one two", "stop")
    assert choice["logprobs"]["tokens"] == ["a", "a"]


def test_integers_keep_all_their_digits() -> None:
    (chunk, *_) = stream({"content": "hi"}, finish="stop")
    big = chunk.replace(b'"created": 1', b'"created": 123456789012345678901234567890')

    assert b":123456789012345678901234567890" in assembled([big])
    assert b":123456789012345678901234567890" in taken_apart(assembled([big]))[0]


def test_a_long_answer_comes_apart_into_many_chunks_with_its_usage_last() -> None:
    words = "A text of so many words that nobody would say it all at once. " * 5
    answer = {**_answer({"role": "assistant", "content": words}), "usage": {"total_tokens": 9}}

    chunks = [json.loads(chunk) for chunk in taken_apart(json.dumps(answer).encode())]

    assert len(chunks) > 10
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"total_tokens": 9}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_joining_costs_no_more_for_each_chunk_of_a_long_answer() -> None:
    chunks = stream(*[{"content": "word "}] * 20_000)

    assert len(message(chunks)["content"]) == 100_000


_LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
_UNKNOWN = st.dictionaries(st.sampled_from(["x_one", "x_two"]), _LEAF | st.lists(_LEAF))
_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": _TEXT,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": _TEXT, "arguments": _TEXT}),
        }
    ),
    max_size=3,
)
_MESSAGE = st.builds(
    lambda *members: {
        "role": "assistant",
        "content": None,
        **{k: v for m in members for k, v in m},
    },
    st.lists(st.tuples(st.just("content"), _TEXT), max_size=1),
    st.lists(st.tuples(st.just("reasoning_content"), _TEXT), max_size=1),
    st.lists(st.tuples(st.just("refusal"), st.none() | _TEXT), max_size=1),
    st.lists(st.tuples(st.just("tool_calls"), _CALLS), max_size=1),
    _UNKNOWN.map(lambda members: list(members.items())),
)


@given(
    st.lists(_MESSAGE, min_size=1, max_size=3), _UNKNOWN, st.none() | st.just({"total_tokens": 5})
)
@settings(max_examples=300, deadline=None)
def test_what_comes_apart_goes_together_again(
    messages: list[dict[str, Any]], unknown: dict[str, Any], usage: dict[str, int] | None
) -> None:
    choices = [
        {"index": n, "message": message, "finish_reason": "stop", **unknown}
        for n, message in enumerate(messages)
    ]
    answer = {**WHOLE, **unknown, "choices": choices, **({"usage": usage} if usage else {})}

    again = json.loads(assembled(taken_apart(json.dumps(answer).encode())))

    assert again == answer


@pytest.mark.parametrize("logprobs", [None, True])
def test_logprobs_come_apart_and_together_again(logprobs: bool | None) -> None:
    said = _answer({"role": "assistant", "content": "a text that would be cut into pieces"})
    said["choices"][0]["logprobs"] = logprobs and _logprobs("a")
    text = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choice = {"index": 0, "text": "once upon a time there was", "finish_reason": "length"}
    for answer in (
        said,
        {**text, "choices": [{**choice, "logprobs": logprobs and {"tokens": ["a"]}}]},
    ):
        assert json.loads(assembled(taken_apart(json.dumps(answer).encode()))) == answer


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    return {**WHOLE, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def _logprobs(token: str) -> dict[str, Any]:
    top = [{"token": token, "logprob": -0.5, "bytes": [1]}]
    return {"content": [{"token": token, "logprob": -0.5, "top_logprobs": top}], "refusal": None}
