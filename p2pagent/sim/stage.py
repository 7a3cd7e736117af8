"""One run of a scenario: peers start, ask, leave and come back, all in virtual time; `Results` says how it went.

The network settles first, then it is measured. Answers that are still awaited at the end are waited for a while, and so
are those who have not noticed a death: otherwise only what was noticed soon would count.
Everything random follows from the seed, and `Results.digest` is over all frames and answers: one seed replays one run
to the byte.
"""

import gc
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random

from msgspec import Struct

from p2pagent.config import Preferences
from p2pagent.peer.events import AgentsChanged
from p2pagent.peer.messages import Call
from p2pagent.peer.peer import Peer
from p2pagent.peer.readers import heartbeat_in, record_in
from p2pagent.sim.demand import OUTPUT_TOKENS, PROMPT_TOKENS, Asking, draw_asking
from p2pagent.sim.experts import Experts
from p2pagent.sim.liars import Lie, LyingPeer, boasting, corrupt
from p2pagent.sim.links import accessed, lossy, partitioned
from p2pagent.sim.metrics import Deaths, Traffic
from p2pagent.sim.node import Node
from p2pagent.sim.population import AGENT, Agent, Population
from p2pagent.sim.questions import Questions
from p2pagent.sim.results import Course, Results, Samples, results, samples
from p2pagent.sim.scenarios import Scenario
from p2pagent.sim.world import World
from p2pagent.types import PeerId

START_MS = 1_800_000_000_000
AWAIT_MS = 180_000
"""A question that has no answer by then, after the end, has none."""

LOOK_MS = 500
CONTACTS_FIRST = 3
"""Peers that a newcomer is told of."""

BACK_SHARE = 0.5
"""Of those that join while others leave, peers that have left before; the others are new."""

READ_PER_PEER = 4
"""Records and heartbeats of each, of which somebody may still speak."""

AWAY_MS = 30_000
"""A peer that left is gone for at least so long."""


class Seat(Struct, eq=False):
    """A place in the order of askers, and who sits there: when a peer leaves, whoever joins next takes its seat."""

    peer: PeerId | None = None


