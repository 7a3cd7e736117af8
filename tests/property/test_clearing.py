"""Winner determination against the plainest exact method there is."""

from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.market.clearing import WEIGHT_MAX, assign

EXTREME = WEIGHT_MAX - 1


def brute_force(weights: list[list[int]], capacities: list[int]) -> int:
    """The largest gain of all: every query tries every agent that has a slot left, and staying out."""

    @cache
    def best(query: int, left: tuple[int, ...]) -> int:
        if query == len(weights):
            return 0
        gains = [best(query + 1, left)]
        for agent, slots in enumerate(left):
            if slots:
                rest = (*left[:agent], slots - 1, *left[agent + 1 :])
                gains.append(weights[query][agent] + best(query + 1, rest))
        return max(gains)

    return best(0, tuple(capacities))


def exact_gain(weights: list[list[int]]) -> int:
    """The largest gain of n queries at n agents of one slot each, by the Hungarian method in Python's own integers."""
    n = len(weights)
    cost = [[-max(w, 0) for w in row] for row in weights]
    u, v, owner, way = [0] * (n + 1), [0] * (n + 1), [0] * (n + 1), [0] * (n + 1)
    for row in range(1, n + 1):
        owner[0], column = row, 0
        least: list[int] = [1 << 200] * (n + 1)
        used = [False] * (n + 1)
        while owner[column]:
            used[column] = True
            current, delta, following = owner[column], 1 << 200, 0
            for j in range(1, n + 1):
                if not used[j]:
                    slack = cost[current - 1][j - 1] - u[current] - v[j]
                    if slack < least[j]:
                        least[j], way[j] = slack, column
                    if least[j] < delta:
                        delta, following = least[j], j
            for j in range(n + 1):
                if used[j]:
                    u[owner[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            column = following
        while column:
            owner[column], column = owner[way[column]], way[column]
    return sum(-cost[owner[j] - 1][j - 1] for j in range(1, n + 1))


def gain_of(weights: list[list[int]], chosen: list[int | None]) -> int:
    return sum(weights[query][agent] for query, agent in enumerate(chosen) if agent is not None)


def cleared(weights: list[list[int]], capacities: list[int]) -> list[int | None]:
    return assign(np.array(weights, dtype=np.int64).reshape(len(weights), len(capacities)), capacities)


few = st.integers(-3, 3)
any_weight = st.integers(-EXTREME, EXTREME)
near_the_bound = st.integers(EXTREME - 3, EXTREME)


@st.composite
def markets(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    agents = draw(st.integers(0, 4))
    weight = draw(st.sampled_from([few, any_weight, near_the_bound, st.one_of(few, any_weight, near_the_bound)]))
    row = st.lists(weight, min_size=agents, max_size=agents)
    return draw(st.lists(row, max_size=6)), draw(st.lists(st.integers(0, 8), min_size=agents, max_size=agents))


@settings(max_examples=300, deadline=None)
@given(markets())
def test_nothing_gains_more(market: tuple[list[list[int]], list[int]]) -> None:
    weights, capacities = market
    chosen = cleared(weights, capacities)
    assert len(chosen) == len(weights)
    assert gain_of(weights, chosen) == brute_force(weights, capacities)
    for agent, slots in enumerate(capacities):
        assert chosen.count(agent) <= slots
    assert all(weights[query][agent] > 0 for query, agent in enumerate(chosen) if agent is not None)


@pytest.mark.parametrize("spread", [1, 8, EXTREME])
@pytest.mark.parametrize("seed", range(3))
def test_large_markets_near_the_bound_are_exact_to_the_unit(seed: int, spread: int) -> None:
    rng = Random(f"{seed} {spread}")
    weights = [[EXTREME - rng.randint(0, spread) for _ in range(40)] for _ in range(40)]
    assert gain_of(weights, cleared(weights, [1] * 40)) == exact_gain(weights)


def test_ties_are_broken_alike_every_time() -> None:
    weights = [[5, 5, 5]] * 4
    assert cleared(weights, [1, 1, 1]) == cleared(weights, [1, 1, 1])


@pytest.mark.parametrize(("weights", "capacities"), [([], []), ([], [3]), ([[]], []), ([[1, 2]], [0, 0])])
def test_empty_sides_leave_everybody_out(weights: list[list[int]], capacities: list[int]) -> None:
    assert cleared(weights, capacities) == [None] * len(weights)


def test_a_weight_out_of_bounds_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        cleared([[WEIGHT_MAX]], [1])
