"""`headrace keys`: a key is made and shown once; what is kept of it is listed, and taken back."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace import Key, KeyFile, Moment, sha256
from headrace.testing import Client, Clock, gateway

from .running import command, headrace, process
from .test_group import in_a_terminal

NOW = Moment(2027, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, at a moment that does not pass."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headrace.cli.keys._now", lambda: NOW)
    return tmp_path


def said(*arguments: str) -> str:
    """What a command that succeeds prints for programs."""
    told = headrace("keys", *arguments)
    assert told.exit_code == 0, told.stderr
    return told.stdout


def refused(*arguments: str, status: int = 1) -> str:
    """What a command that fails says."""
    told = headrace("keys", *arguments)
    assert (told.exit_code, told.stdout) == (status, "")
    assert "Traceback" not in told.stderr
    return told.stderr


def listed(*arguments: str) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(said("list", "--json", *arguments))
    return keys


def id_of(key: str) -> str:
    return sha256(key.strip())[:12]


# add


def test_a_key_is_printed_alone_and_only_its_sha256_is_kept(here: Path) -> None:
    told = headrace("keys", "add", "ci")
    key = told.stdout.removesuffix("\n")

    assert re.fullmatch(r"hr-[A-Za-z0-9_-]{43}", key)
    assert told.stderr == f"keys.yaml: added the key {id_of(key)} of ci; it is shown only now\n"
    assert key[3:] not in (here / "keys.yaml").read_text()
    assert KeyFile("keys.yaml").read() == {sha256(key): Key(name="ci", created=NOW)}


def test_what_a_key_is_good_for_is_written_down() -> None:
    options = "--tenant acme --group red --group blue --models fast,gpt-* --expires 2027-12-31"
    key = said("add", "chat", *options.split())

    assert KeyFile("keys.yaml").read()[sha256(key.strip())] == Key(
        name="chat",
        tenant="acme",
        groups=["red", "blue"],
        models=["fast", "gpt-*"],
        created=NOW,
        expires=Moment(2027, 12, 31, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("written", "until"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("1h30m", NOW + timedelta(minutes=90)),
        ("2027-02-01", Moment(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T12:00:01Z", NOW + timedelta(seconds=1)),
    ],
)
def test_it_expires_after_a_time_or_at_a_date(written: str, until: Moment) -> None:
    said("add", "ci", "--expires", written)

    assert next(iter(KeyFile("keys.yaml").read().values())).expires == until


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["add"], 2, "Missing argument 'NAME'"),
        (["add", "ci", "--expires", "soon"], 2, "'soon' is neither a time, such as 90d, nor a dat"),
        (["add", "ci", "--expires", "2027-01-31"], 2, "'2027-01-31' is over already"),
        (["add", "ci", "--expires", "0"], 2, "'0' is over already"),
        (["add", "ci", "--expires", "99999999d"], 2, "'99999999d' is neither"),
        (["add", ""], 1, "a key needs text in name, tenant, groups and models"),
        (["add", "a\x1b[2J"], 1, "a key needs text in name, tenant, groups and models"),
        (["add", "ci", "--models", "fast,"], 1, "a key needs text in name, tenant, groups and mod"),
        (["add", "ci", "--file", "none/keys.yaml"], 1, "cannot write none/keys.yaml: No such file"),
        (["list"], 1, "there is no keys.yaml; `headrace keys add NAME --file keys.yaml` makes it"),
        (["list", "--file", "."], 1, "cannot read .: Is a directory"),
        (["revoke", "ci"], 1, "no key in keys.yaml has the id or the name 'ci'; `headrace keys li"),
        (["rotate", "ci", "--overlap", "long"], 2, "'long' is not a duration; write one such as"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    here: Path, arguments: list[str], status: int, message: str
) -> None:
    assert message in refused(*arguments, status=status)

    assert list(here.iterdir()) == []


def test_a_file_with_problems_is_told_and_left_alone(here: Path) -> None:
    (here / "keys.yaml").write_text("keys:\n  hr-CANARY: ann\n")

    for arguments in (["add", "ci"], ["list"], ["revoke", "ann"], ["rotate", "ann"]):
        told = refused(*arguments)
        assert told.startswith("keys.yaml:2:3: this is not a SHA-256; make one with: printf")
        assert "CANARY" not in told
    assert (here / "keys.yaml").read_text() == "keys:\n  hr-CANARY: ann\n"


def test_many_commands_at_once_lose_nothing(here: Path) -> None:
    running = [
        subprocess.Popen(command("keys", "add", f"ci-{n}"), stdout=-1, stderr=-3) for n in range(6)
    ]
    shown = [child.communicate(timeout=60)[0].decode().strip() for child in running]

    assert {sha256(key) for key in shown} == KeyFile("keys.yaml").read().keys()
    assert len(set(shown)) == 6


# list


def test_programs_get_all_that_is_known() -> None:
    key = said("add", "chat", "--tenant", "acme", "--expires", "90d").strip()

    assert listed() == [
        {
            "id": id_of(key),
            "sha256": sha256(key),
            "state": "good",
            "name": "chat",
            "tenant": "acme",
            "groups": [],
            "models": None,
            "created": "2027-01-31T12:00:00Z",
            "expires": "2027-05-01T12:00:00Z",
            "revoked": None,
        }
    ]


def test_in_a_pipe_each_key_is_a_line_with_tabs() -> None:
    key = said("add", "chat bot", "--expires", "2027-12-31")

    assert said("list") == f"chat bot\t{id_of(key)}\t-\t2027-01-31T12:00:00Z\t2027-12-31\tgood\n"


def test_in_a_terminal_they_are_a_table() -> None:
    with KeyFile("keys.yaml").changing() as keys:
        keys[sha256("a")] = Key(
            name="payments", tenant="acme", expires=Moment(2020, 1, 31, tzinfo=UTC)
        )
        keys[sha256("b")] = Key(name="ci", revoked=NOW)

    assert in_a_terminal("keys", "list").splitlines() == [
        "NAME      ID            TENANT  CREATED  EXPIRES     STATE",
        "payments  ca978112ca1b  acme    -        2020-01-31  expired",
        "ci        3e23e8160039  -       -        -           revoked",
    ]


# revoke


def test_a_key_is_taken_back_by_its_name_and_stays_in_the_list() -> None:
    key = said("add", "ci")

    told = headrace("keys", "revoke", "ci")

    assert (told.exit_code, told.stdout) == (0, "")
    assert told.stderr == f"keys.yaml: the key {id_of(key)} of ci is revoked\n"
    assert [(k["state"], k["revoked"]) for k in listed()] == [("revoked", "2027-01-31T12:00:00Z")]


def test_of_several_with_one_name_the_id_says_which() -> None:
    first, second = (id_of(said("add", "ci", "--expires", when)) for when in ("1d", "2d"))

    told = refused("revoke", "ci")
    said("revoke", second)

    assert told == (
        "Error: 'ci' are several; say which by its id:\n"
        f"  the key {first} of ci, good until 2027-02-01T12:00:00Z\n"
        f"  the key {second} of ci, good until 2027-02-02T12:00:00Z\n"
    )
    assert [key["state"] for key in listed()] == ["good", "revoked"]


def test_the_name_is_enough_once_the_others_are_revoked() -> None:
    first = id_of(said("add", "ci"))
    said("revoke", first)
    second = id_of(said("add", "ci"))

    said("revoke", "ci")

    assert [(key["id"], key["state"]) for key in listed()] == [
        (first, "revoked"),
        (second, "revoked"),
    ]
    assert refused("revoke", "ci") == "Error: 'ci' is revoked already\n"
    assert refused("revoke", second) == f"Error: '{second}' is revoked already\n"


def test_an_id_may_be_longer_and_in_capitals_but_not_shorter() -> None:
    key = said("add", "ci").strip()

    assert "has the id or the name" in refused("revoke", sha256(key)[:11])
    said("revoke", sha256(key).upper())

    assert listed()[0]["state"] == "revoked"


def test_a_name_that_is_almost_right_is_told() -> None:
    said("add", "payments")

    assert "'payment'; did you mean 'payments'?" in refused("revoke", "payment")


# rotate


def test_a_key_takes_the_place_of_another_which_stays_good_for_a_while() -> None:
    options = "--tenant acme --group red --models fast --expires 90d"
    old = said("add", "chat", *options.split())

    told = headrace("keys", "rotate", "chat")

    before, after = listed()
    assert told.exit_code == 0
    assert [before["id"], after["id"]] == [id_of(old), id_of(told.stdout)]
    assert before["expires"] == "2027-02-01T12:00:00Z"
    assert after["expires"] == "2027-05-01T12:00:00Z"
    changed = ("id", "sha256", "expires")
    assert [after[name] for name in after if name not in changed] == [
        before[name] for name in before if name not in changed
    ]
    assert f"in the place of the key {id_of(old)} of chat, good until 2027-02-01" in told.stderr


@pytest.mark.parametrize(
    ("lives", "overlap", "until"),
    [
        (["--expires", "1h"], "1d", "2027-01-31T13:00:00Z"),
        (["--expires", "2d"], "1h", "2027-01-31T13:00:00Z"),
        ([], "1h", "2027-01-31T13:00:00Z"),
        ([], "0", "2027-01-31T12:00:00Z"),
    ],
)
def test_the_old_key_is_good_for_no_longer_than_it_was(
    lives: list[str], overlap: str, until: str
) -> None:
    said("add", "ci", *lives)

    said("rotate", "ci", "--overlap", overlap)

    assert listed()[0]["expires"] == until


def test_the_new_key_may_live_longer() -> None:
    said("add", "ci", "--expires", "1d")

    said("rotate", "ci", "--expires", "2028-01-31")

    assert listed()[1]["expires"] == "2028-01-31"


# With a gateway


async def test_a_key_that_was_made_opens_a_gateway_until_it_is_taken_back(clock: Clock) -> None:
    key = (await asyncio.to_thread(process, "keys", "add", "ci")).stdout.strip()
    guarded = gateway("server: {chain: [api_key: {file: keys.yaml}]}", open=False)
    client = Client(guarded, headers={"authorization": f"Bearer {key}"})

    async with guarded.lifespan():
        before = await client.get("/v1/models")
        await asyncio.to_thread(process, "keys", "revoke", "ci")
        clock.advance(1)
        after = await client.get("/v1/models")

    assert (before.status, after.status) == (200, 401)
