"""Real libp2p on loopback: talking, coming and going, and one regression test for each guard of p2pagent.net.guards.

Networks of the test's own process are enough where only sockets count; whoever is frozen or killed is a process.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.kad_dht.common import BUCKET_SIZE
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr

import p2pagent
from p2pagent import home
from p2pagent.errors import Exit, LocalError
from p2pagent.keys import Ed25519Keys
from p2pagent.net import (
    BootstrapFailed,
    FrameReceived,
    NetConfig,
    NetEvent,
    Network,
    PeerDown,
    PeerIdle,
    PeerUp,
    ProtocolViolation,
    SendFailed,
    discovery,
)
from p2pagent.net.cells import FIND_LIMIT_S
from p2pagent.net.frames import FrameSplitter, encode_frame
from p2pagent.net.guards import STREAMS_PER_CONNECTION_MAX, write_all
from p2pagent.net.host import UPGRADE_LIMIT_S, peer_id_of
from p2pagent.peer.wire import GOSSIP_PROTOCOL
from p2pagent.types import PeerId

pytestmark = pytest.mark.integration

PROTOCOL = "/test/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LIMIT_S = 20.0
"""For whatever takes well under a second on a quiet machine."""


class Recorder:
    """Collects events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._news = trio.Event()

    def note(self, event: Any) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, wanted: Callable[[Any], bool], limit_s: float = LIMIT_S) -> Any:
        """Return the first event, past or future, that is wanted."""
        seen = 0
        with trio.fail_after(limit_s):
            while True:
                for event in self.events[seen:]:
                    if wanted(event):
                        return event
                seen = len(self.events)
                self._news = trio.Event()
                await self._news.wait()

    async def kind(self, kind: type, limit_s: float = LIMIT_S, **fields: Any) -> Any:
        return await self.until(lambda event: isinstance(event, kind) and _has(event, fields), limit_s)


def _has(event: Any, fields: dict[str, Any]) -> bool:
    return all(getattr(event, name) == value for name, value in fields.items())


class Node(Recorder):
    """A network in this process."""

    network: Network

    @property
    def peer(self) -> PeerId:
        return self.network.peer

    def knows(self, other: "Node | Child") -> None:
        self.network.learn_addresses(other.peer, other.addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.network.addresses()


@asynccontextmanager
async def node(directory: Path, *, key: str | None = None, echo: bool = False, **config: Any) -> AsyncIterator[Node]:
    running = Node()
    key = key or os.urandom(4).hex()

    def on_event(event: NetEvent) -> None:
        running.note(event)
        if echo and isinstance(event, FrameReceived):
            running.network.send(event.peer, event.protocol, event.payload)

    running.network = Network(
        home.identity(directory / key),
        NetConfig(**{"listen": (LOOPBACK,), **config}),
        (PROTOCOL, GOSSIP_PROTOCOL),
        on_event,
    )
    async with trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            await nursery.start(running.network.run)
        yield running
        nursery.cancel_scope.cancel()


class Child(Recorder):
    """A network in a process of its own."""

    def __init__(self, process: trio.Process) -> None:
        super().__init__()
        self._process = process
        self.peer = PeerId("")
        self.addresses: tuple[str, ...] = ()

    async def told(self, name: str, limit_s: float = LIMIT_S, **fields: Any) -> dict[str, Any]:
        wanted = {"event": name, **fields}
        return await self.until(lambda event: wanted.items() <= event.items(), limit_s)

    async def do(self, what: str, **fields: Any) -> None:
        await self._process.stdin.send_all(json.dumps({"do": what, **fields}).encode() + b"\n")

    async def stop(self) -> None:
        await self._process.stdin.aclose()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def read(self) -> None:
        buffer = b""
        async for data in self._process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self.note(json.loads(line))


@asynccontextmanager
async def child(directory: Path, key: str, **config: Any) -> AsyncIterator[Child]:
    arguments = {"key": str(directory / key), "listen": [LOOPBACK], **config}
    command = [sys.executable, str(Path(__file__).with_name("net_peer.py")), json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(p2pagent.__file__).parents[1])}
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, env=environment)
    running = Child(process)
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(running.read)
            first = await running.until(lambda event: event["event"] in ("Started", "LocalError"))
            running.peer, running.addresses = PeerId(first.get("peer", "")), tuple(first.get("addresses", ()))
            yield running
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger(target: Node) -> AsyncIterator[BasicHost]:
    """A stock libp2p host, connected to the target and free to misbehave."""
    host = new_host(listen_addrs=[Multiaddr(LOOPBACK)])
    async with host.run([Multiaddr(LOOPBACK)]):
        with trio.fail_after(LIMIT_S):
            await host.connect(info_from_p2p_addr(Multiaddr(target.addresses[0])))
            await target.kind(PeerUp, peer=PeerId(host.get_id().to_base58()))
        try:
            yield host
        finally:
            # Stock libp2p leaves the sockets open.
            with trio.CancelScope(shield=True):
                for connection in host.get_network().get_connections():
                    await connection.close()


