"""A file of keys: what is read of it, what is wrong with it, and how it is changed."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from headrace import ConfigError, Key, KeyFile, Moment, sha256

ANN, BOB = sha256("sk-ann"), sha256("sk-bob")
NOON = Moment(2027, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.yaml")


def problems(file: KeyFile, text: str) -> list[str]:
    """What is wrong with a file of this text."""
    file.path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        file.read()
    return [str(problem) for problem in caught.value.problems]


# What is written


def test_a_file_may_be_written_by_hand(file: KeyFile) -> None:
    file.path.write_text(
        f"""
        keys:
          {ANN}: ann
          sha256:{BOB.upper()}:
            name: bob
            tenant: acme
            groups: [red, blue]
            models: [fast, "gpt-*"]
            created: 2026-01-31
            expires: 2027-01-31T13:00+01:00
            revoked: 2027-01-31 12:00:00Z
        """
    )

    assert file.read() == {
        ANN: Key(name="ann"),
        BOB: Key(
            name="bob",
            tenant="acme",
            groups=["red", "blue"],
            models=["fast", "gpt-*"],
            created=Moment(2026, 1, 31, tzinfo=UTC),
            expires=NOON,
            revoked=NOON,
        ),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"keys: {{{ANN}: {{nam: ann}}}}", "1:75: this key has no option 'nam'; did you mean"),
        (f"keys: {{{ANN}: {{tenant: a}}}}", "1:74: this key needs the option 'name'"),
        (f"keys: {{{ANN}: {{name: 7}}}}", "1:81: this key: name must be text; put it in quotes"),
        (f"keys: {{{ANN}: {{name: ''}}}}", "1:74: this key: needs text in name"),
        (f'keys: {{{ANN}: "a\\e[2Jb"}}', "1:74: this key: needs text in name"),
        (f"keys: {{{ANN}: {{name: a, groups: b}}}}", "1:92: this key: groups must be a list"),
        (f"keys: {{{ANN}: {{name: a, expires: soon}}}}", "1:93: this key: expires is not a date"),
        (f"keys: {{{ANN}: [a]}}", "1:74: this key: name must be text"),
        ("keys: {sk-ann: ann}", "1:8: this is not a SHA-256; make one with: printf"),
        (f"keys:\n  {ANN}: a\n  {ANN}: b\n", "3:3: this key is given twice; the first time at"),
        (f"keys:\n  {ANN}: a\n  sha256:{ANN}: b\n", "3:3: this SHA-256 is given twice"),
        ("keys: [a]", "1:7: expected 'keys', a mapping from the SHA-256 of each"),
        ("key: {}", "1:1: a file of keys has no section 'key'; did you mean 'keys'?"),
        ("keys: {", "1:7: this `{` is never closed"),
        ("", "1:1: expected 'keys'"),
        ("keys: {}\ninclude: [other*.yaml]\n", "1:1: a file of keys includes no other"),
        (f"keys: {{{ANN}: '${{NAME}}'}}", "1:75: the environment variable NAME is not set"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(file: KeyFile, text: str, said: str) -> None:
    first, *_ = problems(file, text)

    assert first.startswith(f"{file.path}:{said}")


def test_every_problem_is_told(file: KeyFile) -> None:
    assert len(problems(file, f"keys:\n  a: b\n  {ANN}: 7\n  {BOB}: {{nam: a}}\nkeyz: {{}}")) == 4


def test_a_key_that_stands_there_itself_is_shown_in_no_message(file: KeyFile) -> None:
    told = "\n".join(problems(file, "keys:\n  hr-CANARY: ann\n  sk-CANARY-2: {nam: CANARY}\n"))

    assert "is not a SHA-256" in told
    assert "CANARY" not in told


# Dates


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2027-01-31", Moment(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00", NOON),
        ("2027-01-31 12:00:00", NOON),
        ("2027-01-31T12:00:00Z", NOON),
        ("2027-01-31T07:00:00-05:00", NOON),
        ("2027-01-31T12:00:00.25Z", NOON + timedelta(milliseconds=250)),
        ("0001-01-01", Moment(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_is_utc_unless_it_says_otherwise(text: str, means: Moment) -> None:
    assert Moment.of(text) == means
    assert Moment.of(str(means)) == means


@pytest.mark.parametrize(
    "text", ["2027-01-31", "2027-01-31T12:00:00Z", "2027-01-31T12:00:00.250000Z"]
)
def test_a_date_is_written_as_short_as_it_can_be(text: str) -> None:
    assert str(Moment.parse(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "20270131", "2027-1-31", "2027-02-30", "2027-W05-7", "31.01.2027"),
        *("2027-01-31T25:00", "0001-01-01T00:00+01:00", "2027-01-31T12:00 ", "٢٠٢٧-٠١-٣١"),
        *(20270131, True, None),
    ],
)
def test_what_is_no_date_is_told(value: object) -> None:
    with pytest.raises(ValueError, match="is not a date; write one such as 2027-01-31"):
        Moment.of(value)


def test_a_key_is_good_until_the_moment_it_expires_at() -> None:
    key = Key(name="ann", expires=NOON)

    assert key.state(NOON - timedelta(microseconds=1)) == "good"
    assert key.state(NOON) == "expired"
    assert Key(name="ann").state(NOON) == "good"


def test_a_key_that_was_taken_back_is_not_good_whatever_the_date() -> None:
    assert Key(name="ann", revoked=NOON).state(NOON - timedelta(days=1)) == "revoked"
    assert Key(name="ann", revoked=NOON, expires=NOON).state(NOON) == "revoked"


# What changes it


@pytest.mark.parametrize(
    "name",
    [
        "ann",
        "null",
        "1e5",
        "a: b # c",
        "- x",
        "${HOME:-x} $$ $",
        "'\"\\",
        "<<",
        "no",
        "café 日本 🔑",
    ],
)
def test_whatever_a_caller_is_called_can_be_read_again(file: KeyFile, name: str) -> None:
    key = Key(name=name, tenant=name, groups=[name], models=[name, "*"], created=NOON)

    with file.changing() as keys:
        keys[ANN] = key

    assert file.read() == {ANN: key}


def test_an_empty_list_of_models_stays_one(file: KeyFile) -> None:
    with file.changing() as keys:
        keys[ANN] = Key(name="ann", models=[])

    assert file.read()[ANN].models == []


def test_the_last_key_may_go(file: KeyFile) -> None:
    with file.changing() as keys:
        keys[ANN] = Key(name="ann")
    with file.changing() as keys:
        del keys[ANN]

    assert file.read() == {}


def test_a_new_file_is_for_its_owner_alone(file: KeyFile) -> None:
    with file.changing() as keys:
        keys[ANN] = Key(name="ann")

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "keys: {}\n"])
def test_who_may_read_a_file_still_may_when_it_has_changed(file: KeyFile, text: str) -> None:
    file.path.write_text(text)
    file.path.chmod(0o640)

    with file.changing() as keys:
        keys[ANN] = Key(name="ann")

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640


def test_whose_file_it_is_stays_so(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.path.write_text("keys: {}\n")
    before = file.path.stat()
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, *owner: given.append(owner))

    with file.changing() as keys:
        keys[ANN] = Key(name="ann")

    assert given == [(before.st_uid, before.st_gid)]


def test_a_link_to_the_file_stays_a_link(file: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file.path.symlink_to(tmp_path / "elsewhere" / "real.yaml")

    with file.changing() as keys:
        keys[ANN] = Key(name="ann")

    assert file.path.is_symlink()
    assert ANN in KeyFile(tmp_path / "elsewhere" / "real.yaml").read()


def test_a_change_that_fails_changes_nothing_and_leaves_nothing(file: KeyFile) -> None:
    with file.changing() as keys:
        keys[ANN] = Key(name="ann")
    before = file.path.read_bytes()

    with pytest.raises(ZeroDivisionError), file.changing() as keys:
        keys[BOB] = Key(name="b" * (1 // 0))

    assert file.path.read_bytes() == before
    assert os.listdir(file.path.parent) == ["keys.yaml"]


def test_a_disk_that_is_full_leaves_the_file_as_it_was(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.path.write_text("keys: {}\n")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), file.changing() as keys:
        keys[ANN] = Key(name="ann")

    assert file.path.read_text() == "keys: {}\n"
    assert os.listdir(file.path.parent) == ["keys.yaml"]


def test_a_file_with_problems_is_not_written_over(file: KeyFile) -> None:
    file.path.write_text("keys: {sk-ann: ann}\n")

    with pytest.raises(ConfigError), file.changing():
        pytest.fail("it was given out")

    assert file.path.read_text() == "keys: {sk-ann: ann}\n"


def test_nothing_is_written_that_could_not_be_read(file: KeyFile) -> None:
    with pytest.raises(ConfigError) as caught, file.changing() as keys:
        keys[ANN] = Key(name="a" * 1024 * 1024)

    assert "stays as it is, for it could not be read afterwards" in str(caught.value)
    assert "this is larger than 1024 KiB" in str(caught.value)
    assert not file.path.exists()


def test_many_who_change_it_at_once_lose_nothing(file: KeyFile) -> None:
    def add(part: int) -> None:
        for number in range(5):
            with file.changing() as keys:
                keys[sha256(f"{part} {number}")] = Key(name=f"{part}-{number}")

    threads = [threading.Thread(target=add, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(file.read()) == 20


# Whether it has changed


def test_a_file_that_has_changed_has_another_mark(file: KeyFile) -> None:
    marks = [file.mark()]
    for name in ("ann", "bob"):  # of one length
        with file.changing() as keys:
            keys[ANN] = Key(name=name)
        marks += [file.mark(), file.mark()]

    assert marks[0] is None
    assert marks[1] == marks[2] != marks[3] == marks[4]


def test_a_folder_that_is_swapped_behind_a_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes mounts a Secret: keys.yaml -> ..data/keys.yaml, ..data -> ..2027_01."""
    for version in ("..2027_01", "..2027_02"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys.yaml").write_text("keys: {}\n")
    (tmp_path / "..data").symlink_to("..2027_01")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    file = KeyFile(tmp_path / "keys.yaml")
    before = file.mark()

    (tmp_path / "..tmp").symlink_to("..2027_02")
    (tmp_path / "..tmp").rename(tmp_path / "..data")

    assert file.mark() != before


def test_a_pipe_is_no_key_file_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.yaml")

    with pytest.raises(OSError, match="no regular file"):
        KeyFile(tmp_path / "keys.yaml").read()
