"""The public door: what is behind it, and that opening it costs nothing."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

# A name that goes away or changes its meaning breaks the plugins of people we do not know.
PUBLIC = [
    "NDJSON",
    "OPENAI",
    "PASSTHROUGH",
    "REMOVED",
    "SSE",
    "Allowance",
    "Allowances",
    "Attempt",
    "BadRequest",
    "Cached",
    "Call",
    "CallError",
    "Caller",
    "Callers",
    "ConfigError",
    "Count",
    "Deadline",
    "Dialect",
    "Duration",
    "Event",
    "Failure",
    "File",
    "Finding",
    "Forbidden",
    "Forwarder",
    "Found",
    "Frame",
    "Full",
    "Gateway",
    "Happening",
    "HeadraceError",
    "Key",
    "KeyFile",
    "Keyring",
    "Limited",
    "Limits",
    "Memory",
    "MethodNotAllowed",
    "Moment",
    "Next",
    "NotFound",
    "Observer",
    "Observers",
    "Others",
    "Outgoing",
    "Overloaded",
    "Page",
    "Pages",
    "Patience",
    "Place",
    "Plugin",
    "Plugins",
    "Provider",
    "Quota",
    "Raced",
    "Rate",
    "RateLimited",
    "Record",
    "Reply",
    "Request",
    "Resolved",
    "Response",
    "Rests",
    "Routes",
    "Secret",
    "Sha256",
    "Size",
    "Step",
    "Store",
    "Target",
    "Targets",
    "TimedOut",
    "Timeouts",
    "Translation",
    "Transport",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "UpstreamError",
    "Usage",
    "Vitals",
    "WithUsage",
    "Writer",
    "__version__",
    "assembled",
    "bearer",
    "bearing",
    "check_base_url",
    "check_headers",
    "compose",
    "exchange",
    "fetch_json",
    "first_good",
    "json_line",
    "kept_under",
    "leaves",
    "meant",
    "network",
    "owner_of",
    "place_of",
    "read_all",
    "resting",
    "sha256",
    "shielded",
    "sse",
    "taken_apart",
    "translation",
    "until_closed",
    "who_asks",
]

TESTING = [
    "BACKEND",
    "Client",
    "Clock",
    "ClockLoop",
    "ForwarderContract",
    "Loopback",
    "PluginContract",
    "StoreContract",
    "Upstream",
    "ask",
    "breaks",
    "call",
    "chunk",
    "down",
    "gateway",
    "raw",
    "refuses",
    "says",
    "sends",
    "settled",
    "silent",
    "stalls",
    "text",
]

HEAVY = {"pydantic", "aiohttp", "httpx2", "httpcore2", "uvicorn", "starlette", "click", "yaml"}
ON_REQUEST = {
    *("redis", "sqlalchemy", "numpy", "opentelemetry", "prometheus_client", "jwt", "pytest"),
    *("requests", "google"),  # for spans
}


@pytest.mark.parametrize(("door", "names"), [("headrace", PUBLIC), ("headrace.testing", TESTING)])
def test_the_door_leads_to_these_names(door: str, names: list[str]) -> None:
    module = import_module(door)

    assert list(module.__all__) == names
    assert sorted(names, key=_order) == names
    for name in names:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match="nothing_like_that"):
        module.nothing_like_that  # noqa: B018


@pytest.mark.parametrize(("door", "names"), [("headrace", PUBLIC), ("headrace.testing", TESTING)])
def test_type_checkers_see_the_same_names(door: str, names: list[str]) -> None:
    tree = ast.parse(Path(str(import_module(door).__file__)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    seen = {alias.name for node in imports for alias in node.names}

    assert set(names) - seen == set()


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts `__all__`."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def imported(*arguments: str) -> set[str]:
    """The modules that Python imports for these arguments, beside those it always does."""
    told = [
        subprocess.run(
            [sys.executable, "-X", "importtime", *each], capture_output=True, text=True, check=True
        ).stderr
        for each in (arguments, ("-c", "pass"))
    ]
    asked, always = map(_modules, told)
    return asked - always


def _modules(importtime: str) -> set[str]:
    return set(re.findall(r"^import time:.*\| +(\S+)$", importtime, re.MULTILINE))


def _packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_importing_the_package_imports_nothing_else() -> None:
    modules = imported("-c", "import headrace")

    assert _packages(modules) == {"headrace"}
    assert {name for name in modules if name.startswith("headrace")} == {
        "headrace",
        "headrace.version",
    }


def test_a_plugin_needs_no_server_to_be_imported() -> None:
    names = ("fallback", "api_key", "tracing")
    modules = imported("-c", "".join(f"import headrace_plugins.{name};" for name in names))

    assert _packages(modules) & (HEAVY | ON_REQUEST) <= {"starlette"}


def test_telling_the_version_imports_nothing_else() -> None:
    modules = imported("-m", "headrace", "--version")

    assert _packages(modules) == {"headrace"}
    assert len(modules) < 60
    assert "asyncio" not in modules


def test_serving_imports_only_what_the_file_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "server: {observers: [access_log]}\n"
        "upstreams: {a: {forwarder: mock, plugins: [retry]}, b: mock}\n"
        "routes: {'*': {chain: [fallback], targets: [a, b]}}\n"
    )
    command = [sys.executable, "-X", "importtime", "-m", "headrace", "serve", str(file)]
    environ = {**os.environ, "PORT": "0"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr
        told = ""
        for line in process.stderr:
            told += line
            if line.startswith("Try it"):
                break
        process.send_signal(signal.SIGTERM)
        told += process.stderr.read()

    assert "is live at http://127.0.0.1:" in told
    modules = _modules(told)
    assert "headrace.edge" in modules, "importtime is not read as it is written"
    assert _packages(modules) & ON_REQUEST == set()