async def open_stream(host: BasicHost, target: Node, protocol: str = PROTOCOL) -> INetStream:
    info = info_from_p2p_addr(Multiaddr(target.addresses[0]))
    return await host.new_stream(info.peer_id, [TProtocol(protocol)])


async def gone(stream: INetStream) -> None:
    """Wait until the other side has reset the stream."""
    with trio.fail_after(LIMIT_S):
        try:
            while True:
                await stream.read(100)
        except StreamError:
            return


async def echoes(asker: Node, answerer: "Node | Child", payload: bytes = b"hello?") -> None:
    """Check that frames reach the answerer and come back, and leave no trace of it."""
    before = len(asker.events)
    asker.network.send(answerer.peer, PROTOCOL, payload)
    await asker.until(
        lambda event: event == FrameReceived(answerer.peer, PROTOCOL, payload) and event in asker.events[before:]
    )
    del asker.events[before:]


# Talking


async def test_frames_go_both_ways(tmp_path: Path) -> None:
    async with node(tmp_path, echo=True) as a, child(tmp_path, "b", bootstrap=a.addresses, echo=True) as b:
        await a.kind(PeerUp, peer=b.peer)
        await b.told("PeerUp", peer=a.peer)
        await echoes(a, b)
        await b.do("send", peer=a.peer, protocol=PROTOCOL, payload="from b")
        await b.told("FrameReceived", payload="from b")
        await echoes(a, b, os.urandom(1 << 19).hex().encode())
        assert a.network.statistics().neighbours == 1
        assert a.network.statistics().guarded_exceptions == 0


async def test_a_frame_dials_by_itself_and_both_sides_at_once_do_no_harm(tmp_path: Path) -> None:
    async with node(tmp_path) as a, node(tmp_path) as b:
        a.network.learn_addresses(
            b.peer,
            ("nonsense", "/ip4/127.0.0.1/udp/1/quic-v1", f"/ip4/127.0.0.1/tcp/1/p2p/{a.peer}", "/ip4/127.0.0.1/tcp/1"),
        )
        a.network.send(b.peer, PROTOCOL, b"too early")
        failed = await a.kind(SendFailed, peer=b.peer, frames=1)
        assert "/ip4/127.0.0.1/tcp/1:" in failed.reason
        assert f"/p2p/{a.peer}" not in failed.reason
        a.knows(b)
        b.knows(a)
        for number in range(20):
            a.network.send(b.peer, PROTOCOL, b"%d" % number)
            b.network.send(a.peer, PROTOCOL, b"%d" % number)
        await a.kind(FrameReceived, payload=b"19")
        await b.kind(FrameReceived, payload=b"19")
        for side in (a, b):
            payloads = [event.payload for event in side.events if isinstance(event, FrameReceived)]
            assert payloads == [b"%d" % number for number in range(20)]


def peer_of(folder: Path) -> PeerId:
    return Ed25519Keys(home.identity(folder)).peer


