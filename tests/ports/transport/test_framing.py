"""Frames, cut at any place."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.adapters.transport.framing import FrameReader, Kind, control_frame, frame, open_control_frame
from wwwmarket.domain.errors import Malformed, TooLarge


@given(payloads=st.lists(st.binary(max_size=200)), cuts=st.lists(st.integers(0, 4000)))
def test_frames_are_the_same_however_the_bytes_arrive(payloads, cuts) -> None:
    """Whole frames come out in order, as soon as they are whole, and nothing is left."""
    joined = b"".join(frame(payload) for payload in payloads)
    bounds = sorted({0, *(cut for cut in cuts if cut < len(joined)), len(joined)})
    reader, seen = FrameReader(200), []
    for start, end in itertools.pairwise(bounds):
        reader.feed(joined[start:end])
        while (payload := reader.next()) is not None:
            seen.append(payload)
    assert seen == payloads
    assert not reader.torn


@given(st.integers(201, 2**32 - 1))
def test_an_announced_length_over_the_limit_is_refused_at_once(length) -> None:
    """Four bytes are enough to refuse it, after the frames before it."""
    reader = FrameReader(200)
    reader.feed(frame(b"before") + length.to_bytes(4, "big"))
    assert reader.next() == b"before"
    with pytest.raises(TooLarge):
        reader.next()


def test_part_of_a_frame_is_torn() -> None:
    """Until the rest is there."""
    reader = FrameReader(200)
    reader.feed(frame(b"abc")[:6])
    assert reader.next() is None
    assert reader.torn
    reader.feed(b"c")
    assert reader.next() == b"abc"
    assert not reader.torn


@given(number=st.integers(0, 2**64 - 1), kind=st.sampled_from(Kind), payload=st.binary(max_size=100))
def test_a_control_frame_opens_to_what_was_put_in(number, kind, payload) -> None:
    """Number, kind and payload survive."""
    reader = FrameReader(200)
    reader.feed(control_frame(number, kind, payload))
    assert open_control_frame(reader.next() or b"") == (number, kind, payload)


@pytest.mark.parametrize("body", [b"", bytes(8), bytes(9), bytes(8) + b"\x06"])
def test_what_is_no_control_frame_is_malformed(body) -> None:
    """Too short, or of a kind that there is not."""
    with pytest.raises(Malformed):
        open_control_frame(body)
