"""The frame splitter: any chunking, any garbage."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pagent.net.frames import FrameSplitter, FramingError, encode_frame

FRAME_BYTES_MAX = 300

payloads = st.lists(st.binary(max_size=FRAME_BYTES_MAX), max_size=8)


def split(data: bytes, cuts: list[int], frame_bytes_max: int = FRAME_BYTES_MAX) -> tuple[list[bytes], FrameSplitter]:
    splitter = FrameSplitter(frame_bytes_max)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [frame for start, end in pairwise(edges) for frame in splitter.feed(data[start:end])]
    return found, splitter


@given(payloads, st.lists(st.integers(min_value=0), max_size=20))
def test_any_chunking_gives_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    found, splitter = split(b"".join(map(encode_frame, sent)), cuts)
    assert found == sent
    assert splitter.pending == 0


@given(payloads.filter(bool))
def test_byte_by_byte(sent: list[bytes]) -> None:
    data = b"".join(map(encode_frame, sent))
    found, _ = split(data, list(range(len(data))))
    assert found == sent


@given(st.binary(max_size=2000), st.lists(st.integers(min_value=0), max_size=20))
def test_garbage_is_frames_or_a_framing_error_and_stays_bounded(data: bytes, cuts: list[int]) -> None:
    try:
        found, splitter = split(data, cuts)
    except FramingError:
        return
    assert all(len(frame) <= FRAME_BYTES_MAX for frame in found)
    assert splitter.pending <= FRAME_BYTES_MAX + 2


@pytest.mark.parametrize(
    ("length", "prefix"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (1 << 20, "808040")]
)
def test_prefix_is_an_unsigned_varint(length: int, prefix: str) -> None:
    frame = encode_frame(bytes(length))
    assert frame == bytes.fromhex(prefix) + bytes(length)
    assert list(FrameSplitter(1 << 20).feed(frame)) == [bytes(length)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_frame(bytes(FRAME_BYTES_MAX + 1)), "at most 300"),
        (b"\xff\x7f", "at most 300"),
        (b"\x80\x80\x80\x80", "more than 2 bytes"),
        (b"\x81\x00", "not minimally encoded"),
        (b"\x80\x00", "not minimally encoded"),
    ],
)
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(FramingError, match=reason):
        list(FrameSplitter(FRAME_BYTES_MAX).feed(data))


def test_frames_before_a_broken_one_are_delivered() -> None:
    frames = FrameSplitter(FRAME_BYTES_MAX).feed(encode_frame(b"one") + encode_frame(b"two") + b"\xff\xff\xff")
    assert next(frames) == b"one"
    assert next(frames) == b"two"
    with pytest.raises(FramingError):
        next(frames)


def test_an_announced_length_alone_costs_no_memory() -> None:
    splitter = FrameSplitter(1 << 20)
    assert list(splitter.feed(encode_frame(bytes(1 << 20))[:10])) == []
    assert splitter.pending == 10
