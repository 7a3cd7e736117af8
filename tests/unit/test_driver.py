"""The driver and the store: what was learned last is what is kept, however tasks are scheduled."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from p2pagent.driver import Driver
from p2pagent.peer.effects import Effect, Learned
from p2pagent.peer.events import Event, Leave
from p2pagent.types import AgentRef
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB


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
    driver = Driver(peer, None, {}, shelf, lambda: START_MS)  # type: ignore[arg-type]
    await nursery.start(driver.run)
    for _ in range(20):
        for _ in range(together):
            driver.put(Leave())
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert set(shelf.kept.values()) == {str(20 * together).encode()}
    assert len(shelf.kept) == 2
