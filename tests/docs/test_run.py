"""What pages tell people to run against a gateway is run, against the gateway of their folder."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import LAST_CHUNK, Received, Step, answers, chunk, head

from .pages import PAGES, ROOT, Block, Page
from .serving import MOCK, ran, served

ADDRESS = "127.0.0.1:8080"

TOLD: Mapping[str, tuple[str, ...]] = {
    "README.md": ("This is Headrace's mock upstream", "data: [DONE]"),
    "examples/local/README.md": ("data: [DONE]", '"embedding":['),
    "examples/local-first/README.md": ("x-headrace-upstream: here", '"object":"chat.completion"'),
    "examples/fallback/README.md": (
        *("x-headrace-attempts: 3", "x-headrace-upstream: stand-in", "I stand in for it."),
    ),
    "examples/race/README.md": (
        *("x-headrace-attempts: 2", "x-headrace-upstream: near", "data: [DONE]"),
        "x-headrace-attempts: 3",
    ),
    "examples/hedge/README.md": (
        *("x-headrace-attempts: 2", "x-headrace-upstream: second", "data: [DONE]"),
    ),
    "examples/cache/README.md": (
        *("x-headrace-cache: miss", "x-headrace-cache: hit", "age: 0", "data: [DONE]"),
    ),
    "examples/ollama/README.md": ("The sky is blue.", "['llama3.2:latest']\nThe sky is blue."),
    "examples/canary/README.md": (
        *("'I am the stable one.': ", "Counter({'I am the canary.': 5})"),
    ),
    "examples/api-keys/README.md": (
        *("mock/mock", '"models":["fast"]', "invalid_api_key", "missing_api_key"),
        "mock upstream",
    ),
    "examples/jwt/README.md": (
        *("This is Headrace's mock upstream", "model_not_found", "missing_api_key"),
        "invalid_token",
    ),
    "examples/rate-limit/README.md": (
        *("x-ratelimit-remaining-requests: 1", '"fleet";q=10000000;w=3600;qu="tokens"'),
        *("HTTP/1.1 429", "retry-after: ", "the limit 'caller' of 2 requests per minute"),
        '"policy":"caller","counts":"requests","limit":600,"per":60.0,"remaining":600',
    ),
    "examples/tracing/README.md": ("x-headrace-attempts: 2", "I stand in for it."),
    "examples/observability/README.md": (
        *("This is Headrace's mock upstream", "invalid_api_key", "headrace_config_info"),
        'headrace_races_total{plugin="race",upstream="',
        'headrace_cost_dollars_total{caller="payments",estimated="false",route="quick"',
        'headrace_tenant_requests_total{outcome="ok",tenant="acme"} 1.0',
        *('"what":"config.loaded"', '"what":"call.refused"'),
    ),
    "examples/mounted/README.md": ("mock upstream",),
}
"""Pages with something to run, and what must be printed there."""

NOT_HERE = {
    "plugin": "test_example_plugin.py runs it",
    "reference": "it is for looking things up; test_parts.py looks whether all is there",
}


def running(page: Page) -> list[Block]:
    """The blocks of a page that are run while a gateway answers."""
    return [block for block in page.blocks if block.words.get("run") == "gateway"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if running(page)], ids=lambda page: page.name
)
async def test_what_is_to_be_run_runs(page: Page, tmp_path: Path) -> None:
    printed = ""
    async with gateway_of(page, tmp_path) as url:
        for block in running(page):
            text = block.padded.replace(ADDRESS, url.removeprefix("http://"))
            status, told = await ran(_command(block, text), tmp_path)
            assert status == 0, f"{block.place}: it failed with {status}\n{told}"
            printed += told

    assert page.name in TOLD, f"{page.name}: say in TOLD what its blocks must print"
    for words in TOLD[page.name]:
        assert words in printed, f"{page.name}: {words!r} was not printed, but\n{printed}"


def _command(block: Block, text: str) -> list[str]:
    if block.language == "sh":
        return ["bash", "-euo", "pipefail", "-c", text]
    compiled = f"compile({text!r}, {block.page.name!r}, 'exec')"
    return ["python", "-c", f"exec({compiled}, {{'__name__': '__main__'}})"]


@asynccontextmanager
async def gateway_of(page: Page, tmp_path: Path) -> AsyncIterator[str]:
    """The gateway that a reader of the page has started by then."""
    folder = page.path.parent
    match folder.name:
        case "local" | "local-first":
            _fetch()
            async with served(folder) as url:
                yield url
        case "ollama":
            async with Loopback() as ollama:
                ollama.script(_ollama)
                async with served(folder, OLLAMA_BASE_URL=ollama.url) as url:
                    yield url
        case "mounted":
            async with served(folder, "uvicorn", "app:app", "--port", "0") as url:
                yield url
        case _ if folder.parent == ROOT / "examples":
            async with served(folder) as url:
                yield url
        case _:
            (tmp_path / "gateway.yaml").write_text(MOCK)
            async with served(tmp_path) as url:
                yield url


def _fetch() -> None:
    pytest.importorskip("xllamacpp", reason="the local model needs headrace[local]")
    from headrace_plugins.forwarders.local_model.fetch import ModelMissing, fetch

    try:
        fetch("smollm2-135m-instruct")
    except ModelMissing as missing:
        pytest.skip(f"the local model is not here: {missing}")


def _ollama(asked: Received) -> Iterable[Step]:
    """Lines as docs/api.md at github.com/ollama/ollama has them."""
    if asked.target == "/api/tags":
        return answers({"models": [{"name": "llama3.2:latest", "model": "llama3.2:latest"}]})
    assert asked.target == "/api/chat"
    said = [{"content": "The"}, {"content": " sky"}, {"content": " is blue."}, {"content": ""}]
    lines = [
        {"model": "llama3.2", "created_at": "2023-08-04T08:52:19.385406455-07:00",
         "message": {"role": "assistant", **each}, "done": not each["content"]}
        for each in said
    ]  # fmt: skip
    start = head(200, "content-type: application/x-ndjson", "transfer-encoding: chunked")
    return (start, *(chunk(json.dumps(line).encode() + b"\n") for line in lines), LAST_CHUNK)


def test_every_example_is_run() -> None:
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    tested = {Path(name).parent.name for name in TOLD if name.startswith("examples/")}
    assert folders == tested | NOT_HERE.keys()
    for folder in folders:
        for file in ("README.md", "gateway.yaml"):
            assert (ROOT / "examples" / folder / file).is_file(), f"examples/{folder} has no {file}"
