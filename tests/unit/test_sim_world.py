"""The world of the simulator, by peers that do what the test says and write down what happens to them."""

from collections.abc import Callable

import pytest

from p2pagent import driver, net
from p2pagent.peer.effects import Effect, Find, Learn, Provide, Send, SetTimer, Shun
from p2pagent.peer.events import (
    Event,
    Leave,
    PeerDown,
    PeerIdle,
    PeerUp,
    ProvidersFound,
    Received,
    Timer,
    TimerFired,
    Unsent,
)
from p2pagent.peer.gossip_messages import Nack
from p2pagent.peer.messages import Release
from p2pagent.peer.wire import GOSSIP_PROTOCOL, QUERY_PROTOCOL, encode
from p2pagent.sim.contacts import BUSY_MS, CONTACTS_MAX, DIAL_LIMIT_MS, DIAL_ROUND_TRIPS, SILENCE_MS
from p2pagent.sim.dht import CHECKS_MAX, FOUND_MAX, LOOKUP_MS, PROVIDERS_MAX
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.world import World
from p2pagent.types import PeerId

WAY_MS = 20
NAMES = [SimKeys(number).peer for number in range(120)]
A, B, C = NAMES[:3]


class Scripted:
    """Does what it is told by `do`, and notes events with their times."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Event]] = []
        self.todo: list[list[Effect]] = []
        self.engaged: set[PeerId] = set()

    def counterparties(self) -> set[PeerId]:
        return self.engaged

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Leave):
            return self.todo.pop(0)
        self.seen.append((now_ms, event))
        return []


class Stage:
    def __init__(self, *names: PeerId, way_ms: Callable[[PeerId, PeerId, int], int | None] | None = None) -> None:
        self.world = World(way_ms or (lambda _source, _target, _now: WAY_MS), 0)
        self.peers: dict[PeerId, Scripted] = {}
        for name in names:
            self.start(name)

    def start(self, name: PeerId, skew_ms: int = 0) -> None:
        self.peers[name] = Scripted()
        self.world.add(name, self.peers[name], {}, skew_ms)  # type: ignore[arg-type]

    def do(self, name: PeerId, *effects: Effect, at_ms: int | None = None) -> None:
        self.peers[name].todo.append(list(effects))
        self.world.at(self.world.now_ms if at_ms is None else at_ms, name, Leave())

    def saw(self, name: PeerId, kind: type) -> list[tuple[int, Event]]:
        return [(at, event) for at, event in self.peers[name].seen if isinstance(event, kind)]


def nack(number: int = 1) -> Nack:
    return Nack(number)


def test_a_stranger_is_dialled_first_and_both_sides_see_the_connection() -> None:
    stage = Stage(A, B)
    stage.do(A, Send(B, nack()), Send(B, nack(2)))
    stage.world.run(1_000)
    up_ms = DIAL_ROUND_TRIPS * 2 * WAY_MS
    assert stage.peers[A].seen == [(up_ms, PeerUp(B))]
    assert stage.peers[B].seen == [
        (up_ms, PeerUp(A)),
        (up_ms, Received(A, nack())),
        (up_ms, Received(A, nack(2))),
    ]
    stage.do(B, Send(A, nack(3)))
    stage.world.run(2_000)
    assert stage.peers[A].seen[-1] == (1_000 + WAY_MS, Received(B, nack(3)))


def test_frames_of_one_connection_keep_their_order() -> None:
    late = iter([50, 10, 30])
    stage = Stage(A, B, way_ms=lambda _s, _t, _n: next(late, 0))
    stage.world.connect(A, B)
    stage.do(A, *(Send(B, nack(number)) for number in range(3)))
    stage.world.run(1_000)
    assert stage.saw(B, Received) == [(50, Received(A, nack(number))) for number in range(3)]


def test_a_killed_process_is_noticed_at_once_and_refuses_to_be_dialled() -> None:
    stage = Stage(A, B, C)
    stage.world.connect(A, B)
    stage.world.run(10)
    stage.world.crash(B)
    stage.do(A, Send(B, nack()))
    stage.do(C, Send(B, nack()))
    stage.world.run(10_000)
    assert stage.saw(A, PeerDown) == [(10 + WAY_MS, PeerDown(B))]
    assert stage.saw(A, Unsent) == []
    assert stage.saw(C, Unsent) == [(10 + 2 * WAY_MS, Unsent(B))]
    assert len(stage.peers[B].seen) == 1


def test_a_device_that_goes_dark_is_noticed_by_its_silence_alone() -> None:
    stage = Stage(A, B, C)
    stage.world.connect(A, B)
    stage.world.run(10)
    stage.world.crash(B, silent=True)
    stage.do(A, Send(B, nack()))
    stage.do(C, Send(B, nack()), Send(B, nack(2)))
    stage.do(C, Send(B, nack(3)), at_ms=1_000)
    stage.world.run(20_000)
    ((down_ms, _),) = stage.saw(A, PeerDown)
    assert SILENCE_MS[0] <= down_ms - 10 <= SILENCE_MS[1]
    assert stage.saw(A, Unsent) == []
    assert stage.saw(C, Unsent) == [(10 + DIAL_LIMIT_MS, Unsent(B))]


def test_what_nobody_ever_was_is_unsent_at_once() -> None:
    stage = Stage(A)
    stage.do(A, Send(B, nack()))
    stage.world.run(5)
    assert stage.peers[A].seen == [(0, Unsent(B))]


def test_a_dial_through_a_cut_fails_and_joins_nobody() -> None:
    stage = Stage(A, B, way_ms=lambda _s, _t, _n: None)
    stage.do(A, Send(B, nack()), Learn(B, ()))
    stage.world.run(10_000)
    assert stage.peers[A].seen == [(DIAL_LIMIT_MS, Unsent(B))]
    assert stage.peers[B].seen == []


def test_who_comes_back_inherits_nothing_of_its_former_life() -> None:
    stage = Stage(A, B)
    stage.world.connect(A, B)
    stage.do(B, SetTimer(500, Timer("tick")), Send(A, nack()))
    stage.do(A, Send(B, nack(2)), at_ms=5)
    stage.world.run(10)
    stage.world.crash(B, silent=True)
    stage.start(B)
    stage.do(A, Send(B, nack(3)), at_ms=100)
    stage.world.run(20_000)
    assert stage.saw(B, TimerFired) == []
    assert stage.saw(B, Received) == []
    assert len(stage.saw(A, PeerDown)) == 1


def test_an_old_connection_that_was_replaced_breaks_unseen() -> None:
    stage = Stage(A, B)
    stage.world.connect(A, B)
    stage.world.run(10)
    stage.world.crash(B, silent=True)
    stage.start(B)
    stage.do(B, Send(A, nack()))
    stage.world.run(20_000)
    assert stage.saw(A, PeerDown) == []
    stage.do(A, Send(B, nack(2)))
    stage.world.run(21_000)
    assert [event for _, event in stage.saw(B, Received)] == [Received(A, nack(2))]


def test_connections_are_bounded_and_the_idlest_is_let_go_in_good_order() -> None:
    stage = Stage(*NAMES)
    for number, other in enumerate(NAMES[1 : CONTACTS_MAX + 1]):
        stage.world.run(10 * number)
        stage.world.connect(A, other)
    traded, idle = NAMES[1], NAMES[2]
    stage.do(A, Send(traded, Release(bytes(16))), *(Send(other, nack()) for other in NAMES[2:20]))
    stage.world.run(BUSY_MS + 2_000)
    stage.do(A, Learn(NAMES[100], ()))  # ahead of need nobody is let go
    stage.do(A, Send(NAMES[101], nack()))
    stage.world.run(BUSY_MS + 4_000)
    assert stage.saw(A, PeerIdle) == [(BUSY_MS + 2_000, PeerIdle(idle))]
    assert stage.saw(idle, PeerIdle) == [(BUSY_MS + 2_000 + WAY_MS, PeerIdle(A))]
    assert stage.saw(NAMES[100], PeerUp) == []
    node = stage.world.node(A)
    assert node is not None
    assert len(node.contacts) == CONTACTS_MAX


def test_with_whom_something_is_under_way_is_let_go_last() -> None:
    stage = Stage(*NAMES)
    for number, other in enumerate(NAMES[1 : CONTACTS_MAX + 1]):
        stage.world.run(10 * number)
        stage.world.connect(A, other)
    stage.peers[A].engaged = {NAMES[1], NAMES[2]}
    stage.do(A, Send(NAMES[100], nack()))
    stage.world.run(5_000)
    assert [event for _, event in stage.saw(A, PeerIdle)] == [PeerIdle(NAMES[3])]
    stage.peers[A].engaged = set(NAMES)
    stage.do(A, Send(NAMES[101], nack()))
    stage.world.run(10_000)
    assert [event for _, event in stage.saw(A, PeerIdle)][1:] == [PeerIdle(NAMES[1])]


def test_newcomers_push_out_others_like_them_before_whom_we_trade_with() -> None:
    stage = Stage(*NAMES)
    for other in NAMES[1 : CONTACTS_MAX + 1]:
        stage.world.connect(A, other)
    stage.world.run(1_000)
    stage.do(A, *(Send(other, Release(bytes(16))) for other in NAMES[1:CONTACTS_MAX]))
    stage.world.run(2_000)
    for other in NAMES[CONTACTS_MAX + 1 : CONTACTS_MAX + 10]:
        stage.world.run(stage.world.now_ms + 10)
        stage.world.connect(other, A)
    stage.world.run(3_000)
    gone = [event.peer for _, event in stage.saw(A, PeerIdle)]  # type: ignore[union-attr]
    assert gone == NAMES[CONTACTS_MAX : CONTACTS_MAX + 9]


def test_bytes_are_counted_by_peer_and_protocol() -> None:
    stage = Stage(A, B)
    stage.world.connect(A, B)
    stage.do(A, Send(B, nack()), Send(B, Release(bytes(16))), Send(B, nack()))
    stage.world.run(1_000)
    here, there = stage.world.node(A), stage.world.node(B)
    assert here is not None
    assert there is not None
    sizes = {GOSSIP_PROTOCOL: 2 * len(encode(nack())), QUERY_PROTOCOL: len(encode(Release(bytes(16))))}
    assert here.sent == there.received == sizes
    assert not here.received
    assert here.kinds == {Nack: 2, Release: 1}


def test_who_is_shunned_sees_the_connection_close() -> None:
    stage = Stage(A, B)
    stage.world.connect(A, B)
    stage.world.run(10)
    stage.do(A, Shun(B))
    stage.world.run(1_000)
    assert stage.saw(A, PeerIdle) == [(10, PeerIdle(B))]
    assert stage.saw(B, PeerIdle) == [(10 + WAY_MS, PeerIdle(A))]


def test_a_severed_island_loses_its_connections_on_both_sides() -> None:
    stage = Stage(A, B, C)
    for one, other in ((A, B), (B, C), (A, C)):
        stage.world.connect(one, other)
    stage.world.run(10)
    stage.world.sever(frozenset({A, B}))
    stage.world.run(10_000)
    assert [event for _, event in stage.saw(A, PeerDown)] == [PeerDown(C)]
    assert [event for _, event in stage.saw(B, PeerDown)] == [PeerDown(C)]
    assert {event for _, event in stage.saw(C, PeerDown)} == {PeerDown(A), PeerDown(B)}


def test_a_clock_that_is_off_is_off_for_its_owner_only() -> None:
    stage = Stage()
    stage.start(A, skew_ms=-5_000)
    stage.do(A, SetTimer(-4_000, Timer("tick")), at_ms=100)
    stage.world.run(999)
    assert stage.peers[A].seen == []
    stage.world.run(1_000)
    assert stage.peers[A].seen == [(-4_000, TimerFired(Timer("tick")))]


def test_gossip_can_be_slower_than_the_rest() -> None:
    stage = Stage(A, B)
    stage.world.gossip_delay_ms = 600
    stage.world.connect(A, B)
    stage.do(A, Send(B, Release(bytes(16))))
    stage.do(A, Send(B, nack()), at_ms=100)
    stage.world.run(1_000)
    assert [at for at, _ in stage.saw(B, Received)] == [WAY_MS, 100 + WAY_MS + 600]


class TestDht:
    def test_names_some_of_the_latest_providers_and_connects_to_them(self) -> None:
        stage = Stage(*NAMES)
        for number, name in enumerate(NAMES[1:41]):
            stage.world.connect(name, B)
            stage.world.connect(name, C)
            stage.do(name, Provide(("cell", "other")), at_ms=number)
        stage.world.run(100)
        stage.do(A, Find("q", "cell"))
        stage.world.run(1_000)
        ((at_ms, found),) = stage.saw(A, ProvidersFound)
        assert isinstance(found, ProvidersFound)
        assert (at_ms, found.query, found.cell) == (100 + LOOKUP_MS, "q", "cell")
        assert len(found.peers) == FOUND_MAX == len(set(found.peers))
        assert set(found.peers) <= set(NAMES[41 - PROVIDERS_MAX : 41])
        dialled = {event.peer for _, event in stage.saw(A, PeerUp)}  # type: ignore[union-attr]
        assert len(dialled) == CHECKS_MAX
        assert dialled > set(found.peers)

    def test_as_many_are_found_and_tried_as_by_the_daemon(self) -> None:
        assert FOUND_MAX == driver.PROVIDERS_MAX
        assert CHECKS_MAX == driver.PROVIDERS_MAX + net.cells.SPARE_CHECKS

    @pytest.mark.parametrize(("dark", "takes_ms"), [(0, LOOKUP_MS), (3, DIAL_LIMIT_MS), (CHECKS_MAX, DIAL_LIMIT_MS)])
    def test_those_that_refuse_make_way_for_others_and_those_that_are_dark_do_not(
        self, dark: int, takes_ms: int
    ) -> None:
        stage = Stage(*NAMES)
        providers = NAMES[1 : PROVIDERS_MAX + 1]
        for name in providers:
            stage.world.connect(name, NAMES[100])
            stage.do(name, Provide(("cell",)))
        stage.world.run(10)
        for number, name in enumerate(providers[:-1]):
            stage.world.crash(name, silent=number < dark)
        found: set[PeerId] = set()
        for number in range(40):
            stage.do(A, Find(f"{number}", "cell"))
            stage.world.run(stage.world.now_ms + 10_000)
        for at_ms, event in stage.saw(A, ProvidersFound):
            assert isinstance(event, ProvidersFound)
            assert event.peers == (providers[-1],) or (dark == CHECKS_MAX and not event.peers)
            assert (at_ms - 10) % 10_000 == takes_ms
            found.update(event.peers)
        assert found == {providers[-1]}

    @pytest.mark.parametrize(("silent", "takes_ms"), [(True, DIAL_LIMIT_MS), (False, LOOKUP_MS)])
    def test_the_dead_are_not_named_and_cost_time_if_they_are_dark(self, takes_ms: int, *, silent: bool) -> None:
        stage = Stage(A, B, C)
        stage.world.connect(B, C)
        stage.do(B, Provide(("cell",)))
        stage.do(C, Provide(("cell",)))
        stage.world.run(10)
        stage.world.crash(B, silent=silent)
        stage.do(A, Find("", "cell"))
        stage.world.run(10_000)
        assert stage.saw(A, ProvidersFound) == [(10 + takes_ms, ProvidersFound("", "cell", (C,)))]

    def test_whoever_knows_nobody_is_listed_at_its_first_connection(self) -> None:
        stage = Stage(A, B, C)
        stage.do(B, Provide(("early", "cell")))
        stage.do(B, Provide(("late", "cell")))
        for number, cell in enumerate(("cell", "late", "early")):
            stage.do(A, Find(f"before {number}", cell), at_ms=10 + number)
        stage.do(B, Send(C, nack()), at_ms=1_000)
        for number, cell in enumerate(("cell", "late", "early")):
            stage.do(A, Find(f"after {number}", cell), at_ms=2_000 + number)
        stage.world.run(10_000)
        found = [event.peers for _, event in stage.saw(A, ProvidersFound)]  # type: ignore[union-attr]
        assert found == [(), (), (), (B,), (B,), ()]

    def test_nobody_finds_itself_or_what_nobody_provides(self) -> None:
        stage = Stage(A, B)
        stage.world.connect(A, B)
        stage.do(A, Provide(("cell",)))
        stage.do(A, Find("", "cell"), Find("", "none"))
        stage.world.run(1_000)
        assert [event.peers for _, event in stage.saw(A, ProvidersFound)] == [(), ()]  # type: ignore[union-attr]


def test_the_digest_is_over_everything_sent() -> None:
    def run(number: int, later_ms: int) -> str:
        stage = Stage(A, B)
        stage.world.connect(A, B)
        stage.do(A, Send(B, nack(number)), at_ms=later_ms)
        stage.world.run(1_000)
        return stage.world.digest

    assert run(1, 5) == run(1, 5)
    assert len({run(1, 5), run(2, 5), run(1, 6)}) == 3


def test_nobody_is_asked_after_its_end() -> None:
    stage = Stage(A)
    stage.world.at(100, A, Leave())
    stage.world.crash(A)
    stage.world.at(50, A, Leave())
    stage.world.run(1_000)
    assert stage.peers[A].seen == []
    assert stage.world.events == 0
