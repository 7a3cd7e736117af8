"""Finding peers: addresses, dialling, the first contact, coming back."""

import random
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2pagent.bounded import bound
from p2pagent.errors import Exit, LocalError
from p2pagent.net.events import BootstrapFailed, OnEvent
from p2pagent.net.host import peer_id_of
from p2pagent.net.muxer import yamux_of
from p2pagent.types import PeerId

PEERS_MAX = 4096
ADDRESSES_PER_PEER_MAX = 8
DIALS_MAX = 16
"""Dials at the same time: most time goes into waiting for those that are not there."""

DIAL_LIMIT_S = 6.0
"""For all addresses of a peer together, and the wait until a dial is free."""

NEXT_ADDRESS_S = 1.0
"""How long an address is tried alone before the next is tried beside it."""

RETRY_FIRST_S = 0.5
BOOTSTRAP_RETRY_MAX_S = 60.0
RECONNECT_ATTEMPTS = 6


def parse_address(text: str) -> tuple[ID | None, Multiaddr]:
    """Split a TCP multiaddr into the peer id at its end, if there is one, and the part to dial.

    Raises:
        ValueError: not a multiaddr, not TCP over IP or DNS, or it names something that is not an ed25519 peer.
    """
    address = Multiaddr(text)
    names = [protocol.name for protocol in address.protocols()]
    if names[:1] not in (["ip4"], ["ip6"], ["dns"], ["dns4"], ["dns6"]) or names[1:] not in (["tcp"], ["tcp", "p2p"]):
        raise ValueError(f"{text!r} is not an address such as /ip4/192.0.2.1/tcp/4100")
    if len(names) == 2:
        return None, address
    peer = address.value_for_protocol("p2p")
    return peer_id_of(PeerId(peer)), address.decapsulate(Multiaddr(f"/p2p/{peer}"))


def parse_bootstrap(texts: Sequence[str]) -> tuple[tuple[ID, Multiaddr, str], ...]:
    """Parse bootstrap addresses.

    Raises:
        LocalError: with `Exit.CONFIG`, one of them is no address of a peer.
    """
    parsed = []
    for text in texts:
        try:
            peer, address = parse_address(text)
        except ValueError as error:
            raise _bad_bootstrap(text) from error
        if peer is None:
            raise _bad_bootstrap(text)
        parsed.append((peer, address, text))
    return tuple(parsed)


def check_listen(texts: Sequence[str]) -> None:
    """Make sure that these are addresses to listen on.

    Raises:
        LocalError: with `Exit.CONFIG`, one of them is not.
    """
    for text in texts:
        try:
            peer, address = parse_address(text)
            good = peer is None and not str(address).startswith("/dns")
        except ValueError:
            good = False
        if not good:
            hint = "write it as /ip4/0.0.0.0/tcp/4101, port 0 for any that is free"
            raise LocalError(f"{text!r} is not an address to listen on", hint, Exit.CONFIG)


def _bad_bootstrap(text: str) -> LocalError:
    hint = "write it as /ip4/192.0.2.1/tcp/4100/p2p/12D3Koo...; `p2pagent status` on that peer prints it"
    return LocalError(f"bootstrap address {text!r} is not the address of a peer", hint, Exit.CONFIG)


class AddressBook:
    """Where peers were said to listen, the most recent first; the peers heard of least recently are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[ID, list[Multiaddr]] = OrderedDict()

    def learn(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Put these addresses of a peer before what is known already."""
        merged = dict.fromkeys([*addresses, *self._known.get(peer, ())])
        self._known[peer] = list(merged)[:ADDRESSES_PER_PEER_MAX]
        self._known.move_to_end(peer)
        bound(self._known, PEERS_MAX)

    def of(self, peer: ID) -> list[Multiaddr]:
        return list(self._known.get(peer, ()))


