"""Contended epochs of hub clearing in the simulator, beside one exact clearing of the same queries and slots.

Real peers take in their queries as a buyer would hand them over, and all that follows is messages over links of about
50 ms round trip, to the claim of each granted slot.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from p2pagent.config import Preferences
from p2pagent.market.clearing import clear
from p2pagent.peer import directory, hub, sheets
from p2pagent.peer.contests import CONTESTS_MAX
from p2pagent.peer.effects import Archive, Effect, Send
from p2pagent.peer.epochs import EPOCH_MS, WIDE_HUB_AGENTS_MAX
from p2pagent.peer.events import Cleared as Notice
from p2pagent.peer.events import Contest, Received
from p2pagent.peer.gossip_messages import AgentAdvert, Heartbeat, Load, Record, SignedHeartbeat, SignedRecord
from p2pagent.peer.hub_messages import Claim
from p2pagent.peer.messages import Award, Call, Message, RateCard, Turn
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import HUB_PROTOCOL, encode, protocol_of, sealed
from p2pagent.routing.hubs import hubs_of
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import Outcome, Sample, Task
from p2pagent.sim.contacts import Contact
from p2pagent.sim.engine import EngineModel
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.links import uniform
from p2pagent.sim.node import Node
from p2pagent.sim.world import Handled, World
from p2pagent.types import AgentRef, PeerId
from scripts.benches.run import Run

START_MS = 1_800_000_000_000
ARRIVAL_MS = 50
ANSWER_MS = 120_000
"""Nothing that was granted is free again while the others bid."""

MEASURED = (Sample(Task(1, 0, 1), Outcome(1_000 * ANSWER_MS, 0, 1, 0)),)

LEASE_MS = 600_000
DELAY_MICROCREDITS_PER_S = 1_000_000
QUESTION = "why"
KNOWN_MAX = 4096
PREFERENCES = Preferences(newcomer_credit_microcredits=1 << 40)
LINK_MS = (20, 30)
ROUND_TRIP_MS = sum(LINK_MS)
SLOTS_MAX = 4
OPT_OUT = 0.2
"""Quality of everybody's own agent at what it asks others for."""


class Demand(Struct, frozen=True):
    """How queries and agents' strengths are spread over the prototypes: evenly, or as 1/rank."""

    name: str
    queries: str
    agents: str


class Population(Struct, frozen=True, eq=False):
    """Agents (rows of `quality`, one per peer) and queries: whose, of which prototype, gaining what where."""

    quality: NDArray[np.float64]
    slots: NDArray[np.int64]
    owners: NDArray[np.int64]
    prototypes: NDArray[np.int64]
    gains: NDArray[np.int64]


class Cleared(Struct, frozen=True):
    """What clearing one population came to; `ratio_first` after its first epoch, `ratio` after all that it bids in."""

    ratio: float
    ratio_first: float
    hubs: int
    queries: int
    messages: int
    hub_bytes: int
    delays_ms: list[int]


def draw(rng: np.random.Generator, agents: int, prototypes: int, demand: Demand, load: float) -> Population:
    """Agents strong at one to three prototypes; `load` times as many queries as slots; values lognormal."""
    order = rng.permutation(prototypes)
    weights = {"even": np.ones(prototypes), "skewed": 1 / (1 + order)}
    wanted, offered = (weights[kind] / weights[kind].sum() for kind in (demand.queries, demand.agents))
    quality = rng.uniform(0.05, 0.3, (agents, prototypes))
    for row_ in quality:
        strong = rng.choice(prototypes, rng.integers(1, 4), replace=False, p=offered)
        row_[strong] = rng.uniform(0.6, 0.95, len(strong))
    slots = rng.integers(1, SLOTS_MAX + 1, agents)
    count = round(load * int(slots.sum()))
    owners, asked = rng.integers(0, agents, count), rng.choice(prototypes, count, p=wanted)
    value = rng.lognormal(0, 0.5, count)
    cost = rng.uniform(0.01, 0.05, agents)
    gains = np.rint(1e6 * (value[:, None] * (quality.T[asked] - OPT_OUT) - cost)).astype(np.int64)
    gains[np.arange(count), owners] = 0
    return Population(quality, slots, owners, asked, np.maximum(gains, 0))


