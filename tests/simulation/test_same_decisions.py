"""One scenario, two drivers: the event heap and trio. Same events, same effects, at the same virtual times.

This is the proof that what the simulator measures is what the daemon does.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import msgspec
import pytest
import trio
from trio.testing import MockClock

from p2pagent.driver import Driver
from p2pagent.engine.base import Capabilities, Completion, Delta, EngineStatistics, GenerateRequest
from p2pagent.peer.effects import Effect, Learned
from p2pagent.peer.events import Ask, Delivery, Event, PeerUp, Rating, Received
from p2pagent.peer.updates import Answered
from p2pagent.peer.wire import decode
from p2pagent.routing.prototypes import Space
from p2pagent.sim.engine import EngineModel
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.world import World
from p2pagent.types import ChatMessage, PeerId
from tests.scenario import START_MS, Device, make_ask

LATENCIES_MS = Random(3).sample(range(5, 60), 25)
ASKS = [(3_007 + 703 * i, i % 5, (i * 3 + 1) % 5) for i in range(20)]
"""When, who, on what."""

READY_MS = [103, 217, 331, 457, 571]
"""Apart, and so are all their timers: the order of simultaneous events at one peer is nobody's promise."""

UNTIL_MS = 60_000

Trace = dict[tuple[int, PeerId], set[str]]


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def latency_ms(source: PeerId, target: PeerId) -> int:
    """Of each link its own: what arrives at one peer in one millisecond could come in either order."""
    order = [SimKeys(index).peer for index in range(5)]
    return LATENCIES_MS[5 * order.index(source) + order.index(target)]


def devices(space: Space) -> list[Device]:
    return [Device(i, space) for i in range(5)]


def slow(engine: EngineModel) -> EngineModel:
    """Tokens further apart than the driver bundles them."""
    return msgspec.structs.replace(engine, decode_ms_per_token=40)


def record(trace: Trace, name: PeerId, now_ms: int, event: Event, effects: list[Effect]) -> None:
    if not isinstance(event, Ask):  # its query id is the driver's own
        trace[now_ms, name].add(repr((event, effects)))


def under_the_heap(space: Space) -> tuple[Trace, list[Answered]]:
    trace: Trace = defaultdict(set)
    world = World(
        lambda source, target, _now: latency_ms(source, target),
        START_MS,
        lambda step: record(trace, step.peer, step.at_ms, step.event, list(step.effects)),
    )
    nodes = devices(space)
    for node in nodes:
        world.add(node.name, node.peer, {"agent": slow(node.engine)})
        world.at(START_MS + READY_MS[node.index], node.name, node.ready)
    for i, one in enumerate(nodes):
        for other in nodes[i + 1 :]:
            world.connect(one.name, other.name)
    asked: dict[int, int] = defaultdict(int)
    for at_ms, who, subject in ASKS:
        asked[who] += 1
        world.at(START_MS + at_ms, nodes[who].name, make_ask(f"q{asked[who]}", subject))
    world.run(START_MS + UNTIL_MS)
    return trace, [told.update for told in world.told if isinstance(told.update, Answered)]


class Ether:
    """The network of the trio run: frames arrive after the latency, in order; everybody is connected."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.drivers: dict[PeerId, Driver] = {}

    def port(self, name: PeerId) -> "Port":
        return Port(self, name)


class Port:
    """One device's `Transport`."""

    def __init__(self, ether: Ether, name: PeerId) -> None:
        self.ether, self.name = ether, name
        self.lanes: dict[PeerId, trio.MemorySendChannel[tuple[float, str, bytes]]] = {}

    def send(self, peer: PeerId, protocol: str, payload: bytes) -> None:
        if peer not in self.lanes:
            self.lanes[peer], carried = trio.open_memory_channel[tuple[float, str, bytes]](1_000)
            self.ether.nursery.start_soon(self._carry, peer, carried)
        self.lanes[peer].send_nowait((trio.current_time() + latency_ms(self.name, peer) / 1000, protocol, payload))

    def learn_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None: ...

    def connect(self, peer: PeerId) -> None: ...

    def disconnect(self, peer: PeerId) -> None: ...

    async def provide(self, cell: str) -> bool:
        return True

    async def find(self, cell: str, count: int) -> tuple[PeerId, ...]:
        return ()

    async def _carry(self, peer: PeerId, frames: trio.MemoryReceiveChannel[tuple[float, str, bytes]]) -> None:
        async for arrives_s, protocol, payload in frames:
            await trio.sleep_until(arrives_s)
            self.ether.drivers[peer].received(Received(self.name, decode(protocol, payload)))


