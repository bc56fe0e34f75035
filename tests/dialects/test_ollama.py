"""Ollama's dialect: what its server is asked, and what its answers become.

Lines are those of docs/api.md at github.com/ollama/ollama, "Generate a chat completion", "Generate
a completion" and "Generate Embeddings". The official clients' own models check that requests are
Ollama's and that replies are OpenAI's.
"""

from __future__ import annotations

import json
import re
from array import array
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import ollama
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ollama._types import ChatRequest, EmbedRequest, GenerateRequest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from headrace import (
    NDJSON,
    BadRequest,
    Call,
    Event,
    Next,
    Reply,
    Unsupported,
    UpstreamError,
    compose,
)
from headrace.attempts import Attempts, Upstream
from headrace.testing import Upstream as Scripted
from headrace.testing import ask, call, down, raw, text
from headrace_plugins.dialects.ollama import Ollama
from headrace_plugins.fallback import Fallback
from headrace_plugins.transform import Transform

pytestmark = pytest.mark.anyio

WHEN = "2023-08-04T08:52:19.385406455-07:00"
COUNTS = {
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 342546000,
    "eval_count": 282,
    "eval_duration": 4535599000,
}
USAGE = {"prompt_tokens": 26, "completion_tokens": 282, "total_tokens": 308}


def line(content: str = "", *, model: str = "llama3.2", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, "images": None, **message}
    return {"model": model, "created_at": WHEN, "message": said, "done": False}


def last(content: str = "", reason: str | None = "stop", **members: Any) -> dict[str, Any]:
    message = members.pop("message", {})
    told = {} if reason is None else {"done_reason": reason}
    return {**line(content, **message), "done": True, **told, **COUNTS, **members}


def calling(name: str, arguments: Any, **members: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **members}


def lines(*values: dict[str, Any] | bytes) -> bytes:
    dumped = [
        v if isinstance(v, bytes) else json.dumps(v, ensure_ascii=False).encode() for v in values
    ]
    return b"".join(each + b"\n" for each in dumped)


class Server:
    """An Ollama server in this process: answers with these bytes, cut where `cut` says."""

    def __init__(self, *values: dict[str, Any] | bytes, cut: tuple[int, ...] = ()) -> None:
        self.body = lines(*values)
        self.cut = cut
        self.asked: list[Call] = []

    @property
    def body_asked(self) -> Any:
        """What the last request carried."""
        return json.loads(self.asked[-1].body)

    async def __call__(self, call: Call) -> Reply:
        self.asked.append(call)
        streamed = json.loads(call.body).get("stream") is True
        return Reply(
            self._lines() if streamed else self._whole(),
            framing="ndjson" if streamed else "json",
            headers={"content-type": "application/x-ndjson" if streamed else "application/json"},
        )

    async def _lines(self) -> AsyncIterator[Event]:
        decoder = NDJSON(1_000_000)
        bounds = [0, *sorted({place % len(self.body) for place in self.cut}), len(self.body)]
        for start, end in pairwise(bounds):
            for frame in decoder.feed(self.body[start:end]):
                yield Event.of(frame)
        for frame in decoder.end():
            yield Event.of(frame)

    async def _whole(self) -> AsyncIterator[Event]:
        yield Event(self.body, self.body)


def asking(operation: str = "chat", **members: Any) -> Call:
    needed: dict[str, dict[str, Any]] = {
        "chat": {"messages": [{"role": "user", "content": "why is the sky blue?"}]},
        "completion": {"prompt": "why is the sky blue?"},
        "embedding": {"input": "why is the sky blue?"},
    }
    body = {"model": "llama3.2", **needed.get(operation, {}), **members}
    return call(operation, body=json.dumps(body).encode())


def translated(operation: str = "chat", **members: Any) -> Any:
    return json.loads(Ollama().request(asking(operation, **members)).body)


async def replied(server: Next, call: Call) -> Reply:
    return await ask(upstream=server, call=call, brought=(Transform(to="ollama"),))


async def streamed(*values: dict[str, Any] | bytes, **members: Any) -> list[dict[str, Any]]:
    """The chunks that a client gets of a stream that ends as it should."""
    reply = await replied(Server(*values), asking(**{"stream": True, **members}))
    frames = (await raw(reply)).decode().removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    return chunks


async def answered(value: dict[str, Any] | bytes, call: Call | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await raw(await replied(Server(value), call or asking())))
    return answer


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def finish(chunks: list[dict[str, Any]]) -> list[str]:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


