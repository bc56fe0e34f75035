"""Fingerprints: other options make another one, but of plugins that no answer depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from headrace import Call, Next, Reply, Secret
from headrace.config.fingerprint import fingerprint


@dataclass(kw_only=True)
class Polite:
    """A plugin that somebody wrote."""

    words: str = "please"
    key: Secret = field(default_factory=lambda: Secret("one"))

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        return await call_next(call)


@dataclass(kw_only=True)
class Patient(Polite):
    """One that says of itself that it changes no answer."""

    keeps_answers: ClassVar = True


@dataclass(kw_only=True)
class Impatient(Patient):
    """One that inherits from it and does something else."""


def test_what_a_plugin_does_counts() -> None:
    assert fingerprint([Polite()]) != fingerprint([])
    assert fingerprint([Polite()]) != fingerprint([Polite(words="now")])


def test_a_secret_does_not_count() -> None:
    assert fingerprint([Polite()]) == fingerprint([Polite(key=Secret("two"))])


def test_what_changes_no_answer_does_not_count() -> None:
    assert fingerprint([Patient()]) == fingerprint([Patient(words="later")]) == fingerprint([])


def test_nobody_inherits_that_it_changes_no_answer() -> None:
    assert fingerprint([Impatient()]) != fingerprint([Impatient(words="now")])


def test_the_order_of_plugins_counts() -> None:
    one, other = Polite(words="one"), Polite(words="other")

    assert fingerprint([one, other]) != fingerprint([other, one])
