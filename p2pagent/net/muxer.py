"""Yamux that survives cancellation, notices a silent peer, and knows a farewell from a loss.

Every byte that libp2p sends, ours or its own (DHT, identify), passes through one method here. A write that is
cancelled half way leaves the Noise cipher states of both ends apart, and the connection is lost: so no write is ever
cancelled, and one that does not finish in time takes its connection with it.
"""

import struct

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    GO_AWAY_CONN_GARBAGE_COLLECTED,
    GO_AWAY_NORMAL,
    HEADER_SIZE,
    TYPE_GO_AWAY,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
)

WRITE_LIMIT_S = 10.0
"""How long one write may block before its connection is given up."""

LEAVING = GO_AWAY_NORMAL
LET_GO = GO_AWAY_CONN_GARBAGE_COLLECTED
"""Codes of a farewell in good order: the peer leaves or wants no more of us, or it had more connections than it wants.

Source of the second: ConnGarbageCollected in https://github.com/libp2p/go-libp2p/blob/master/core/network/conn.go
"""

CODE_BYTES = 4
GO_AWAY = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_GO_AWAY, 0, 0, 0)[:-CODE_BYTES]
PING_INTERVAL_S = 2.5
PONG_LIMIT_S = 2.5
"""How long to wait for the answer to a ping; two misses in a row end the connection, so silence is noticed in 7.5 s."""


class LiveYamux(Yamux):
    """Yamux with shielded writes and a ping that has consequences.

    `farewell` is the code, sent or received, with which the connection ended in good order.
    Twelve bytes of yamux ping replace libp2p's health monitor, which opens a stream per connection and check,
    one peer after another, so that one frozen peer delays finding the next.
    """

    _broken = False
    _verdict: trio.Event | None = None
    farewell: int | None = None

    def __init__(self, secured_conn: ISecureConn, peer_id: ID, *, is_initiator: bool) -> None:
        super().__init__(secured_conn, peer_id, is_initiator=is_initiator)
        # Stock yamux treats a farewell like any other end of the connection and tells nobody which it was.
        read = secured_conn.read

        async def overheard(n: int | None = None) -> bytes:
            data = await read(n)
            if len(data) == HEADER_SIZE and data[:-CODE_BYTES] == GO_AWAY:
                code = int.from_bytes(data[-CODE_BYTES:])
                self.farewell = code if code in (LEAVING, LET_GO) else None
            return data

        secured_conn.read = overheard  # type: ignore[method-assign]

    @property
    def is_established(self) -> bool:
        return not self._broken and super().is_established

    async def _write_frame(self, data: bytes) -> None:
        async with self._write_lock:
            # The TCP layer swallows writes to a socket that we closed: they must not look delivered.
            if self._broken or self.event_shutting_down.is_set():
                raise ConnectionClosedError("connection is closed", transport="yamux")
            with trio.CancelScope(shield=True):
                with trio.move_on_after(WRITE_LIMIT_S) as limit:
                    await self.secured_conn.write(data)
                if limit.cancelled_caught:
                    await self.abandon()
                    raise ConnectionClosedError("write took too long", transport="yamux")
        await trio.lowlevel.checkpoint()

    async def close(self, error_code: int = LEAVING) -> None:
        if self.is_established:
            self.farewell = error_code
        await super().close(error_code)

    async def abandon(self) -> None:
        """Cut the connection without a farewell; libp2p then cleans up as after any lost connection."""
        self._broken = True
        with trio.CancelScope(shield=True):
            await self.secured_conn.close()

    async def answers(self, limit_s: float) -> bool:
        """Ping the peer once; False when no answer came within `limit_s` seconds."""
        if self._ping_event.is_set():
            self._ping_event = trio.Event()
        pong = self._ping_event
        self._ping_id += 1
        with trio.move_on_after(limit_s):
            await self._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id))
            self._ping_sent_time = trio.current_time()
            await pong.wait()
        return pong.is_set()

    def suspect(self) -> None:
        """Hold back those who ask `settled` until `challenge` has found out whether this connection is alive."""
        if self._verdict is None:
            self._verdict = trio.Event()

    async def challenge(self, limit_s: float) -> None:
        """Ping the peer and cut the connection when no answer comes within `limit_s` seconds."""
        try:
            if not await self.answers(limit_s):
                await self.abandon()
        except ConnectionClosedError:
            pass
        finally:
            if self._verdict is not None:
                self._verdict.set()
                self._verdict = None

    async def settled(self) -> None:
        """Wait while this connection is under suspicion."""
        if self._verdict is not None:
            await self._verdict.wait()

    async def _measure_rtt_loop(self) -> None:
        try:
            while not self.event_shutting_down.is_set():
                # The second chance is for ourselves: after a stalled event loop the first limit has passed unseen.
                if not (await self.answers(PONG_LIMIT_S) or await self.answers(PONG_LIMIT_S)):
                    await self.abandon()
                    return
                with trio.move_on_after(PING_INTERVAL_S):
                    await self.event_shutting_down.wait()
        except ConnectionClosedError:
            return


class LiveMuxer(MuxerMultistream):
    """Negotiates yamux and builds ours; libp2p's own constructor names its class."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        yamux = LiveYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(yamux, conn, protocol)


def yamux_of(part: INetConn | INetStream) -> LiveYamux:
    """Return the muxer under a connection or a stream."""
    muxer = part.muxed_conn
    assert isinstance(muxer, LiveYamux)
    return muxer
