"""The daemon's clock: it never goes back, and after a suspend it is not left behind."""

from random import Random

import pytest

from p2pagent import clock
from p2pagent.clock import AHEAD_MS_MAX, BEHIND_MS_MAX, Clock
from tests.scenario import START_MS


class Clocks:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.wall_ms, self.running_ms = START_MS, 5_000_000

    def time_ns(self) -> int:
        return self.wall_ms * 1_000_000

    def monotonic(self) -> float:
        return self.running_ms / 1000

    def run(self, ms: int) -> None:
        self.wall_ms += ms
        self.running_ms += ms


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    stand_in = Clocks()
    monkeypatch.setattr(clock, "time", stand_in)
    return stand_in


def test_it_starts_at_the_wall_clock_and_runs_with_it(clocks: Clocks) -> None:
    now_ms = Clock()
    assert now_ms() == START_MS
    clocks.run(60_000)
    assert now_ms() == START_MS + 60_000


def test_after_a_suspend_it_is_at_most_the_lead_behind_the_wall_clock(clocks: Clocks) -> None:
    now_ms = Clock()
    for hours in (8, 1, 30):
        clocks.wall_ms += hours * 3_600_000  # the monotonic clock stood still
        assert now_ms() == clocks.wall_ms - BEHIND_MS_MAX
        clocks.run(500)
        assert now_ms() == clocks.wall_ms - BEHIND_MS_MAX


def test_a_wall_clock_set_back_does_not_turn_it_back(clocks: Clocks) -> None:
    now_ms = Clock()
    clocks.run(10_000)
    clocks.wall_ms -= 3_600_000
    assert now_ms() == START_MS + 10_000
    clocks.run(1_000)
    assert now_ms() == START_MS + 11_000
    clocks.wall_ms += 3_600_000
    assert now_ms() == START_MS + 11_000


def test_a_small_step_of_the_wall_clock_is_not_followed(clocks: Clocks) -> None:
    now_ms = Clock()
    clocks.wall_ms += BEHIND_MS_MAX
    assert now_ms() == START_MS
    clocks.wall_ms += 1
    assert now_ms() == START_MS + 1


def test_whatever_the_clocks_do_it_never_goes_back(clocks: Clocks, rng: Random) -> None:
    now_ms = Clock()
    last = now_ms()
    for _ in range(2_000):
        clocks.run(rng.randrange(1_000))
        clocks.wall_ms += rng.choice([0, 0, -5_000_000, -1, 1, 3_000, 4_000_000])
        last, before = now_ms(), last
        assert last >= before
        assert last >= clocks.wall_ms - BEHIND_MS_MAX


def test_it_is_wrong_once_the_wall_clock_is_set_back_far_and_a_new_one_is_right(clocks: Clocks) -> None:
    now_ms = Clock()
    clocks.run(10_000)
    clocks.wall_ms -= AHEAD_MS_MAX
    assert not now_ms.is_wrong
    clocks.wall_ms -= 1
    assert now_ms.is_wrong
    clocks.run(7_200_000)  # it never comes right by itself
    assert now_ms.is_wrong
    assert Clock()() == clocks.wall_ms
    assert not Clock().is_wrong


def test_what_follows_the_wall_clock_forward_is_not_wrong(clocks: Clocks) -> None:
    now_ms = Clock()
    clocks.wall_ms += 8 * 3_600_000
    assert not now_ms.is_wrong
