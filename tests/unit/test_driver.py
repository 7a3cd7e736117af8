"""The driver and its clock, its store and the DHT."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2pagent.driver import LATE_MS, Driver
from p2pagent.listing import RETRY_FIRST_S, RETRY_MAX_S
from p2pagent.peer.effects import Effect, Learned, Post, Provide, RaiseDispute, Recount, SetTimer, Tell
from p2pagent.peer.events import (
    Ask,
    Disputed,
    Event,
    Leave,
    PeerDown,
    PeerIdle,
    PeerUp,
    Received,
    Recounted,
    Timer,
    TimerFired,
)
from p2pagent.peer.gossip_messages import Nack
from p2pagent.peer.messages import Dispute
from p2pagent.peer.updates import Text
from p2pagent.types import AgentRef
from tests.scenario import START_MS, make_ask
from tests.scripted_node import ANSWERED
from tests.strangers import ALICE, BOB


class Ether:
    """A transport that takes everything; the DHT takes note once somebody is `near`."""

    def __init__(self) -> None:
        self.near = False
        self.provided: list[tuple[float, str]] = []

    async def provide(self, cell: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.provided.append((trio.current_time(), cell))
        return self.near


class Scripted:
    """A peer that does on an event what `script` says, and notes events."""

    def __init__(self, script: Callable[[Event], list[Effect]]) -> None:
        self.seen: list[Event] = []
        self.script = script

    def handle(self, event: Event, _now_ms: int) -> list[Effect]:
        self.seen.append(event)
        return self.script(event)


class Learner:
    """A peer that learns more at each event."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, _event: Event, _now_ms: int) -> list[Effect]:
        self.count += 1
        agents = [AgentRef(keys.peer, "agent") for keys in (ALICE, BOB)]
        return [Learned(agent, "space", str(self.count).encode()) for agent in agents]


class Shelf:
    """A store that takes its time over each write."""

    def __init__(self) -> None:
        self.kept: dict[AgentRef, bytes] = {}
        self.lock = trio.Lock()

    async def save_experience(self, learned: Sequence[Learned]) -> None:
        async with self.lock:
            await trio.lowlevel.checkpoint()
            self.kept |= {each.agent: each.experience for each in learned}


@pytest.mark.parametrize("together", [1, 3])
async def test_what_was_learned_last_is_what_is_kept(nursery: trio.Nursery, together: int) -> None:
    peer, shelf = Learner(), Shelf()
    driver = Driver(peer, Ether(), {}, shelf, lambda: START_MS)  # type: ignore[arg-type]
    await nursery.start(driver.run)
    for _ in range(20):
        for _ in range(together):
            driver.put(Leave())
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert set(shelf.kept.values()) == {str(20 * together).encode()}
    assert len(shelf.kept) == 2


class Ledger:
    """A store that books when it is told to."""

    def __init__(self) -> None:
        self.may_book = trio.Event()

    async def post(self, *_: bytes) -> bool:
        await self.may_book.wait()
        return True

    async def explain(self, *_: bytes) -> None: ...


async def test_an_answer_is_whole_only_once_its_receipt_is_on_the_disk(nursery: trio.Nursery) -> None:
    def answers(event: Event) -> list[Effect]:
        if not isinstance(event, Ask):
            return []
        post = Post(bytes.fromhex(ANSWERED.receipt_id), b"", b"", b"")
        return [Tell(event.query, Text("olleh")), post, Tell(event.query, ANSWERED)]

    books = Ledger()
    driver = Driver(Scripted(answers), Ether(), {}, books, lambda: START_MS)  # type: ignore[arg-type]
    await nursery.start(driver.run)
    async with driver.ask(lambda query: make_ask(query, 0)) as updates:
        assert await updates.receive() == Text("olleh")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            updates.receive_nowait()
        books.may_book.set()
        assert await updates.receive() == ANSWERED


DUE_MS = START_MS + 1_000
ALARM = TimerFired(Timer("probe"))
ACK = Received(ALICE.peer, Nack(1))


class Wall:
    """A clock that the test can let jump, as after a stall."""

    def __init__(self) -> None:
        self.lost_s = 0.0

    def __call__(self) -> int:
        return START_MS + round(1000 * (trio.current_time() + self.lost_s))


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def waiting(event: Event) -> list[Effect]:
    """Sets a timer at the start."""
    return [SetTimer(DUE_MS, ALARM.timer)] if isinstance(event, Leave) else []


async def started(nursery: trio.Nursery, peer: Scripted, clock: Callable[[], int], ether: Ether) -> Driver:
    driver = Driver(peer, ether, {}, None, clock)  # type: ignore[arg-type]
    await nursery.start(driver.run)
    driver.put(Leave())
    await trio.testing.wait_all_tasks_blocked()
    return driver


