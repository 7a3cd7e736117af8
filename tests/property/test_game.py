"""What the docstring of `routing.game` says is proved, checked on small games solved the slow way."""

from fractions import Fraction
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from p2pagent.routing.game import PROBES_MAX, chances, choose, draw, probes, response, temperature
from p2pagent.routing.queues import Queue
from tests.equilibria import BayesianGame, Crowd, Game

worths = st.integers(0, 20)


def rising(buyers: int) -> st.SearchStrategy[list[int]]:
    return st.lists(worths, min_size=buyers, max_size=buyers).map(sorted)


LONG = st.just(1_000)
"""Service so long that no toll is cut."""


@st.composite
def games(drawer: st.DrawFn, tolls: st.SearchStrategy[bool], service: st.SearchStrategy[int]) -> Game:
    """Up to five buyers and three agents, and waits that any number may cause."""
    buyers, agents = drawer(st.integers(1, 5)), drawer(st.integers(1, 3))
    values = drawer(st.lists(st.lists(worths, min_size=agents, max_size=agents), min_size=buyers, max_size=buyers))
    waits = drawer(st.lists(rising(buyers), min_size=agents, max_size=agents))
    took = drawer(st.lists(service, min_size=agents, max_size=agents))
    return Game.common(values, waits, took, drawer(tolls))


@given(games(st.booleans(), worths | LONG), st.randoms(use_true_random=False))
def test_better_replies_end_and_each_lowers_the_potential_by_its_gain(game: Game, rng: Random) -> None:
    choices = rng.choice(list(game.everything()))
    seen = {choices}
    while ways := list(game.better(choices)):
        buyer, moved = rng.choice(ways)
        gain = game.utility(buyer, moved) - game.utility(buyer, choices)
        assert game.potential(choices) - game.potential(moved) == gain
        choices = moved
        assert choices not in seen
        seen.add(choices)
    least = min(game.everything(), key=game.potential)
    assert not list(game.better(least))


@given(games(st.just(True), LONG))
def test_with_tolls_the_best_for_all_is_an_equilibrium(game: Game) -> None:
    best = max(game.everything(), key=game.welfare)
    assert not list(game.better(best))
    assert all(game.potential(choices) == -game.welfare(choices) for choices in game.everything())


def test_without_tolls_it_need_not_be() -> None:
    """Pigou's two roads: one always takes 2, the other as long as it has travellers."""
    values, waits = [[0, 0]] * 2, [[2, 2], [1, 2]]
    free, tolled = Game.common(values, waits, [9, 9]), Game.common(values, waits, [9, 9], tolls=True)
    best = {choices for choices in free.everything() if free.welfare(choices) == -3 - 2 * 9}
    assert best == {(0, 1), (1, 0)}
    assert not list(free.better((1, 1)))
    assert list(tolled.better((1, 1)))