# Requests


async def test_a_chat_goes_to_api_chat_with_openais_defaults_and_an_explicit_stream() -> None:
    asked = Ollama().request(asking())

    assert (asked.method, asked.path, asked.operation) == ("POST", "/api/chat", "chat")
    assert json.loads(asked.body) == {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": "why is the sky blue?"}],
        "stream": False,
        "options": {"temperature": 1.0, "top_p": 1.0},
    }


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ({"max_tokens": 10}, {"num_predict": 10}),
        ({"max_completion_tokens": 10}, {"num_predict": 10}),
        ({"max_completion_tokens": 10, "max_tokens": 20}, {"num_predict": 10}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["A", "B"]}, {"stop": ["A", "B"]}),
        ({"seed": 7, "presence_penalty": 1.5}, {"seed": 7, "presence_penalty": 1.5}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"temperature": None, "stop": None}, {}),
        ({"num_ctx": 8192, "top_k": 5, "use_mmap": False},
         {"num_ctx": 8192, "top_k": 5, "use_mmap": False}),
        ({"temperature": 0.1, "options": {"temperature": 0.2, "mirostat": 1}},
         {"temperature": 0.2, "mirostat": 1}),
    ],
)  # fmt: skip
async def test_what_shapes_the_text_becomes_an_option(
    members: dict[str, Any], options: dict[str, Any]
) -> None:
    assert translated(**members)["options"] == {"temperature": 1.0, "top_p": 1.0, **options}


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        ({"response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "strict": True, "schema": {"type": "object"}}}},
         {"format": {"type": "object"}}),
        ({"reasoning_effort": "none"}, {"think": False}),
        ({"reasoning_effort": "minimal"}, {"think": "low"}),
        ({"reasoning_effort": "medium"}, {"think": "medium"}),
        ({"reasoning": {"effort": "xhigh"}}, {"think": "max"}),
        ({"reasoning_effort": "low", "think": True}, {"think": True}),
        ({"keep_alive": 0, "truncate": False}, {"keep_alive": 0, "truncate": False}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"tools": [], "tool_choice": "auto"}, {}),
    ],
)  # fmt: skip
async def test_what_ollama_has_under_another_name_goes_there(
    members: dict[str, Any], asked: dict[str, Any]
) -> None:
    plain = translated()

    assert translated(**members) == {**plain, **asked}


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a given city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def test_tools_go_as_they_are_and_not_at_all_when_none_may_be_called() -> None:
    assert translated(tools=[TOOL])["tools"] == [TOOL]
    assert "tools" not in translated(tools=[TOOL], tool_choice="none")


async def test_text_parts_are_joined_and_images_collected() -> None:
    parts = [
        {"type": "text", "text": "what is in"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}},
        {"type": "text", "text": "these pictures?"},
        {"type": "image_url", "image_url": "data:image/webp;base64,UklGRg=="},
    ]

    asked = translated(messages=[{"role": "user", "content": parts}])

    assert asked["messages"] == [
        {
            "role": "user",
            "content": "what is in\nthese pictures?",
            "images": ["iVBORw0K", "UklGRg=="],
        }
    ]


async def test_a_conversation_with_tools_has_objects_for_arguments_and_names_for_results() -> None:
    def called(id: str, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"id": id, "type": "function", "function": function}

    asked = translated(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "assistant", "content": None, "reasoning": "hm",
             "tool_calls": [called("call_1", "get_time", "")]},
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
            {"role": "assistant", "content": "so", "tool_calls": [
                called("call_1", "get_weather", '{"z":1e2,"a":12345678901234567890}')]},
            {"role": "tool", "tool_call_id": "call_1",
             "content": [{"type": "text", "text": "hot"}]},
        ]
    )  # fmt: skip

    assert asked["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "", "thinking": "hm",
         "tool_calls": [{"id": "call_1", "function": {"name": "get_time", "arguments": {}}}]},
        {"role": "tool", "content": "noon", "tool_name": "get_time", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "so", "tool_calls": [{"id": "call_1", "function": {
            "name": "get_weather", "arguments": {"z": 100.0, "a": 12345678901234567890}}}]},
        {"role": "tool", "content": "hot", "tool_name": "get_weather", "tool_call_id": "call_1"},
    ]  # fmt: skip
    assert [*asked["messages"][3]["tool_calls"][0]["function"]["arguments"]] == ["z", "a"]


