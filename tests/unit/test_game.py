"""Whom to ask: temperature, admission, how many, and whom."""

from math import inf, pi, sqrt
from random import Random

import numpy as np
import pytest
from scipy.stats import binom, norm

from p2pagent.routing.game import (
    CEILING,
    LOOK_S,
    PROBES_MAX,
    admitted,
    chances,
    choose,
    draw,
    probes,
    response,
    temperature,
)

DELAY = 20_000.0
ALL = [0.5] * 8


def test_temperature_is_the_noise_that_is_as_large_as_the_unseen() -> None:
    noise = np.random.default_rng(0).gumbel(scale=temperature([1.0, 3.0], DELAY), size=200_000)
    assert np.std(noise) == pytest.approx(2 * DELAY, rel=0.01)
    assert temperature([0.0, 0.0], DELAY) == 0


def test_response_is_logit() -> None:
    shares = response([1.0, 2.0, 4.0], 2.0)
    assert shares.sum() == pytest.approx(1)
    assert np.log(shares[1:] / shares[:-1]) == pytest.approx([0.5, 1.0])


def test_response_without_temperature_is_the_best() -> None:
    assert response([1.0, 3.0, 3.0, 2.0], 0.0).tolist() == [0, 0.5, 0.5, 0]
    assert response([1e18, -1e18, 0.0], 1e-9).tolist() == [1, 0, 0]


def order_chance(order: tuple[int, ...], weights: list[float]) -> float:
    """Plackett and Luce: each by its share of the weights that are left."""
    chance, left = 1.0, sum(weights)
    for i in order:
        chance *= weights[i] / left
        left -= weights[i]
    return chance


def assert_chance(hits: int, draws: int, chance: float) -> None:
    """A result that a true chance gives but once in a million times fails; the seed makes it never or always."""
    low, high = binom.interval(1 - 1e-6, draws, chance)
    assert low <= hits <= high


def test_draws_are_plackett_luces() -> None:
    utilities, heat, draws = [0.0, 1.0, 1.5, 3.0], 1.3, 20_000
    weights = np.exp(np.array(utilities) / heat).tolist()
    rng = Random(5)
    drawn = [tuple(draw(utilities, heat, 2, rng)) for _ in range(draws)]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    assert set(drawn) <= set(pairs)
    for pair in pairs:
        assert_chance(drawn.count(pair), draws, order_chance(pair, weights))
    for i in range(4):
        chance = sum(order_chance(pair, weights) for pair in pairs if i in pair)
        assert_chance(sum(i in pair for pair in drawn), draws, chance)
        assert_chance(sum(pair[0] == i for pair in drawn), draws, response(utilities, heat)[i])


@pytest.mark.parametrize("candidates", [1, 2, 3, 8])
def test_every_look_that_may_be_is_taken_only_of_those_admitted(candidates: int) -> None:
    utilities, unseen = [1e6 - n * 1e5 for n in range(candidates)], [0.0] * candidates
    used = [0.5] * candidates
    assert choose(utilities, unseen, used, DELAY, Random(1)) == [0]
    all_looks = choose(utilities, unseen, used, DELAY, Random(1), every=True)
    assert all_looks == list(range(min(PROBES_MAX, candidates)))
    used[0] = CEILING
    rest = choose(utilities, unseen, used, DELAY, Random(1), every=True)
    assert rest == (list(range(1, candidates))[:PROBES_MAX] if candidates > 1 else [0])


def test_draws_without_temperature_are_the_best_equals_in_random_order() -> None:
    rng = Random(1)
    drawn = [tuple(draw([2.0, 5.0, 2.0, 1.0], 0.0, 3, rng)) for _ in range(2_000)]
    assert set(drawn) == {(1, 0, 2), (1, 2, 0)}
    assert_chance(drawn.count((1, 0, 2)), 2_000, 0.5)


def test_draws_end_with_all() -> None:
    assert sorted(draw([1.0, 2.0], 1.0, 5, Random(0))) == [0, 1]
    assert draw([], 1.0, 5, Random(0)) == []


def test_above_the_ceiling_are_asked_only_among_themselves() -> None:
    assert admitted([0.2, CEILING, 1.7]) == [True, False, False]
    assert admitted([CEILING, 1.7]) == [True, True]
    chosen = {i for seed in range(50) for i in choose([9e9, 1.0, 2.0], [1.0] * 3, [1.0, 0.5, 0.5], DELAY, Random(seed))}
    assert chosen == {1, 2}
    assert chances([9e9, 1.0, 2.0], [1.0] * 3, [1.0, 0.5, 0.5], DELAY)[0] == 0