async def test_nobody_there_is_one_failed_send_of_all_that_waits(tmp_path: Path) -> None:
    async with node(tmp_path) as a:
        nobody = peer_of(tmp_path / "nobody")
        for _ in range(3):
            a.network.send(nobody, PROTOCOL, b"anyone?")
        failed = await a.kind(SendFailed, peer=nobody)
        assert (failed.frames, failed.reason) == (3, "no address is known")
        a.network.send(PeerId("not a peer id"), PROTOCOL, b"")
        await a.kind(SendFailed, peer="not a peer id")
        a.network.send(a.peer, PROTOCOL, b"")
        await a.kind(SendFailed, peer=a.peer)


@asynccontextmanager
async def silence(count: int) -> AsyncIterator[tuple[str, ...]]:
    """Addresses that accept connections and then say nothing."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        yield tuple(f"/ip4/127.0.0.1/tcp/{one.getsockname()[1]}" for one in sockets)


async def test_every_address_is_tried_and_silent_ones_hold_up_nobody(tmp_path: Path) -> None:
    async with node(tmp_path) as a, node(tmp_path, echo=True) as b, silence(2) as silent:
        a.network.learn_addresses(b.peer, (*silent, "/ip4/127.0.0.1/tcp/1", *b.addresses))
        with trio.fail_after(UPGRADE_LIMIT_S):
            await echoes(a, b)


async def test_silence_at_all_addresses_fails_within_the_time_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "DIAL_LIMIT_S", 1.0)
    monkeypatch.setattr(discovery, "NEXT_ADDRESS_S", 0.1)
    async with node(tmp_path) as a, silence(5) as silent:
        nobody = peer_of(tmp_path / "nobody")
        a.network.learn_addresses(nobody, silent)
        a.network.send(nobody, PROTOCOL, b"anyone?")
        failed = await a.kind(SendFailed, limit_s=UPGRADE_LIMIT_S - 1)
        assert all(f"{address}: no answer" in failed.reason for address in silent)
        assert sum(isinstance(event, SendFailed) for event in a.events) == 1


async def test_a_client_that_only_dials_is_answered_on_its_own_stream(tmp_path: Path) -> None:
    async with node(tmp_path, echo=True) as a, stranger(a) as client:
        stream = await open_stream(client, a)
        await stream.write(encode_frame(b"first") + encode_frame(b"second")[:3])
        await stream.write(encode_frame(b"second")[3:])
        await stream.close_write()
        splitter, found = FrameSplitter(100), []
        while len(found) < 2:
            found += splitter.feed(await stream.read(100))
        assert found == [b"first", b"second"]
        await a.kind(FrameReceived, payload=b"second")


async def test_four_peers_find_who_serves_a_cell(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node(tmp_path))
        others = [await stack.enter_async_context(node(tmp_path, bootstrap=hub.addresses)) for _ in range(3)]
        for other in others:
            await other.kind(PeerUp, peer=hub.peer)
            await hub.kind(PeerUp, peer=other.peer)
        assert await others[0].network.provide("beef")
        assert await others[1].network.provide("beef")
        found = await others[2].network.find("beef", 5)
        assert set(found) == {others[0].peer, others[1].peer}
        assert len(await others[2].network.find("beef", 1)) == 1
        assert await others[0].network.find("beef", 5) == (others[1].peer,)
        assert await others[2].network.find("elsewhere", 5) == ()


async def test_who_knows_nobody_finds_nobody_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as a:
        with trio.fail_after(1):
            assert not await a.network.provide("beef")
            assert await a.network.find("beef", 5) == ()


async def test_dead_providers_do_not_hide_those_that_live(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node(tmp_path))
        live = await stack.enter_async_context(node(tmp_path, bootstrap=hub.addresses))
        await hub.kind(PeerUp, peer=live.peer)
        await live.kind(PeerUp, peer=hub.peer)
        assert await live.network.provide("beef")
        dead = [await stack.enter_async_context(child(tmp_path, key, bootstrap=hub.addresses)) for key in "bc"]
        for one, end in zip(dead, (signal.SIGKILL, signal.SIGSTOP), strict=True):
            await hub.kind(PeerUp, peer=one.peer)
            await one.told("PeerUp", peer=hub.peer)
            await one.do("provide", cell="beef")
            await one.told("Provided", done=True)
            one.signal(end)
        seeker = await stack.enter_async_context(node(tmp_path, bootstrap=hub.addresses))
        await seeker.kind(PeerUp, peer=hub.peer)
        with trio.fail_after(FIND_LIMIT_S + 1):
            assert await seeker.network.find("beef", 5) == (live.peer,)


async def test_a_cell_that_is_full_takes_in_who_announces_itself_last(tmp_path: Path) -> None:
    async with node(tmp_path) as a:
        providers = a.network._cells.dht.provider_store
        peers = [peer_id_of(peer_of(tmp_path / str(number))) for number in range(BUCKET_SIZE + 1)]
        for peer in [*peers[:2], peers[0], *peers[2:]]:
            providers.add_provider(b"beef", PeerInfo(peer, []))
        assert {info.peer_id for info in providers.get_providers(b"beef")} == {peers[0], *peers[2:]}


async def test_members_of_a_private_network_talk_and_outsiders_do_not(tmp_path: Path) -> None:
    psk = bytes(range(32))
    async with (
        node(tmp_path, psk=psk, echo=True) as a,
        node(tmp_path, psk=psk, bootstrap=a.addresses) as b,
        node(tmp_path, psk=psk[::-1], bootstrap=a.addresses) as other,
        node(tmp_path, bootstrap=a.addresses) as public,
    ):
        await echoes(b, a, bytes(200_000))
        await other.kind(BootstrapFailed, address=a.addresses[0])
        await public.kind(BootstrapFailed, address=a.addresses[0])
        assert {event.peer for event in a.events if isinstance(event, PeerUp)} == {b.peer}


# Coming and going


@pytest.mark.parametrize("kind", ["dns", "dns4"])
async def test_a_bootstrap_peer_may_have_a_name(tmp_path: Path, kind: str) -> None:
    async with node(tmp_path) as a:
        named = a.addresses[0].replace("/ip4/127.0.0.1", f"/{kind}/localhost")
        async with node(tmp_path, bootstrap=(named,)) as b:
            await b.kind(PeerUp, peer=a.peer)


async def test_a_bootstrap_peer_that_is_late_is_reported_once(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    late = peer_of(tmp_path / "late")
    address = f"/ip4/127.0.0.1/tcp/{port}"
    async with node(tmp_path, bootstrap=(f"{address}/p2p/{late}",)) as a:
        await a.kind(BootstrapFailed, address=f"{address}/p2p/{late}")
        async with node(tmp_path, key="late", listen=(address,)) as first:
            await a.kind(PeerUp, peer=late)
            await first.kind(PeerUp, peer=a.peer)
            assert sum(isinstance(event, BootstrapFailed) for event in a.events) == 1
        await a.kind(PeerIdle, peer=late)
        a.events.clear()
        async with node(tmp_path, key="late", listen=(address,), echo=True) as back:
            await a.kind(PeerUp, peer=late)
            await echoes(a, back)


async def test_a_frozen_peer_is_down_within_ten_seconds(tmp_path: Path) -> None:
    async with node(tmp_path) as a, child(tmp_path, "b", bootstrap=a.addresses, echo=True) as b:
        await a.kind(PeerUp, peer=b.peer)
        await echoes(a, b)
        b.signal(signal.SIGSTOP)
        with trio.fail_after(10):
            await a.kind(PeerDown, peer=b.peer)
        a.events.clear()
        b.signal(signal.SIGCONT)
        await a.kind(PeerUp, peer=b.peer)
        await echoes(a, b)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_same_identity_returns_on_another_port(tmp_path: Path, end: signal.Signals) -> None:
    async with node(tmp_path) as a, child(tmp_path, "b", bootstrap=a.addresses, echo=True) as old:
        await a.kind(PeerUp, peer=old.peer)
        await echoes(a, old)
        old.signal(end)
        async with child(tmp_path, "b", bootstrap=a.addresses, echo=True) as new:
            assert new.peer == old.peer
            await new.told("PeerUp", peer=a.peer)
            with trio.fail_after(8):
                await new.do("send", peer=a.peer, protocol=PROTOCOL, payload="from the new")
                await a.until(lambda event: isinstance(event, FrameReceived) and event.payload == b"from the new")
                await echoes(a, new)


@pytest.mark.parametrize("killed", [True, False])
async def test_a_killed_peer_is_down_at_once_and_one_that_leaves_is_not(tmp_path: Path, killed: bool) -> None:
    async with node(tmp_path) as a, child(tmp_path, "b", bootstrap=a.addresses) as b:
        await a.kind(PeerUp, peer=b.peer)
        await b.told("PeerUp", peer=a.peer)
        if killed:
            b.signal(signal.SIGKILL)
        else:
            await b.stop()
        gone = await a.until(lambda event: isinstance(event, PeerDown | PeerIdle), 2)
        assert gone == (PeerDown(b.peer) if killed else PeerIdle(b.peer))


async def meets(guest: Node, host: Node) -> None:
    guest.knows(host)
    guest.network.connect(host.peer)
    await guest.kind(PeerUp, peer=host.peer)
    await host.kind(PeerUp, peer=guest.peer)


async def test_a_newcomer_is_let_in_and_whoever_was_idle_longest_let_go(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(tmp_path, neighbours_max=3, echo=True))
        trader, gossip, silent, newcomer = [await stack.enter_async_context(node(tmp_path)) for _ in range(4)]
        await meets(trader, a)
        await meets(gossip, a)
        await echoes(trader, a)
        await meets(silent, a)
        gossip.network.send(a.peer, GOSSIP_PROTOCOL, b"did you know?")
        await a.kind(FrameReceived, protocol=GOSSIP_PROTOCOL)
        await meets(newcomer, a)
        await a.kind(PeerIdle, peer=gossip.peer)
        await gossip.kind(PeerIdle, peer=a.peer)

        # What is only ahead of need is not worth another.
        a.knows(gossip)
        a.network.connect(gossip.peer)
        await trio.testing.wait_all_tasks_blocked()
        dialler, target = a.network._dialler, peer_id_of(gossip.peer)
        assert target not in dialler._under_way
        assert not dialler.connected(target)
        # A frame is.
        await echoes(newcomer, a)
        a.events.clear()
        a.network.send(gossip.peer, PROTOCOL, b"buy this")
        await gossip.kind(FrameReceived, payload=b"buy this")
        await a.kind(PeerIdle, peer=silent.peer)
        assert a.network.statistics().neighbours == 3
        assert not any(isinstance(event, PeerDown) for one in (a, trader, gossip, silent) for event in one.events)
        for one in (trader, newcomer):
            assert not any(isinstance(event, PeerIdle) for event in one.events)


async def test_ahead_of_need_no_more_are_dialled_than_there_is_room_for(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(node(tmp_path)) for _ in range(6)]
        a = await stack.enter_async_context(node(tmp_path, neighbours_max=2))
        for other in others:
            a.knows(other)
            a.network.connect(other.peer)
        with trio.fail_after(LIMIT_S):
            while a.network._ahead._waiting or a.network._ahead._under_way:
                await trio.sleep(0.01)
        assert sum(isinstance(event, PeerUp) for event in a.events) == 2
        assert not any(isinstance(event, PeerIdle) for event in a.events)


async def test_the_last_bootstrap_peer_is_kept(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node(tmp_path))
        a = await stack.enter_async_context(node(tmp_path, neighbours_max=1, bootstrap=hub.addresses))
        await a.kind(PeerUp, peer=hub.peer)
        first, second = [await stack.enter_async_context(node(tmp_path)) for _ in range(2)]
        await meets(first, a)
        await meets(second, a)
        await first.kind(PeerIdle, peer=a.peer)
        assert not any(isinstance(event, PeerIdle | PeerDown) for event in hub.events)


async def test_a_bootstrap_peer_that_let_us_go_is_needed_when_nobody_else_is_left(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node(tmp_path, neighbours_max=1))
        a = await stack.enter_async_context(node(tmp_path, bootstrap=hub.addresses))
        await a.kind(PeerUp, peer=hub.peer)
        newcomer = await stack.enter_async_context(node(tmp_path))
        async with node(tmp_path) as other:
            await meets(a, other)
            await meets(newcomer, hub)
            await a.kind(PeerIdle, peer=hub.peer)
            a.events.clear()
            # A process takes longer to start than a bootstrap peer that is wanted back.
            async with child(tmp_path, "b", bootstrap=a.addresses) as later:
                await a.kind(PeerUp, peer=later.peer)
            assert not any(isinstance(event, PeerUp) and event.peer == hub.peer for event in a.events)
        await a.kind(PeerUp, peer=hub.peer)
        await newcomer.kind(PeerIdle, peer=hub.peer)


async def test_more_inbound_connections_in_a_life_than_at_once(tmp_path: Path) -> None:
    async with node(tmp_path, neighbours_max=3, echo=True) as a:
        for _ in range(8):
            async with node(tmp_path, bootstrap=a.addresses) as guest:
                await echoes(guest, a)
            await a.kind(PeerIdle, peer=guest.peer)


async def test_disconnect_is_final_until_there_is_something_to_send(tmp_path: Path) -> None:
    async with node(tmp_path) as a, node(tmp_path, echo=True, bootstrap=a.addresses) as b:
        await a.kind(PeerUp, peer=b.peer)
        a.network.disconnect(b.peer)
        await a.kind(PeerIdle, peer=b.peer)
        await b.kind(PeerIdle, peer=a.peer)
        a.events.clear()
        await a.kind(PeerUp, peer=b.peer)
        await echoes(a, b)


# Guards


async def test_a_handler_that_raises_costs_its_stream_only(tmp_path: Path) -> None:
    async def broken(_stream: INetStream) -> None:
        raise RuntimeError("bug")

    async with node(tmp_path, echo=True) as a, node(tmp_path, bootstrap=a.addresses) as b, stranger(a) as host:
        a.network._host.set_stream_handler(TProtocol("/broken/1"), broken)
        with pytest.raises((StreamFailure, StreamError)):
            await (await open_stream(host, a, "/broken/1")).read(1)
        assert a.network.statistics().guarded_exceptions == 1
        await echoes(b, a)


async def test_cancelled_writes_leave_the_connection_whole(tmp_path: Path) -> None:
    async with node(tmp_path, echo=True) as a, node(tmp_path, bootstrap=a.addresses) as b:
        await echoes(b, a)
        target = b.network._swarm.get_connections()[0].muxed_conn.peer_id
        write: Callable[[INetStream], Any]
        for write in (partial(write_all, data=bytes(1 << 20)), lambda stream: stream.write(bytes(1 << 20))):
            for delay_s in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02):
                stream = await b.network._host.new_stream(target, [TProtocol(PROTOCOL)])
                with trio.move_on_after(delay_s):
                    await write(stream)
                await stream.reset()
        for delay_s in (0.0, 0.001, 0.003, 0.005, 0.01):
            with trio.move_on_after(delay_s):
                await b.network.find("some cell", 3)
        await echoes(b, a, bytes(1 << 20))
        assert not any(isinstance(event, PeerDown | PeerIdle) for event in b.events)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\xff\xff\xff\x7f", "needs more"), (b"\xff\xff\x7f", "at most"), (b"\x81\x00", "minimally")]
)
async def test_a_broken_frame_is_reported_and_its_stream_reset(tmp_path: Path, data: bytes, reason: str) -> None:
    async with node(tmp_path, echo=True) as a, stranger(a) as host:
        stream = await open_stream(host, a)
        await stream.write(encode_frame(b"good") + data)
        violation = await a.kind(ProtocolViolation, peer=PeerId(host.get_id().to_base58()))
        assert reason in violation.reason
        assert any(isinstance(event, FrameReceived) and event.payload == b"good" for event in a.events)
        await gone(stream)
        fresh = await open_stream(host, a)
        await fresh.write(encode_frame(b"again"))
        await a.kind(FrameReceived, payload=b"again")


async def test_a_slow_reader_fills_its_own_queue_only(tmp_path: Path) -> None:
    async with node(tmp_path, queue_frames_max=16) as a, node(tmp_path, echo=True) as other, stranger(a) as host:
        a.knows(other)
        asleep = trio.Event()
        host.set_stream_handler(TProtocol(PROTOCOL), lambda _stream: asleep.wait())
        slow = PeerId(host.get_id().to_base58())
        for _ in range(100):
            a.network.send(slow, PROTOCOL, bytes(500_000))  # libp2p takes 2 to 4 MB ahead of the reader
        failed = [event for event in a.events if isinstance(event, SendFailed)]
        assert len(failed) == 84
        assert {event.reason for event in failed} == {"the queue to this neighbour is full"}
        with trio.fail_after(5):
            await echoes(a, other)
        await a.until(lambda event: isinstance(event, SendFailed) and event not in failed)
        await echoes(a, other)
        asleep.set()


async def test_a_flood_of_streams_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path, echo=True) as a, node(tmp_path, bootstrap=a.addresses) as b, stranger(a) as host:
        held = 0
        with suppress(StreamFailure, SwarmException):
            while held <= STREAMS_PER_CONNECTION_MAX:
                await open_stream(host, a, "/ipfs/ping/1.0.0")
                held += 1
        assert held <= STREAMS_PER_CONNECTION_MAX
        await echoes(b, a)


async def test_a_bug_of_the_owner_ends_the_network(tmp_path: Path) -> None:
    def on_event(event: NetEvent) -> None:
        raise RuntimeError(f"bug at {type(event).__name__}")

    async with node(tmp_path) as a:
        seed = home.identity(tmp_path / "owner")
        network = Network(seed, NetConfig(listen=(LOOPBACK,), bootstrap=a.addresses), (), on_event)
        with trio.fail_after(LIMIT_S), pytest.raises(RuntimeError, match="bug at PeerUp"):
            await network.run()


# Faults of the owner of this device


async def test_a_taken_port_is_a_fault_with_a_way_out(tmp_path: Path) -> None:
    async with node(tmp_path) as a:
        address = a.addresses[0].partition("/p2p/")[0]
        async with child(tmp_path, "b", listen=[address]) as b:
            error = await b.told("LocalError", exit_code=int(Exit.PORT_TAKEN))
            assert address in error["cause"]
            assert "another port" in error["hint"]
        config = NetConfig(listen=(LOOPBACK, address))
        network = Network(home.identity(tmp_path / "c"), config, (), lambda _event: None)
        with pytest.raises(LocalError) as caught, trio.fail_after(LIMIT_S):
            await network.run()
        assert caught.value.exit_code == Exit.PORT_TAKEN


@pytest.mark.parametrize(
    "config",
    [
        {"psk": b"short"},
        {"listen": ("foo",)},
        {"listen": ("/ip4/0.0.0.0/udp/0",)},
        {"listen": ("/dns4/localhost/tcp/0",)},
        {"bootstrap": ("/ip4/127.0.0.1/tcp/1",)},
        {"bootstrap": ("example.org:4100",)},
        {"bootstrap": ("/ip4/127.0.0.1/tcp/1/p2p/QmNotEd25519",)},
    ],
)
def test_a_senseless_configuration_is_refused_before_anything_starts(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(LocalError) as caught:
        Network(home.identity(tmp_path / "key"), msgspec.convert(config, NetConfig), (), lambda _event: None)
    assert caught.value.exit_code == Exit.CONFIG
