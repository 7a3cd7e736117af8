"""A level that follows the machine, and a forest that finds what is not linear."""

import numpy as np
import pytest

from p2pagent.routing.qos import LATENCY_US_MAX
from p2pagent.routing.qos_latency import Latency

ROWS = [(1.0, 0.1), (1.0, 0.5), (1.0, 1.0)]


def true_us(size: float) -> float:
    return 20_000 + 200_000 * size


def opened(**options: float) -> Latency:
    return Latency(ROWS, [true_us(size) for _, size in ROWS], **options)  # type: ignore[arg-type]


def taught(
    latency: Latency, count: int, factor: float = 1.0, kink: float = 1.0, rng: np.random.Generator | None = None
) -> Latency:
    rng = rng or np.random.default_rng(0)
    for _ in range(count):
        size = float(rng.uniform(0, 1.5))
        slower = kink if 0.6 < size < 0.9 else 1
        latency.learn((1.0, size), (size,), round(true_us(size) * factor * slower * rng.lognormal(0, 0.05)))
    return latency


def off(latency: Latency, factor: float = 1.0) -> float:
    return float(np.mean([abs(latency.predict((1.0, x), (x,)) / true_us(x) / factor - 1) for x in (0.2, 0.7, 1.2)]))


def test_the_level_follows_a_slower_machine_before_the_coefficients_do() -> None:
    with_level, without = taught(opened(), 200), taught(opened(level_rate=0.0), 200)
    assert off(with_level) < 0.04
    assert off(without) < 0.04
    for latency in (with_level, without):
        taught(latency, 25, factor=1.6, rng=np.random.default_rng(1))
    assert off(with_level, 1.6) < 0.15
    assert off(without, 1.6) > 0.2


def test_a_machine_ten_times_slower_is_believed_within_fifteen_answers() -> None:
    latency = taught(taught(opened(), 200), 15, factor=10, rng=np.random.default_rng(1))
    assert off(latency, 10) < 0.25
    assert off(taught(latency, 40, factor=1, rng=np.random.default_rng(2))) < 0.25


def test_the_coefficients_stay_what_they_were_while_the_level_is_up() -> None:
    latency = taught(taught(opened(), 100), 200, factor=1.6, rng=np.random.default_rng(1))
    assert latency._level == pytest.approx(np.log(1.6), abs=0.1)
    for size in (0.2, 1.2):
        assert latency._regression.predict((1.0, size)) == pytest.approx(true_us(size), rel=0.08)


def test_what_takes_for_ever_counts_and_is_predicted_as_the_most_that_is() -> None:
    one, other = opened(), opened()
    one.learn((1.0, 0.5), (0.5,), LATENCY_US_MAX)
    other.learn((1.0, 0.5), (0.5,), 10**15)
    assert one.predict((1.0, 0.5), (0.5,)) == other.predict((1.0, 0.5), (0.5,)) < LATENCY_US_MAX
    assert one.predict((1.0, 10**9), (0.5,)) == LATENCY_US_MAX


def test_one_odd_answer_moves_the_level_by_no_more_than_its_weight() -> None:
    latency = taught(opened(), 100)
    before = latency.predict((1.0, 0.5), (0.5,))
    latency.learn((1.0, 0.5), (0.5,), 1_000 * round(before))
    assert latency.predict((1.0, 0.5), (0.5,)) < 1.12 * before


def test_the_forest_finds_sizes_that_cost_more() -> None:
    with_forest, without = (
        taught(opened(forest_first=first), 500, kink=1.8, rng=np.random.default_rng(0)) for first in (300, 10_000)
    )
    inside = [
        abs(latency.predict((1.0, 0.75), (0.75,)) / true_us(0.75) / 1.8 - 1) for latency in (with_forest, without)
    ]
    outside = [abs(latency.predict((1.0, 0.3), (0.3,)) / true_us(0.3) - 1) for latency in (with_forest, without)]
    assert inside[0] < 0.2 < 0.35 < inside[1]
    assert outside[0] < 0.1


@pytest.mark.parametrize("first", [300, 10_000])
def test_where_all_is_linear_a_forest_does_no_harm(first: int) -> None:
    assert off(taught(opened(forest_first=first), 500)) < 0.05
