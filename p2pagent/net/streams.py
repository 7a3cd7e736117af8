"""Frames over long-lived streams: one lane per neighbour and protocol, both directions on either side's stream.

Whoever has something to say first opens a stream. Answers go back on the stream that the neighbour opened, so a client
that only dials works; both sides opening at once leaves two streams, which does no harm. A lane writes from one task
and keeps to one stream while that works, because only within a stream do frames arrive in order.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from trio_typing import TaskStatus

from p2pagent.net.events import FrameReceived, NetConfig, OnEvent, ProtocolViolation, SendFailed, Tally
from p2pagent.net.frames import FrameSplitter, FramingError, encode_frame
from p2pagent.net.guards import CHUNK_BYTES, reset, write_all
from p2pagent.net.muxer import yamux_of
from p2pagent.peer.wire import GOSSIP_PROTOCOL
from p2pagent.types import PeerId

OPEN_LIMIT_S = 10.0
IDLE_LIMIT_S = 60.0
"""How long a lane without a stream or a frame is kept."""

LINGER_LIMIT_S = 300.0
"""How long a stream stays open for our answers after the neighbour has finished writing."""

INBOUND_STREAMS_MAX = 4
"""Streams of one protocol that one neighbour may hold open towards us."""

QUEUE_BYTES_MAX = 8 << 20

Dial = Callable[[ID], Awaitable[str | None]]
"""Connects to a peer; returns None, or why that is not possible."""

Exchanged = Callable[[ID], None]
"""Takes note of a frame to or from a peer, gossip apart."""


class _Lane:
    """What is on its way to one neighbour on one protocol, and the streams it can take."""

    def __init__(self, peer: ID, protocol: str) -> None:
        self.peer = peer
        self.protocol = protocol
        self.name = PeerId(peer.to_base58())
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.wake = trio.Event()
        self.inbound: list[INetStream] = []
        self.outbound: INetStream | None = None
        self.half_closed: list[INetStream] = []
        self.current: INetStream | None = None

    def stream(self) -> INetStream | None:
        """Choose the stream to write on: the one in use, the neighbour's newest, ours, a half-closed one."""
        candidates = [self.current, *reversed(self.inbound), self.outbound]
        usable = [stream for stream in candidates if stream is not None and _writable(stream)]
        whole = [stream for stream in usable if stream not in self.half_closed]
        self.current = next(iter(whole + usable), None)
        return self.current

    def forget(self, stream: INetStream) -> None:
        if stream in self.inbound:
            self.inbound.remove(stream)
        if self.outbound is stream:
            self.outbound = None
        if self.current is stream:
            self.current = None
        if stream in self.half_closed:
            self.half_closed.remove(stream)
        self.wake.set()

    def take(self) -> list[bytes]:
        """Take what fits one chunk, at least one frame."""
        frames = [self.queue.popleft()]
        size = len(frames[0])
        while self.queue and size + len(self.queue[0]) <= CHUNK_BYTES:
            frames.append(self.queue.popleft())
            size += len(frames[-1])
        self.queued_bytes -= size
        return frames


