"""What of OpenAI's form reaches an Ollama server: what goes, what is refused, what is dropped.

In the tables of what goes, None stands for a member that goes with all it holds.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from headrace import Call, Unsupported

Known = Mapping[str, Any]

NUMBERS = (
    *("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty"),
    *("num_keep", "num_predict", "top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty"),
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
)
"""Options of Ollama's that may stand at the top of a body, OpenAI's among them."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""What becomes `num_predict`; the last one counts."""
AS_IT_IS: Mapping[str, tuple[str, ...]] = {
    "chat": ("think", "format", "keep_alive", "truncate", "shift", "logprobs", "top_logprobs"),
    "completion": ("suffix", "system", "template", "raw", "think", "format", "keep_alive"),
    "embedding": ("dimensions", "truncate", "keep_alive"),
}
"""What Ollama knows by the same name, by operation."""

_ALWAYS: Known = {
    **dict.fromkeys((*NUMBERS, *LIMITS, "use_mmap", "stop", "options", "model", "stream")),
    "stream_options": {"include_usage": None},
}
_CARRIED: Mapping[str, Known] = {
    "chat": {
        **dict.fromkeys(("messages", "tool_choice", "reasoning_effort")),
        "reasoning": {"effort": None},
        "response_format": {
            "type": None,
            "json_schema": dict.fromkeys(("name", "schema", "strict")),
        },
        "tools": {"type": None, "function": dict.fromkeys(("name", "description", "parameters"))},
    },
    "completion": dict.fromkeys(("prompt", "logprobs")),
    "embedding": dict.fromkeys(("input", "encoding_format")),
}

_PARTS: Known = {**dict.fromkeys(("type", "text", "refusal")), "image_url": {"url": None}}
_WRITTEN: Known = {"role": None, "content": _PARTS}
MESSAGES: Mapping[str, Known] = {
    "system": _WRITTEN,
    "developer": _WRITTEN,
    "user": _WRITTEN,
    "assistant": {
        **_WRITTEN,
        **dict.fromkeys(("reasoning", "reasoning_content", "thinking")),
        "tool_calls": {
            **dict.fromkeys(("id", "type", "index")),
            "function": dict.fromkeys(("name", "arguments")),
        },
    },
    "tool": {**_WRITTEN, **dict.fromkeys(("tool_call_id", "name"))},
}
"""What goes of a message, by its role."""

# Without these the answer would be another one, so they are refused, but for the values here: with
# them they ask for what Ollama does anyway.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
}
# With these values nothing is lost where they are dropped.
_IDLE = {"parallel_tool_calls": True, "store": False, "service_tier": "auto"}
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_SHOWN = 20


def refuse(call: Call) -> None:
    """Raise `Unsupported` for a member without which the answer would be another one."""
    for name, harmless in _REFUSED.items():
        value = call.members.get(name)
        if value is not None and value not in harmless:
            raise Unsupported(
                f"an Ollama server has nothing like '{name}', found {reprlib.repr(value)}; "
                "leave it out, or name a model of another upstream",
                param=name, code="unsupported_parameter",
            )  # fmt: skip


def dropped(call: Call) -> list[str]:
    """The members that Ollama is not told of, by their paths, fit for a header."""
    members = {
        name: value
        for name, value in call.members.items()
        if name not in _REFUSED and value != _IDLE.get(name)
    }
    as_it_is = dict.fromkeys(AS_IT_IS[call.operation])
    names = [*_left(members, {**_ALWAYS, **as_it_is, **_CARRIED[call.operation]}, "")]
    for message in members["messages"] if call.operation == "chat" else ():
        names += _left(message, MESSAGES[message["role"]], "messages.")
    unique = list(dict.fromkeys(names))
    shown = [ascii(name)[1:-1][:64] for name in unique[:_SHOWN]]
    return [*shown, "..."] if len(unique) > _SHOWN else shown


def _left(value: Any, known: Known, path: str) -> Iterator[str]:
    """The paths of what is in `value` and not `known`; lists are looked into."""
    if isinstance(value, list):
        for item in value:
            yield from _left(item, known, path)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if inner in _EMPTY:
                continue
            if name not in known:
                yield path + name
            elif known[name] is not None:
                yield from _left(inner, known[name], f"{path}{name}.")
