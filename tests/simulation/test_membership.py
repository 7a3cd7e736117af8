"""Membership in virtual time: crashes, bad links, partitions, returns, liars, and cells that grow and shrink."""

from collections import Counter
from collections.abc import Callable
from math import ceil, log2, log10
from random import Random

import msgspec
import pytest

import p2pagent.peer.cells as cells_module
import p2pagent.peer.hearsay as hearsay_module
from p2pagent.peer.detector import NUMBERS, SUSPICION_MULTIPLE, TICK_MS
from p2pagent.peer.directory import PEERS_MAX
from p2pagent.peer.effects import Effect, Send
from p2pagent.peer.events import AgentsChanged, Event, Leave, Received, TimerFired
from p2pagent.peer.gossip_messages import (
    Ack,
    AgentAdvert,
    Delta,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Relay,
    Sight,
    SignedHeartbeat,
)
from p2pagent.peer.hearsay import STRANGERS_MAX
from p2pagent.peer.lookout import WIDEN_MS
from p2pagent.peer.membership import RETRY_MS
from p2pagent.peer.messages import RateCard
from p2pagent.peer.wire import GOSSIP_PROTOCOL
from p2pagent.routing.hubs import ROOT
from p2pagent.routing.prototypes import Space
from p2pagent.routing.space import load_space
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.links import Link, lossy, partitioned, uniform
from p2pagent.sim.world import World
from p2pagent.types import PeerId
from tests.members import make_beat, make_known, make_record, make_suspicion, news, sign_beat
from tests.scenario import START_MS, Device, make_advert

COUNT = 20
SETTLED_MS = 20_000
SEEDS = range(2)
MINUTE_MS = 60_000


def spread_ms(members: int) -> int:
    """What urgent news takes to reach all: each hears and tells one other a second, so it doubles in less than that."""
    return 1_000 * 2 * ceil(log2(members))


def known_gone_ms(members: int) -> int:
    """From a silent crash until 99 % hold the peer for gone.

    Five turns until somebody pings it (each leaves it out with probability 1/e), one more until that one gives up, one
    for those who look themselves when they hear of it; then the least time to refute, or until all have heard.
    """
    least_ms = SUSPICION_MULTIPLE * max(1, log10(members)) * TICK_MS
    return round((5 + 1 + 1) * TICK_MS + max(least_ms, 2 * spread_ms(members)) + TICK_MS)


class Town:
    """A world of devices that all came in through the first; who is given up by whom is written down."""

    def __init__(self, space: Space, seed: int = 1, count: int = COUNT) -> None:
        self.space, self.seed = space, seed
        self.world = World(uniform(Random(seed), 5, 25), START_MS)
        self.buried: list[tuple[int, int]] = []
        self.devices: list[Device] = []
        for index in range(count):
            self.enter(Device(index, space, seed))
        self.run(SETTLED_MS)

    def enter(self, device: Device, met: int = 0) -> Device:
        """Put a device in; it knows one other's address."""
        self.devices.append(device)
        self.world.add(device.name, device.peer, {"agent": device.engine})
        self.world.at(self.world.now_ms, device.name, device.ready)
        self.world.connect(device.name, self.devices[met].name)
        directory = device.peer.membership.directory
        bury = directory.bury

        def noted(peer: PeerId) -> None:
            if directory.get(peer) is not None:
                self.buried.append((device.index, next((d.index for d in self.devices if d.name == peer), -1)))
            bury(peer)

        directory.bury = noted  # type: ignore[method-assign]
        return device

    def run(self, ms: int) -> None:
        self.world.run(self.world.now_ms + ms)

    def time_until(self, holds: Callable[[], bool], limit_ms: int) -> int:
        """Run until it holds; how long that took."""
        for ms in range(0, limit_ms, 500):
            if holds():
                return ms
            self.run(500)
        raise AssertionError(f"not within {limit_ms} ms")

    def calls(self, one: Device, other: Device) -> bool:
        """Whether `one` holds `other` for somebody whom it may call."""
        now_ms = self.world.now_ms
        return any(peer == other.name for peer, _ in one.peer.membership.directory.reachable(now_ms))

    def uncalled(self, among: list[Device] | None = None) -> list[tuple[int, int]]:
        """All pairs of which the one would not call the other."""
        among = among or self.devices
        pairs = []
        for one in among:
            reached = {peer for peer, _ in one.peer.membership.directory.reachable(self.world.now_ms)}
            pairs += [(one.index, other.index) for other in among if other is not one and other.name not in reached]
        return pairs

    def relink(self, link: Callable[[Link], Link]) -> Callable[[], None]:
        """Bend all links; what is returned straightens them."""
        before = self.world._link
        self.world._link = link(before)

        def straighten() -> None:
            self.world._link = before

        return straighten


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("silent", [False, True])
def test_a_crash_is_known_to_all_in_time_and_nobody_else_is_blamed_for_it(space, seed, silent):
    town = Town(space, seed)
    assert town.uncalled() == []
    victim, others = town.devices[7], [d for d in town.devices if d.index != 7]
    town.world.crash(victim.name, silent=silent)
    # Two of the muxer's pings find a silent one out; a spoken one is seen by whoever is connected at once.
    uncalled_ms = town.time_until(lambda: not any(town.calls(d, victim) for d in others), 30_000)
    assert uncalled_ms <= (8_000 if silent else 500)
    gone_ms = town.time_until(lambda: all(d.peer.directory.get(victim.name) is None for d in others), 120_000)
    assert uncalled_ms + gone_ms <= known_gone_ms(COUNT)
    assert {accused for _, accused in town.buried} == {victim.index}
    assert town.uncalled(others) == []


