"""Bytes to frames: the same frames however the bytes are cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UpstreamError
from headrace.framing import NDJSON, SSE, Decoder, Frame, sse

CASES = int(os.environ.get("FUZZ_CASES", "300"))
LIMIT = 100_000


def decoded(decoder: Decoder, chunks: list[bytes]) -> list[Frame]:
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    return frames + decoder.end()


def carried(frames: list[Frame]) -> list[tuple[bytes, str | None]]:
    return [(frame.data, frame.name) for frame in frames if frame.data is not None]


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(stream) + 1) for place in at})
    bounds = [0, *places, len(stream)]
    return [stream[a:b] for a, b in pairwise(bounds)]


def reference(stream: bytes) -> list[tuple[bytes, str | None]]:
    """The HTML Standard's algorithm, line by line and slow; the open end counts as an event."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[tuple[bytes, str | None]] = []
    data: list[bytes] = []
    name: str | None = None
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if data:
                events.append((b"\n".join(data), name))
            data, name = [], None
        elif line.startswith(b"data:") or line == b"data":
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].removeprefix(b" ").decode("utf-8", "replace")
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [(b"a", None), (b"b", None)]),
        (b"data: a\r\n\r\ndata:b\r\rdata: c\n\n", [(b"a", None), (b"b", None), (b"c", None)]),
        (b"data: a\ndata: b\n\n", [(b"a\nb", None)]),
        (b": ping\n\n: ping\n\ndata: a\n\n", [(b"a", None)]),
        (b"event: error\ndata: {}\nid: 7\nretry: 10\n\n", [(b"{}", "error")]),
        (b"data: no final newline", [(b"no final newline", None)]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"a", None)]),
        ("data: a\u2028b\u0085c\n\n".encode(), [("a\u2028b\u0085c".encode(), None)]),
        (b"\n\n\ndata: a\n\n\n\n", [(b"a", None)]),
        (b"data\n\n", [(b"", None)]),
    ],
)
def test_events_follow_the_grammar(stream: bytes, events: list[tuple[bytes, str | None]]) -> None:
    assert carried(decoded(SSE(LIMIT), [stream])) == events
    assert carried(decoded(SSE(LIMIT), [bytes([byte]) for byte in stream])) == events


LINES = st.lists(
    st.tuples(
        st.sampled_from([b"data: ", b"data:", b"event: ", b": ", b"id: ", b"", b"data"]),
        st.sampled_from([b"", b"x", b"{}", "\u2028".encode(), "日本".encode(), b"[DONE]", b"\xff"]),
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"]),
    ).map(b"".join),
    max_size=30,
).map(b"".join)


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(LINES, st.lists(st.integers(0, 2000), max_size=20))
def test_however_a_stream_is_cut_its_events_are_those_of_the_standard(
    stream: bytes, at: list[int]
) -> None:
    frames = decoded(SSE(LIMIT), cut(stream, at))

    assert carried(frames) == reference(stream)


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(LINES, st.lists(st.integers(0, 2000), max_size=20))
def test_the_frames_joined_are_the_bytes_that_came(stream: bytes, at: list[int]) -> None:
    frames = decoded(SSE(LIMIT), cut(stream, at))

    joined = b"".join(frame.raw for frame in frames)
    assert stream.startswith(joined)
    assert not stream[len(joined) :].strip(b"\r\n")


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.lists(st.sampled_from([b'{"a":1}', b"", b" ", b"\r", "é\u2028".encode()]), max_size=20),
    st.lists(st.integers(0, 500), max_size=20),
)
def test_lines_are_cut_at_line_feeds_alone(lines: list[bytes], at: list[int]) -> None:
    stream = b"\n".join(lines)

    frames = decoded(NDJSON(LIMIT), cut(stream, at))

    assert [frame.data for frame in frames] == [line for line in lines if line.strip()]


@pytest.mark.parametrize("decoder", [SSE, NDJSON])
def test_an_event_beyond_the_limit_is_refused_before_it_is_whole(
    decoder: Callable[[int], Decoder],
) -> None:
    reading = decoder(1000)
    for _ in range(100):
        reading.feed(b"0123456789")

    with pytest.raises(UpstreamError) as caught:
        reading.feed(b"0")

    assert caught.value.code == "event_too_large"


def test_a_giant_line_in_small_pieces_takes_time_that_grows_with_its_length_alone() -> None:
    searched: list[int] = []
    reading = SSE(LIMIT)

    for _ in range(LIMIT // 10):
        reading.feed(b"x" * 10)
        searched.append(reading._searched)

    assert searched == sorted(searched)
    assert searched[-1] >= LIMIT - 13  # each byte is looked at about once


def test_an_event_written_is_the_event_read() -> None:
    (frame,) = SSE(LIMIT).feed(sse(b"one\ntwo", "news"))

    assert (frame.data, frame.name) == (b"one\ntwo", "news")


def test_a_stream_of_line_ends_is_looked_at_once() -> None:
    reading = SSE(LIMIT)

    for _ in range(LIMIT // 200):
        assert reading.feed(b"\n" * 100) == []
        assert reading._blank == len(reading._buffer)

    assert carried(reading.feed(b"data: a\n\n")) == [(b"a", None)]
