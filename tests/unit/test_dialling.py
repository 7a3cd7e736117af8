"""Dials under a flood of addresses at which nobody answers, and those made ahead of need."""

from collections.abc import Callable

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pagent.net.ahead import AHEAD_MAX, WAITING_MAX, Ahead
from p2pagent.net.discovery import DIAL_LIMIT_S, DIALS_MAX, RECONNECT_ATTEMPTS, AddressBook, Contacts, Dialler

PEERS = [ID(bytes([0, 1, number >> 8, number & 255])) for number in range(2 * WAITING_MAX)]
NOBODY = Multiaddr("/ip4/192.0.2.1/tcp/4100")


class Swarm:
    """Stands in for libp2p: dials of which none is ever answered, but those of `there`."""

    def __init__(self) -> None:
        self.there: set[ID] = set()
        self.dialled: list[ID] = []
        self.most_at_once = 0
        self._at_once = 0

    def get_network(self) -> "Swarm":
        return self

    get_peerstore = get_network

    def get_connections(self, peer: ID) -> list[None]:
        return []

    def get_peer_id(self) -> ID:
        return ID(b"self")

    def peers_with_addrs(self) -> list[ID]:
        return []

    def unblock_peer(self, peer: ID) -> None: ...

    async def _dial_addr_single_attempt(self, _address: Multiaddr, peer: ID) -> None:
        self.dialled.append(peer)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep_forever()
        finally:
            self._at_once -= 1


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
def swarm() -> Swarm:
    return Swarm()


@pytest.fixture
def dialler(swarm: Swarm) -> Dialler:
    book = AddressBook()
    for peer in PEERS:
        book.learn(peer, [NOBODY])
    return Dialler(swarm, book)


def ahead_of(dialler: Dialler, nursery: trio.Nursery, room: Callable[[], int] = lambda: WAITING_MAX) -> Ahead:
    return Ahead(dialler, room, nursery.start_soon)


async def test_a_dial_that_is_needed_waits_for_none_that_is_not(
    nursery: trio.Nursery, dialler: Dialler, autojump_clock: MockClock
) -> None:
    ahead = ahead_of(dialler, nursery)
    for peer in PEERS[1:161]:
        ahead.dial(peer)
    await wait_all_tasks_blocked()
    start_s = trio.current_time()
    reason = await dialler.connect(PEERS[0])
    assert trio.current_time() - start_s == DIAL_LIMIT_S
    assert reason == f"{NOBODY}: no answer"
    nursery.cancel_scope.cancel()


async def test_the_wait_for_a_free_dial_is_part_of_its_time(
    nursery: trio.Nursery, dialler: Dialler, autojump_clock: MockClock
) -> None:
    for peer in PEERS[1 : 4 * DIALS_MAX]:
        nursery.start_soon(dialler.connect, peer)
    await wait_all_tasks_blocked()
    start_s = trio.current_time()
    assert await dialler.connect(PEERS[0]) == "too many dials at once"
    assert trio.current_time() - start_s == DIAL_LIMIT_S


async def test_ahead_of_need_everybody_is_dialled_once_half_of_all_dials_at_a_time(
    nursery: trio.Nursery, swarm: Swarm, dialler: Dialler, autojump_clock: MockClock
) -> None:
    ahead = ahead_of(dialler, nursery)
    for peer in [*PEERS[:100], *PEERS[:100]]:
        ahead.dial(peer)
    await trio.sleep(100 / AHEAD_MAX * DIAL_LIMIT_S + DIAL_LIMIT_S)
    assert len(swarm.dialled) == 100
    assert set(swarm.dialled) == set(PEERS[:100])
    assert swarm.most_at_once == AHEAD_MAX


async def test_no_more_are_dialled_ahead_of_need_than_there_is_room_for(
    nursery: trio.Nursery, swarm: Swarm, dialler: Dialler, autojump_clock: MockClock
) -> None:
    room = 3
    ahead = ahead_of(dialler, nursery, lambda: room)
    for peer in PEERS[:5]:
        ahead.dial(peer)
    await trio.sleep(2.5 * DIAL_LIMIT_S)
    assert set(swarm.dialled) == set(PEERS[:5])  # those that fail make way for the next
    assert swarm.most_at_once == room
    for peer in PEERS[5:20]:
        ahead.dial(peer)
    await wait_all_tasks_blocked()
    room = 0
    await trio.sleep(10 * DIAL_LIMIT_S)
    room = 3
    ahead.dial(PEERS[20])
    await wait_all_tasks_blocked()
    assert set(swarm.dialled) == {*PEERS[:8], PEERS[20]}
    nursery.cancel_scope.cancel()


async def test_a_flood_of_names_is_bounded(nursery: trio.Nursery, swarm: Swarm, dialler: Dialler) -> None:
    ahead = ahead_of(dialler, nursery)
    for peer in PEERS:
        ahead.dial(peer)
    assert len(ahead._waiting) == WAITING_MAX
    nursery.cancel_scope.cancel()


async def test_whoever_comes_and_breaks_off_gets_no_dials_that_others_need(
    nursery: trio.Nursery, swarm: Swarm, dialler: Dialler, autojump_clock: MockClock
) -> None:
    ahead = ahead_of(dialler, nursery)
    contacts = Contacts(dialler, ahead.dial, AddressBook(), lambda _event: None)
    for peer in PEERS[: 2 * DIALS_MAX]:
        contacts.up(peer)
        contacts.down(peer, let_go=False)
        nursery.start_soon(contacts.bring_back, peer)
    await trio.sleep(10)
    assert swarm.most_at_once == AHEAD_MAX
    contacts.up(PEERS[0])
    await trio.sleep(600)
    tried = [swarm.dialled.count(peer) for peer in PEERS[: 2 * DIALS_MAX]]
    assert tried[0] < max(tried) <= RECONNECT_ATTEMPTS
    assert min(tried[1:]) >= 1
