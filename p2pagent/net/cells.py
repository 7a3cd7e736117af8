"""Who serves a cell of the embedding space: provider records in the Kademlia DHT."""

import hashlib
import random
from typing import Any

import trio
from libp2p.abc import INetConn
from libp2p.kad_dht.common import BUCKET_SIZE
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from p2pagent.net.discovery import ADDRESSES_PER_PEER_MAX, PEERS_MAX, AddressBook, Dialler, parse_address
from p2pagent.net.guards import Guard
from p2pagent.types import PeerId

PROVIDE_LIMIT_S = 15.0
FIND_LIMIT_S = 6.0
SEARCH_LIMIT_S = 3.0
"""Of this for asking others; the rest is for seeing who answers."""

QUERIES_MAX = 8
"""Peers asked who serves a cell, closest first."""

SPARE_CHECKS = 3
"""Providers tried at once beyond those wanted, for some will be dead."""


class Cells:
    """Says in the DHT that this peer serves a cell, and finds others that do."""

    def __init__(self, host: Any, dialler: Dialler, book: AddressBook, guard: Guard) -> None:
        self._dialler = dialler
        self._book = book
        self._guard = guard
        self._own = host.get_id()
        # No limit per /24: peers of one household or one test share a subnet.
        self.dht = KadDHT(host, DHTMode.SERVER, max_peers_per_subnet=0)
        self.dht.provider_store = _LatestProviders(host, self.dht.peer_routing)

    async def add(self, connection: INetConn) -> None:
        """Put a neighbour into the routing table; being connected does not."""
        peer = connection.muxed_conn.peer_id
        await self.dht.routing_table.add_peer(PeerInfo(peer, self._book.of(peer)), skip_server_mode_check=True)

    def remove(self, peer: ID) -> None:
        self.dht.routing_table.remove_peer(peer)

    async def provide(self, cell: str) -> bool:
        """Announce this peer as a provider of a cell; False when nobody took note within PROVIDE_LIMIT_S seconds.

        Others forget it after 48 hours, or as soon as 20 have announced themselves later. Repeating it is up to the
        caller: libp2p would do so every 22 hours, but for every cell that was ever provided.
        """
        key = _key(cell)
        with trio.move_on_after(PROVIDE_LIMIT_S):
            try:
                return bool(await self.dht.provider_store.provide(key))
            except Exception as error:
                self._guard.caught("provide", error)
            finally:
                self.dht.provider_store.providing_keys.discard(key)
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
                with trio.move_on_after(SEARCH_LIMIT_S):
                    await self._search(key, providers)
            providers.pop(self._own, None)
            candidates = sorted(providers.values(), key=_by_id)
            random.shuffle(candidates)
            candidates.sort(key=lambda info: self._dialler.connected(info.peer_id))
            async with trio.open_nursery() as nursery:
                for _ in range(count + SPARE_CHECKS):
                    nursery.start_soon(self._check, candidates, key, alive, count)
        return tuple(alive[:count])

    async def _search(self, key: bytes, providers: dict[ID, PeerInfo]) -> None:
        async with trio.open_nursery() as nursery:
            # Peers that are dead may keep libp2p looking for closer ones until our time is up.
            table = self.dht.routing_table.find_local_closest_peers(key, QUERIES_MAX)
            known = list({*table, *self.dht.host.get_connected_peers()})
            near = sort_peer_ids_by_distance(key, known)[:QUERIES_MAX]
            for peer in near:
                nursery.start_soon(self._ask, peer, key, providers)
            for peer in (await self.dht.peer_routing.find_closest_peers_network(key))[:QUERIES_MAX]:
                if peer not in near:
                    nursery.start_soon(self._ask, peer, key, providers)

    async def _ask(self, peer: ID, key: bytes, providers: dict[ID, PeerInfo]) -> None:
        try:
            found, _ = await self.dht.provider_store._get_providers_from_peer_with_closers(peer, key)
        except Exception as error:
            self._guard.caught("find", error)
            return
        for info in found[:PEERS_MAX]:
            providers.setdefault(info.peer_id, info)

    async def _check(self, candidates: list[PeerInfo], key: bytes, alive: list[PeerId], count: int) -> None:
        """Connect to one candidate after another, connected ones first, until enough are alive."""
        while candidates and len(alive) < count:
            info = candidates.pop()
            addresses = []
            for address in info.addrs[:ADDRESSES_PER_PEER_MAX]:
                try:
                    addresses.append(parse_address(str(address))[1])
                except ValueError:
                    continue
            if addresses and not self._book.of(info.peer_id):
                self._book.learn(info.peer_id, addresses)
            if await self._dialler.connect(info.peer_id) is None:
                alive.append(PeerId(info.peer_id.to_base58()))
            else:
                self.remove(info.peer_id)
                self.dht.provider_store.providers.get(key, {}).pop(str(info.peer_id), None)


class _LatestProviders(ProviderStore):
    """Stock, a cell with 20 providers takes no others until those have been silent for 48 hours, dead or alive."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        known = self.providers.get(key, {})
        if str(provider.peer_id) not in known and len(known) >= BUCKET_SIZE:
            del known[min(known, key=lambda name: known[name].timestamp)]
        super().add_provider(key, provider)


def _key(cell: str) -> bytes:
    """Return the sha2-256 multihash of a cell's name, the form of key that every Kademlia implementation accepts."""
    return b"\x12\x20" + hashlib.sha256(cell.encode()).digest()


def _by_id(info: PeerInfo) -> str:
    return str(info.peer_id)