class Stage:
    """A scenario on its way. `run` once."""

    def __init__(self, name: str, scenario: Scenario, seed: int) -> None:
        self._name, self._scenario, self._seed = name, scenario, seed
        self._rng = Random(f"stage {name} {seed}")
        self._population = Population(seed)
        self._access_ms: dict[PeerId, int] = {}
        link = accessed(self._access_ms)
        self.world = World(lossy(link, Random(f"loss {seed}"), scenario.loss) if scenario.loss else link, START_MS)
        self.world.gossip_delay_ms = scenario.gossip_delay_ms
        self._begin_ms = START_MS + round(60_000 * scenario.settle_minutes)
        self._end_ms = START_MS + length_ms(scenario)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._planned = 0
        self._drawn = 0
        self._seats = [Seat() for _ in range(scenario.peers)]
        self._empty: list[Seat] = []
        self._present: list[PeerId] = []
        self._place: dict[PeerId, int] = {}
        self._agents: dict[PeerId, Agent] = {}
        self._seat_of: dict[PeerId, Seat] = {}
        self._left: list[tuple[int, Agent]] = []
        self._experts = Experts()
        self._questions = Questions(self.world, self._population, self._experts)
        self._course = Course(self.world, self._questions, Deaths(self.world), Traffic())
        self._asking = draw_asking(
            self._population,
            scenario.peers,
            scenario.load * self._capacity_per_s(),
            self._begin_ms,
            self._end_ms,
            scenario.arrivals,
            Random(f"demand {seed}"),
        )

    def run(self, progress: Callable[[int], None]) -> tuple[Results, Samples]:
        """Play it; `progress` is told now and then how many milliseconds of it are over."""
        arrived_ms = (START_MS + self._begin_ms) // 2
        for seat in self._seats:
            self._plan(self._rng.randrange(START_MS, arrived_ms), partial(self._start, seat, None))
        self._plan(self._begin_ms, self._begin)
        while self._agenda and self._agenda[0][0] <= self._end_ms:
            at_ms, _, action = heapq.heappop(self._agenda)
            self.world.run(at_ms)
            self._questions.collect()
            action()
            progress(at_ms - START_MS)
        self.world.run(self._end_ms)
        self._questions.collect()
        for name in self._present:
            self._course.traffic.end(self._node(name), self._end_ms)
        deaths = self._course.deaths
        while deaths.open or (len(self._questions) and self.world.now_ms < self._end_ms + AWAIT_MS):
            self.world.run(self.world.now_ms + LOOK_MS)
            self._questions.collect()
            deaths.look()
        progress(self._end_ms - START_MS)
        nodes = [self._node(name) for name in self._present]
        found = results(self._course, nodes, self._name, len(self._seats), self._seed, self._scenario.minutes)
        return found, samples(self._course, self._begin_ms)

    # --- who is there -----------------------------------------------------------------------------------------------

    def _capacity_per_s(self) -> float:
        agents = [self._population.draw(index) for index in range(min(len(self._seats), 1_000))]
        shape = PROMPT_TOKENS[0], OUTPUT_TOKENS[0]
        mean = sum(agent.slots / self._population.service_s(agent, *shape) for agent in agents) / len(agents)
        return mean * len(self._seats)

    def _plan(self, at_ms: int, action: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (at_ms, self._planned, action))

    def _start(self, seat: Seat, back: Agent | None) -> None:
        """A newcomer, or one that comes back, sits down and gets to know a few others."""
        agent = back
        if agent is None:
            agent, self._drawn = self._population.draw(self._drawn), self._drawn + 1
        name = agent.keys.peer
        lie = self._lie(agent)
        kind = LyingPeer if lie is not None else Peer
        rng = Random(f"peer {self._seed} {agent.index} {self.world.now_ms}")
        peer = kind(agent.keys, self._population.space, "sim", Preferences(), rng, self.world.now_ms)
        if lie is not None and isinstance(peer, LyingPeer):
            corrupt(peer, lie, agent.keys, Random(f"lie {self._seed} {agent.index}"))
        advert = boasting(agent.advert) if lie == "boasts" else agent.advert
        self._access_ms[name] = agent.access_ms
        skew_ms = self._rng.randint(-self._scenario.skew_ms, self._scenario.skew_ms)
        node = self.world.add(name, peer, {AGENT: self._population.model(agent)}, skew_ms)
        address = f"/ip4/10.{agent.index >> 16}.{agent.index >> 8 & 255}.{agent.index & 255}/tcp/4101"
        self.world.at(self.world.now_ms, name, AgentsChanged((advert,), (address,)))
        for other in self._rng.sample(self._present, min(CONTACTS_FIRST, len(self._present))):
            self.world.connect(name, other)
        seat.peer = name
        self._place[name] = len(self._present)
        self._present.append(name)
        self._agents[name], self._seat_of[name] = agent, seat
        self._experts.join(agent)
        if self.world.now_ms >= self._begin_ms:
            self._course.traffic.begin(node, self.world.now_ms)

    def _lie(self, agent: Agent) -> Lie | None:
        """The lie of this agent; the same whenever it comes back."""
        drawn = Random(f"liar {self._seed} {agent.index}").random()
        lies: tuple[tuple[Lie, float], ...] = (
            ("boasts", self._scenario.boasters),
            ("flatters", self._scenario.flatterers),
            ("brags", self._scenario.braggarts),
            ("idles", self._scenario.idlers),
            ("quits", self._scenario.quitters),
            ("slanders", self._scenario.slanderers),
            ("pads", self._scenario.padders),
        )
        for lie, share in lies:
            if drawn < share:
                return lie
            drawn -= share
        return None

    def _begin(self) -> None:
        """The network has settled: measure, ask, and let happen what is to happen."""
        for name in self._present:
            node = self._node(name)
            node.kinds.clear()
            self._course.traffic.begin(node, self.world.now_ms)
        self._ask_next()
        self._look()
        if self._scenario.churn_per_minute:
            self._leave_next()
        if self._scenario.island_share:
            third_ms = (self._end_ms - self._begin_ms) // 3
            self._plan(self._begin_ms + third_ms, lambda: self._cut(self._begin_ms + 2 * third_ms))

    def _look(self) -> None:
        self._course.deaths.look()
        self._plan(self.world.now_ms + LOOK_MS, self._look)

    def _cut(self, until_ms: int) -> None:
        size = round(self._scenario.island_share * len(self._present))
        island = frozenset(self._rng.sample(self._present, size))
        self.world.set_link(partitioned(self.world.link, island, self.world.now_ms, until_ms))
        self.world.sever(island)

    def _leave_next(self) -> None:
        per_ms = self._scenario.churn_per_minute * len(self._seats) / 60_000
        self._plan(self.world.now_ms + round(self._rng.expovariate(per_ms)), self._leave)

    def _leave(self) -> None:
        """Somebody goes without a word; somebody else, at another moment, takes the seat. The last one stays."""
        self._leave_next()
        if len(self._present) == 1:
            return
        name = self._rng.choice(self._present)
        agent, seat = self._agents.pop(name), self._seat_of.pop(name)
        node = self._node(name)
        place, last = self._place.pop(name), self._present.pop()
        if last != name:
            self._present[place], self._place[last] = last, place
        self._experts.leave(agent)
        self._course.traffic.end(node, self.world.now_ms)
        self._course.calls += node.kinds[Call]
        followers = self._followers(name) if self._course.deaths.has_room else []
        self.world.crash(name, silent=self._rng.random() < self._scenario.silent_share)
        self._course.deaths.follow(name, followers)
        self._course.died += 1
        self._questions.abandon(name)
        seat.peer = None
        self._left.append((self.world.now_ms, agent))
        self._empty.append(seat)
        self._plan(self.world.now_ms + self._rng.randrange(5_000), self._join)

    def _followers(self, name: PeerId) -> list[PeerId]:
        """Those who follow a cell of it. Others may hold its record, but are told nothing: they see when they call."""
        return [other for other in self._present if name in self._node(other).peer.directory.members]

    def _node(self, name: PeerId) -> Node:
        node = self.world.node(name)
        assert node is not None
        return node

    def _join(self) -> None:
        seat = self._empty.pop(0)
        away = bool(self._left) and self._left[0][0] + AWAY_MS <= self.world.now_ms
        back = self._left.pop(0)[1] if away and self._rng.random() < BACK_SHARE else None
        self._start(seat, back)

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        asking = next(self._asking, None)
        if asking is not None:
            self._plan(asking.at_ms, lambda: self._ask(asking))

    def _ask(self, asking: Asking) -> None:
        self._ask_next()
        asker = self._seats[asking.seat].peer or self._rng.choice(self._present)
        checked = self._rng.random() < self._scenario.checked_share
        self._questions.ask(asking.question, asker, self._agents[asker], checked=checked)


def length_ms(scenario: Scenario) -> int:
    """How much virtual time a run takes, settling included."""
    return round(60_000 * scenario.settle_minutes) + round(60_000 * scenario.minutes)


def play(name: str, scenario: Scenario, seed: int, progress: Callable[[int], None]) -> tuple[Results, Samples]:
    """One run of `scenario`, called `name`; `progress` is told how many milliseconds of it are over."""
    with for_thousands(scenario.peers):
        return Stage(name, scenario, seed).run(progress)


@contextmanager
def for_thousands(peers: int) -> Iterator[None]:
    """All peers share what each of them has read: in one process that need not be kept a hundred times.

    Millions of objects live to the end of a run: to look through them for cycles again and again is a waste.
    """
    thresholds, kept = gc.get_threshold(), (record_in.most, heartbeat_in.most)
    gc.set_threshold(200_000, 20, 100)
    record_in.most, heartbeat_in.most = (most + READ_PER_PEER * peers for most in kept)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        record_in.most, heartbeat_in.most = kept
