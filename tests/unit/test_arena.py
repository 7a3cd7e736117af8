"""The arena on traces small enough to reckon by hand, and the traces themselves."""

from collections.abc import Sequence

import numpy as np
import pytest

from p2pagent.sim.arena import Arena
from p2pagent.sim.baselines import Local, ProbeAll
from p2pagent.sim.policy import Answer, Ask, Move, Policy, Quote, Send
from p2pagent.sim.policy_game import Game
from p2pagent.sim.traces import CANDIDATES, MARGIN, Agent, Query, draw_population, draw_trace
from tests.arenas import AGENT, drawn, query, trace


class ToOne(Policy):
    def route(self, query: Query) -> Move:
        return Send((1,))


class AskTwo(Policy):
    heard: Sequence[Quote] = ()

    def route(self, query: Query) -> Move:
        return Ask((1, 2))

    def award(self, query: Query, quotes: Sequence[Quote], now_s: float) -> int:
        AskTwo.heard, AskTwo.now_s = quotes, now_s
        return 2


def test_an_answer_takes_the_way_there_the_wait_the_service_and_the_way_back():
    outcome = Arena(trace(query(0), query(1, 1.0)), ToOne, 2.0, 0).run()
    assert outcome.latency_s == pytest.approx([0.02 + 2 + 0.02, 0.02 + 1 + 2 + 0.02])
    assert outcome.jobs.started_s == pytest.approx([0.02, 2.02])
    assert outcome.right.all()
    assert not outcome.probes.any()


def test_the_own_agent_is_at_hand():
    outcome = Arena(trace(query()), Local, 2.0, 0).run()
    assert outcome.latency_s == pytest.approx([2.0])
    assert not outcome.right.any()


def test_slots_that_are_busy_at_the_start_are_waited_for():
    outcome = Arena(trace(query(), busy_s=((5.0,), (), ())), Local, 2.0, 0).run()
    assert outcome.latency_s == pytest.approx([7.0])


def test_a_probe_costs_the_slowest_round_trip_and_sees_the_agent_when_it_gets_there():
    slow = Agent(**{f: getattr(AGENT, f) for f in AGENT.__struct_fields__} | {"access_s": 0.03})
    outcome = Arena(trace(query(), agents=(AGENT, AGENT, slow)), AskTwo, 2.0, 0).run()
    assert outcome.probes.tolist() == [2]
    assert [quote.agent for quote in AskTwo.heard] == [1, 2]
    assert [quote.at_s for quote in AskTwo.heard] == pytest.approx([0.02, 0.04])
    assert AskTwo.now_s == pytest.approx(0.08)
    assert outcome.latency_s == pytest.approx([0.08 + 0.08 + 2])


def test_a_quote_tells_of_slots_queue_and_cache():
    class ThenAsk(AskTwo):
        def route(self, query: Query) -> Move:
            return Ask((1, 2)) if query.index == 3 else Send((1,))

    turns = [query(i, 0.1 * i, conversation=0) for i in range(4)]
    Arena(trace(*turns), ThenAsk, 2.0, 0).run()
    one, two = AskTwo.heard
    assert (one.free_slots, one.waiting) == (0, 2)
    assert (two.free_slots, two.waiting) == (1, 0)
    assert one.wait_s > two.wait_s == 0
    assert one.service_s == pytest.approx(1.0), "the whole prompt is cached"
    assert two.service_s == pytest.approx(2.0)


def test_a_conversation_is_prefilled_where_it_is_cached_no_more_and_the_oldest_goes_first():
    # Each turn leaves 110 tokens; two conversations fit into 250, a third puts out the one used longest ago.
    small = Agent(**{f: getattr(AGENT, f) for f in AGENT.__struct_fields__} | {"cache_tokens": 250})
    order = [0, 1, 0, 2, 0, 1]
    turns = [query(i, 10.0 * i, conversation=c) for i, c in enumerate(order)]
    outcome = Arena(trace(*turns, agents=(AGENT, small, AGENT)), ToOne, 2.0, 0).run()
    assert outcome.jobs.cached_tokens.tolist() == [0, 0, 100, 0, 100, 0]
    assert outcome.jobs.ended_s - outcome.jobs.started_s == pytest.approx([2, 2, 1, 2, 1, 2])


