"""Being listed: what nobody took note of is told again."""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pagent.listing import RETRY_FIRST_S, RETRY_MAX_S, Listing


class Dht:
    """Takes a second for each cell; takes note of those in `takes`."""

    def __init__(self) -> None:
        self.takes: set[str] = set()
        self.told: list[tuple[float, str]] = []

    async def provide(self, cell: str) -> bool:
        self.told.append((trio.current_time(), cell))
        await trio.sleep(1)
        return cell in self.takes

    def cells(self) -> list[str]:
        return [cell for _, cell in self.told]


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
def dht() -> Dht:
    return Dht()


@pytest.fixture
async def listing(nursery: trio.Nursery, dht: Dht) -> Listing:
    listing = Listing()
    nursery.start_soon(listing.run, dht.provide)
    return listing


async def test_what_is_taken_note_of_is_told_once(listing: Listing, dht: Dht, autojump_clock: MockClock) -> None:
    dht.takes = {"a", "b"}
    listing.want(("a", "b"))
    await trio.sleep(10 * RETRY_MAX_S)
    assert dht.cells() == ["a", "b"]
    listing.want(("b",))  # as every hour
    await trio.sleep(10)
    assert dht.cells() == ["a", "b", "b"]


async def test_what_nobody_took_note_of_is_told_again_ever_more_rarely(
    listing: Listing, dht: Dht, autojump_clock: MockClock
) -> None:
    dht.takes = {"a"}
    listing.want(("a", "b"))
    await trio.sleep(20 * RETRY_MAX_S)
    assert dht.cells().count("a") == 1
    times = [at_s for at_s, cell in dht.told if cell == "b"]
    waits = [later - at_s - 1 for at_s, later in pairwise(times)]
    assert waits[:3] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]
    assert waits[-1] == max(waits) == RETRY_MAX_S
    dht.takes.add("b")
    await trio.sleep(2 * RETRY_MAX_S)
    count = len(dht.told)
    await trio.sleep(10 * RETRY_MAX_S)
    assert len(dht.told) == count


async def test_it_is_told_at_once_when_there_is_somebody_to_tell(
    listing: Listing, dht: Dht, autojump_clock: MockClock
) -> None:
    listing.want(("a",))
    await trio.sleep(RETRY_MAX_S)
    dht.told.clear()
    dht.takes = {"a"}
    listing.retry()
    await wait_all_tasks_blocked()
    assert dht.told == [(trio.current_time(), "a")]
    await trio.sleep(2)
    listing.retry()
    await trio.sleep(10 * RETRY_MAX_S)
    assert dht.cells() == ["a"]


async def test_what_is_not_wanted_any_more_is_not_told(listing: Listing, dht: Dht, autojump_clock: MockClock) -> None:
    dht.takes = {"c"}
    listing.want(("a", "b"))
    await trio.sleep(0.5)
    listing.want(("c",))
    await trio.sleep(10 * RETRY_MAX_S)
    assert dht.cells() == ["a", "c"]