def frozen(victim: PeerId) -> Callable[[Link], Link]:
    return lambda link: lambda s, t, now: None if victim in (s, t) else link(s, t, now)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_freezes_is_found_by_pings_alone_and_is_back_when_it_thaws(space, seed):
    town = Town(space, seed)
    victim, others = town.devices[7], [d for d in town.devices if d.index != 7]
    thaw = town.relink(frozen(victim.name))
    town.time_until(
        lambda: sum(d.peer.directory.get(victim.name) is None for d in others) >= 0.99 * len(others),
        known_gone_ms(COUNT),
    )
    assert {accused for accuser, accused in town.buried if accuser != victim.index} == {victim.index}
    assert victim.peer.membership.detector.health > 4
    assert max(d.peer.membership.detector.health for d in others) <= 2
    thaw()
    town.time_until(lambda: town.uncalled() == [], MINUTE_MS)


# --- bad links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "share"), [(1, 0.10), (2, 0.15)])
def test_nobody_alive_is_declared_gone_because_messages_are_lost(space, seed, share):
    town = Town(space, seed)
    town.relink(lambda link: lossy(link, Random(seed), share))
    town.run(3 * MINUTE_MS)
    assert town.buried == []
    # A ping or its answer is lost with 2 share - share^2; the next one in either direction makes up for it.
    assert len(town.uncalled()) < 1.5 * share * COUNT * (COUNT - 1)
    assert town.world.blamed == []


@pytest.mark.parametrize("delay_ms", [400, 2_000])
def test_one_slow_peer_slows_itself_down_and_nobody_else(space, delay_ms):
    town = Town(space)
    slow, others = town.devices[7], [d for d in town.devices if d.index != 7]
    town.relink(lambda link: lambda s, t, now: link(s, t, now) + delay_ms * (slow.name in (s, t)))
    doubts = Counter()
    for _ in range(40):
        town.run(4_000)
        doubts[slow.peer.membership.detector.health] += 1
        assert max(d.peer.membership.detector.health for d in others) <= 1
    assert town.buried == []
    assert (doubts[0] < 20) == (2 * delay_ms > TICK_MS)
    assert town.uncalled(others) == []


def test_a_link_that_carries_one_way_only_is_the_matter_of_its_two_ends(space):
    town = Town(space)
    one, other = town.devices[3], town.devices[7]
    town.relink(lambda link: lambda s, t, now: None if (s, t) == (one.name, other.name) else link(s, t, now))
    silent = 0
    for _ in range(60):
        town.run(4_000)
        assert set(town.uncalled()) <= {(3, 7), (7, 3)}
        silent += (3, 7) in town.uncalled()
    assert town.buried == []
    assert silent > 10  # what comes the other way is contact; our next ping ends that again


