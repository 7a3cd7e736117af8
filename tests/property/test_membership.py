"""Membership whatever is said to it and by whom: it keeps its bounds, its word and its honest members."""

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.peer.cells import Cells
from p2pagent.peer.detector import HEALTH_MAX, PROBES_MAX
from p2pagent.peer.directory import CLOCK_SKEW_MS, LEASE_MS_MAX, PEERS_MAX
from p2pagent.peer.effects import Blame, Send, SetTimer
from p2pagent.peer.events import PeerDown, PeerIdle, PeerUp, Received, TimerFired, Unsent
from p2pagent.peer.gossip_messages import (
    Ack,
    AgentAdvert,
    Delta,
    Heartbeat,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Relay,
    Sight,
    Suspicion,
)
from p2pagent.peer.hearsay import STRANGERS_MAX
from p2pagent.peer.messages import RateCard
from p2pagent.peer.talk import RELAYED_MAX
from p2pagent.peer.wire import decode, encode, parsed, protocol_of
from p2pagent.routing.hubs import ROOT, Hubs, above, depth
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.links import lossy, partitioned, uniform
from p2pagent.sim.world import World
from p2pagent.types import AgentRef
from tests.members import make_beat, make_known, make_record, make_suspicion, sign_beat
from tests.scenario import START_MS, Device, make_advert, make_space
from tests.strangers import ME, make_peer

SPACE = make_space()
OTHERS = [SimKeys(n) for n in range(1, 7)]
STEPS = 120