class Lanes:
    """All lanes of this peer."""

    def __init__(
        self, host: Any, dial: Dial, exchanged: Exchanged, config: NetConfig, on_event: OnEvent, tally: Tally
    ) -> None:
        self._host = host
        self._dial = dial
        self._exchanged = exchanged
        self._config = config
        self._on_event = on_event
        self._tally = tally
        self._lanes: dict[tuple[ID, str], _Lane] = {}
        self._lanes_max = 16 * config.neighbours_max
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all lanes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def send(self, peer: ID, protocol: str, payload: bytes) -> None:
        """Queue one frame; a full queue drops it and reports `SendFailed`.

        Raises:
            ValueError: the payload is longer than a frame may be.
        """
        if len(payload) > self._config.frame_bytes_max:
            raise ValueError(f"frame of {len(payload)} bytes, at most {self._config.frame_bytes_max}")
        lane = self._lane(peer, protocol)
        if lane is None:
            self._lost(peer, protocol, 1, "too many neighbours at once")
        elif len(lane.queue) >= self._config.queue_frames_max or lane.queued_bytes + len(payload) > QUEUE_BYTES_MAX:
            self._lost(peer, protocol, 1, "the queue to this neighbour is full")
        else:
            lane.queue.append(payload)
            lane.queued_bytes += len(payload)
            lane.wake.set()

    async def handle(self, stream: INetStream) -> None:
        """Serve a stream that a neighbour has opened, until it is of no more use."""
        lane = self._lane(stream.muxed_conn.peer_id, str(stream.get_protocol()))
        if lane is None:
            await reset(stream)
            return
        lane.inbound.append(stream)
        if len(lane.inbound) > INBOUND_STREAMS_MAX:
            await reset(next(iter(lane.half_closed), lane.inbound[0]))
        await self._serve(lane, stream)

    def _lane(self, peer: ID, protocol: str) -> _Lane | None:
        lane = self._lanes.get((peer, protocol))
        if lane is None and self._nursery is not None and len(self._lanes) < self._lanes_max:
            lane = self._lanes[peer, protocol] = _Lane(peer, protocol)
            self._nursery.start_soon(self._write, lane)
        return lane

    async def _write(self, lane: _Lane) -> None:
        try:
            while True:
                lane.wake = trio.Event()
                while lane.queue:
                    await self._write_some(lane)
                with trio.move_on_after(IDLE_LIMIT_S) as idle:
                    await lane.wake.wait()
                if idle.cancelled_caught and not (lane.queue or lane.inbound or lane.outbound):
                    return
        finally:
            del self._lanes[lane.peer, lane.protocol]

    async def _write_some(self, lane: _Lane) -> None:
        stream = lane.stream()
        if stream is not None:
            # If its connection turns out to be a dead one, frames written now would be lost without a trace.
            await yamux_of(stream).settled()
            stream = lane.stream()
        try:
            if stream is None:
                stream = await self._open(lane)
            frames = lane.take()
        except Exception as error:
            lost = len(lane.queue)
            lane.queue.clear()
            lane.queued_bytes = 0
            self._lost(lane.peer, lane.protocol, lost, str(error) or type(error).__name__)
            return
        self._note(lane)
        try:
            await write_all(stream, b"".join(map(encode_frame, frames)))
        except Exception as error:
            lane.forget(stream)
            await reset(stream)
            self._lost(lane.peer, lane.protocol, len(frames), f"stream broke: {error!r}")
        else:
            self._tally.frames_out += len(frames)
            self._tally.bytes_out += sum(map(len, frames))

    async def _open(self, lane: _Lane) -> INetStream:
        reason = await self._dial(lane.peer)
        if reason is not None:
            raise ConnectionError(reason)
        # While we dialled, the neighbour may have opened one.
        stream = lane.stream()
        if stream is None:
            with trio.fail_after(OPEN_LIMIT_S):
                stream = await self._host.new_stream(lane.peer, [TProtocol(lane.protocol)])
            lane.outbound = lane.current = stream
            assert self._nursery is not None
            self._nursery.start_soon(self._serve, lane, stream)
        return stream

    async def _serve(self, lane: _Lane, stream: INetStream) -> None:
        try:
            if await self._read(lane, stream):
                lane.half_closed.append(stream)
                with trio.move_on_after(LINGER_LIMIT_S):
                    await yamux_of(stream).event_closed.wait()
        finally:
            lane.forget(stream)
            await reset(stream)

    async def _read(self, lane: _Lane, stream: INetStream) -> bool:
        """Deliver frames to the end; True when the neighbour finished writing, False when the stream is gone."""
        splitter = FrameSplitter(self._config.frame_bytes_max)
        try:
            while data := await stream.read(CHUNK_BYTES):
                for payload in splitter.feed(data):
                    self._note(lane)
                    self._tally.frames_in += 1
                    self._tally.bytes_in += len(payload)
                    self._on_event(FrameReceived(lane.name, lane.protocol, payload))
        except FramingError as error:
            self._tally.violations += 1
            self._on_event(ProtocolViolation(lane.name, lane.protocol, str(error)))
            return False
        except StreamEOF:
            return _writable(stream)
        except StreamError:
            return False
        return _writable(stream)

    def _note(self, lane: _Lane) -> None:
        if lane.protocol != GOSSIP_PROTOCOL:
            self._exchanged(lane.peer)

    def _lost(self, peer: ID, protocol: str, frames: int, reason: str) -> None:
        self._tally.frames_dropped += frames
        self._on_event(SendFailed(PeerId(peer.to_base58()), protocol, frames, reason))


def _writable(stream: INetStream) -> bool:
    yamux = cast(NetStream, stream).muxed_stream
    assert isinstance(yamux, YamuxStream)
    return yamux.conn.is_established and not (yamux.send_closed or yamux.closed or yamux.reset_received)
