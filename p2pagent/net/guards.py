"""What keeps py-libp2p 0.8.1 from killing or deafening the daemon.

In this release one exception in one task of a service ends the whole host, a stream handler that raises for one. Each
class here wraps one such place and counts what it caught; the tests in
tests/integration/test_net.py show what each is for. Private names are used throughout: the version is pinned.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.tools.anyio_service.trio_manager import TrioManager

from p2pagent.net.events import Tally
from p2pagent.net.muxer import LiveYamux, yamux_of

CHUNK_BYTES = 1 << 16
"""Written in one piece: what yamux sends as one frame and Noise as one or two messages."""

STALL_LIMIT_S = 15.0
"""How long one chunk may wait for the reader before the peer is dropped; yamux gives up after 5 s without window."""

RESET_LIMIT_S = 2.0
RESTART_DELAY_S = 1.0
STREAMS_PER_CONNECTION_MAX = 64
"""Streams that one connection may have open towards us; a session between two of ours uses about ten."""

_log = logging.getLogger(__name__)


def quiet_libp2p() -> None:
    """Silence libp2p's logging, which reports every closed stream at WARNING.

    Parts of it log through the root logger itself, which would also install a handler on stderr behind our back.
    """
    libp2p = logging.getLogger("libp2p")
    libp2p.setLevel(logging.CRITICAL)
    libp2p.propagate = False  # some of its modules set a level of their own
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    if _is_ours not in root.filters:
        root.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return "libp2p" not in Path(record.pathname).parts


class Guard:
    """Catches, counts and logs what must not travel further."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._open_streams: Counter[int] = Counter()

    def caught(self, where: str, error: Exception) -> None:
        """Note an exception that has been stopped."""
        self.tally.guarded_exceptions += 1
        _log.debug("%s: %r", where, error, exc_info=error)

    def handler(self, handle: Callable[[INetStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
        """Wrap the handler of all inbound streams: an exception resets its stream, a flood of streams is refused."""

        async def guarded(stream: INetStream) -> None:
            connection = id(stream.muxed_conn)
            if self._open_streams[connection] >= STREAMS_PER_CONNECTION_MAX:
                await reset(stream)
                return
            self._open_streams[connection] += 1
            try:
                await handle(stream)
            except (StreamError, IOException):
                await reset(stream)
            except Exception as error:
                self.caught("stream handler", error)
                await reset(stream)
            finally:
                self._open_streams[connection] -= 1
                if not self._open_streams[connection]:
                    del self._open_streams[connection]

        return guarded

    @asynccontextmanager
    async def service(self, service: Any) -> AsyncIterator[None]:
        """Run a libp2p service for the length of the context; an exception in one of its tasks does not end it."""
        async with trio.open_nursery() as nursery:
            manager = _GuardedManager(service, self)
            service._manager = manager
            nursery.start_soon(manager.run)
            await manager.wait_started()
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await manager.stop()


class _GuardedManager(TrioManager):
    """Runs the tasks of a service; stock, the first exception in any of them ends the service and the host with it."""

    def __init__(self, service: Any, guard: Guard) -> None:
        super().__init__(service)
        self._guard = guard

    def run_task(
        self,
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        label = name or str(getattr(async_fn, "__qualname__", async_fn))

        async def guarded(*args: Any) -> None:
            while True:
                try:
                    await async_fn(*args)
                except Exception as error:
                    self._guard.caught(label, error)
                    if daemon:
                        await trio.sleep(RESTART_DELAY_S)
                        continue
                return

        task = async_fn if _internal else guarded
        super().run_task(task, *args, daemon=daemon, name=label, _internal=_internal)


class _IdleConnector(AutoConnector):
    """Stock, it dials whomever the swarm has heard of until half of the connections allowed are in use."""

    async def maybe_connect(self) -> None:
        return


class GuardedSwarm(Swarm):
    """A swarm that dials nobody unasked and accepts more connections in its life than it may hold at once."""

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _IdleConnector(self)

    async def upgrade_inbound_raw_conn(self, raw_conn: Any, maddr: Any) -> Any:
        muxed = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
        # The caller holds one of max_connections inbound slots until we raise; had we
        # returned, it would keep the slot and its task until the swarm stops, and a daemon would grow deaf.
        assert isinstance(muxed, LiveYamux)
        await muxed.event_closed.wait()
        raise SwarmException("inbound connection has ended")


async def reset(stream: INetStream) -> None:
    """Reset a stream, whatever state it is in; takes at most RESET_LIMIT_S seconds."""
    with trio.CancelScope(shield=True), trio.move_on_after(RESET_LIMIT_S):
        try:
            await stream.reset()
        except Exception as error:
            _log.debug("reset: %r", error)


async def write_all(stream: INetStream, data: bytes) -> None:
    """Write in chunks, each of which is finished even when the caller is cancelled.

    Raises:
        libp2p.network.stream.exceptions.StreamError: the stream broke; part of the data may have left.
        trio.TooSlowError: the peer has not read for STALL_LIMIT_S seconds; its connection has been cut.
    """
    for start in range(0, len(data), CHUNK_BYTES):
        with trio.CancelScope(shield=True):
            try:
                with trio.fail_after(STALL_LIMIT_S):
                    await stream.write(data[start : start + CHUNK_BYTES])
            except trio.TooSlowError:
                await yamux_of(stream).abandon()
                raise
        await trio.lowlevel.checkpoint()
