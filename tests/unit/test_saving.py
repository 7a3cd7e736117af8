"""A shutdown loses nothing of what was judged: it is written down before the driver is gone."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from p2pagent.driver import Driver
from p2pagent.peer.effects import Effect, Learned, Remember
from p2pagent.peer.events import Delivery, Event, Leave, Rating
from p2pagent.routing.prototypes import Relevance
from p2pagent.types import AgentRef
from tests.scenario import START_MS
from tests.strangers import ALICE

AGENT = AgentRef(ALICE.peer, "agent")
DELIVERY = Delivery(AGENT, "space", Relevance((0,), (1.0,), 0.9), 0.5)


class Judge:
    """A peer to which each event is one effect."""

    def __init__(self, effect: Effect) -> None:
        self._effect = effect

    def handle(self, _event: Event, _now_ms: int) -> list[Effect]:
        return [self._effect]


class Shelf:
    """A store that somebody else is using."""

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.lock = trio.Lock()

    async def save_experience(self, learned: Sequence[Learned]) -> None:
        async with self.lock:
            self.kept += learned

    async def remember(self, receipt_id: bytes, delivery: Delivery, rating: Rating | None) -> None:
        async with self.lock:
            self.kept.append(Remember(receipt_id, delivery, rating))


class Nowhere:
    """A network that is not there."""

    async def provide(self, _cell: str) -> bool:
        return False


@pytest.mark.parametrize("effect", [Learned(AGENT, "space", b"x"), Remember(b"r" * 32, DELIVERY, None)])
async def test_what_waits_for_the_store_is_kept_through_a_shutdown(nursery: trio.Nursery, effect: Effect) -> None:
    shelf = Shelf()
    driver = Driver(Judge(effect), Nowhere(), {}, shelf, lambda: START_MS)  # type: ignore[arg-type]
    ended = trio.Event()

    async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await driver.run()
        ended.set()

    scope: trio.CancelScope = await nursery.start(run)
    async with shelf.lock:
        driver.put(Leave())
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert shelf.kept == []
    await ended.wait()
    assert shelf.kept == [effect]