# --- partitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severed", "heals_ms"), [(True, RETRY_MS + 2_000), (False, 150_000)])
def test_after_a_partition_everybody_knows_everybody_again(space, severed, heals_ms):
    """Where connections stay up and carry nothing, pings fail without end, and whoever saw that is slow for a while."""
    town = Town(space)
    island = town.devices[: COUNT // 3]
    names, start_ms = frozenset(d.name for d in island), town.world.now_ms
    town.relink(lambda link: partitioned(link, names, start_ms, start_ms + 2 * MINUTE_MS))
    if severed:
        town.world.sever(names)
    town.run(2 * MINUTE_MS)
    mainland = town.devices[COUNT // 3 :]
    assert len(town.uncalled()) >= 2 * len(island) * len(mainland)
    assert town.uncalled(mainland) == []
    town.time_until(lambda: town.uncalled() == [], heals_ms)
    wrongly = {accused for _, accused in town.buried}
    assert len(wrongly) > 0.75 * COUNT, "each side buries the other"
    refuted = {d.index for d in town.devices if d.peer.membership.herald.proof[1] > 0}
    assert wrongly <= refuted, "each refutes that"


# --- coming back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone_ms", [1_000, MINUTE_MS])
def test_a_new_start_is_known_to_all_at_once_even_before_its_death_was(space, gone_ms):
    town = Town(space)
    town.world.crash(town.devices[7].name)
    town.run(gone_ms)
    del town.devices[7]
    town.enter(Device(7, space, incarnation=2))
    town.time_until(lambda: town.uncalled() == [], spread_ms(COUNT))
    town.run(MINUTE_MS)
    assert town.uncalled() == []


def test_a_start_whose_clock_was_lost_stays_out_where_it_was_buried_until_a_newer_one(space):
    """Rule 3 cannot tell it from a ghost; incarnations are kept on disk so that this does not happen."""
    town = Town(space)
    town.world.crash(town.devices[7].name)
    town.run(MINUTE_MS)
    del town.devices[7]
    town.enter(Device(7, space, incarnation=0))
    others = town.devices[:-1]
    town.run(MINUTE_MS)
    assert not any(town.calls(d, town.devices[-1]) for d in others)
    town.world.crash(town.devices.pop().name)
    town.run(1_000)
    town.enter(Device(7, space, incarnation=2))
    town.time_until(lambda: town.uncalled() == [], spread_ms(COUNT))
    assert town.world.blamed == []


def test_a_goodbye_spreads_and_is_final(space):
    town = Town(space)
    leaver, others = town.devices[7], [d for d in town.devices if d.index != 7]
    town.world.at(town.world.now_ms, leaver.name, Leave())
    town.time_until(lambda: not any(town.calls(d, leaver) for d in others), spread_ms(COUNT))
    town.run(2 * MINUTE_MS)  # it still answers
    assert not any(town.calls(d, leaver) for d in others)
    assert town.buried == []


def test_a_goodbye_that_nobody_hears_is_made_up_for_by_pings(space):
    town = Town(space)
    leaver, others = town.devices[7], [d for d in town.devices if d.index != 7]
    town.relink(frozen(leaver.name))
    town.world.at(town.world.now_ms, leaver.name, Leave())
    town.time_until(lambda: not any(town.calls(d, leaver) for d in others), known_gone_ms(COUNT))


# --- liars ----------------------------------------------------------------------------------------------------------

HONEST = 10


class Liar(Device):
    """A device that behaves, and besides does what `lies` says once in each of its turns; it knows everything."""

    def __init__(self, index: int, space: Space, town: Town, lies: Callable[["Liar", int], list[Effect]]) -> None:
        super().__init__(index, space)
        self.town, self.lies, self.heard = town, lies, []
        self.honest = town.devices[:HONEST]
        self.invented: dict[PeerId, SimKeys] = {}

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = self.peer.handle(event, now_ms)
        if isinstance(event, Received) and isinstance(event.message, Ping | Ack):
            self.heard += [event.message.news] if len(self.heard) < 400 else []
        if isinstance(event, Received) and isinstance(event.message, Pull):
            wanted = [self.invented[peer] for peer in event.message.peers if peer in self.invented]
            effects.append(Send(event.peer, Delta(tuple(self.known(keys, now_ms) for keys in wanted))))
        if isinstance(event, TimerFired) and event.timer.kind == "tick":
            effects += self.lies(self, now_ms)
        return effects

    def counterparties(self) -> set[PeerId]:
        return self.peer.counterparties()

    def known(self, keys: SimKeys, now_ms: int):
        record = make_record(keys, make_advert("agent", {1: 0.9}), space=self.town.space.name)
        return make_known(keys, record, issued_ms=now_ms)

    def to_all(self, *messages) -> list[Effect]:
        return [Send(d.name, message) for d in self.honest for message in messages]


def accuses_everybody(liar: Liar, now_ms: int) -> list[Effect]:
    """All the time, of what each has said last."""
    proofs = [(d.name, *d.peer.membership.herald.proof) for d in liar.honest]
    said = [make_suspicion(liar.keys, *proof) for proof in proofs]
    return liar.to_all(Ping(1, news(*said[:16])), Ping(2, news(*said[16:])))


def accuses_of_the_future(liar: Liar, now_ms: int) -> list[Effect]:
    """Of what nobody can ever have said."""
    said = [make_suspicion(liar.keys, d.name, 1, 1 << 53) for d in liar.honest]
    return liar.to_all(Ping(1, news(*said[:16])), Ping(2, news(*said[16:])))


def invents(liar: Liar, now_ms: int) -> list[Effect]:
    """Thirty-two peers a turn, and keeps those of its last three turns alive."""
    fresh = [SimKeys(1_000_000 + liar.index * 10_000 + len(liar.invented) + n) for n in range(32)]
    liar.invented |= {keys.peer: keys for keys in fresh}
    kept = list(liar.invented.values())[:-96:-1]
    beats = [sign_beat(keys, make_beat(keys, issued_ms=now_ms)) for keys in kept]
    return liar.to_all(*(Ping(n, News(tuple(beats[n : n + 32]), ())) for n in range(0, len(beats), 32)))


def replays(liar: Liar, now_ms: int) -> list[Effect]:
    """What it has heard, over and over, under every tag that carries it."""
    rng = Random(now_ms)
    told = rng.sample(liar.heard, min(8, len(liar.heard)))
    beats = tuple(beat for news in told for beat in news.heartbeats)[:256]
    return liar.to_all(*(kind(n, said) for n, said in enumerate(told) for kind in (Ping, Ack)), Sight("/", "/", beats))


def forges(liar: Liar, now_ms: int) -> list[Effect]:
    """Goodbyes and suspicions in the name of others."""
    beats = [make_beat(d.keys, lease_ms=0, issued_ms=now_ms) for d in liar.honest]
    forged = [SignedHeartbeat(sign_beat(liar.keys, beat).body, bytes(64)) for beat in beats]
    accusations = [make_suspicion(d.keys, liar.honest[0].name) for d in liar.honest[1:]]
    bent = [msgspec.structs.replace(signed, signature=bytes(64)) for signed in accusations]
    return liar.to_all(*(Ping(n, news(one)) for n, one in enumerate([*forged[:4], *bent[:4]])))


def answers_for_others(liar: Liar, now_ms: int) -> list[Effect]:
    """Whatever each may have asked somebody, as if it had been asked itself; and says of nobody that it tried."""
    return [
        Send(d.name, message)
        for d in liar.honest
        for number in range(d.peer.membership.detector._number - 3, d.peer.membership.detector._number + 4)
        for message in (Ack(number % NUMBERS, News((), ())), Nack(number % NUMBERS))
    ]


def floods(liar: Liar, now_ms: int) -> list[Effect]:
    """With all that asks for much: who is where, records, pings of everybody by everybody."""
    names = tuple(d.name for d in liar.honest)
    asks = [Look("/"), Pull(names), Ping(3, News((), ())), *(Relay(n, name) for n, name in enumerate(names))]
    return liar.to_all(*(asks * 5))


def takes_away(liar: Liar, now_ms: int) -> list[Effect]:
    """Claims a depth that no network has."""
    return liar.to_all(Sight("/", "/0", ()), Sight("/", "/0000000000000000000000", ()), Sight("/0", "/", ()))


def sent_bytes(devices: list[Device], world: World) -> int:
    return sum(world.node(d.name).sent[GOSSIP_PROTOCOL] for d in devices)


LIES = [
    *[(5, accuses_everybody), (1, accuses_of_the_future), (3, invents)],
    *[(1, replays), (1, forges), (3, answers_for_others), (1, floods), (1, takes_away)],
]


@pytest.mark.parametrize(("liars", "lies"), LIES, ids=[f"{count} {lies.__name__}" for count, lies in LIES])
def test_no_liar_comes_between_honest_peers(space, liars, lies):
    town = Town(space, count=HONEST)
    honest = list(town.devices)
    for number in range(liars):
        liar = Liar(100 + number, space, town, lies)
        town.enter(liar)
        town.world.node(liar.name).peer = liar
    town.run(2_000)
    before = sent_bytes(honest, town.world)
    for _ in range(12):
        town.run(5_000)
        assert town.uncalled(honest) == []
        assert max(d.peer.membership.detector.health for d in honest) <= 2
    assert not [pair for pair in town.buried if pair[1] in range(HONEST)]
    assert not [fault for fault in town.world.blamed if fault[1] in {d.name for d in honest}]
    for device in honest:
        membership = device.peer.membership
        assert membership.cells.names() == (ROOT,)
        assert len(membership.directory) <= HONEST + liars + STRANGERS_MAX
        tables = (
            membership.hearsay._pulled,
            membership.hearsay._outsiders,
            membership.lookout._looked,
            membership.talk.rumours._beats,
        )
        assert max(map(len, tables)) <= PEERS_MAX
    # A ping and an ack of full size a second, and what the allowance lets each liar have: a request a second.
    per_second = (sent_bytes(honest, town.world) - before) / HONEST / 60
    assert per_second < 8_000 + liars * 12_000


def test_helpers_that_lie_do_not_keep_a_dead_peer_alive(space):
    town = Town(space, count=HONEST)

    def vouches(liar: Liar, now_ms: int) -> list[Effect]:
        return []

    class Voucher(Liar):
        def handle(self, event: Event, now_ms: int) -> list[Effect]:
            if isinstance(event, Received) and isinstance(event.message, Relay):
                return [Send(event.peer, Ack(event.message.number, News((), ())))]
            return super().handle(event, now_ms)

    for number in range(3):
        liar = Voucher(100 + number, space, town, vouches)
        town.enter(liar)
        town.world.node(liar.name).peer = liar
    town.run(20_000)
    victim, others = town.devices[3], [d for d in town.devices[:HONEST] if d.index != 3]
    town.relink(frozen(victim.name))
    town.time_until(lambda: not any(town.calls(d, victim) for d in others), 2 * known_gone_ms(HONEST))
    assert {accused for accuser, accused in town.buried if accuser != 3} <= {3}


# --- cells ----------------------------------------------------------------------------------------------------------

FEW, HARDLY = 16, 3


@pytest.fixture
def small_cells(monkeypatch):
    """Cells split at 16 instead of 160 members: the same, in a tenth of the devices."""
    monkeypatch.setattr(cells_module, "FOLLOWED_MAX", FEW)
    monkeypatch.setattr(cells_module, "LONELY", HARDLY)
    monkeypatch.setattr(hearsay_module, "STRANGERS_MAX", FEW)


@pytest.fixture(scope="module")
def wide_space() -> Space:
    """The shipped one, with 24 prototypes."""
    return load_space("hashing")


def expert(home: int, name: str = "agent") -> AgentAdvert:
    """An agent that is strong at one prototype of the wide space."""
    return AgentAdvert(name, "test", bytes(240 if p == home else 30 for p in range(24)), RateCard(1, 1, 1), 4096, 1)


def hosting(index: int, space: Space, *homes: int) -> Device:
    """A device with an agent for each of these prototypes."""
    device = Device(index, space)
    adverts = tuple(expert(home, f"agent{number}") for number, home in enumerate(homes))
    device.ready = AgentsChanged(adverts, device.ready.addresses)
    device.adverts = adverts
    return device


def city(space: Space, homes: list[tuple[int, ...]], gap_ms: int = 200) -> Town:
    """Devices that come one after another, each knowing one of those before it."""
    town, rng = Town(space, count=0), Random(5)
    for index, own in enumerate(homes):
        town.enter(hosting(index, space, *own), met=rng.randrange(max(1, index)))
        town.run(gap_ms)
    return town


def paths_of(device: Device) -> tuple[str, ...]:
    return device.peer.membership.cells.paths(device.name, device.adverts)


def missing_members(town: Town) -> list[tuple[int, int]]:
    """Pairs of which the second is in a cell that the first follows, and the first does not know it."""
    pairs = []
    for device in town.devices:
        membership = device.peer.membership
        known = set(membership.directory.members)
        pairs += [
            (device.index, other.index)
            for other in town.devices
            if other is not device and membership.cells.follows(paths_of(other)) and other.name not in known
        ]
    return pairs


def depths(town: Town) -> list[int]:
    return [len(d.peer.membership.cells.names()[0]) for d in town.devices]


def test_in_a_network_larger_than_a_cell_everybody_follows_its_own_and_no_more(wide_space, small_cells):
    rng = Random(2)
    town = city(wide_space, [(rng.randrange(24),) for _ in range(40)])
    town.run(MINUTE_MS)
    assert missing_members(town) == []
    for device in town.devices:
        membership = device.peer.membership
        assert len(membership.directory.members) <= FEW
        [name] = membership.cells.names()
        assert name != ROOT
        assert all(path.startswith(name) for path in paths_of(device))
    assert town.buried == []
    assert town.world.blamed == []
    before = depths(town)
    town.run(2 * MINUTE_MS)
    assert depths(town) == before


def test_a_newcomer_goes_where_it_belongs_though_it_knows_one_of_elsewhere_only(wide_space, small_cells):
    rng = Random(2)
    town = city(wide_space, [(rng.randrange(24),) for _ in range(30)])
    town.run(MINUTE_MS)
    elsewhere = next(d.index for d in town.devices if paths_of(d)[0].startswith("/0"))
    home = next(p for p in range(24) if town.devices[0].peer.membership.lookout._hubs.leaf(p).startswith("/1"))
    newcomer = town.enter(hosting(30, wide_space, home), met=elsewhere)
    town.time_until(lambda: not [pair for pair in missing_members(town) if 30 in pair], MINUTE_MS)
    [name] = newcomer.peer.membership.cells.names()
    assert name.startswith("/1")
    assert len(newcomer.peer.directory.members) > HARDLY


def test_devices_of_several_cells_and_of_none_take_part(wide_space, small_cells):
    rng = Random(4)
    homes = [(rng.randrange(24),) for _ in range(30)]
    leaf = hosting(0, wide_space).peer.membership.lookout._hubs.leaf
    low, high = (next(p for p in range(24) if leaf(p).startswith(half)) for half in ("/00", "/11"))
    town = city(wide_space, [*homes, (low, high), ()])
    town.run(MINUTE_MS)
    assert missing_members(town) == []
    both, none = (device.peer.membership for device in town.devices[-2:])
    assert {name[:2] for name in both.cells.names()} == {"/0", "/1"}
    assert {path[:2] for p, entry in both.directory.entries() for path in entry.paths} == {"/0", "/1"}
    assert len(none.cells.names()) == 1
    assert len(none.directory.members) > HARDLY


def test_a_network_of_devices_without_agents_has_cells_too(wide_space, small_cells):
    """Most people may only ask."""
    town = city(wide_space, [(home * 6,) if home < 4 else () for home in range(48)])
    town.run(2 * MINUTE_MS)
    assert missing_members(town) == []
    assert max(len(device.peer.membership.directory.members) for device in town.devices) <= FEW
    assert town.buried == []


def test_cells_at_the_boundary_do_not_swing(wide_space, small_cells):
    """Devices come and go so that the root has now one too many, now one too few."""
    rng = Random(6)
    town = city(wide_space, [(rng.randrange(24),) for _ in range(FEW + 1)])
    town.run(MINUTE_MS)
    changes, was = Counter(), depths(town)
    for minute in range(20):
        if minute % 4 == 0:
            town.world.at(town.world.now_ms, town.devices[-1].name, Leave())
            town.run(1_000)
            town.world.crash(town.devices.pop().name)
        if minute % 4 == 2:
            town.enter(hosting(100 + minute, wide_space, rng.randrange(24)))
        town.run(MINUTE_MS)
        for device, before, now in zip(town.devices[:FEW], was, depths(town), strict=False):
            changes[device.index] += abs(now - before)
        was = depths(town)
    assert max(changes.values()) <= 2 * (20 * MINUTE_MS // WIDEN_MS)


def test_a_lonely_cell_finds_its_way_by_the_dht(wide_space, small_cells):
    """One that was sent much too deep asks the DHT for each cell on its way up until somebody is there."""
    town = city(wide_space, [(home % 24,) for home in range(12)])
    town.run(MINUTE_MS)
    lost = town.enter(hosting(99, wide_space, 3), met=0)
    town.run(1)
    lost.peer.membership.cells.deepen(ROOT, "/00000000")
    assert len(lost.peer.membership.cells.names()[0]) > 5
    town.time_until(lambda: lost.peer.membership.cells.names() == (ROOT,), 10 * MINUTE_MS)
    town.time_until(lambda: missing_members(town) == [], MINUTE_MS)


def test_what_a_device_says_a_second_does_not_grow_with_the_network(wide_space, small_cells):
    spoken = {}
    for count in (FEW, 2 * FEW):
        rng = Random(8)
        town = city(wide_space, [(rng.randrange(24),) for _ in range(count)])
        town.run(MINUTE_MS)
        before = sent_bytes(town.devices, town.world)
        town.run(MINUTE_MS)
        spoken[count] = (sent_bytes(town.devices, town.world) - before) / count / 60
    assert spoken[2 * FEW] < 1.3 * spoken[FEW]
    assert max(spoken.values()) < 4_000
