"""Whether what lies unused is used again."""

import pytest

from p2pagent.routing.returns import Returns


def test_at_first_what_was_just_used_is_more_likely_to_return() -> None:
    chances = [Returns().chance(1_000 * idle_s) for idle_s in (0, 5, 60, 600, 100_000)]
    assert chances == sorted(chances, reverse=True)
    assert 0.3 < chances[0] < 0.4
    assert 0.0 < chances[-1] < 0.06


def test_the_share_of_those_that_lay_as_long_is_learned() -> None:
    """Of ten that come back six do so after 3 s, and one after 50 s; three go after 100 s."""
    returns = Returns()
    for _ in range(200):
        for idle_s, used, times in ((3, True, 6), (50, True, 1), (100, False, 3)):
            for _ in range(times):
                returns.learn(1_000 * idle_s, used=used)
    assert returns.chance(2_500) == pytest.approx(0.7, abs=0.01)
    assert [returns.chance(idle_ms) for idle_ms in (4_000, 40_000)] == pytest.approx([0.25, 0.25], abs=0.01)
    assert returns.chance(70_000) == pytest.approx(0.0, abs=0.01)


def test_what_was_long_ago_is_forgotten() -> None:
    returns = Returns()
    for used in (True, False):
        for _ in range(3_000):
            returns.learn(10_000, used=used)
    assert returns.chance(10_000) == pytest.approx(0.05, abs=0.02)


def test_a_clock_that_was_set_back_is_no_harm() -> None:
    returns = Returns()
    returns.learn(-5_000, used=True)
    assert returns.chance(-1) > Returns().chance(0)