@pytest.mark.parametrize("tasks_on_the_way", [0, 1, 8])
async def test_after_a_stall_what_was_sent_in_time_comes_before_the_timer(
    nursery: trio.Nursery, autojump_clock: MockClock, tasks_on_the_way: int
) -> None:
    """What waits in a socket passes from task to task before it waits in the driver's queue."""
    wall, peer = Wall(), Scripted(waiting)
    driver = await started(nursery, peer, wall, Ether())

    async def arrive() -> None:
        await trio.sleep(0.5)
        wall.lost_s = 3.0  # nothing ran in that time
        driver._wake.set()
        for _ in range(tasks_on_the_way):
            await trio.lowlevel.checkpoint()
        driver.put(ACK)

    nursery.start_soon(arrive)
    await trio.sleep(2)
    assert peer.seen[1:] == [ACK, ALARM]


async def test_a_timer_that_is_not_late_goes_first(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wall, peer = Wall(), Scripted(waiting)
    driver = await started(nursery, peer, wall, Ether())
    wall.lost_s = (1_000 + LATE_MS) / 1000
    driver.put(ACK)
    await trio.testing.wait_all_tasks_blocked()
    assert peer.seen[1:] == [ALARM, ACK]


async def test_whoever_talks_without_end_does_not_keep_timers_from_firing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Each message takes a second to handle and is followed by two: the driver never catches up."""
    wall = Wall()

    def flooded(event: Event) -> list[Effect]:
        if isinstance(event, Received) and len(peer.seen) < 1_000:
            wall.lost_s += 1.0
            driver.put(ACK)
            driver.put(ACK)
        return waiting(event)

    peer = Scripted(flooded)
    driver = await started(nursery, peer, wall, Ether())
    driver.put(ACK)
    await trio.sleep(10)
    assert peer.seen.index(ALARM) < 10


async def test_what_the_dht_did_not_take_is_told_again_and_at_the_first_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    peer, ether = Scripted(lambda event: [Provide(("cell",))] if isinstance(event, Leave) else []), Ether()
    driver = await started(nursery, peer, Wall(), ether)
    await trio.sleep(RETRY_FIRST_S + 1)
    assert ether.provided == [(0, "cell"), (RETRY_FIRST_S, "cell")]
    driver.put(PeerUp(ALICE.peer))
    driver.put(PeerUp(BOB.peer))
    await trio.testing.wait_all_tasks_blocked()
    assert ether.provided[2:] == [(RETRY_FIRST_S + 1, "cell")]
    driver.put(PeerDown(ALICE.peer))
    driver.put(PeerIdle(BOB.peer))
    ether.near = True
    driver.put(PeerUp(BOB.peer))
    await trio.testing.wait_all_tasks_blocked()
    assert len(ether.provided) == 4
    await trio.sleep(10 * RETRY_MAX_S)
    assert len(ether.provided) == 4


class Desk:
    """Tokenisers of one digest, a ledger whose disputes are `new` or not, and what they were told."""

    def __init__(self, *, new: bool) -> None:
        self.new = new
        self.raised: list[tuple[Dispute, int, bool]] = []

    async def count_answer(self, digest: bytes, text: str) -> int | None:
        await trio.lowlevel.checkpoint()
        return len(text) if digest == DIGEST else None

    async def raise_dispute(self, dispute: Dispute, raised_ms: int, *, automatic: bool) -> bool:
        await trio.lowlevel.checkpoint()
        self.raised.append((dispute, raised_ms, automatic))
        return self.new


DIGEST = b"digest 8"
RECOUNTS = [Recount(bytes(32), ALICE.peer, digest, 90, "four") for digest in (DIGEST, b"another!")]
DISPUTE = Dispute(bytes(32), "claims too much")


async def driven(nursery: trio.Nursery, desk: Desk, effects: list[Effect], *, tokenisers: bool = True) -> list[Event]:
    """What a peer is told that does all this at once."""
    peer = Scripted(lambda event: effects if isinstance(event, Leave) else [])
    known = desk if tokenisers else None
    driver = Driver(peer, Ether(), {}, desk, lambda: START_MS, tokenisers=known)  # type: ignore[arg-type]
    await nursery.start(driver.run)
    driver.put(Leave())
    await trio.testing.wait_all_tasks_blocked()
    return peer.seen[1:]


@pytest.mark.parametrize(("tokenisers", "count"), [(True, 4), (False, None)])
async def test_an_answer_is_counted_by_the_tokeniser_that_is_named(
    nursery: trio.Nursery, tokenisers: bool, count: int | None
) -> None:
    seen = await driven(nursery, Desk(new=True), [*RECOUNTS], tokenisers=tokenisers)
    counted = {event.tokens for event in seen if isinstance(event, Recounted)}
    assert len(seen) == 2
    assert counted == {count, None}
    assert Recounted(bytes(32), ALICE.peer, 90, count) in seen


@pytest.mark.parametrize("new", [True, False])
async def test_a_dispute_of_our_own_is_on_record_before_it_is_told(nursery: trio.Nursery, new: bool) -> None:
    desk = Desk(new=new)
    assert await driven(nursery, desk, [RaiseDispute(ALICE.peer, DISPUTE)]) == [Disputed(ALICE.peer, DISPUTE)] * new
    assert desk.raised == [(DISPUTE, START_MS, True)]