async def test_a_completion_goes_to_api_generate() -> None:
    asked = Ollama().request(
        asking("completion", prompt=["once"], suffix="end", max_tokens=5, logprobs=2, raw=True)
    )

    assert asked.path == "/api/generate"
    assert json.loads(asked.body) == {
        "model": "llama3.2",
        "prompt": "once",
        "stream": False,
        "options": {"temperature": 1.0, "top_p": 1.0, "num_predict": 5},
        "suffix": "end",
        "raw": True,
        "logprobs": True,
        "top_logprobs": 2,
    }


async def test_embeddings_go_to_api_embed() -> None:
    asked = Ollama().request(
        asking("embedding", input=["a", "b"], dimensions=2, encoding_format="float", num_ctx=512)
    )

    assert asked.path == "/api/embed"
    assert json.loads(asked.body) == {
        "model": "llama3.2",
        "input": ["a", "b"],
        "options": {"num_ctx": 512},
        "dimensions": 2,
    }


async def test_the_official_client_knows_every_member_that_is_sent() -> None:
    everything: dict[str, Any] = {
        "options": {"seed": 1},
        "keep_alive": "5m",
        "think": "low",
        "logprobs": True,
    }
    known = ChatRequest.model_fields.keys() | {"truncate", "shift"}

    assert translated(**everything, tools=[TOOL], top_logprobs=1, format="json").keys() <= known
    assert (
        translated("completion", **everything, suffix="s").keys()
        <= GenerateRequest.model_fields.keys()
    )
    assert (
        translated("embedding", dimensions=1, **everything).keys()
        <= EmbedRequest.model_fields.keys()
    )
    ChatRequest.model_validate(translated(**everything, tools=[TOOL]))


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
BROKEN = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]
LIST = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "[]"}}]
DEEP = [{"function": {"name": "f", "arguments": "[" * 100_000}}]
HALF = [{"function": {"name": "f", "arguments": '{"a":"\\ud800"}'}}]
NAN = [{"function": {"name": "f", "arguments": '{"a":NaN}'}}]
CUSTOM = [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]


@pytest.mark.parametrize(
    ("operation", "members", "param"),
    [
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": None}, "messages"),
        ("chat", {"messages": "hi"}, "messages"),
        ("chat", {"messages": ["hi"]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("chat", {"messages": [{"role": "user", "content": [PICTURE]}]},
         "messages[0].content[0].image_url"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0]"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": BROKEN}]},
         "messages[0].tool_calls[0].function.arguments"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": LIST}]},
         "messages[0].tool_calls[0].function.arguments"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": DEEP}]},
         "messages[0].tool_calls[0].function.arguments"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": HALF}]}, "messages"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": NAN}]}, "messages"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": CUSTOM}]},
         "messages[0].tool_calls[0]"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ("chat", {"n": 2}, "n"),
        ("chat", {"logit_bias": {"50256": -100}}, "logit_bias"),
        ("chat", {"audio": {"voice": "alloy"}}, "audio"),
        ("chat", {"functions": [{"name": "f"}]}, "functions"),
        ("chat", {"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ("chat", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
        ("chat", {"tools": {"a": 1}}, "tools"),
        ("chat", {"response_format": {"type": "grammar"}}, "response_format"),
        ("chat", {"reasoning_effort": "some"}, "reasoning_effort"),
        ("chat", {"reasoning": {"effort": 5}}, "reasoning.effort"),
        ("chat", {"max_tokens": "10"}, "max_tokens"),
        ("chat", {"temperature": True}, "temperature"),
        ("chat", {"stop": [1]}, "stop"),
        ("chat", {"options": "fast"}, "options"),
        ("completion", {"prompt": ["a", "b"]}, "prompt"),
        ("completion", {"prompt": [1, 2]}, "prompt"),
        ("completion", {"prompt": ""}, "prompt"),
        ("completion", {"echo": True}, "echo"),
        ("completion", {"best_of": 3}, "best_of"),
        ("embedding", {"input": [1, 2, 3]}, "input"),
        ("embedding", {"input": [[1], [2]]}, "input"),
        ("embedding", {"input": ""}, "input"),
        ("embedding", {"encoding_format": "int8"}, "encoding_format"),
    ],
)  # fmt: skip
async def test_what_cannot_be_carried_is_refused_by_name(
    operation: str, members: dict[str, Any], param: str
) -> None:
    with pytest.raises((BadRequest, Unsupported)) as refused:
        Ollama().request(asking(operation, **members))

    assert (refused.value.status, refused.value.param) == (400, param)
    assert len(refused.value.message) < 300