def test_a_question_to_many_is_answered_when_the_slowest_is():
    class ToAll(Policy):
        def route(self, query: Query) -> Move:
            return Send(query.candidates)

    outcome = Arena(trace(query(), busy_s=((), (4.0,), ())), ToAll, 2.0, 0).run()
    assert outcome.latency_s == pytest.approx([4.0 + 2 + 0.02])
    assert len(outcome.jobs.agent) == 3


def test_whoever_learns_is_told_of_every_answer():
    told: list[Answer] = []

    class Learner(ToOne):
        learns = True

        def answered(self, query: Query, answer: Answer) -> None:
            told.append(answer)

    Arena(trace(query(), query(1, 1.0)), Learner, 2.0, 0).run()
    assert [answer.answered_s for answer in told] == pytest.approx([2.04, 4.04])
    assert [answer.sent_s for answer in told] == [0.0, 1.0]


def test_nobody_is_sent_a_question_that_is_no_candidate_for_it():
    class Astray(Policy):
        def route(self, query: Query) -> Move:
            return Send((3,))

    with pytest.raises(AssertionError):
        Arena(trace(query(), agents=(AGENT,) * 4), Astray, 2.0, 0).run()


@pytest.mark.parametrize("policy", [ProbeAll, Game])
def test_one_seed_is_one_run(policy: type[Policy]):
    runs = [Arena(drawn(3, 20, 300, 0.8), policy, 2.0, 5).run() for _ in range(2)]
    assert np.array_equal(runs[0].latency_s, runs[1].latency_s)
    assert np.array_equal(runs[0].jobs.agent, runs[1].jobs.agent)


def test_a_trace_offers_the_load_that_it_says():
    for load in (0.3, 0.9):
        drawn_trace = drawn(1, 60, 6_000, load)
        prompt = np.mean([q.prompt_tokens for q in drawn_trace.queries])
        output = np.mean([q.output_tokens for q in drawn_trace.queries])
        agents = drawn_trace.population.agents
        capacity = sum(a.slots / a.service_s(prompt, 0, output) for a in agents)
        assert len(drawn_trace.queries) / drawn_trace.end_s / capacity == pytest.approx(load, rel=0.05)


def test_candidates_are_the_asker_and_strangers_near_the_best():
    drawn_trace = drawn(2, 60, 500, 0.5)
    centres, population = drawn_trace.population.centres, drawn_trace.population
    for q in drawn_trace.queries:
        seen = int(np.argmax(centres @ drawn_trace.embeddings[q.conversation]))
        strangers = q.candidates[1:]
        assert q.candidates[0] == q.asker
        assert len(set(q.candidates)) == len(q.candidates) <= CANDIDATES + 1
        best = max(population.quality[j, seen] for j in range(60) if j != q.asker)
        assert all(population.quality[j, seen] >= best - MARGIN for j in strangers)
        assert q.quality == tuple(population.quality[list(q.candidates), seen])


def test_turns_of_a_conversation_are_one_askers_and_grow_by_what_was_said():
    last: dict[int, Query] = {}
    for q in drawn(4, 10, 2_000, 0.5).queries:
        before = last.get(q.conversation)
        if before is not None:
            assert (before.asker, before.candidates) == (q.asker, q.candidates)
            assert q.prompt_tokens > before.prompt_tokens + before.output_tokens
        last[q.conversation] = q
    assert 1_000 > len(last) > 300


def test_agents_are_as_right_as_their_skill():
    trace_drawn = drawn(5, 30, 20_000, 0.5)
    skill = trace_drawn.population.skill
    expected = np.array([skill[list(q.candidates), q.subject].sum() for q in trace_drawn.queries]).sum()
    found = sum(sum(q.right) for q in trace_drawn.queries)
    total = sum(len(q.right) for q in trace_drawn.queries)
    assert abs(found - expected) / total < 0.01


def test_bursts_keep_the_rate_and_scatter_the_counts():
    population = draw_population(20, np.random.default_rng(0))
    spread = {}
    for arrivals in ("poisson", "bursty"):
        drawn_trace = draw_trace(population, 20_000, 0.5, np.random.default_rng(1), arrivals)  # type: ignore[arg-type]
        at_s = np.array([q.at_s for q in drawn_trace.queries])
        counts = np.histogram(at_s, bins=np.arange(0, at_s[-1], 2.0))[0]
        spread[arrivals] = counts.var() / counts.mean(), at_s[-1]
    assert spread["poisson"][0] == pytest.approx(1, abs=0.2)
    assert spread["bursty"][0] > 2
    assert spread["bursty"][1] == pytest.approx(spread["poisson"][1], rel=0.1)
