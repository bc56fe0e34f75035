"""Paths in a configuration begin in the folder of the file that they are written in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace import ConfigError, File
from headrace.config.build import build
from headrace.config.document import Document, load, parse
from headrace.config.plan import Plan
from headrace.key_file import KeyFile
from headrace.keys import Key
from headrace.options import sha256
from headrace_plugins.api_key import ApiKey
from headrace_plugins.forwarders.local import Local
from headrace_plugins.jwt_auth import JwtAuth
from headrace_plugins.observers.audit import Audit

ASKING = "server: {chain: [api_key: {file: keys.yaml}]}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the process runs; what it reads is in others."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "teams").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "there"


def keys(folder: Path, name: str) -> None:
    with KeyFile(folder / "keys.yaml").changing() as known:
        known[sha256(name)] = Key(name=name)


def handed_on(document: Document) -> Document:
    return Document.of_json(json.loads(json.dumps(document.as_json())))


def asks(plan: Plan) -> str | None:
    """The file of the plugin that asks for keys."""
    [plugin] = plan.chain
    assert isinstance(plugin, ApiKey)
    return plugin.file


def test_they_begin_at_the_file_wherever_the_process_runs(here: Path) -> None:
    keys(here, "ann")
    (here / "gateway.yaml").write_text(f"{ASKING}upstreams: {{a: mock}}\n")

    assert asks(build(load("../there/gateway.yaml", {}))) == "../there/keys.yaml"
    assert asks(build(load(here / "gateway.yaml", {}))) == str(here / "keys.yaml")


def test_those_of_an_included_file_begin_at_that_one_in_every_worker(here: Path) -> None:
    keys(here / "teams", "ann")
    (here / "gateway.yaml").write_text(
        "include: teams/ann.yaml\n"
        "server: {auth: none, observers: [audit: {file: audit.jsonl}]}\nupstreams: {a: mock}\n"
    )
    (here / "teams" / "ann.yaml").write_text(ASKING)

    document = load(here / "gateway.yaml", {})

    for plan in (build(document), build(handed_on(document))):
        assert asks(plan) == str(here / "teams" / "keys.yaml")
        [audit] = plan.observers
        assert isinstance(audit, Audit)
        assert audit.file == str(here / "audit.jsonl")


def test_a_section_of_an_included_file_may_have_more_from_the_first(here: Path) -> None:
    (here / "gateway.yaml").write_text(
        "include: teams/*.yaml\n"
        "server: {observers: [audit: {file: one.jsonl}]}\nupstreams: {}\nchains:\n"
    )
    (here / "teams" / "a.yaml").write_text("chains: {one: [fallback]}\nserver: {drain: 1s}\n")

    document = load(here / "gateway.yaml", {})

    assert document.folder(("server", "observers", 0)) == here
    assert document.folder(("server", "drain")) == here / "teams"
    assert document.folder(("chains", "one", 0)) == here / "teams"
    assert document.folder(("routes",)) == here


def test_another_folder_makes_it_another_configuration(here: Path) -> None:
    (here / "gateway.yaml").write_text("include: teams/a.yaml\nupstreams: {}\n")
    (here / "teams" / "a.yaml").write_text("server: {drain: 1s}\n")
    before = load(here / "gateway.yaml", {})
    again = load(here / "gateway.yaml", {})
    (here / "gateway.yaml").write_text("server: {drain: 1s}\nupstreams: {}\n")

    assert again.repeats(before)
    assert not load(here / "gateway.yaml", {}).repeats(before)


def test_an_absolute_path_begins_nowhere_and_a_home_at_home(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")

    assert File("/etc/keys.yaml").within(here) == "/etc/keys.yaml"
    assert File("~/keys.yaml").within(here) == "/home/ann/keys.yaml"
    assert File("keys.yaml").within(".") == "keys.yaml"


def test_what_is_no_path_stays_as_it_is(here: Path) -> None:
    jwt = "jwt_auth: {issuer: a, audience: b, jwks: 'https://login.example.com/keys'}"
    text = f"server: {{chain: [{jwt}]}}\nupstreams: {{a: local, b: {{forwarder: {{local: %s}}}}}}\n"

    plan = build(parse(text % "{model: own.gguf}", "gateway.yaml", {}, base=here))

    [asking] = plan.chain
    forwarders = [upstream.forward for upstream in plan.upstreams.values()]
    assert isinstance(asking, JwtAuth)
    assert asking.jwks == "https://login.example.com/keys"
    assert [it.model for it in forwarders if isinstance(it, Local)] == [
        "smollm2-135m-instruct",
        str(here / "own.gguf"),
    ]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("'https://example.com/keys'", "is a URL; write the path of a file"),
        ("''", "is not the path of a file"),
        ('"a\\0b"', "is not the path of a file"),
        ("5", "there is no "),
        ("[a]", "is not the path of a file"),
    ],
)
def test_what_is_no_file_is_told(file: str, says: str) -> None:
    text = ASKING.replace("keys.yaml", file)

    with pytest.raises(ConfigError, match=says):
        build(parse(text, "gateway.yaml", {}))


def test_a_file_that_is_not_here_is_not_judged_where_that_is_fine(here: Path) -> None:
    text = (
        "server:\n"
        "  tls: {certificate: /run/none/tls.crt, key: /run/none/tls.key}\n"
        "  observers: [audit: {file: /var/none/audit.jsonl}]\n"
        "  chain:\n"
        "    - api_key: {file: none.yaml}\n"
        "    - jwt_auth: {issuer: a, audience: b, jwks: /run/none/jwks.json}\n"
        "  store: {redis: {url: 'rediss://cache', ca: /run/none/ca.pem}}\n"
        "upstreams: {a: mock}\n"
    )

    build(parse(text, "gateway.yaml", {}, unset_ok=True))
    with pytest.raises(ConfigError) as strict:
        build(parse(text, "gateway.yaml", {}))

    assert len(strict.value.problems) == 6


def test_a_file_that_is_here_is_judged_all_the_same(here: Path) -> None:
    (here / "keys.yaml").write_text("keys: {abc: ann}\n")

    with pytest.raises(ConfigError, match="this is not a SHA-256"):
        build(parse(ASKING, "gateway.yaml", {}, base=here, unset_ok=True))


def test_a_path_is_shown_whatever_its_option_is_called() -> None:
    text = "server:\n  tls: {certificate: no.crt, key: %s}\nupstreams: {a: mock}\n"

    def shown(key: str) -> str:
        with pytest.raises(ConfigError) as told:
            build(parse(text % key, "gateway.yaml", {"KEY": "CANARY"}))
        return str(told.value.problems[-1])

    assert "key: no.key}" in shown("no.key")
    assert "key: '${KEY:-******}'}" in shown("'${KEY:-CANARY}'")
    assert "CANARY" not in shown("'${KEY:-x}'")
