"""The one door to libp2p: a network that is run, told to send, and reports events."""

from collections.abc import AsyncIterator, Callable, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, cast

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from trio_typing import TaskStatus

from p2pagent.errors import bare_local_errors
from p2pagent.keys import Ed25519Keys
from p2pagent.net.ahead import Ahead
from p2pagent.net.cells import Cells
from p2pagent.net.discovery import (
    AddressBook,
    Contacts,
    Dialler,
    check_listen,
    parse_address,
    parse_bootstrap,
)
from p2pagent.net.events import (
    NetConfig,
    NetEvent,
    NetStatistics,
    OnEvent,
    PeerDown,
    PeerIdle,
    PeerUp,
    SendFailed,
    Tally,
)
from p2pagent.net.guards import Guard, GuardedSwarm, quiet_libp2p
from p2pagent.net.host import bound_addresses, new_host, peer_id_of
from p2pagent.net.multicast import Multicast
from p2pagent.net.muxer import LEAVING, LET_GO, yamux_of
from p2pagent.net.neighbours import Neighbours
from p2pagent.net.streams import Lanes
from p2pagent.types import PeerId

FAREWELL_LIMIT_S = 2.0
PROBE_LIMIT_S = 2.0


class Network:
    """This peer, whose ed25519 key has the 32-byte `seed`, on the network.

    `on_event` is called from the tasks of the network; it must neither block nor raise, and an exception of it ends
    `run`. Neighbours that are `counterparties` are let go last.
    """

    def __init__(
        self,
        seed: bytes,
        config: NetConfig,
        protocols: tuple[str, ...],
        on_event: OnEvent,
        counterparties: Callable[[], Set[PeerId]] = frozenset,
    ) -> None:
        """Prepare everything; nothing is bound or dialled before `run`.

        Raises:
            LocalError: with `Exit.CONFIG`, the configuration makes no sense.
        """
        quiet_libp2p()
        self.peer = Ed25519Keys(seed).peer
        self._config = config
        self._owner = on_event
        check_listen(config.listen)
        self._bootstrap = parse_bootstrap(config.bootstrap)
        self._tally = Tally()
        self._guard = Guard(self._tally)
        self._host = new_host(seed, config, self._guard)
        self._swarm = cast(GuardedSwarm, self._host.get_network())
        self._book = AddressBook()
        self._dialler = Dialler(self._host, self._book)
        self._counterparties = counterparties
        bootstrap = {peer for peer, _, _ in self._bootstrap}
        self._neighbours = Neighbours(config.neighbours_max, bootstrap, self._engaged)
        self._ahead = Ahead(self._dialler, lambda: self._neighbours.room, self._start)
        self._contacts = Contacts(self._dialler, self._dial_ahead, self._book, self._emit)
        self._cells = Cells(self._host, self._dialler, self._book, self._guard)
        self._lanes = Lanes(self._host, self._dialler.connect, self._exchanged, config, self._emit, self._tally)
        for protocol in protocols:
            self._host.set_stream_handler(TProtocol(protocol), self._lanes.handle)
        self._tasks: trio.Nursery | None = None
        self._owner_failed = trio.Event()
        self._owner_error: Exception | None = None
        self._swarm.register_notifee(_Watcher(self))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, then serve until cancelled; says goodbye to the neighbours before it returns.

        Raises:
            LocalError: with `Exit.PORT_TAKEN`, an address to listen on cannot be bound.
        """
        stop = trio.Event()
        with bare_local_errors():
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(self._serve, stop)
                    task_status.started()
                    await self._owner_failed.wait()
                finally:
                    stop.set()
        if self._owner_error is not None:
            raise self._owner_error

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses at which others can dial this peer, each with its peer id at the end."""
        return bound_addresses(self._host)

    def send(self, peer: PeerId, protocol: str, payload: bytes) -> None:
        """Queue one frame for a peer, connecting first if need be; what does not leave is reported as `SendFailed`.

        Raises:
            ValueError: the payload is longer than a frame may be.
        """
        try:
            found = peer_id_of(peer)
        except ValueError as error:
            self._emit(SendFailed(peer, protocol, 1, str(error)))
        else:
            self._lanes.send(found, protocol, payload)

    def learn_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where a peer listens; what is not a TCP address of that very peer, in numbers, is ignored.

        Host names are only for addresses that the owner gave: nobody else is to have us look up what they like.
        """
        try:
            owner = peer_id_of(peer)
        except ValueError:
            return
        good = []
        for text in addresses:
            try:
                named, address = parse_address(text)
            except ValueError:
                continue
            if named in (None, owner) and not str(address).startswith("/dns"):
                good.append(address)
        if good:
            self._learn(owner, good)

    def connect(self, peer: PeerId) -> None:
        """Start connecting to a peer, so that a later frame finds the way open, if there is room for a neighbour."""
        try:
            found = peer_id_of(peer)
        except ValueError:
            return
        self._dial_ahead(found)

    def disconnect(self, peer: PeerId) -> None:
        """Start closing the connections to a peer; it is not dialled again before there is something to send."""
        try:
            found = peer_id_of(peer)
        except ValueError:
            return
        self._start(self._close_peer, found, LEAVING)

    async def provide(self, cell: str) -> bool:
        """Announce in the DHT that this peer serves a cell; True when at least one peer has taken note."""
        return await self._cells.provide(cell)

    async def find(self, cell: str, count: int) -> tuple[PeerId, ...]:
        """Find up to `count` other peers that serve a cell; those returned are connected."""
        return await self._cells.find(cell, count)

    def statistics(self) -> NetStatistics:
        """Return the counters as of now."""
        return NetStatistics(len(self._neighbours), **asdict(self._tally))

    async def _serve(self, stop: trio.Event, *, task_status: TaskStatus[None]) -> None:
        # The shield makes the end orderly: first the farewells, then libp2p's tasks. Nothing of it is cut in a write.
        with trio.CancelScope(shield=True):
            async with self._services(), trio.open_nursery() as tasks:
                self._tasks = tasks
                await tasks.start(self._lanes.run)
                await self._swarm.listen(*map(Multiaddr, self._config.listen))
                for peer, address, text in self._bootstrap:
                    tasks.start_soon(self._contacts.keep_bootstrap, peer, address, text)
                if self._config.mdns:
                    own = self._swarm.get_peer_id()
                    tasks.start_soon(Multicast(own, self.addresses, self._heard, self._guard).run)
                task_status.started()
                await stop.wait()
                self._tasks = None
                await self._say_goodbye()
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for service in (self._swarm, self._cells.dht):
                await stack.enter_async_context(self._guard.service(service))
            yield

    async def _say_goodbye(self) -> None:
        # Stopping the swarm's service is meant to do all this, but is cancelled before it gets to it.
        with trio.move_on_after(FAREWELL_LIMIT_S):
            async with trio.open_nursery() as nursery:
                for connection in self._swarm.get_connections():
                    nursery.start_soon(connection.close)
            # Not earlier: it cuts the connections that came in through it.
            for listener in self._swarm.listeners.values():
                await listener.close()

    async def _close_peer(self, peer: ID, code: int) -> None:
        for yamux in map(yamux_of, self._swarm.get_connections(peer)):
            if yamux.is_established:
                await yamux.close(code)

    def _start(self, task: Callable[..., Any], *args: object) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(task, *args)

    def _dial_ahead(self, peer: ID) -> None:
        if self._tasks is not None:
            self._ahead.dial(peer)

    def _learn(self, peer: ID, addresses: list[Multiaddr]) -> None:
        self._book.learn(peer, addresses)
        self._swarm.unblock_peer(peer)

    def _heard(self, peer: ID, addresses: list[Multiaddr]) -> None:
        self._learn(peer, addresses)
        self._dial_ahead(peer)

    def _engaged(self) -> set[ID]:
        return {peer_id_of(peer) for peer in self._counterparties()}

    def _exchanged(self, peer: ID) -> None:
        self._neighbours.exchanged(peer, trio.current_time())

    def _emit(self, event: NetEvent) -> None:
        try:
            self._owner(event)
        except Exception as error:
            # Raised here, it would end in one of the guards and look like a peer's fault.
            self._owner_error = self._owner_error or error
            self._owner_failed.set()

    def connection_up(self, connection: INetConn) -> None:
        """Take note of a new connection (called by libp2p's notifee)."""
        peer = connection.muxed_conn.peer_id
        # The peer has come back on a new connection, or both sides dialled and both connections are alive.
        for other in self._swarm.get_connections(peer):
            if other is not connection and self._tasks is not None:
                yamux_of(other).suspect()
                self._tasks.start_soon(yamux_of(other).challenge, PROBE_LIMIT_S)
        self._swarm.unblock_peer(peer)
        self._start(self._cells.add, connection)
        if self._neighbours.up(peer, trio.current_time()):
            self._contacts.up(peer)
            self._emit(PeerUp(PeerId(peer.to_base58())))
        for idle in self._neighbours.let_go(peer, trio.current_time()):
            self._start(self._close_peer, idle, LET_GO)

    def connection_down(self, connection: INetConn) -> None:
        """Take note of a closed connection (called by libp2p's notifee)."""
        peer = connection.muxed_conn.peer_id
        if self._dialler.connected(peer) or not self._neighbours.down(peer):
            return
        farewell = yamux_of(connection).farewell
        self._contacts.down(peer, let_go=farewell == LET_GO)
        if farewell != LET_GO:
            self._cells.remove(peer)
        if farewell is not None:
            self._emit(PeerIdle(PeerId(peer.to_base58())))
        else:
            self._emit(PeerDown(PeerId(peer.to_base58())))
            self._start(self._contacts.bring_back, peer)


class _Watcher(INotifee):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def connected(self, _swarm: INetwork, conn: INetConn) -> None:
        self._network.connection_up(conn)

    async def disconnected(self, _swarm: INetwork, conn: INetConn) -> None:
        self._network.connection_down(conn)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...