def test_a_plain_best_is_asked_alone() -> None:
    assert probes([1e6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0] * 8, DELAY) == 1
    assert probes([0.0] * 8, [0.0] * 8, DELAY) == 1


def test_more_are_asked_the_less_is_seen() -> None:
    utilities = [-i * DELAY / 2 for i in range(8)]  # each half a second worse than the one before
    asked = [probes(utilities, [unseen_s] * 8, DELAY) for unseen_s in (0.0, 0.1, 0.4, 0.8, 2.0, 100.0)]
    assert asked == sorted(asked)
    assert asked[0] == 1
    assert asked[-1] == PROBES_MAX
    assert len(set(asked)) > 3


@pytest.mark.parametrize(("candidates", "most"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 5), (64, 5)])
def test_never_nearly_all_are_asked(candidates: int, most: int) -> None:
    assert probes([0.0] * candidates, [1e6] * candidates, DELAY) == most


def test_the_second_look_is_worth_what_it_is_expected_to_gain() -> None:
    """E max(A, B) - E A for normal A and B, by drawing; at the worth where it is the cost of a look, one stops."""
    unseen_s, gap_s = 0.5, np.linspace(0.5, 2.5, 9)
    normal = np.random.default_rng(2).normal(scale=unseen_s, size=(2, 400_000))
    for gap in gap_s:
        gain_s = np.maximum(normal[0], normal[1] - gap).mean()
        asked = probes([0.0, -gap * DELAY, -1e12], [unseen_s] * 3, DELAY)
        if abs(gain_s - LOOK_S) > 0.001:
            assert asked == (2 if gain_s > LOOK_S else 1)


def test_the_best_of_three_is_clarks() -> None:
    """A third look, as good as the two before, is worth E max of three less E max of two; Clark is close to it."""
    unseen_s = 1.0
    of_two, of_three = 1 / sqrt(pi), 3 / (2 * sqrt(pi))  # means of the largest of standard normal variables
    normal = np.random.default_rng(3).normal(size=(3, 400_000))
    assert normal.max(axis=0).mean() == pytest.approx(of_three, abs=0.01)
    spread = LOOK_S / (of_three - of_two)
    assert probes([0.0] * 5, [unseen_s * spread * 1.05] * 5, DELAY) == 3
    assert probes([0.0] * 5, [unseen_s * spread * 0.95] * 5, DELAY) == 2


def test_nobody_is_asked_who_cannot_beat_what_is_at_hand() -> None:
    utilities, unseen_s = [0.0, -DELAY], [0.5, 0.5]
    assert probes(utilities, unseen_s, DELAY, floor=2 * DELAY) == 0
    assert choose(utilities, unseen_s, [0.5, 0.5], DELAY, Random(0), floor=2 * DELAY) == []
    assert probes(utilities, unseen_s, DELAY, floor=0.5 * DELAY) == 1
    assert probes(utilities, unseen_s, DELAY, floor=-inf) == 1
    # Where the floor is, one more is worth asking if E max(candidate, floor) is above the floor by more than a look.
    for floor_s in np.linspace(0.2, 2.0, 10):
        z = floor_s / 0.5
        gain_s = 0.5 * (norm.pdf(z) - z * norm.sf(z))
        assert probes([0.0], [0.5], DELAY, floor=floor_s * DELAY) == int(gain_s > LOOK_S)


def test_choices_are_best_first_and_the_same_for_the_same_chance() -> None:
    utilities = [float(i * 1_000) for i in range(8)]
    chosen = choose(utilities, [1.0] * 8, ALL, DELAY, Random(3))
    assert chosen == sorted(chosen, reverse=True)
    assert len(chosen) == len(set(chosen)) == PROBES_MAX
    assert choose(utilities, [1.0] * 8, ALL, DELAY, Random(3)) == chosen
    assert choose([], [], [], DELAY, Random(3)) == []
    assert chances([], [], [], DELAY).size == 0


def test_chances_are_those_of_the_first_draw() -> None:
    utilities, unseen_s, used = [0.0, 10_000.0, 30_000.0], [0.5, 1.0, 1.5], [0.5, 0.5, 0.99]
    expected = response(utilities[:2], temperature(unseen_s[:2], DELAY)).tolist()
    assert chances(utilities, unseen_s, used, DELAY).tolist() == pytest.approx([*expected, 0])
