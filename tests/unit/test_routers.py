"""Routers by their published rules, where what they know tells the choice, and the nodes of the affinity trace."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from p2pagent.sim.baselines_caches import DECAY, DECAY_S, RESIDUAL_FORGET
from p2pagent.sim.conversations import Shape, Turn, ceiling, draw
from p2pagent.sim.routers import (
    AnyNode,
    InTurn,
    Lbgr,
    LeastLoaded,
    Preble,
    Router,
    SGLang,
    Speed,
    Sticky,
    TreeRouter,
)
from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS
from scripts.benches.affinity_trace import KNOWING, Answer, Node, Service, baseline, price, serve

SPEED = Speed(prefill_s_per_token=0.001, decode_s_per_token=0.0, blocks=100, block_tokens=10)


def turn(*chain: int, conversation: int = 0, number: int = 0, rest: int = 0) -> Turn:
    """A prompt of blocks of ten tokens and a rest."""
    return Turn(conversation, number, 0, 0.0, 10 * len(chain) + rest, 1, chain)


def sends(router: Router, node: int, *turns: Turn, at_s: float = 0.0) -> None:
    for one in turns:
        router.sent(one, node, at_s)


def choices(router: Router, one: Turn, now_s: float = 0.0) -> set[int]:
    """What the rule says, whatever its dice."""
    return {router.choose(one, now_s) for _ in range(60)}


def test_unanswered_are_counted() -> None:
    router = AnyNode(3, Random(1))
    nodes = [router.route(turn(1), 0.0) for _ in range(300)]
    assert router.unanswered == [nodes.count(node) for node in range(3)]
    assert min(router.unanswered) > 70
    router.answered(turn(1), nodes[0], 1.0)
    assert sum(router.unanswered) == 299


def test_in_turn_goes_round() -> None:
    router = InTurn(3, Random(1))
    assert [router.route(turn(1), 0.0) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_least_loaded_takes_one_of_the_shortest_queues() -> None:
    router = LeastLoaded(3, Random(1))
    router.unanswered = [2, 1, 1]
    assert choices(router, turn(1)) == {1, 2}


def test_sticky_stays_with_the_conversation() -> None:
    router = Sticky(3, Random(1))
    homes = [router.choose(turn(1, conversation=c), 0.0) for c in range(60)]
    assert min(Counter(homes).values()) > 10
    assert homes == [router.choose(turn(1, 2, conversation=c, number=1), 5.0) for c in range(60)]


CHAINS = st.lists(st.integers(0, 1), min_size=1, max_size=4).map(
    lambda path: tuple(int("1" + "".join(map(str, path[: end + 1])), 2) for end in range(len(path)))
)


@given(st.lists(st.tuples(CHAINS, st.integers(0, 2)), max_size=8), CHAINS)
def test_a_tree_knows_the_longest_prefix_sent_to_each(
    sent: list[tuple[tuple[int, ...], int]], chain: tuple[int, ...]
) -> None:
    router = TreeRouter(3, Random(1))
    for one, node in sent:
        sends(router, node, turn(*one))
    for node, share in enumerate(router.matched(turn(*chain))):
        lengths = [n for n in range(len(chain) + 1) for one, at in sent if at == node and one[:n] == chain[:n]]
        assert share == max(lengths, default=0) / len(chain)


def test_sglang_goes_where_more_than_half_of_the_prompt_is_whoever_sent_it() -> None:
    router = SGLang(3, Random(1))
    sends(router, 1, turn(1, 2, 3))
    sends(router, 2, turn(1, 4))
    assert choices(router, turn(1, 2, 3, 5, 6, conversation=1)) == {1}
    assert choices(router, turn(1, 7, conversation=2)) == {0}  # half is not more than half
    sends(router, 2, turn(1, 2, 3))
    assert choices(router, turn(1, 2, 3, 5, 6, conversation=1)) == {1, 2}


def test_sglang_else_takes_the_smallest_tree() -> None:
    router = SGLang(3, Random(1))
    sends(router, 0, turn(1, 2), turn(1, 2))
    sends(router, 1, turn(3, 4, 5))
    sends(router, 2, turn(6, 7, 8), turn(6, 9))
    assert choices(router, turn(10)) == {0}


@pytest.mark.parametrize(("longest", "chosen"), [(35, 0), (36, 1)])
def test_sglang_balances_from_more_than_32_apart(longest: int, chosen: int) -> None:
    router = SGLang(3, Random(1))
    sends(router, 0, turn(1, 2))
    router.unanswered = [longest, 3, 4]
    assert choices(router, turn(1, 2)) == {chosen}


def test_sglang_can_be_fitted_to_the_slots() -> None:
    router = SGLang(2, Random(1), imbalance=4)
    sends(router, 0, turn(1, 2))
    router.unanswered = [4, 0]
    assert choices(router, turn(1, 2)) == {0}
    router.unanswered = [5, 0]
    assert choices(router, turn(1, 2)) == {1}


def test_preble_exploits_a_prefix_longer_than_the_rest() -> None:
    router = Preble(3, Random(1), SPEED)
    sends(router, 1, turn(1, 2, 3, 4, 5, 6))
    sends(router, 2, turn(1, 2, 3, 7, 8))
    sends(router, 0, turn(10, 11, 12, 13))
    assert choices(router, turn(1, 2, 3, 4, 5, 6, rest=59)) == {1}
    assert choices(router, turn(1, 2, 3, 4, 20, 21, rest=9)) == {1}  # 40 of 69, though 2 has 30 and less load


def test_preble_explores_where_load_and_prefill_are_least() -> None:
    router = Preble(3, Random(1), SPEED)
    sends(router, 0, turn(10, 11, 12))
    sends(router, 1, turn(1, 2, 3))
    sends(router, 2, turn(14, 15, 16, 17))
    assert choices(router, turn(1, 2, 3, 4, 5, 6)) == {1}
    for node in range(3):
        sends(router, node, turn(*range(100 * node + 20, 100 * node + 30)))
    sends(router, 1, turn(7, 8, 9, 18))
    assert choices(router, turn(1, 2, 3, 4, 5, 6)) == {0}  # 0.13 + 0.06 against 0.17 + 0.03
    assert choices(router, turn(1, 2, 3, 4, 5, rest=9)) == {1}


def test_preble_sends_from_the_heaviest_to_the_lightest_when_they_are_far_apart() -> None:
    router = Preble(3, Random(1), SPEED)
    sends(router, 0, turn(1, 2, 3))
    sends(router, 1, turn(4, 5))
    sends(router, 2, turn(6, 7, 8, 9))
    assert choices(router, turn(1, 2, 3, rest=1)) == {0}
    assert choices(router, turn(6, 7, 8, 9, rest=1)) == {1}


def test_preble_counts_only_what_was_computed_and_forgets_after_three_minutes() -> None:
    router = Preble(2, Random(1), SPEED)
    sends(router, 0, turn(1, 2, 3, rest=1))
    assert router._load_s == pytest.approx([0.031, 0.0])
    sends(router, 0, turn(1, 2, 3, rest=1), at_s=100.0)
    assert router._load_s == pytest.approx([0.032, 0.0])
    router.choose(turn(9), 180.1)
    assert router._load_s == pytest.approx([0.001, 0.0])
    assert router._asked[0, 1] == 1


def test_preble_explores_where_little_of_worth_is_evicted() -> None:
    router = Preble(2, Random(1), Speed(0.001, 0.0, 4, 10))
    sends(router, 0, turn(1, 2, 3, 4))
    sends(router, 1, turn(5, 6, 7, 8))
    assert choices(router, turn(9)) == {0, 1}
    for _ in range(3):
        sends(router, 0, turn(1, 2, 3, 4, rest=-1))
        sends(router, 1, turn(5, rest=-1))
    router._load_s = [1.0, 1.0]
    assert choices(router, turn(9)) == {1}


def test_preble_knows_what_a_node_has_no_room_for() -> None:
    router = Preble(2, Random(1), Speed(0.001, 0.0, 4, 10))
    sends(router, 0, turn(1, 2, 3), turn(4, 5))
    assert router._cached_tokens(turn(1, 2, 3, rest=1), 0) == 20


def test_lbgr_follows_the_cache_and_stays_with_the_first_of_equals() -> None:
    router = Lbgr(3, Random(1), 1.0)
    assert choices(router, turn(1, 2)) == {0}
    sends(router, 2, turn(1, 2))
    router._reserved = [(0.0, 0.0)] * 3
    assert choices(router, turn(1, 2)) == {2}
    assert choices(router, turn(3)) == {0}


@pytest.mark.parametrize(("characters", "rest", "chosen"), [(1.0, 0, 0), (1.0, 3, 1), (0.5, 2, 0), (0.5, 5, 1)])
def test_lbgr_leaves_an_earlier_node_for_more_than_a_millisecond(characters: float, rest: int, chosen: int) -> None:
    router = Lbgr(2, Random(1), characters)
    router._residual[0] = (characters * rest, 1.0)
    assert choices(router, turn(1)) == {chosen}


def test_lbgr_reserves_work_that_fades_and_ends_with_the_answer() -> None:
    router = Lbgr(2, Random(1), 4.0)
    one = turn(1, 2, 3)
    assert router.route(one, 0.0) == 0
    assert router._reserved_ms(0, 0.0) == pytest.approx(120)
    assert router._reserved_ms(0, 10 * DECAY_S) == pytest.approx(120 * DECAY**10)
    other = turn(4, conversation=1)
    assert router.route(other, 0.0) == 1
    assert router.route(turn(5, conversation=2), 0.0) == 1
    router.answered(one, 0, 0.2)
    assert router._reserved_ms(0, 0.2) == pytest.approx(0)
    router.answered(other, 1, 0.2)
    assert router._reserved_ms(1, 0.2) == pytest.approx(40 * DECAY**10)


def test_lbgr_learns_what_its_prediction_missed() -> None:
    router = Lbgr(1, Random(1), 1.0)
    for number, lasted_s in enumerate((0.110, 0.210)):
        one = turn(number, conversation=number)
        router.route(one, 10.0 * number)
        router.answered(one, 0, 10.0 * number + lasted_s)
    assert router._residual[0][0] == pytest.approx((100 * RESIDUAL_FORGET + 200) / (1 + RESIDUAL_FORGET), rel=1e-3)


# The nodes of the trace.

PLAIN = Service(
    nodes=1, cores=1.0, slots=2, blocks=1_000, block_tokens=10, budget_tokens=100,
    step_s=1.0, sequence_s=0.0, prefill_s=0.1, attention_s=0.0, wire_s=0.5,
)  # fmt: skip


def served(service: Service, *turns: Turn) -> list[Answer]:
    """What became of turns asked at their pauses, in seconds, of one node after the other."""
    made = serve(turns, service, 1.0, baseline("round robin"), 0).answers
    return sorted(made, key=lambda answer: (answer.turn.conversation, answer.turn.number))


def asked(conversation: int, at_s: float, *chain: int, number: int = 0, output: int = 3) -> Turn:
    return turn(*chain, conversation=conversation, number=number)._replace(pause=at_s, output_tokens=output)


def test_alone_an_answer_takes_the_way_its_prefill_and_a_step_per_token() -> None:
    (one,) = served(PLAIN, asked(0, 7.0, 1, 2))
    assert (one.asked_s, one.first_s, one.ended_s) == pytest.approx((7.0, 10.5, 12.5))


def test_a_long_prompt_takes_several_steps_and_attention_more_for_later_tokens() -> None:
    (one,) = served(PLAIN, asked(0, 0.0, *range(15)))
    assert one.first_s == pytest.approx(0.5 + 2 + 15)
    (one,) = served(structs.replace(PLAIN, attention_s=0.01), asked(0, 0.0, *range(15)))
    assert one.first_s == pytest.approx(0.5 + 2 + 15 + 0.01 * 150**2 / 2)


def test_what_is_held_is_not_computed_again() -> None:
    one, two, three = served(PLAIN, asked(0, 0.0, 1, 2), asked(1, 20.0, 1, 2), asked(2, 40.0, 1, 3, 4))
    assert [a.lease.cached_tokens for a in (one, two, three) if a.lease] == [0, 10, 10]
    assert [a.first_s - a.asked_s for a in (one, two, three)] == pytest.approx([3.5, 2.5, 3.5])


def test_who_comes_together_shares_the_step_and_who_finds_no_slot_waits() -> None:
    turns = [asked(number, 0.0, number, 50 + number) for number in range(3)]
    one, two, three = served(PLAIN, *turns)
    assert [one.first_s, two.first_s, three.first_s] == pytest.approx([5.5, 5.5, 7.5 + 3])
    assert two.ended_s == pytest.approx(7.5)


def test_who_comes_during_a_step_begins_with_the_next() -> None:
    one, two = served(PLAIN, asked(0, 0.0, 1, 2, output=2), asked(1, 1.0, 3))
    assert one.first_s == pytest.approx(3.5)
    assert (two.first_s, one.ended_s) == pytest.approx((5.5, 5.5))


def test_a_prompt_waits_for_room_in_the_cache() -> None:
    one, two = served(structs.replace(PLAIN, blocks=5), asked(0, 0.0, 1, 2, 3), asked(1, 0.0, 4, 5, 6))
    assert one.ended_s == pytest.approx(0.5 + 4 + 2)
    assert two.first_s == pytest.approx(one.ended_s + 4)


@pytest.mark.parametrize(("cores", "factor"), [(1.0, 2.0), (1.5, 4 / 3), (2.0, 1.0), (3.0, 1.0)])
def test_nodes_share_the_cores(cores: float, factor: float) -> None:
    service = structs.replace(PLAIN, nodes=2, cores=cores)
    run = serve([asked(0, 0.0, 1, 2), asked(1, 0.0, 3, 4)], service, 1.0, baseline("round robin"), 0)
    assert [a.ended_s for a in run.answers] == pytest.approx([0.5 + factor * 5] * 2)
    assert run.load == pytest.approx(10 / (cores * run.lasted_s))


def test_the_next_turn_is_asked_a_pause_after_the_answer() -> None:
    first, second = served(PLAIN, asked(0, 1.0, 1, 2), asked(0, 4.0, 1, 2, 3, number=1))
    assert second.asked_s == pytest.approx(first.ended_s + 4.0)


@pytest.mark.parametrize("domains", [1, 3])
def test_a_node_that_never_forgets_reaches_the_ceiling(domains: int) -> None:
    turns = draw(Shape(domains=domains), 32, Random(5))
    service = Service(nodes=1, blocks=100_000)
    assert serve(turns, service, 2.0, baseline("random"), 0).figures()["hit"] == pytest.approx(ceiling(turns, 32))


def test_a_node_knows_when_a_first_token_would_come() -> None:
    turns = asked(0, 0.0, 1, 2), asked(1, 0.0, 3), asked(2, 0.0, 4)
    node = Node(PLAIN)
    for one, expected_s in zip(turns, (1 + 2, 1 + 3, 1 + 4 + 3), strict=True):
        assert node.first_s(one) == pytest.approx(expected_s)
        node.waiting.append(Answer(one, 0, 0.0))
    assert [answer.first_s - 0.5 for answer in served(PLAIN, *turns)] == pytest.approx([4, 4, 8])


def test_a_node_knows_what_it_need_not_compute() -> None:
    node = Node(PLAIN)
    lease = node.cache.admit(0, (1, 2), 20, 1)
    assert lease is not None
    node.cache.release(lease)
    assert node.first_s(asked(0, 0.0, 1, 2, 3)) == pytest.approx(1 + 1)


def test_prices_are_by_metered_tokens() -> None:
    assert price(turn(1, 2, rest=5)._replace(output_tokens=3), 20) == 10 * 5 + 20 + 40 * 3


def test_every_router_serves_every_turn_and_who_follows_caches_hits_more() -> None:
    turns = draw(Shape(), 32, Random(2))
    hits = {}
    for name, make in {**{name: baseline(name) for name in ROUTERS}, **KNOWING}.items():
        run = serve(turns, Service(), 2.0, make, 1)
        assert sorted((a.turn.conversation, a.turn.number) for a in run.answers) == sorted((t[:2]) for t in turns)
        hits[name] = run.figures()["hit"]
    assert max(hits[name] for name in LOAD_ONLY) < hits["sticky"] < min(hits["SGLang"], hits["Preble E2"])
    assert max(hits.values()) < ceiling(turns, 32)