class Babble:
    """Draws what six others, honest and not, say and do to one peer; keeps a slow account of what may hold."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now_ms = START_MS
        self.peer = make_peer(SPACE, make_advert("agent", {0: 0.9}))
        self.timers = []
        self.own = []
        self.signed = {keys.peer: (0, 0, 0, 0) for keys in OTHERS}
        self.numbers = [0]
        self.forging = False

    def someone(self) -> SimKeys:
        return self.rng.choice(OTHERS)

    def beat(self, keys: SimKeys) -> Heartbeat:
        rng = self.rng
        return make_beat(
            keys,
            incarnation=rng.choice([1, 1, 1, 2]),
            sequence=rng.choice([1, 1, 2, 1 << 53]),
            refuted=rng.choice([0, 0, 0, 1, 2, 1 << 53]),
            issued_ms=max(
                0, self.now_ms + rng.choice([0, 0, -1_000, -150_000, CLOCK_SKEW_MS, CLOCK_SKEW_MS + 1, -START_MS])
            ),
            lease_ms=rng.choice([120_000] * 8 + [0, 1, 1 << 31]),
        )

    def news(self) -> News:
        beats = [sign_beat(keys, self.beat(keys)) for keys in self.rng.sample(OTHERS, self.rng.randrange(4))]
        accusations = [
            make_suspicion(
                self.someone(),
                self.rng.choice([ME.peer, self.someone().peer]),
                self.rng.choice([1, 1, 1, 2, 1 << 53]),
                self.rng.choice([0, 0, 1, self.peer.membership.herald.proof[1], 1 << 53]),
            )
            for _ in range(self.rng.randrange(3))
        ]
        return News(tuple(map(self.bent, beats)), tuple(map(self.bent, accusations)))

    def bent(self, signed):
        """One in thirty is not what was signed."""
        if self.rng.random() > 1 / 30:
            return signed
        self.forging = True
        return msgspec.structs.replace(signed, signature=bytes(64))

    def message(self):
        rng = self.rng
        number = rng.choice([rng.randrange(1 << 16), *self.numbers[-4:] * 3])
        keys = self.someone()
        known = make_known(
            keys,
            make_record(
                keys,
                *[make_advert("agent", {1: 0.9})] * rng.randrange(3),
                space=rng.choice([SPACE.name] * 4 + ["other"]),
                network=rng.choice(["test"] * 6 + ["other"]),
                incarnation=rng.choice([1, 1, 2]),
                sequence=rng.choice([1, 1, 2]),
            ),
            issued_ms=self.now_ms + rng.choice([0, 0, -500, 1 << 40]),
            refuted=rng.choice([0, 0, 1]),
            lease_ms=rng.choice([120_000] * 5 + [0]),
        )
        cell = rng.choice(["/", "/0", "/1", "/01", "/10", "/2"[:1] + "111"])
        return rng.choice(
            [
                *[Ping(number, self.news()), Ack(number, self.news())] * 3,
                *[
                    Delta((known,)),
                    Delta((msgspec.structs.replace(known, heartbeat=sign_beat(keys, self.beat(keys))),)),
                ],
                *[Relay(number, rng.choice([ME, keys]).peer), Nack(number), Pull((keys.peer, ME.peer))],
                *[Look(cell), Sight(cell, rng.choice(["/", "/01", "/0000000"]), self.news().heartbeats)],
            ]
        )

    def step(self) -> None:
        self.now_ms += self.rng.choice([0, 1, 300, 2_000, 2_000, 20_000])
        due = [timer for timer in self.timers if timer[0] <= self.now_ms]
        self.timers = [timer for timer in self.timers if timer[0] > self.now_ms]
        for _, timer in due:
            self.handle(TimerFired(timer))
        keys = self.someone()
        if self.rng.random() < 0.2:
            self.handle(self.rng.choice([PeerUp, PeerDown, PeerIdle, Unsent])(keys.peer))
            return
        self.forging = False
        message = self.message()
        message = decode(protocol_of(message), encode(message))
        self.handle(Received(keys.peer, message))

    def handle(self, event) -> None:
        effects = self.peer.handle(event, self.now_ms)
        for effect in effects:
            if isinstance(effect, SetTimer):
                assert effect.at_ms > self.now_ms
                self.timers.append((effect.at_ms, effect.timer))
            if isinstance(effect, Blame):
                assert effect.peer == event.peer
            if isinstance(effect, Send):
                self.sent(effect.message)
        self.check()

    def sent(self, message) -> None:
        data = encode(message)
        assert decode(protocol_of(message), data) == message, "what we send is what others take"
        if isinstance(message, Ping | Relay):
            self.numbers.append(message.number)
        beats = message.news.heartbeats if isinstance(message, Ping | Ack) else ()
        for position, signed in enumerate(beats):
            beat = parsed(signed.body, Heartbeat)
            if beat.peer == ME.peer:
                assert position == 0
                self.own.append(beat)
        for signed in message.news.suspicions if isinstance(message, Ping | Ack) else ():
            assert parsed(signed.body, Suspicion).accused != ME.peer

    def check(self) -> None:
        membership, directory = self.peer.membership, self.peer.directory
        orders = [(b.incarnation, b.refuted, b.issued_ms) for b in self.own]
        assert orders == sorted(orders), "we never take anything back"
        assert all(b.lease_ms and b.incarnation == 1 for b in self.own)
        self.own = self.own[-1:]
        for peer, entry in directory.reachable(self.now_ms):
            beat = entry.heartbeat
            assert peer == beat.peer == entry.record.peer != ME.peer
            assert entry.record.network == "test"
            assert beat.issued_ms <= self.now_ms + CLOCK_SKEW_MS
            assert self.now_ms < beat.issued_ms + min(beat.lease_ms, LEASE_MS_MAX)
            assert entry.proof > (directory.gone(peer) or (-1, -1))
        for peer, entry in directory.entries():
            assert directory.gone(peer) is None or directory.gone(peer) < entry.proof
        assert 0 <= membership.detector.health <= HEALTH_MAX
        assert len(membership.detector._probes) <= PROBES_MAX
        assert len(membership.talk._relayed) <= RELAYED_MAX
        assert len(directory) <= PEERS_MAX
        assert directory.unmet == sum(not entry.met for entry in directory.members.values()) <= STRANGERS_MAX
        assert set(membership.talk.suspicions._cases) <= {keys.peer for keys in OTHERS}


@given(st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_whatever_is_said_the_bounds_hold_and_our_word_does(seed):
    babble = Babble(seed)
    for _ in range(STEPS):
        babble.step()


@given(
    seed=st.integers(0, 1 << 16),
    count=st.integers(2, 6),
    share=st.sampled_from([0.0, 0.2, 0.5]),
    apart=st.integers(0, 6),
    start_ms=st.integers(0, 40_000),
)
@settings(max_examples=12, deadline=None)
def test_when_the_network_is_well_again_everybody_knows_everybody(seed, count, share, apart, start_ms):
    """A minute and a half of loss, of a partition within it, and then as long until all is well."""
    world = World(uniform(Random(seed), 5, 25), START_MS)
    devices = [Device(index, SPACE, seed) for index in range(count)]
    for device in devices:
        world.add(device.name, device.peer, {"agent": device.engine})
        world.at(START_MS, device.name, device.ready)
    for device in devices[1:]:
        world.connect(device.name, devices[0].name)
    world.run(START_MS + 5_000)
    well = world._link
    island = frozenset(device.name for device in devices[:apart])
    begins_ms = world.now_ms + start_ms
    world._link = partitioned(lossy(well, Random(seed), share), island, begins_ms, begins_ms + 50_000)
    world.run(world.now_ms + 90_000)
    world._link = well
    world.run(world.now_ms + 180_000)
    for device in devices:
        known = {peer for peer, _ in device.peer.directory.reachable(world.now_ms)}
        assert known == {other.name for other in devices if other is not device}
    assert world.blamed == []


@given(
    homes=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    deeper=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=5),
)
def test_cells_followed_are_apart_and_hold_our_own_agents(homes, deeper):
    hubs = Hubs(SPACE.prototypes)
    cells = Cells(hubs, ME.peer, 6)
    adverts = tuple(
        AgentAdvert(f"agent{n}", "test", bytes(9 * (p == home) for p in range(6)), RateCard(1, 1, 1), 1, 1)
        for n, home in enumerate(homes)
    )
    cells.open_for(adverts)
    for number, deep in deeper:
        names = cells.names()
        cells.deepen(names[number % len(names)], "/" + "0" * deep)
        paths = cells.paths(ME.peer, adverts)
        assert all(sum(path.startswith(name) for name in cells.names()) == 1 for path in paths)
        for path in paths:
            [name] = [name for name in cells.names() if path.startswith(name)]
            assert above(path, depth(name)) == name
            assert cells.follows((path,))
        assert not any(a != b and a.startswith(b) for a in cells.names() for b in cells.names())
        assert all(hubs.is_name(name) for name in (*cells.names(), *cells.known_as()))
        for stranger in range(6):
            path = hubs.path(AgentRef(OTHERS[0].peer, "agent"), stranger)
            inside = cells.names() == (ROOT,) or any(path.startswith(name) for name in cells.names())
            assert cells.follows((path,)) == inside
