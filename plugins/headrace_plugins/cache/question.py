"""A call on its way past the cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrace import Cached, Call, Next
from headrace_plugins.cache.batch import Batch
from headrace_plugins.cache.control import Control


@dataclass(frozen=True)
class Leading:
    """The question that a cache above is asking; told to those below."""

    key: str


@dataclass(kw_only=True)
class Question:
    """What is asked, by whom, and what has become of it so far."""

    call: Call
    call_next: Next
    key: str
    """Where the answer is kept."""
    control: Control
    batch: Batch | None = None
    """The inputs of an embedding call, each with an answer of its own."""
    stores: bool = True
    """Whether the store answers."""
    note: Cached = field(default_factory=lambda: Cached(status="miss"))

    def __post_init__(self) -> None:
        self.call.record.cache = self.note

    def written(self, note: Cached) -> None:
        """Write down what became of it."""
        self.note = self.call.record.cache = note

    def again(self) -> Question:
        """The same once more for nobody who waits for it, with a record of its own."""
        call = self.call.replace(record=self.call.record.beside())
        return replace(self, call=call, control=Control(), note=Cached(status="miss"))
