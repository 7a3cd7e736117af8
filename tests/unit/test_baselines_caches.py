"""Rules that follow caches, where what they know tells the choice."""

from random import Random

import pytest

from p2pagent.sim.baselines_caches import DECAY, DECAY_S, Lbgr, Preble, Router, SGLang, Sticky
from p2pagent.sim.policy import Answer
from p2pagent.sim.traces import Query
from tests.arenas import Scene, query, snapshot, trace


def made(policy: type[Router], scene: Scene | None = None) -> Router:
    return policy(trace(query()), scene or Scene(), Random(1))


def turn(index: int, at_s: float = 0.0, prompt_tokens: int = 100) -> Query:
    return query(index, at_s, conversation=0, prompt_tokens=prompt_tokens)


def test_sticky_stays_with_the_conversation():
    policy = Sticky(trace(query()), Scene(), Random(1))
    homes = {c: policy.route(query(c)).agents for c in range(30)}
    assert len(set(homes.values())) == 3
    assert all(policy.route(query(c)).agents == home for c, home in homes.items())


def test_sglang_goes_where_more_than_half_of_the_prompt_is():
    policy = made(SGLang)
    policy.send(turn(0), 2)
    policy.sent_tokens[0, 2] += 10_000
    assert policy.route(turn(1, prompt_tokens=199)).agents == (2,)


def test_sglang_else_goes_where_the_least_text_was_sent():
    policy = made(SGLang)
    policy.send(turn(0), 2)
    policy.sent_tokens.update({(0, 0): 500, (0, 1): 50})
    assert policy.route(turn(1, prompt_tokens=200)).agents == (1,)


@pytest.mark.parametrize(("queue", "chosen"), [(32, 2), (33, 0)])
def test_sglang_balances_when_one_is_more_than_32_ahead(queue: int, chosen: int):
    policy = made(SGLang, Scene({1: snapshot(running=1), 2: snapshot(running=1, waiting=queue - 1)}))
    policy.send(turn(0), 2)
    assert policy.route(turn(1, prompt_tokens=101)).agents == (chosen,)


def test_what_is_in_flight_counts_until_it_is_answered():
    policy = made(SGLang)
    policy.send(turn(0), 2)
    assert policy.queue(query(), 2) == 1
    assert policy.queue(query(asker=1), 2) == 0
    policy.answered(turn(0), Answer(2, True, 0.0, 1.0))
    assert policy.queue(query(), 2) == 0


def test_preble_exploits_a_prefix_longer_than_the_rest():
    policy = made(Preble)
    first = policy.route(turn(0)).agents[0]
    policy.answered(turn(0), Answer(first, True, 0.0, 1.0))
    others = {agent: 1.0 for agent in (0, 1, 2) if agent != first}
    for agent, work_s in others.items():  # as loaded, so that nothing is to rebalance
        policy._recent[0, agent].append((0.0, work_s))
        policy._work_s[0, agent] += 2 * work_s
    assert policy.route(turn(1, prompt_tokens=199)).agents == (first,)


def test_preble_explores_where_load_is_least():
    scene = Scene({0: snapshot(running=1, waiting=1), 1: snapshot(running=1), 2: snapshot()})
    assert made(Preble, scene).route(query()).agents == (2,)


def test_preble_sends_from_the_heaviest_to_the_lightest_when_they_are_far_apart():
    scene = Scene({0: snapshot(running=1, waiting=9), 1: snapshot(running=1), 2: snapshot(running=1, waiting=3)})
    policy = made(Preble, scene)
    policy.send(turn(0), 0)
    assert policy.route(turn(1, prompt_tokens=101)).agents == (1,)


def test_preble_forgets_load_after_three_minutes():
    policy = made(Preble)
    policy.route(turn(0))
    chosen = next(agent for (_, agent), work in policy._work_s.items() if work > 0)
    policy._load_s(query(1, 181.0), chosen)
    assert policy._work_s[0, chosen] == pytest.approx(0)


def test_lbgr_follows_the_cache_until_the_agent_is_slow():
    policy = made(Lbgr)
    first = policy.route(turn(0)).agents[0]
    policy.answered(turn(0), Answer(first, True, 0.0, 0.4))
    assert policy.route(turn(1, 10.0, prompt_tokens=120)).agents == (first,)
    policy.answered(turn(1), Answer(first, True, 10.0, 40.0))
    assert policy.route(turn(2, 50.0, prompt_tokens=140)).agents != (first,)


def test_lbgr_reserves_work_that_fades_and_ends_with_the_answer():
    policy = made(Lbgr)
    first = policy.route(turn(0)).agents[0]
    assert policy._reserved_ms(0, first, 0.0) == pytest.approx(400)
    assert policy._reserved_ms(0, first, 10 * DECAY_S) == pytest.approx(400 * DECAY**10)
    policy.answered(turn(0), Answer(first, True, 0.0, 0.1))
    assert policy._reserved_ms(0, first, 0.1) == pytest.approx(0)
