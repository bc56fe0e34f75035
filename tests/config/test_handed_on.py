"""A configuration is handed on to another process, and says the same there."""

from __future__ import annotations

import json
from pathlib import Path

from headrace.config.build import build
from headrace.config.changes import changes
from headrace.config.document import Document, load


def handed_on(document: Document) -> Document:
    return Document.of_json(json.loads(json.dumps(document.as_json())))


def test_another_process_builds_the_same_plan_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary-93ab\n")
    (tmp_path / "more.yaml").write_text("routes: {fast: a}\n")
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "include: more.yaml\nserver: {auth: none}\n"
        "upstreams:\n"
        "  a: {forwarder: {openai: {api_key: '${file:secret}'}}, labels: {eu: '${X:-1}'}}\n"
    )
    document = load(file, {})
    one, other = build(document), build(handed_on(document))

    assert changes(one, other) == []
    assert (one.hash, one.files, one.secrets) == (other.hash, other.files, other.secrets)
    assert other.document
    assert other.document.versions_now() == document.versions
    assert document.repeats(other.document)


def test_a_file_that_is_not_there_is_handed_on_as_such(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("x-note: '${file:absent}'\nupstreams: {a: mock}\n")
    document = load(file, {}, unset_ok=True)

    assert handed_on(document).versions == document.versions
    assert handed_on(document).unset == document.unset
