"""Each published rule where its choice can be told by hand."""

from random import Random

import pytest

from p2pagent.sim.baselines import Local, PowerOfTwo, ProbeAll, RandomAgent, RoundRobin, ScoreOnly, StaleLeastLoaded
from p2pagent.sim.policy import Ask, Policy, Send
from tests.arenas import Scene, query, quoted, snapshot, trace


def made(policy: type[Policy], scene: Scene | None = None, seed: int = 1) -> Policy:
    return policy(trace(query()), scene or Scene(), Random(seed))


def test_local_stays_at_home():
    assert made(Local).route(query()) == Send((0,))


def test_random_goes_to_every_candidate_alike():
    policy = made(RandomAgent)
    sent = [policy.route(query(i)).agents[0] for i in range(600)]
    assert all(160 < sent.count(agent) < 240 for agent in (0, 1, 2))


def test_round_robin_goes_round_per_asker():
    policy = made(RoundRobin)
    assert [policy.route(query(i)).agents[0] for i in range(5)] == [0, 1, 2, 0, 1]
    assert policy.route(query(5, asker=2, candidates=(2, 0, 1))).agents == (2,)


def test_score_only_takes_the_best_score_whatever_the_load():
    scene = Scene({1: snapshot(running=1, waiting=50)})
    assert made(ScoreOnly, scene).route(query()) == Send((1,))


def test_stale_least_loaded_takes_the_shortest_queue_per_slot():
    scene = Scene({0: snapshot(running=1), 1: snapshot(running=3, slots=4), 2: snapshot(running=2, slots=2)})
    assert made(StaleLeastLoaded, scene).route(query()) == Send((1,))


def test_stale_least_loaded_breaks_ties_by_chance():
    policy = made(StaleLeastLoaded)
    assert {policy.route(query(i)).agents[0] for i in range(50)} == {0, 1, 2}


def test_power_of_two_asks_two_of_the_candidates_and_its_own_agent_for_nothing():
    policy = made(PowerOfTwo, Scene(own=quoted(0, wait_s=1.0)))
    seen = set()
    for i in range(60):
        move = policy.route(query(i))
        assert isinstance(move, Ask)
        quotes = [quoted(agent, wait_s=2.0) for agent in move.agents]
        winner = policy.award(query(i), quotes, 0.1)
        assert winner == (0 if len(move.agents) == 1 else quotes[0].agent)
        seen.add(tuple(sorted(move.agents)))
    assert seen == {(1,), (2,), (1, 2)}


def test_power_of_two_takes_the_shorter_wait_and_then_the_faster():
    policy = made(PowerOfTwo)
    assert policy.award(query(), [quoted(1, 3.0), quoted(2, 1.0)], 0.1) == 2
    assert policy.award(query(), [quoted(1, 0.0, 3.0), quoted(2, 0.0, 2.0)], 0.1) == 2


@pytest.mark.parametrize(("wait_s", "winner"), [(0.0, 1), (4.0, 1), (6.0, 2)])
def test_probe_all_asks_every_stranger_and_weighs_quality_against_delay(wait_s: float, winner: int):
    # A tenth of quality is worth five seconds at the default cost of delay.
    policy = made(ProbeAll, Scene(own=quoted(0)))
    assert policy.route(query()) == Ask((1, 2))
    assert policy.award(query(), [quoted(1, wait_s), quoted(2)], 0.1) == winner


def test_probe_all_stays_at_home_when_strangers_are_too_busy():
    policy = made(ProbeAll, Scene(own=quoted(0)))
    assert policy.award(query(), [quoted(1, 20.0), quoted(2, 20.0)], 0.1) == 0
