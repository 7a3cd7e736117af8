"""Ours as a policy: what it believes of whom, what it counts, and what each ablation leaves out."""

from random import Random

import pytest

from p2pagent.sim.policy import Answer, Ask, Policy, Send
from p2pagent.sim.policy_ablations import Forgetful, Greedy, PricedProbeAll, RatesOnly, Unpriced, Unprobed
from p2pagent.sim.policy_game import Game
from tests.arenas import Scene, query, quoted, snapshot, trace

BUSY = quoted(0, wait_s=60.0)


def made(policy: type[Game], scene: Scene | None = None) -> Game:
    return policy(trace(query()), scene or Scene(own=BUSY), Random(1))


@pytest.mark.parametrize("policy", [Game, Unpriced, Greedy, Forgetful])
def test_asks_somebody_and_only_strangers(policy: type[Game]):
    move = made(policy).route(query())
    assert isinstance(move, Ask)
    assert move.agents
    assert set(move.agents) <= {1, 2}


def test_takes_the_best_of_the_quotes_and_its_own_agent():
    game = made(Game)
    assert game.award(query(), [quoted(1, wait_s=9.0), quoted(2)], 0.1) == 2
    assert made(Game, Scene(own=quoted(0))).award(query(), [quoted(1, wait_s=60.0)], 0.1) == 0


def test_its_own_questions_count_until_they_are_answered_or_seen():
    game = made(Game)
    assert game.award(query(), [quoted(2, at_s=0.0)], 0.1) == 2
    assert game.own_since(query(), 2) == 1
    game.belief(query(asker=1), 2)
    assert game.own_since(query(asker=1), 2) == 0, "another asker's are not its own"
    game._beliefs[0, 2].learn_quote(200, 0, 0, 1)
    assert game.own_since(query(), 2) == 0, "what reached it before the look was seen"
    game.answered(query(), Answer(2, True, 0.1, 3.0))
    assert game._flying[0, 2] == []


def test_a_forgetful_one_counts_nothing_of_its_own():
    game = made(Forgetful)
    game.award(query(), [quoted(2)], 0.1)
    assert game.own_since(query(), 2) == 0


def test_gossip_of_a_long_queue_lowers_what_an_agent_is_worth():
    idle = made(Game, Scene({1: snapshot(at_ms=1)})).prospect(query(at_s=0.1), 1)
    queued = made(Game, Scene({1: snapshot(at_ms=1, running=1, waiting=9)})).prospect(query(at_s=0.1), 1)
    assert queued.utility < idle.utility


def test_the_price_of_a_queue_is_deducted_but_by_the_selfish():
    scene = Scene({1: snapshot(at_ms=1, running=1, waiting=3)})
    assert (
        made(Game, scene).prospect(query(at_s=0.1), 1).utility
        < made(Unpriced, scene).prospect(query(at_s=0.1), 1).utility
    )


def test_whoever_looks_for_the_first_time_has_heard_the_gossip_before():
    scene = Scene({1: snapshot(at_ms=0)})
    game = made(Game, scene)
    game.prospect(query(at_s=1.0), 1)
    scene.snapshots[1] = snapshot(at_ms=10_000)
    idle_for_long = game.prospect(query(at_s=10.0, asker=2, candidates=(2, 1)), 1)
    stranger = made(Game, scene).prospect(query(at_s=10.0, asker=2, candidates=(2, 1)), 1)
    assert idle_for_long.utilisation < stranger.utilisation


def test_unprobed_and_rates_only_send_at_once():
    for policy in (Unprobed, RatesOnly):
        assert isinstance(made(policy).route(query()), Send)


def test_unprobed_stays_at_home_when_that_is_better():
    away = {1: snapshot(at_ms=1, running=1, waiting=40), 2: snapshot(at_ms=1, running=1, waiting=40)}
    assert made(Unprobed, Scene(away, quoted(0))).route(query(at_s=0.1)) == Send((0,))


def test_priced_probe_all_asks_every_stranger():
    assert made(PricedProbeAll).route(query()) == Ask([1, 2])


def test_greedy_asks_the_best_believed():
    scene = Scene({1: snapshot(at_ms=1, running=1, waiting=30), 2: snapshot(at_ms=1)}, BUSY)
    game: Policy = made(Greedy, scene)
    assert {tuple(game.route(query(i, at_s=0.1)).agents) for i in range(20)} == {(2,)}
