"""What vLLM tells of its prefix cache, cut down to names of blocks and handed through a pipe.

vLLM publishes which blocks it stores and removes, with their tokens and cache salts, to whoever subscribes. The
subscriber is a thread in vLLM's own server process: neither leaves vLLM's processes, nobody else on the machine can
subscribe, and p2pagent needs no ZeroMQ. Of events only what stands in the classes here is ever decoded.

Runs under vLLM's interpreter, started by vllm_launch.py, and imports nothing of p2pagent; the daemon imports it for
the records at the other end. The layout is that of vLLM 0.32, vllm/distributed/kv_events.py.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated

from msgspec import Meta, MsgspecError, Struct, msgpack

NAME_BYTES = 8
"""What vLLM tells of a block's hash: the last 64 bits. A false match costs no more than a wrong estimate."""

RECORD_BYTES_MAX = 1 << 20
LENGTH_BYTES = 4
QUEUED_MAX = 1000
"""Batches, one per step of the scheduler, that wait on each side while nobody reads; later ones are lost, and seen to
be."""

WHOLE_PREFIX_KINDS = {None, "full_attention", "mla_attention"}
"""Kinds of attention for which a cached prefix is a run of blocks from the first on."""


class Stored(Struct, frozen=True, array_like=True, tag=0):
    """Blocks of `block_tokens` tokens were computed and may be found by their `names`, `NAME_BYTES` each, in a row.

    A name that is there already has one copy more.
    """

    block_tokens: int
    names: bytes


class Removed(Struct, frozen=True, array_like=True, tag=1):
    """One copy of each of these is gone."""

    names: bytes


class Cleared(Struct, frozen=True, array_like=True, tag=2):
    """Nothing is cached."""


class Lost(Struct, frozen=True, array_like=True, tag=3):
    """Something was not heard or not understood: what was true before need not be true now."""


class Ended(Struct, frozen=True, array_like=True, tag=4):
    """Nothing more will be told."""


Record = Stored | Removed | Cleared | Lost | Ended


Hash = Annotated[bytes, Meta(min_length=NAME_BYTES)] | Annotated[int, Meta(ge=0)]
"""All of it, or its last 64 bits as a number: `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES`."""


class BlockStored(Struct, tag=True):
    """vLLM's event, without tokens and keys."""

    block_hashes: list[Hash]
    block_size: int
    medium: str | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(Struct, tag=True):
    """vLLM's event."""

    block_hashes: list[Hash]
    medium: str | None = None


class AllBlocksCleared(Struct, tag=True):
    """vLLM's event."""


class _Batch(Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


class UnfitError(Exception):
    """This cache is not one run of blocks per prompt, so nothing can be said of it here."""


class Listener:
    """Makes records of what is published, and notices what is missing."""

    def __init__(self) -> None:
        self._decoder = msgpack.Decoder(_Batch)
        self._due = 0

    def records(self, frames: Sequence[bytes]) -> list[Record]:
        """Read a message: topic, sequence number from 0 on in 8 bytes, batch of events.

        Raises:
            UnfitError: blocks belong to several groups, or a prefix is not needed whole.
        """
        try:
            _, sequence, payload = frames
            events = self._decoder.decode(payload).events
        except (ValueError, MsgspecError):
            self._due += 1
            return [Lost()]
        number = int.from_bytes(sequence, "big")
        records: list[Record] = [] if number == self._due else [Lost()]
        self._due = number + 1
        for event in events:
            record = _record(event)
            if isinstance(record, Removed) and records and isinstance(records[-1], Removed):
                records[-1] = Removed(records[-1].names + record.names)
            elif record is not None:
                records.append(record)
        return records


def _record(event: BlockStored | BlockRemoved | AllBlocksCleared) -> Record | None:
    if isinstance(event, AllBlocksCleared):
        return Cleared()
    if event.medium not in {None, "GPU"}:  # which is also what the CPU backend calls its own; others are further tiers
        return None
    if isinstance(event, BlockRemoved):
        return Removed(_names(event.block_hashes))
    if event.group_idx or event.kv_cache_spec_kind not in WHOLE_PREFIX_KINDS:
        raise UnfitError(f"group {event.group_idx} of kind {event.kv_cache_spec_kind}")
    return Stored(event.block_size, _names(event.block_hashes))


def _names(hashes: list[Hash]) -> bytes:
    """Both forms of a hash end in the same bytes (`maybe_convert_block_hash`)."""
    short = (value if isinstance(value, bytes) else value.to_bytes(NAME_BYTES, "big") for value in hashes)
    return b"".join(name[-NAME_BYTES:] for name in short)


def framed(record: Record) -> bytes:
    """A record as it goes through the pipe, its length first."""
    data = msgpack.encode(record)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


class RecordReader:
    """Takes records out of what the pipe brings. Bytes that are no record are told as `Ended`, and nothing after them.

    The end of the pipe is that of vLLM itself, and of all that it held: it is told as `Lost`, once.
    """

    def __init__(self) -> None:
        self._decoder: msgpack.Decoder[Record] = msgpack.Decoder(Record)
        self._pending = bytearray()
        self._has_ended = False

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes; none mean that the pipe has ended."""
        records: list[Record] = []
        if self._has_ended:
            return records
        if not data:
            self._has_ended = True
            return [Lost()]
        self._pending += data
        while len(self._pending) >= LENGTH_BYTES and not self._has_ended:
            end = LENGTH_BYTES + int.from_bytes(self._pending[:LENGTH_BYTES], "big")
            if len(self._pending) < end <= RECORD_BYTES_MAX:
                break
            try:
                records.append(
                    self._decoder.decode(self._pending[LENGTH_BYTES:end] if end <= RECORD_BYTES_MAX else b"")
                )
            except MsgspecError:
                self._has_ended = True
                records.append(Ended())
            del self._pending[:end]
        return records


def arguments(endpoint: str) -> list[str]:
    """What vLLM's command line needs in order to publish at `endpoint`; nothing is kept there to be told again."""
    kept = {"buffer_steps": 1, "hwm": QUEUED_MAX}
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint, **kept}
    return ["--kv-events-config", json.dumps(events)]


def decline(reason: str, descriptor: int) -> None:
    """Write to `descriptor` and into the engine's log that nothing will be told."""
    sys.stderr.write(f"no word of the prefix cache: {reason}\n")
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        pipe.write(framed(Ended()))


def relay(endpoint: str, descriptor: int) -> None:
    """Write to `descriptor` what is published at `endpoint` for as long as anybody reads it.

    What goes wrong here is told in the engine's log and at the other end, and is no harm to the engine.
    """
    listener = Listener()
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
        try:
            for frames in _published(endpoint):
                pipe.write(b"".join(map(framed, listener.records(frames))))
                pipe.flush()
        except BrokenPipeError:
            raise
        except Exception as error:
            sys.stderr.write(f"no word of the prefix cache from now on: {type(error).__name__}: {error}\n")
            pipe.write(framed(Ended()))


def _published(endpoint: str) -> Iterator[list[bytes]]:
    import zmq  # type: ignore[import-not-found, unused-ignore]  # vLLM's interpreter has it

    subscriber = zmq.Context().socket(zmq.SUB)
    subscriber.set_hwm(QUEUED_MAX)
    subscriber.subscribe(b"")
    subscriber.connect(endpoint)  # which is tried again until vLLM is there
    while True:
        yield subscriber.recv_multipart()