async def test_an_operation_ollama_does_not_have_is_refused() -> None:
    with pytest.raises(Unsupported, match="no answer to rerank calls"):
        Ollama().request(asking("rerank"))


@pytest.mark.parametrize(
    "members",
    [{"n": 1}, {"logit_bias": {}}, {"parallel_tool_calls": True, "store": False}, {"user": None}],
)
async def test_what_asks_for_nothing_is_dropped_without_a_word(members: dict[str, Any]) -> None:
    reply = await replied(Server(last("hi")), asking(**members))

    assert "x-headrace-dropped" not in reply.headers
    await raw(reply)


async def test_what_is_dropped_is_named_in_the_reply() -> None:
    messages = [
        {"role": "user", "name": "Ann", "content": [
            {"type": "image_url", "image_url": {"url": "data:;base64,AA==", "detail": "low"}},
        ]},
        {"role": "user", "name": "Bob", "content": "and?"},
    ]  # fmt: skip
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    call = asking(
        messages=messages, tools=[strict], user="ann", parallel_tool_calls=False, guided="x"
    )

    reply = await replied(Server(last("hi")), call)

    assert reply.headers["x-headrace-dropped"].split(", ") == [
        "tools.function.strict", "user", "parallel_tool_calls", "guided",
        "messages.name", "messages.content.image_url.detail",
    ]  # fmt: skip
    await raw(reply)


async def test_no_name_that_a_client_makes_up_breaks_the_header() -> None:
    names: dict[str, Any] = {
        "é\r\nset-cookie: a=b": 1,
        "x" * 10_000: 1,
        **{f"m{n}": 1 for n in range(50)},
    }

    reply = await replied(Server(last("hi")), asking(**names))

    told = reply.headers["x-headrace-dropped"]
    assert told.startswith("\\xe9\\r\\nset-cookie: a=b, xxx")
    assert told.isascii()
    assert told.isprintable()
    assert len(told) < 400
    await raw(reply)


# Streams


async def test_a_stream_of_lines_becomes_a_stream_of_chunks() -> None:
    chunks = await streamed(line("The"), line(" sky"), last())

    assert deltas(chunks) == [{"role": "assistant", "content": "The"}, {"content": " sky"}, {}]
    assert finish(chunks) == ["stop"]
    assert {chunk["model"] for chunk in chunks} == {"llama3.2"}


async def test_the_model_is_the_one_that_answered() -> None:
    chunks = await streamed(line("hi", model="llama3.2:latest"), last())

    assert chunks[0]["model"] == "llama3.2:latest"


async def test_usage_comes_before_the_end_when_the_client_asks_for_it() -> None:
    *_, usage = await streamed(line("hi"), last(), stream_options={"include_usage": True})

    assert usage["choices"] == []
    assert usage["usage"] == USAGE


async def test_usage_is_recorded_and_kept_from_a_client_that_did_not_ask() -> None:
    call = asking(stream=True)
    told = await raw(await replied(Server(line("hi"), last()), call))

    assert b"usage" not in told
    [attempt] = call.record.attempts
    assert attempt.usage is not None
    assert (attempt.usage.input, attempt.usage.output, attempt.usage.estimated) == (26, 282, False)