def clear_epochs(run: Run, space: Space, agents: int, demand: Demand, load: float, seed: int) -> Cleared:
    """Let real peers clear such a population, and compare with the global optimum."""
    rng = run.rng("hubs", agents, demand.name, load, seed)
    population = draw(rng, agents, len(space.prototypes), demand, load)
    counter = Counter()
    world = Warm(uniform(Random(seed), *LINK_MS), START_MS, counter.count)
    shoppers = settle(world, space, population)
    names = list(shoppers)
    refs = [AgentRef(name, "agent") for name in names]
    asked_ms = {name: START_MS + int(rng.integers(0, ARRIVAL_MS)) for name in names}
    for query, (owner, prototype) in enumerate(zip(population.owners, population.prototypes, strict=True)):
        shopper = shoppers[names[owner]]
        wanted = [agent for agent in shopper.known if population.gains[query, agent] > 0]
        gains = tuple((refs[agent], int(population.gains[query, agent])) for agent in wanted)
        contest = Contest(str(query), int(prototype), 0, DELAY_MICROCREDITS_PER_S, gains)
        shopper.contests[contest.query] = contest
        world.at(asked_ms[names[owner]], names[owner], contest)
    world.run(START_MS + CONTESTS_MAX * EPOCH_MS + EPOCH_MS // 2)
    granted = {query: grant for shopper in shoppers.values() for query, grant in shopper.granted.items()}
    column = {name: number for number, name in enumerate(names)}
    first = [query for query, (_, attempt, _) in granted.items() if attempt == 0]
    gain = {query: int(population.gains[int(query), column[peer]]) for query, (peer, _, _) in granted.items()}
    best = clear(population.gains, population.slots).welfare
    return Cleared(
        ratio=sum(gain.values()) / best,
        ratio_first=sum(gain[query] for query in first) / best,
        hubs=counter.hubs,
        queries=len(population.owners),
        messages=counter.messages,
        hub_bytes=counter.hub_bytes,
        delays_ms=[at_ms - asked_ms[names[population.owners[int(q)]]] for q, (_, _, at_ms) in granted.items()],
    )


def settle(world: World, space: Space, population: Population) -> dict[PeerId, "Shopper"]:
    """Put the peers into the world, each knowing whom its cells' gossip would have told it of."""
    hubs = hubs_of(space)
    capability = [bytes(np.rint(255 * row_).astype(int).tolist()) for row_ in population.quality]
    homes = [max(range(len(skills)), key=skills.__getitem__) for skills in capability]
    keys = [SimKeys(number) for number in range(len(homes))]
    everybody = {AgentRef(key.peer, "agent"): home for key, home in zip(keys, homes, strict=True)}
    adverts = [
        AgentAdvert("agent", "bench", skills, RateCard(10, 1, 40), 4096, int(slots))
        for skills, slots in zip(capability, population.slots, strict=True)
    ]
    introductions = [introduction(key, space, advert) for key, advert in zip(keys, adverts, strict=True)]

    @cache
    def cell_of(name: str) -> list[int]:
        return [n for n, home in enumerate(homes) if hubs.contains(name, _ref(keys[n]), home)]

    asks: dict[int, set[int]] = defaultdict(set)
    for owner, prototype in zip(population.owners, population.prototypes, strict=True):
        asks[int(owner)].add(int(prototype))
    shoppers: dict[PeerId, Shopper] = {}
    for number, key in enumerate(keys):
        peer = Peer(key, space, "bench", PREFERENCES, Random(number), 1)
        peer.seller.open_for((adverts[number],), {"agent": MEASURED}, START_MS)
        peer.hub.open_for((adverts[number],))
        known: set[int] = set()
        for prototype in {homes[number], *asks[number]}:
            name = hubs.hub_of(prototype, key.peer, START_MS // EPOCH_MS, everybody).name
            while len(cell_of(name)) <= WIDE_HUB_AGENTS_MAX and name != "/":
                name = name.partition(".")[0][:-1] or "/"
            known.update(cell_of(name))
        peer.buyer = shoppers[key.peer] = Shopper(space, known)  # type: ignore[assignment]
        for other in known - {number}:
            peer.directory.learn(*introductions[other])
        world.add(key.peer, peer, {"agent": EngineModel(lambda _: "x", decode_ms_per_token=ANSWER_MS)})
    return shoppers


def introduction(
    key: SimKeys, space: Space, advert: AgentAdvert
) -> tuple[Record, SignedRecord, Heartbeat, SignedHeartbeat]:
    """What a directory learns of a peer: its record and a sign of life, each with the bytes that prove it."""
    record = Record(key.peer, "bench", space.name, 1, 1, (), (advert,))
    beat = Heartbeat(key.peer, 1, 1, 0, START_MS, LEASE_MS, (Load(0, 0, 0, 0, 0),))
    return record, SignedRecord(*sealed(record, key)), beat, SignedHeartbeat(*sealed(beat, key))


def once(check: Callable[..., Any]) -> Callable[..., Any]:
    """`check`, run once for all that have the same first argument."""
    known: dict[bytes, Any] = {}

    def checked(what: Any, *others: object) -> Any:
        key = what if isinstance(what, bytes) else encode(what)
        if key not in known:
            known[key] = check(what, *others)
        return known[key]

    return checked


@contextmanager
def shortened() -> Iterator[None]:
    """One replay serves all peers, as all would replay the same bytes; directories hold all that matters to them."""
    book, sheet, peers_max = hub.check_book, sheets.check_sheet, directory.PEERS_MAX
    hub.check_book, sheets.check_sheet = once(book), once(sheet)
    directory.PEERS_MAX = KNOWN_MAX
    try:
        yield
    finally:
        hub.check_book, sheets.check_sheet, directory.PEERS_MAX = book, sheet, peers_max


class Shopper:
    """A buyer whose queries are contested from the start: bids, claims what it is granted, bids again if outbid."""

    def __init__(self, space: Space, known: set[int]) -> None:
        self.known = sorted(known)
        self.contests: dict[str, Contest] = {}
        self.granted: dict[str, tuple[PeerId, int, int]] = {}
        self._space = space

    def on_cleared(self, cleared: Notice, now_ms: int) -> list[Effect]:
        contest = self.contests[cleared.query]
        if cleared.agent is None:
            again = replace(contest, attempt=contest.attempt + 1)
            self.contests[cleared.query] = again
            return [again] if cleared.again and again.attempt < CONTESTS_MAX else []
        self.granted[cleared.query] = (cleared.agent.peer, contest.attempt, now_ms)
        call = Call(cleared.conversation, "agent", self._space.name, embedded(self._space), 1, 1, EPOCH_MS)
        award = Award(cleared.conversation, (Turn("user", QUESTION),), 0, 0)
        return [Send(cleared.agent.peer, Claim(cleared.sheet, call, award))]

    def on_sheet_known(self, _sheet: bytes, _now_ms: int) -> list[Effect]:
        return []

    def on_fail(self, seller: PeerId, fail: Message, _now_ms: int) -> list[Effect]:
        raise AssertionError(f"{seller} does not honour a grant: {fail}")

    on_refuse = on_fail


@cache
def embedded(space: Space) -> bytes:
    return space.embed(QUESTION)


class Warm(World):
    """A world in which the connections that are needed stand already, however many a device has."""

    def _dial(self, node: Node, peer: PeerId, *, ahead: bool) -> Contact:
        far = self.node(peer)
        assert not ahead, "nobody learns addresses here"
        assert far is not None, "all are there from the start"
        here = node.contacts[peer] = Contact(self.now_ms, self.now_ms)
        far.contacts[node.name] = Contact(self.now_ms, self.now_ms)
        return here


class Counter:
    """Counts what travels, and how many clearings there were."""

    def __init__(self) -> None:
        self.messages = 0
        self.hub_bytes = 0
        self._cleared: set[bytes] = set()

    @property
    def hubs(self) -> int:
        return len(self._cleared)

    def count(self, step: Handled) -> None:
        if not isinstance(step.event, Received) or protocol_of(step.event.message) != HUB_PROTOCOL:
            return
        self.messages += 1
        self.hub_bytes += len(encode(step.event.message))
        self._cleared |= {effect.sheet_id for effect in step.effects if isinstance(effect, Archive)}


def _ref(key: SimKeys) -> AgentRef:
    return AgentRef(key.peer, "agent")
