"""Bodies for `/api/chat`, `/api/generate` and `/api/embed`, made from OpenAI's."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from headrace import BadRequest, Call, Unsupported
from headrace_plugins.dialects.ollama.carried import AS_IT_IS, LIMITS, MESSAGES, NUMBERS

Members = Mapping[str, Any]


def chat(call: Call) -> dict[str, Any]:
    """A body for `/api/chat`."""
    members = call.members
    body = {
        "model": call.dialect.asked(call),
        "messages": _messages(members.get("messages")),
        "stream": call.dialect.streams(call),  # left out, it would be true
        "options": _generating(members),
        "tools": _tools(members),
        "format": _format(members.get("response_format")),
        "think": _think(members),
        **_given(members, AS_IT_IS["chat"]),
    }
    return {name: value for name, value in body.items() if value is not None}


def generate(call: Call) -> dict[str, Any]:
    """A body for `/api/generate`; the model's template is used, as in Ollama's own layer."""
    members = call.members
    prompt = members.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:  # an empty one would only load the model
        raise _beyond("prompt", "one text that is not empty (Ollama takes no tokens)", prompt)
    body = {
        "model": call.dialect.asked(call),
        "prompt": prompt,
        "stream": call.dialect.streams(call),
        "options": _generating(members),
        **_given(members, AS_IT_IS["completion"]),
    }
    most = members.get("logprobs")
    return body if most is None else {**body, "logprobs": True, "top_logprobs": most}


def embed(call: Call) -> dict[str, Any]:
    """A body for `/api/embed`."""
    members = call.members
    texts = members.get("input")
    if not texts or not (isinstance(texts, str) or _are_texts(texts)):
        raise _beyond("input", "a text or texts, not empty (Ollama takes no tokens)", texts)
    if (encoding := members.get("encoding_format")) not in (None, "float", "base64"):
        raise _wrong("encoding_format", "float or base64", encoding)
    options = _options(members)
    return {
        "model": call.dialect.asked(call),
        "input": texts,
        **({"options": options} if options else {}),
        **_given(members, AS_IT_IS["embedding"]),
    }


# Options


def _generating(members: Members) -> dict[str, Any]:
    """Options for a text. What is unset is as OpenAI has it, not as Ollama (0.8 and 0.9)."""
    return {"temperature": 1.0, "top_p": 1.0, **_options(members)}


def _options(members: Members) -> dict[str, Any]:
    """OpenAI's members, then Ollama's own beside them, then those of its member `options`."""
    given = _given(members, (*LIMITS, *NUMBERS))
    for name, value in given.items():
        # Ollama may answer a wrong type with a 500, though it is the client's fault.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(name, "a number", value)
    options = {"num_predict" if name in LIMITS else name: given[name] for name in given}
    if (stop := members.get("stop")) is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
        if not _are_texts(options["stop"]):
            raise _wrong("stop", "a text or a list of texts", stop)
    own = members.get("options")
    if not isinstance(own, dict | None):
        raise _wrong("options", "an object", own)
    return {**options, **_given(members, ("use_mmap",)), **(own or {})}


def _tools(members: Members) -> list[Any] | None:
    choice = members.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise Unsupported(
            f"an Ollama server cannot be told which tool to call, found {reprlib.repr(choice)}; "
            "'tool_choice' may be auto or none, or name a model of another upstream",
            param="tool_choice", code="unsupported_value",
        )  # fmt: skip
    tools = members.get("tools")
    if choice == "none" or not tools:
        return None
    if not isinstance(tools, list):
        raise _wrong("tools", "a list", tools)
    for index, tool in enumerate(tools):
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                pass
            case _:
                raise _wrong(f"tools[{index}]", "a function with a name", tool)
    return tools


def _format(wanted: Any) -> Any:
    match wanted:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise _wrong("response_format", "text, json_object, or json_schema with a schema", wanted)


# OpenAI's efforts, and what Ollama calls them: docs/api.md and openai/openai.go there.
_EFFORTS: Mapping[str, str | bool] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}


def _think(members: Members) -> str | bool | None:
    name, effort = "reasoning_effort", members.get("reasoning_effort")
    match members.get("reasoning"):
        case {"effort": inner} if inner is not None:
            name, effort = "reasoning.effort", inner
    if effort is None:
        return None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise _wrong(name, f"one of {', '.join(_EFFORTS)}", effort)
    return _EFFORTS[effort]


# Messages


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:  # none would only load the model
        raise _wrong("messages", "a list of at least one message", messages)
    called: dict[str, str] = {}
    return [_message(each, f"messages[{index}]", called) for index, each in enumerate(messages)]


def _message(message: Any, where: str, called: dict[str, str]) -> dict[str, Any]:
    """One message; `called` has the functions called before it, by the ids of the calls."""
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in MESSAGES:
        raise _wrong(f"{where}.role", f"one of {', '.join(MESSAGES)}", role)
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    text, images = _content(content, f"{where}.content")
    sent = {"role": "system" if role == "developer" else role, "content": text}
    more: dict[str, Any] = {"images": images}
    if role == "assistant":
        thoughts = (message.get(name) for name in ("reasoning", "reasoning_content", "thinking"))
        calls = _tool_calls(message.get("tool_calls"), f"{where}.tool_calls")
        called.update({call["id"]: call["function"]["name"] for call in calls if "id" in call})
        more |= {"thinking": next(filter(None, thoughts), None), "tool_calls": calls}
    if role == "tool":
        answered = str(message.get("tool_call_id") or "")
        name = called.get(answered) or message.get("name")
        more |= {"tool_name": name, "tool_call_id": answered}
    return {**sent, **{name: value for name, value in more.items() if value}}


def _content(content: Any, where: str) -> tuple[str, list[str]]:
    """A message's text, each part on lines of its own, and its images."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise _wrong(where, "a text or a list of parts", content)
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
                images.append(_image(url, f"{where}[{index}].image_url"))
            case _:
                raise _beyond(f"{where}[{index}]", "text or an image, all that Ollama takes", part)
    return "\n".join(texts), images


