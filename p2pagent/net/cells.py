"""Who serves a cell of the embedding space: provider records in the Kademlia DHT."""

import hashlib
import random
from typing import Any

import trio
from libp2p.abc import INetConn
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from p2pagent.net.discovery import ADDRESSES_PER_PEER_MAX, PEERS_MAX, AddressBook, Dialler, parse_address
from p2pagent.net.guards import Guard
from p2pagent.types import PeerId

PROVIDE_LIMIT_S = 15.0
FIND_LIMIT_S = 6.0
QUERIES_MAX = 8
"""Peers asked who serves a cell, closest first."""


class Cells:
    """Says in the DHT that this peer serves a cell, and finds others that do."""

    def __init__(self, host: Any, dialler: Dialler, book: AddressBook, guard: Guard) -> None:
        self._dialler = dialler
        self._book = book
        self._guard = guard
        self._own = host.get_id()
        # No limit per /24: peers of one household or one test share a subnet.
        self.dht = KadDHT(host, DHTMode.SERVER, max_peers_per_subnet=0)

    async def add(self, connection: INetConn) -> None:
        """Put a neighbour into the routing table; being connected does not."""
        peer = connection.muxed_conn.peer_id
        await self.dht.routing_table.add_peer(PeerInfo(peer, self._book.of(peer)), skip_server_mode_check=True)

    def remove(self, peer: ID) -> None:
        self.dht.routing_table.remove_peer(peer)

    async def provide(self, cell: str) -> bool:
        """Announce this peer as a provider of a cell; False when nobody took note within PROVIDE_LIMIT_S seconds."""
        with trio.move_on_after(PROVIDE_LIMIT_S):
            try:
                return bool(await self.dht.provider_store.provide(_key(cell)))
            except Exception as error:
                self._guard.caught("provide", error)
        return False

    async def find(self, cell: str, count: int) -> tuple[PeerId, ...]:
        """Return up to `count` providers of a cell that answer now, this peer excluded, within FIND_LIMIT_S seconds.

        Goes round libp2p's own search, which stops at the first provider it has heard of itself, dead or alive.
        """
        key = _key(cell)
        alive: list[PeerId] = []
        with trio.move_on_after(FIND_LIMIT_S):
            providers = {info.peer_id: info for info in self.dht.provider_store.get_providers(key)}
            if len(providers) <= count:
                closest = await self.dht.peer_routing.find_closest_peers_network(key)
                async with trio.open_nursery() as nursery:
                    for peer in closest[:QUERIES_MAX]:
                        nursery.start_soon(self._ask, peer, key, providers)
            providers.pop(self._own, None)
            async with trio.open_nursery() as nursery:
                for info in random.sample(sorted(providers.values(), key=_by_id), min(2 * count, len(providers))):
                    nursery.start_soon(self._check, info, key, alive)
        return tuple(alive[:count])

    async def _ask(self, peer: ID, key: bytes, providers: dict[ID, PeerInfo]) -> None:
        try:
            found, _ = await self.dht.provider_store._get_providers_from_peer_with_closers(peer, key)
        except Exception as error:
            self._guard.caught("find", error)
            return
        for info in found[:PEERS_MAX]:
            providers.setdefault(info.peer_id, info)

    async def _check(self, info: PeerInfo, key: bytes, alive: list[PeerId]) -> None:
        name = PeerId(info.peer_id.to_base58())
        addresses = []
        for address in info.addrs[:ADDRESSES_PER_PEER_MAX]:
            try:
                addresses.append(parse_address(str(address))[1])
            except ValueError:
                continue
        if addresses and not self._book.of(info.peer_id):
            self._book.learn(info.peer_id, addresses)
        if await self._dialler.connect(info.peer_id) is None:
            alive.append(name)
        else:
            self.remove(info.peer_id)
            self.dht.provider_store.providers.get(key, {}).pop(str(info.peer_id), None)


def _key(cell: str) -> bytes:
    """Return the sha2-256 multihash of a cell's name, the form of key that every Kademlia implementation accepts."""
    return b"\x12\x20" + hashlib.sha256(cell.encode()).digest()


def _by_id(info: PeerInfo) -> str:
    return str(info.peer_id)