class _Dial:
    """One that is under way, for those who wait for it; without a reason in the end it worked, or was cancelled."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.reason: str | None = None


class Dialler:
    """Connects to peers at the addresses known of them, a few at a time."""

    def __init__(self, host: Any, book: AddressBook) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._book = book
        self._limit = trio.CapacityLimiter(DIALS_MAX)
        self._under_way: dict[ID, _Dial] = {}

    def connected(self, peer: ID) -> bool:
        return any(yamux_of(connection).is_established for connection in self._swarm.get_connections(peer))

    async def connect(self, peer: ID) -> str | None:
        """Have a connection to a peer; return None, or the reason why there is none, after DIAL_LIMIT_S at the latest.

        Libp2p's own dialling tries a single TCP address per peer, waits 250 ms even after success and then refuses for
        a minute to try a peer again that did not answer: a restarted peer would be away.
        """
        while not self.connected(peer):
            dial = self._under_way.get(peer)
            if dial is None:
                return await self._dial(peer)
            await dial.over.wait()
            if dial.reason is not None:
                return dial.reason
        return None

    async def _dial(self, peer: ID) -> str | None:
        if peer == self._swarm.get_peer_id():
            return "this is ourselves"
        self._under_way[peer] = dial = _Dial()
        failed: dict[Multiaddr, str] = {}
        try:
            with trio.move_on_after(DIAL_LIMIT_S) as limit:
                async with self._limit:
                    await self._try_all(peer, failed)
            if not self.connected(peer):
                none = "too many dials at once" if limit.cancelled_caught else "no address is known"
                dial.reason = "; ".join(failed.values()) or none
        finally:
            del self._under_way[peer]
            dial.over.set()
        return dial.reason

    async def _try_all(self, peer: ID, failed: dict[Multiaddr, str]) -> None:
        """Try one address after another, the next one when the last has failed or keeps us waiting.

        `failed` is told what went wrong at each. Source: RFC 8305, section 5.
        """
        addresses = list(dict.fromkeys([*self._book.of(peer), *self._identified(peer)]))
        failed.update((address, f"{address}: no answer") for address in addresses)

        async def attempt(address: Multiaddr, over: trio.Event) -> None:
            try:
                await self._swarm._dial_addr_single_attempt(await _resolved(address), peer)
            except Exception as error:
                failed[address] = f"{address}: {_root_cause(error)}"
                over.set()
            else:
                self._book.learn(peer, [address])
                # For libp2p's own dials, those of the DHT.
                self._swarm.unblock_peer(peer)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                over = trio.Event()
                nursery.start_soon(attempt, address, over)
                with trio.move_on_after(NEXT_ADDRESS_S):
                    await over.wait()

    def _identified(self, peer: ID) -> list[Multiaddr]:
        """Addresses that the peer itself told by libp2p's identify protocol."""
        peerstore = self._host.get_peerstore()
        known = peerstore.addrs(peer) if peer in peerstore.peers_with_addrs() else []
        found = []
        for address in known[:ADDRESSES_PER_PEER_MAX]:
            try:
                found.append(parse_address(str(address))[1])
            except ValueError:
                continue
        return found


async def _resolved(address: Multiaddr) -> Multiaddr:
    """The address with its host name, if it has one, looked up: libp2p dials numbers only.

    Raises:
        OSError: the name is unknown.
    """
    (kind, host), (_, port) = list(address.items())[:2]
    if not kind.name.startswith("dns"):
        return address
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(kind.name, socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    family, number = found[0][0], found[0][4][0]
    return Multiaddr(f"/{'ip6' if family == socket.AF_INET6 else 'ip4'}/{number}/tcp/{port}")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


class Contacts:
    """Keeps up the connections to bootstrap peers and brings back neighbours that were lost, these by `dial_ahead`."""

    def __init__(
        self, dialler: Dialler, dial_ahead: Callable[[ID], None], book: AddressBook, on_event: OnEvent
    ) -> None:
        self._dialler = dialler
        self._dial_ahead = dial_ahead
        self._book = book
        self._on_event = on_event
        self._connected: dict[ID, trio.Event] = {}
        """Peers that are connected, each with what is set when it is not any more."""
        self._let_go: set[ID] = set()
        self._returning: set[ID] = set()
        self._bootstrap: set[ID] = set()

    def up(self, peer: ID) -> None:
        """Note that a peer is connected."""
        self._let_go.discard(peer)
        self._connected[peer] = trio.Event()

    def down(self, peer: ID, *, let_go: bool) -> None:
        """Note that a peer is not connected any more; `let_go` when one of us has more neighbours than it wants."""
        if let_go and peer in self._bootstrap:
            self._let_go.add(peer)
        if peer in self._connected:
            self._connected.pop(peer).set()

    async def keep_bootstrap(self, peer: ID, address: Multiaddr, text: str) -> None:
        """Stay connected to a bootstrap peer, for ever; an outage is reported once.

        One that let us go is left alone as long as we know anybody else: all the network is at its door.
        """
        self._bootstrap.add(peer)
        self._book.learn(peer, [address])
        delay_s, reported = RETRY_FIRST_S, False
        while True:
            reason = await self._dialler.connect(peer)
            if reason is None:
                delay_s, reported = RETRY_FIRST_S, False
                if peer in self._connected:
                    await self._connected[peer].wait()
                while peer in self._let_go and self._connected:
                    await next(iter(self._connected.values())).wait()
            elif not reported:
                self._on_event(BootstrapFailed(text, reason))
                reported = True
            await trio.sleep(_jittered(delay_s))
            delay_s = min(2 * delay_s, BOOTSTRAP_RETRY_MAX_S)

    async def bring_back(self, peer: ID) -> None:
        """Try for half a minute to reach a neighbour that was lost; it may be restarting, or the network may.

        Whoever comes and breaks off gets no more of our dials than one that is only heard of.
        """
        if peer in self._bootstrap or peer in self._returning:
            return
        self._returning.add(peer)
        try:
            for attempt in range(RECONNECT_ATTEMPTS):
                # Both sides try; the jitter keeps them from meeting half way and ending up with two connections.
                await trio.sleep(_jittered(RETRY_FIRST_S * 2**attempt))
                if peer in self._connected:
                    return
                self._dial_ahead(peer)
        finally:
            self._returning.discard(peer)


def _jittered(delay_s: float) -> float:
    return delay_s * random.uniform(0.5, 1.5)