_IMAGES = (
    "data:;base64",
    *(f"data:image/{kind};base64" for kind in ("jpeg", "jpg", "png", "webp")),
)


def _image(url: str, where: str) -> str:
    kind, _, data = url.partition(",")
    if not data or kind.lower() not in _IMAGES:
        raise _beyond(where, "a base64 data URL of a JPEG, PNG or WebP (no URL is fetched)", url)
    return data


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list | None):
        raise _wrong(where, "a list", calls)
    sent: list[dict[str, Any]] = []
    for index, call in enumerate(calls or ()):
        match call:
            case {"function": {"name": str(name), **rest}}:
                place = f"{where}[{index}].function.arguments"
                function = {"name": name, "arguments": _arguments(rest.get("arguments"), place)}
            case _:
                raise _wrong(f"{where}[{index}]", "a call of a function with a name", call)
        known = isinstance(call.get("id"), str)
        sent.append({"id": call["id"], "function": function} if known else {"function": function})
    return sent


def _arguments(written: Any, where: str) -> dict[str, Any]:
    """The object that OpenAI's form has inside a text; an empty text stands for an empty one."""
    value = written or {}
    try:
        if isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _wrong(where, "a JSON object, written as a text", written)
    return value


def _given(members: Members, names: Iterable[str]) -> dict[str, Any]:
    return {name: members[name] for name in names if members.get(name) is not None}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _wrong(param: str, expected: str, found: Any) -> BadRequest:
    """The error for what no upstream could use."""
    shown = "nothing" if found is None else reprlib.repr(found)
    return BadRequest(
        f"'{param}' must be {expected}; found {shown}",
        param=param,
        code="missing_parameter" if found is None else "invalid_value",
    )


def _beyond(param: str, expected: str, found: Any) -> BadRequest | Unsupported:
    """The error for what another upstream may well take; nothing at all is wrong everywhere."""
    wrong = _wrong(param, expected, found)
    return wrong if found is None else Unsupported(wrong.message, param=param, code="invalid_value")
