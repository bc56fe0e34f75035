"""A real model answers: small, local, without a key. It is no genius, so no word is expected."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from headrace_plugins.forwarders.local_model import fetch

from .serving import Note, Served, measured, serving

CONFIG = """
    upstreams:
      local: {forwarder: {local: {context: 1024}}, models: [smollm2-135m-instruct]}
    routes:
      smollm2-135m-instruct: local/smollm2-135m-instruct
      gpt-*: local/smollm2-135m-instruct
    """
MODEL = "smollm2-135m-instruct"
HI: Any = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="session")
def model() -> Path:
    pytest.importorskip("xllamacpp", reason="xllamacpp runs the local model: headrace[local]")
    try:
        return fetch.fetch(MODEL)
    except fetch.ModelMissing as missing:
        pytest.skip(f"the local model is not here: {missing}")


@pytest.fixture(scope="module")
async def gateway(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    machine = str(tmp_path_factory.mktemp("machine"))  # on which nobody else runs a model
    async with serving(CONFIG, XDG_RUNTIME_DIR=machine) as served:
        yield served


@pytest.fixture
async def client(gateway: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gateway.url, api_key="any", max_retries=0) as client:
        yield client


async def test_it_answers(client: AsyncOpenAI, gateway: Served) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HI, max_tokens=8
    )
    said = raw.parse()

    assert said.model == MODEL
    assert said.choices[0].message.content
    assert said.choices[0].finish_reason in ("stop", "length")
    assert said.usage and 0 < said.usage.completion_tokens <= 8
    assert "x-headrace-instead-of" not in raw.headers
    row = await gateway.row(raw.headers["x-request-id"])
    assert row["tokens"]["output"] == said.usage.completion_tokens


async def test_it_answers_word_by_word(client: AsyncOpenAI) -> None:
    parts = [
        part
        async for part in await client.chat.completions.create(
            model=MODEL,
            messages=HI,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]

    words = [p.choices[0].delta.content for p in parts if p.choices and p.choices[0].delta.content]
    assert len(words) > 1
    assert parts[-1].usage and parts[-1].usage.completion_tokens <= 8
    assert {part.model for part in parts} == {MODEL}


async def test_a_stream_tells_no_usage_unasked(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=2, stream=True
    )

    assert all([part.choices and not part.usage async for part in stream])


async def test_it_stands_in_for_another_and_says_so(client: AsyncOpenAI, gateway: Served) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=HI, max_tokens=2
    )

    assert raw.parse().model == MODEL
    assert raw.headers["x-headrace-instead-of"] == "gpt-4o"
    assert raw.headers["x-headrace-model"] == MODEL
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["asked"], row["model"], row["instead"]) == ("gpt-4o", MODEL, True)


class Answer(BaseModel):
    number: int
    sure: bool


async def test_it_keeps_to_a_schema(client: AsyncOpenAI) -> None:
    schema = Answer.model_json_schema()

    said = await client.chat.completions.create(
        model=MODEL,
        messages=HI,
        max_tokens=64,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )

    # The grammar holds the shape; only the length may end it early.
    content = said.choices[0].message.content or ""
    assert content.lstrip().startswith("{")
    if said.choices[0].finish_reason != "length":
        Answer.model_validate_json(content)


async def test_it_embeds(client: AsyncOpenAI) -> None:
    said = await client.embeddings.create(model=MODEL, input=["one", "two"])

    assert [item.index for item in said.data] == [0, 1]
    assert len({len(item.embedding) for item in said.data}) == 1
    assert all(math.isfinite(number) for item in said.data for number in item.embedding)
    assert said.data[0].embedding != said.data[1].embedding


async def test_the_old_completions_are_answered_too(client: AsyncOpenAI) -> None:
    said = await client.completions.create(model=MODEL, prompt="Once upon", max_tokens=4)

    assert said.choices[0].text
    assert said.model == MODEL


async def test_it_answers_several_at_once(client: AsyncOpenAI) -> None:
    said = await asyncio.gather(
        *(client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4) for _ in range(6))
    )

    assert all(each.choices[0].message.content for each in said)


async def test_it_stops_for_a_client_that_leaves(
    client: AsyncOpenAI, gateway: Served, record_property: Note
) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(stream)

    with measured("the local model lets go of a client that leaves", record_property):
        await stream.close()
        row = await gateway.row(stream.response.headers["x-request-id"], within=1)

    assert row["outcome"] == "client_closed"
    assert row["tokens"]["output"] < 900
    # It is free for the next one.
    said = await client.chat.completions.create(model=MODEL, messages=HI, max_tokens=2)
    assert said.choices[0].message.content


async def test_it_is_listed(client: AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in client.models.list()]


async def test_a_prompt_that_is_too_long_is_the_clients_fault(client: AsyncOpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 5000}]

    with pytest.raises(openai.BadRequestError) as failed:
        await client.chat.completions.create(model=MODEL, messages=long)

    assert json.loads(failed.value.response.text)["error"]["message"]