def test_where_the_toll_is_cut_the_best_for_all_need_not_be_an_equilibrium() -> None:
    """The fourth makes three wait for 10 each, and heeds but 20; elsewhere it has to wait for 35."""
    values, waits = [[0, 0]] * 4, [[0, 0, 0, 10], [35] * 4]
    cut, whole = (Game.common(values, waits, service, tolls=True) for service in ([0, 0], [1_000, 1_000]))
    crowded, apart = (0, 0, 0, 0), (0, 0, 0, 1)
    assert cut.welfare(crowded) < cut.welfare(apart)
    assert not list(cut.better(crowded))
    assert (3, crowded) in cut.better(apart)
    assert whole.welfare(apart) == max(map(whole.welfare, whole.everything()))
    assert not list(whole.better(apart))


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(0.2, 5)), min_size=2, max_size=2),
    st.floats(0.05, 0.9),
)
def test_streams_that_heed_the_tolls_of_queues_split_as_is_best_for_all(
    agents: list[tuple[int, float]], load: float
) -> None:
    """Two agents of so many slots and so long service: the split of least delay against wait, service and toll."""
    rate = load * sum(slots / service for slots, service in agents)

    def queue(place: int, arrivals: float) -> Queue:
        slots, service = agents[place]
        return Queue(min(max(arrivals * service, 1e-9), slots * (1 - 1e-9)), slots)

    def delay(place: int, arrivals: float) -> float:
        return agents[place][1] * (1 + queue(place, arrivals).ahead / agents[place][0])

    def total(first: float) -> float:
        return first * delay(0, first) + (rate - first) * delay(1, rate - first)

    fits = [slots / service * (1 - 1e-6) for slots, service in agents]
    low, high = max(0.0, rate - fits[1]), min(rate, fits[0])
    first = minimize_scalar(total, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    costs = [
        delay(place, arrivals) + agents[place][1] * queue(place, arrivals).toll
        for place, arrivals in enumerate((first, rate - first))
    ]
    if first - low > 1e-3 * rate and high - first > 1e-3 * rate:
        assert costs[0] == pytest.approx(costs[1], rel=1e-2)
    else:  # all at one, where one more costs no more than elsewhere
        assert costs[0 if first > rate / 2 else 1] <= costs[0 if first <= rate / 2 else 1] * 1.01


@st.composite
def bayesian_games(drawer: st.DrawFn) -> BayesianGame:
    """Two buyers of two types, which may hang together, or three of one or two; two agents."""
    kinds = drawer(st.sampled_from([(2, 2), (2, 1, 2), (1, 2, 1)]))
    rows = [drawer(st.lists(st.tuples(worths, worths), min_size=k, max_size=k)) for k in kinds]
    waits = [drawer(rising(len(kinds))) for _ in range(2)]
    types = list(product(*(range(k) for k in kinds)))
    weights = drawer(st.lists(st.integers(1, 9), min_size=len(types), max_size=len(types)))
    total = sum(weights)
    return BayesianGame(rows, waits, {t: Fraction(w, total) for t, w in zip(types, weights, strict=True)})


@settings(max_examples=40)
@given(bayesian_games(), st.randoms(use_true_random=False))
def test_under_a_common_prior_better_strategies_end_too(game: BayesianGame, rng: Random) -> None:
    strategies = [tuple(rng.randrange(2) for _ in rows) for rows in game.values]
    while ways := list(game.better(strategies)):
        buyer, moved = rng.choice(ways)
        gain = game.utility(buyer, moved) - game.utility(buyer, strategies)
        assert game.potential(strategies) - game.potential(moved) == gain
        strategies = list(moved)


def test_where_beliefs_about_waits_differ_best_replies_may_cycle() -> None:
    """So no potential of any kind is there for these three buyers, though an equilibrium is (Milchtaich 1996)."""
    waits = [
        [[2, 4, 6], [0, 7, 9], [1, 1, 8]],
        [[2, 3, 3], [4, 7, 8], [1, 7, 9]],
        [[0, 7, 8], [4, 5, 8], [6, 8, 8]],
    ]
    differing = Game([[0] * 3] * 3, waits, [0] * 3)
    assert differing.cycles(differing.best)
    assert any(not list(differing.better(choices)) for choices in differing.everything())
    for alike in waits:
        game = Game.common([[0] * 3] * 3, alike)
        assert not game.cycles(game.better)


@st.composite
def crowds(drawer: st.DrawFn) -> Crowd:
    groups, agents = drawer(st.integers(1, 3)), drawer(st.integers(2, 4))
    rng = np.random.default_rng(drawer(st.integers(0, 2**32 - 1)))
    return Crowd(
        rates=rng.uniform(0.2, 1.0, groups),
        values=rng.uniform(0.0, 3.0, (groups, agents)),
        base=rng.uniform(0.0, 2.0, agents),
        slope=rng.uniform(0.1, 1.0, agents),
        power=drawer(st.integers(1, 2)),
        delay_cost=drawer(st.sampled_from([0.3, 1.0])),
        temperature=drawer(st.sampled_from([0.2, 0.5, 1.0, 3.0])),
    )


def replies(crowd: Crowd, mixed: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([response(row, crowd.temperature) for row in crowd.utilities(mixed)])


def starts(crowd: Crowd) -> list[NDArray[np.float64]]:
    """All alike, all at the first agent, all at the last, and somewhere."""
    groups, agents = crowd.values.shape
    first, last = (np.tile(np.eye(agents)[j], (groups, 1)) for j in (0, -1))
    return [
        np.full((groups, agents), 1 / agents),
        first,
        last,
        np.random.default_rng(0).dirichlet(first[0] + 1, groups),
    ]


@settings(max_examples=25, deadline=None)
@given(crowds())
def test_damped_replies_find_the_one_minimum_from_anywhere(crowd: Crowd) -> None:
    equilibrium = crowd.equilibrium()
    steep = crowd.delay_cost * crowd.steepest() * crowd.rates.sum() / (2 * crowd.temperature)
    step = 1 / (1 + steep)
    for start in starts(crowd):
        mixed = start
        for _ in range(int(40 / step)):
            towards = replies(crowd, mixed) - mixed
            mixed = mixed + step * towards
            if np.abs(towards).max() < 1e-9:
                break
        assert np.abs(mixed - equilibrium).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(crowds())
def test_damped_replies_descend_the_potential(crowd: Crowd) -> None:
    for mixed in starts(crowd):
        towards = replies(crowd, mixed) - mixed
        if np.abs(towards).max() > 1e-4:
            assert crowd.potential(mixed + 1e-6 * towards) < crowd.potential(mixed)


@settings(max_examples=60, deadline=None)
@given(crowds(), st.integers(0, 2**32 - 1))
def test_replies_contract_by_what_the_condition_says(crowd: Crowd, seed: int) -> None:
    """In the largest sum of differences of one group's chances; below 1 that gives the equilibrium without damping."""
    factor = crowd.delay_cost * crowd.steepest() * crowd.rates.sum() / (2 * crowd.temperature)
    one, other = np.random.default_rng(seed).dirichlet(np.full(crowd.values.shape[1], 0.3), (2, len(crowd.rates)))

    def apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
        return float(np.abs(first - second).sum(axis=1).max())

    assert apart(replies(crowd, one), replies(crowd, other)) <= factor * apart(one, other) + 1e-12
    if factor < 0.95:
        for _ in range(int(-40 / np.log(factor)) + 1):
            one = replies(crowd, one)
        assert np.abs(one - crowd.equilibrium()).max() < 1e-5


def test_undamped_replies_may_run_to_and_fro_where_the_condition_fails() -> None:
    """The herd: by yesterday's waits all go to one of two equal agents, and tomorrow to the other."""
    crowd = Crowd(np.ones(1), np.zeros((1, 2)), np.zeros(2), np.full(2, 4.0), 1, 1.0, 0.5)
    assert crowd.delay_cost * crowd.steepest() / (2 * crowd.temperature) > 1
    mixed = np.array([[0.9, 0.1]])
    for _ in range(200):
        mixed = replies(crowd, mixed)
    assert abs(mixed[0, 0] - 0.5) > 0.4
    assert crowd.equilibrium()[0, 0] == pytest.approx(0.5)
    assert abs(replies(crowd, replies(crowd, mixed)) - mixed).max() < 1e-9


@given(st.floats(0.01, 0.97), st.integers(1, 300), st.integers(0, 1_000), st.floats(0, 1e6), st.integers(0, 400))
def test_queues_stay_within_reason(rho: float, slots: int, ahead: int, age: float, own: int) -> None:
    queue = Queue(rho * slots, slots)
    assert 0 <= queue.ahead <= 1 / (1 - rho) + 1e-9
    assert 0 <= queue.behind(own) <= own + 1e-9
    tolls = [queue.toll_at(inside) for inside in range(slots + 3)]
    assert all(0 <= low <= high + 1e-9 for low, high in pairwise(tolls))
    later = queue.aged(ahead, age)
    assert 0 <= later <= max(ahead, queue.ahead) * (1 + 1e-9) + 1e-9


amounts = st.floats(-1e15, 1e15)
seconds = st.floats(0, 3_600)


@given(
    st.lists(st.tuples(amounts, seconds, st.floats(0, 5)), max_size=12),
    st.floats(0, 1e9),
    st.integers(0, 2**32),
    amounts | st.just(float("-inf")),
)
def test_any_candidates_make_a_choice(
    candidates: list[tuple[float, float, float]], delay_cost: float, seed: int, floor: float
) -> None:
    utilities, unseen_s, used = ([row[k] for row in candidates] for k in range(3))
    chosen = choose(utilities, unseen_s, used, delay_cost, Random(seed), floor)
    assert len(set(chosen)) == len(chosen) <= min(PROBES_MAX, len(candidates))
    assert chosen == sorted(chosen, key=lambda i: -utilities[i])
    assert (len(chosen) >= 1) or not candidates or floor > float("-inf")
    first = chances(utilities, unseen_s, used, delay_cost)
    assert np.all((first >= 0) & (first <= 1 + 1e-12))
    assert first.sum() == pytest.approx(1 if candidates else 0)
    if candidates:
        assert len(draw(utilities, temperature(unseen_s, delay_cost), 3, Random(seed))) == min(3, len(candidates))


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 10)), min_size=1, max_size=10), st.floats(1, 10))
def test_a_floor_asks_no_more(candidates: list[tuple[float, float]], times: float) -> None:
    utilities, unseen_s = [u for u, _ in candidates], [s for _, s in candidates]
    low, high = min(utilities) - times, max(utilities) + 1e9 * times
    assert probes(utilities, unseen_s, 1_000.0, high) == 0
    assert probes(utilities, unseen_s, 1_000.0, low) <= PROBES_MAX