async def test_an_old_server_that_leaves_out_zeros_and_reasons_is_understood() -> None:
    end = {"model": "llama3.2", "created_at": WHEN, "done": True, "eval_count": 3}

    chunks = await streamed(line("hi"), end, stream_options={"include_usage": True})

    assert finish(chunks) == ["stop"]
    assert chunks[-1]["usage"] == {"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 3}


async def test_thinking_and_content_of_one_line_are_two_chunks() -> None:
    chunks = await streamed(line(thinking="hm"), line("so", thinking=", well"), last())

    assert deltas(chunks) == [
        {"role": "assistant", "reasoning": "hm"},
        {"reasoning": ", well"},
        {"content": "so"},
        {},
    ]


async def test_tool_calls_get_an_index_and_an_id_of_their_own_and_are_the_finish() -> None:
    tokyo = calling("get_weather", {"city": "東京"})
    same = calling("get_time", {}, id="call_ab12cd34")
    same["function"]["index"] = 0

    chunks = await streamed(
        line(tool_calls=[tokyo]), line(tool_calls=[same, same, calling("f", None)]), last()
    )

    calls = [call for delta in deltas(chunks) for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1, 2, 3]
    assert len({call["id"] for call in calls}) == 4
    assert calls[1]["id"] == "call_ab12cd34"
    assert [call["function"] for call in calls] == [
        {"name": "get_weather", "arguments": '{"city":"東京"}'},
        {"name": "get_time", "arguments": "{}"},
        {"name": "get_time", "arguments": "{}"},
        {"name": "f", "arguments": "{}"},
    ]
    assert finish(chunks) == ["tool_calls"]


async def test_arguments_keep_their_order_and_all_their_digits() -> None:
    chunks = await streamed(
        b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":'
        b'{"z":12345678901234567890123,"a":[1.5,"\xc3\xa9"]}}}]},"done":false}',
        last(),
    )

    [call] = deltas(chunks)[0]["tool_calls"]
    assert call["function"]["arguments"] == '{"z":12345678901234567890123,"a":[1.5,"é"]}'


@pytest.mark.parametrize("reason", ["stop", "", None, "load", "something new"])
async def test_after_a_tool_call_every_reason_but_length_is_tool_calls(reason: str | None) -> None:
    call = line(tool_calls=[calling("f", {})])

    assert finish(await streamed(call, last(reason=reason))) == ["tool_calls"]
    assert finish(await streamed(call, last(reason="length"))) == ["length"]


async def test_what_the_last_line_says_is_not_lost() -> None:
    assert deltas(await streamed(line("so"), last("!"))) == [
        {"role": "assistant", "content": "so"}, {"content": "!"}, {},
    ]  # fmt: skip
    chunks = await streamed(last(message={"tool_calls": [calling("f", {})]}))
    assert finish(chunks) == ["tool_calls"]
    assert deltas(chunks)[0]["tool_calls"][0]["function"]["name"] == "f"


async def test_a_stream_that_says_nothing_still_has_a_role_and_a_finish() -> None:
    chunks = await streamed(line(""), last())

    assert deltas(chunks) == [{"role": "assistant"}]
    assert finish(chunks) == ["stop"]


async def test_logprobs_are_given_as_openai_gives_them() -> None:
    token = {"token": "The", "logprob": -0.1, "bytes": [84, 104, 101]}
    told = {"logprobs": [{**token, "top_logprobs": [{"token": "A", "logprob": -2.5}]}]}

    chunks = await streamed(
        {**line("The", thinking="hm"), **told}, {**line(), "logprobs": [token]}, last()
    )

    none, one, silent, end = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert none is end is None
    top = {"token": "A", "logprob": -2.5, "bytes": None}
    assert one["content"] == [{**token, "top_logprobs": [top]}]
    assert silent["content"] == [{**token, "top_logprobs": []}]


async def test_completions_stream_as_text() -> None:
    values = [
        {"model": "llama3.2", "created_at": WHEN, "response": "Once", "done": False,
         "logprobs": [{"token": "Once", "logprob": -0.5}]},
        {"model": "llama3.2", "created_at": WHEN, "response": "!", "done": True,
         "done_reason": "length", "context": [1, 2, 3], **COUNTS,
         "logprobs": [{"token": "!", "logprob": -1, "top_logprobs": [
             {"token": "?", "logprob": -2}]}]},
    ]  # fmt: skip
    reply = await replied(Server(*values), asking("completion", stream=True, logprobs=1))

    frames = (await raw(reply)).decode().split("\n\n")[:-2]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == ["Once", "!", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
    assert choices[1]["logprobs"] == {
        "tokens": ["!"], "token_logprobs": [-1], "top_logprobs": [{"?": -2}], "text_offset": [4],
    }  # fmt: skip
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


STORY = (
    line("", thinking="Grüße, 世界"),
    line("the sky 🌍\u2028 is", thinking="\u0085"),
    line(" blue", tool_calls=[calling("get_weather", {"city": "Köln"}, id="call_1")]),
    last("!"),
)


async def told_of(server: Server) -> str:
    call = asking(stream=True, stream_options={"include_usage": True})
    told = (await raw(await replied(server, call))).decode()
    return re.sub(r"chatcmpl-\w+|\"created\":\d+", "", told)


@given(st.lists(st.integers(0, 10_000), max_size=30).map(tuple))
@example(tuple(range(10_000)))
@settings(deadline=None, max_examples=100)
async def test_a_stream_is_the_same_however_its_bytes_are_cut(cut: tuple[int, ...]) -> None:
    assert await told_of(Server(*STORY, cut=cut)) == await told_of(Server(*STORY))


def test_the_official_client_understands_the_lines_that_these_tests_send() -> None:
    for value in (*STORY, line("The"), last()):
        ollama.ChatResponse.model_validate(value)


# Streams that fail


def arguments(written: bytes) -> bytes:
    call = b'{"function":{"name":"f","arguments":{"a":' + written + b"}}}"
    return b'{"message":{"tool_calls":[' + call + b"]}}"


async def test_an_error_in_the_first_line_lets_another_target_answer() -> None:
    broken = Server({"error": "model runner has unexpectedly stopped"})
    attempts = Attempts(
        {
            "a": Upstream(name="a", forward=broken, brought=(Transform(to="ollama"),)),
            "b": Upstream(name="b", forward=Scripted()),
        }
    )
    both = call(stream=True, targets=["a", "b"])

    assert await text(await compose([Fallback()], attempts)(both)) == "hello"
    assert [attempt.outcome for attempt in both.record.attempts] == ["failed", "ok"]


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ([{"error": "llama runner process has terminated"}], "upstream_502", "llama runner"),
        ([line(""), {"error": "out of memory"}], "upstream_502", "out of memory"),
        ([{"error": {"message": "nested"}}], "upstream_502", "nested"),
        ([b"<html>"], "upstream_invalid", "not a JSON object"),
        ([b"[1]"], "upstream_invalid", "not a JSON object"),
        ([{"done": False}], "upstream_invalid", "without a message"),
        ([line(7)], "upstream_invalid", "'content'"),  # type: ignore[arg-type]
        ([line(tool_calls=[{"function": {}}])], "upstream_invalid", "names no function"),
        ([line(tool_calls="f")], "upstream_invalid", "no list of objects"),
        ([{**line("a"), "logprobs": [{"token": "a"}]}], "upstream_invalid", "logprob"),
        ([arguments(b"[" * 1000 + b"]" * 1000)], "upstream_invalid", "beyond all bounds"),
        ([arguments(b"1" * 5000)], "upstream_invalid", "not a JSON object"),
        ([line("")], "upstream_truncated", "ended early"),
    ],
)  # fmt: skip
async def test_a_stream_that_fails_before_it_says_anything_is_a_failed_attempt(
    values: list[Any], code: str, message: str
) -> None:
    call = asking(stream=True)

    with pytest.raises(UpstreamError, match=message) as failed:
        await replied(Server(*values), call)

    assert (failed.value.code, failed.value.status) == (code, 502)
    assert failed.value.elsewhere
    assert call.record.attempts[0].outcome == "failed"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ([{"error": "an error was encountered while running the model"}], "upstream_502"),
        ([b"{cut"], "upstream_invalid"),
        ([], "upstream_truncated"),
    ],
)
async def test_a_stream_that_fails_later_ends_with_its_failure_and_without_done(
    end: list[Any], code: str
) -> None:
    call = asking(stream=True)
    reply = await replied(Server(line("The"), line(" sky"), *end), call)
    seen: list[bytes] = []

    reply.watch(lambda event: seen.append(event.raw))
    with pytest.raises(UpstreamError) as failed:
        await raw(reply)

    told = b"".join(seen)

    assert failed.value.code == code
    assert b" sky" in told
    assert b"[DONE]" not in told
    assert b'finish_reason":"' not in told
    [attempt] = call.record.attempts
    assert attempt.outcome == "incomplete"
    assert attempt.usage is not None
    assert attempt.usage.estimated


