"""Frames on a byte stream: an unsigned varint (LEB128, as in multiformats) with the length, then the payload."""

from collections.abc import Iterator

from p2pagent.errors import RemoteError


class FramingError(RemoteError):
    """Bytes that cannot be the next frame: a length that is too large or not minimally encoded."""


def encode_frame(payload: bytes) -> bytes:
    """Return the payload with its length in front."""
    prefix = bytearray()
    length = len(payload)
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload


class FrameSplitter:
    """Cuts a stream of bytes, however it is chunked, into payloads.

    Holds at most one frame and one chunk. After a `FramingError` the stream has no meaning any more.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._prefix_bytes_max = max(1, -(-frame_bytes_max.bit_length() // 7))
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next chunk and yield every payload that is now complete.

        Payloads in front of a broken frame are yielded before the error.

        Raises:
            FramingError: the bytes are not a frame, or one longer than allowed.
        """
        self._buffer += data
        start = 0
        try:
            while (found := self._length_at(start)) is not None:
                length, body = found
                if len(self._buffer) - body < length:
                    return
                yield bytes(self._buffer[body : body + length])
                start = body + length
        finally:
            del self._buffer[:start]

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame that are waiting for the rest."""
        return len(self._buffer)

    def _length_at(self, start: int) -> tuple[int, int] | None:
        """Return the length of the frame at `start` and where its body begins; None when the prefix is incomplete."""
        length = 0
        for index, byte in enumerate(self._buffer[start : start + self._prefix_bytes_max]):
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise FramingError("frame length is not minimally encoded")
                if length > self._frame_bytes_max:
                    raise FramingError(f"frame of {length} bytes, at most {self._frame_bytes_max} allowed")
                return length, start + index + 1
        if len(self._buffer) - start >= self._prefix_bytes_max:
            raise FramingError(f"frame length needs more than {self._prefix_bytes_max} bytes")
        return None