class ModelEngine:
    """The simulator's engine model under trio."""

    def __init__(self, model: EngineModel) -> None:
        self.model = model

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        start_s = trio.current_time()
        pieces, usage = self.model.pieces(request.messages, request.sampling.max_tokens)
        for after_ms, text in pieces:
            await trio.sleep_until(start_s + after_ms / 1000)
            emit(Delta(text))
        return Completion(usage, "stop")

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        return sum(len(m.content) for m in messages)

    def capabilities(self) -> Capabilities:
        return Capabilities("model", 4096, 2, reports_cached_tokens=False, reports_token_ids=False)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(ready=True, running=0, completed=0, failed=0, restarts=0)


class Books:
    """A ledger that is durable at once."""

    def __init__(self) -> None:
        self.explained: dict[str, Answered] = {}

    async def post(self, receipt_body: bytes, seller_signature: bytes, buyer_signature: bytes) -> bool:
        return True

    async def acknowledge(self, receipt_id: bytes) -> None: ...

    async def remember(self, receipt_id: bytes, delivery: Delivery, rating: Rating | None) -> None: ...

    async def save_experience(self, learned: Sequence[Learned]) -> None: ...

    async def explain(self, receipt_id: bytes, explanation: bytes) -> None:
        self.explained[receipt_id.hex()] = msgspec.json.decode(explanation, type=Answered)


async def under_trio(space: Space, books: Books) -> tuple[Trace, list[Answered]]:
    trace: Trace = defaultdict(set)
    answers: list[Answered] = []
    start_s = trio.current_time()

    def clock() -> int:
        return START_MS + round((trio.current_time() - start_s) * 1000)

    async def user(driver: Driver, at_ms: int, subject: int) -> None:
        await trio.sleep_until(start_s + at_ms / 1000)
        async with driver.ask(lambda query: make_ask(query, subject)) as updates:
            answers.extend([u async for u in updates if isinstance(u, Answered)])

    async def becomes_ready(driver: Driver, node: Device) -> None:
        await trio.sleep_until(start_s + READY_MS[node.index] / 1000)
        driver.put(node.ready)

    nodes = devices(space)
    with trio.move_on_after(UNTIL_MS / 1000 + 0.0005):
        async with trio.open_nursery() as nursery:
            ether = Ether(nursery)
            for node in nodes:
                engines = {"agent": ModelEngine(slow(node.engine))}
                observe = partial(record, trace, node.name)
                driver = Driver(node.peer, ether.port(node.name), engines, books, clock, observe)
                ether.drivers[node.name] = driver
                nursery.start_soon(becomes_ready, driver, node)
            for i, one in enumerate(nodes):
                for other in nodes[i + 1 :]:
                    ether.drivers[one.name].put(PeerUp(other.name))
                    ether.drivers[other.name].put(PeerUp(one.name))
            for driver in ether.drivers.values():
                nursery.start_soon(driver.run)
            for at_ms, who, subject in ASKS:
                nursery.start_soon(user, ether.drivers[nodes[who].name], at_ms, subject)
    return trace, answers


async def test_both_drivers_decide_the_same(space: Space, autojump_clock: MockClock) -> None:
    heap, answers = under_the_heap(space)
    books = Books()
    live, live_answers = await under_trio(space, books)
    assert len(answers) == len(live_answers) == len(ASKS)
    assert heap.keys() == live.keys()
    for moment, steps in heap.items():
        assert live[moment] == steps, moment
    assert sum(map(len, heap.values())) > 500
    assert any("Post(" in step for steps in heap.values() for step in steps)
    delegated = [answer for answer in live_answers if answer.delegated]
    assert books.explained == {a.receipt_id: msgspec.structs.replace(a, text="") for a in delegated}