async def test_no_depth_of_arguments_is_a_fault_of_the_gateway() -> None:
    for depth in range(850, 1000, 5):
        nested = "[" * depth + "]" * depth
        server = Server(arguments(nested.encode()), last())
        with suppress(UpstreamError):
            await raw(await replied(server, asking(stream=True)))
        function = {"name": "f", "arguments": '{"a":' + nested + "}"}
        with suppress(BadRequest):
            translated(messages=[{"role": "assistant", "tool_calls": [{"function": function}]}])


async def test_what_comes_after_the_last_line_is_not_told() -> None:
    chunks = await streamed(line("The"), last(), line(" end"), b"what?")

    assert deltas(chunks) == [{"role": "assistant", "content": "The"}, {}]


async def test_a_stream_that_the_client_leaves_is_closed() -> None:
    closed = []

    async def upstream(call: Call) -> Reply:
        async def note(error: BaseException | None) -> None:
            closed.append(error)

        return (await Server(line("The"), line(" sky"), last())(call)).on_close(note)

    reply = await replied(upstream, asking(stream=True))
    await anext(reply.events)
    await reply.aclose()

    assert closed == [None]


async def test_server_sent_events_are_no_answer_of_ollamas() -> None:
    with pytest.raises(UpstreamError, match="answered as sse"):
        await replied(Scripted(), asking(stream=True))


async def test_a_failed_exchange_is_told_as_what_it_is() -> None:
    upstream = Scripted()
    upstream.script(down())

    with pytest.raises(UpstreamError) as failed:
        await replied(upstream, asking())

    assert failed.value.code == "connect_failed"


# Whole answers


async def test_a_whole_answer_is_a_chat_completion() -> None:
    answer = await answered(last("Hello! How are you today?"))

    ChatCompletion.model_validate(answer, strict=True)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello! How are you today?"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == USAGE
    assert answer["model"] == "llama3.2"
    assert re.fullmatch(r"chatcmpl-\w+", answer["id"])


async def test_a_whole_answer_has_its_thinking_and_its_tool_calls() -> None:
    message = {"thinking": "hm", "tool_calls": [calling("f", {"a": 1}), calling("g", {})]}

    answer = await answered(last(message=message))

    ChatCompletion.model_validate(answer, strict=True)
    [choice] = answer["choices"]
    said = choice["message"]
    assert (said["content"], said["reasoning"]) == (None, "hm")
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in said["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert {call.keys() == {"id", "type", "function"} for call in said["tool_calls"]} == {True}


async def test_a_whole_completion_is_a_text() -> None:
    value = {"model": "llama3.2", "created_at": WHEN, "response": "Hello!", "thinking": "hm",
             "done": True, "done_reason": "stop", "context": [1, 2], **COUNTS}  # fmt: skip

    answer = await answered(value, asking("completion"))

    Completion.model_validate(answer, strict=True)
    assert answer["choices"] == [
        {"index": 0, "text": "Hello!", "reasoning": "hm", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"] == USAGE


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"error": "out of memory"}, "upstream_502"),
        (line("half"), "upstream_truncated"),
        ({"ok": True}, "upstream_truncated"),
        ({"done": True, "message": "hi"}, "upstream_invalid"),
        (b"<html>", "upstream_invalid"),
        (b"", "upstream_invalid"),
    ],
)
async def test_a_whole_answer_that_is_none_is_a_failure(value: Any, code: str) -> None:
    with pytest.raises(UpstreamError) as failed:
        await answered(value)

    assert failed.value.code == code


VECTORS = {
    "model": "all-minilm",
    "embeddings": [[0.010071029, -0.0017594862], [-0.0098027, 0.060424708]],
    "total_duration": 14143917,
    "load_duration": 1019500,
    "prompt_eval_count": 8,
}


async def test_embeddings_come_as_a_list_with_their_usage() -> None:
    answer = await answered(VECTORS, asking("embedding", input=["a", "b"]))

    CreateEmbeddingResponse.model_validate(answer, strict=True)
    assert [item["embedding"] for item in answer["data"]] == VECTORS["embeddings"]
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert answer["model"] == "all-minilm"


async def test_embeddings_come_in_base64_where_the_client_wants_them_so() -> None:
    answer = await answered(VECTORS, asking("embedding", encoding_format="base64"))

    floats = array("f", b64decode(answer["data"][0]["embedding"]))  # as OpenAI's client reads them
    assert floats.tolist() == pytest.approx([0.010071029, -0.0017594862])


@pytest.mark.parametrize("embeddings", [None, [], [1, 2], [["a"]], [[1e300]], [{"a": 1}], "what"])
async def test_embeddings_that_are_none_are_a_failure(embeddings: Any) -> None:
    value = {**VECTORS, "embeddings": embeddings}

    with pytest.raises(UpstreamError) as failed:
        await answered(value, asking("embedding", encoding_format="base64"))

    assert failed.value.code == "upstream_invalid"
