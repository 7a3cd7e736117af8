"""The arena against a plain simulation of every agent, slot by slot."""

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.sim.arena import GOSSIP_ROUND_S, Arena, Outcome
from p2pagent.sim.baselines import PowerOfTwo, ProbeAll, RandomAgent
from p2pagent.sim.baselines_scores import Vote
from p2pagent.sim.policy import Move, Policy, Send
from p2pagent.sim.policy_game import Game
from p2pagent.sim.traces import Query, Trace
from tests.arenas import drawn

POLICIES = (RandomAgent, PowerOfTwo, ProbeAll, Vote, Game)


def served(trace: Trace, outcome: Outcome, agent: int) -> list[tuple[float, float]]:
    """Starts and ends at one agent: whenever a slot is free, the one that came first; a list per thing to remember."""
    of, jobs = trace.population.agents[agent], outcome.jobs
    mine = np.flatnonzero(jobs.agent == agent)
    waiting = [(float(jobs.arrived_s[i]), trace.queries[int(jobs.query[i])]) for i in mine]
    ends = list(trace.busy_s[agent])
    cache: OrderedDict[int, int] = OrderedDict()
    spans = []
    now = 0.0
    while waiting:
        came, query = waiting[0]
        running = [end for end in ends if end > now]
        if came <= now and len(running) < of.slots:
            waiting.pop(0)
            held = min(cache.pop(query.conversation, 0), query.prompt_tokens)
            cache[query.conversation] = query.prompt_tokens + query.output_tokens
            while sum(cache.values()) > of.cache_tokens:
                cache.popitem(last=False)
            end = now + of.service_s(query.prompt_tokens, held, query.output_tokens)
            ends.append(end)
            spans.append((now, end))
        else:
            now = min(t for t in [*running, came] if t > now)
    return spans


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(POLICIES),
    st.integers(3, 12),
    st.floats(0.2, 1.5),
    st.sampled_from([0.5, 2, 9]),
)
def test_every_agent_serves_in_order_with_all_its_slots(
    seed: int, policy: type[Policy], peers: int, load: float, gossip_s: float
):
    trace = drawn(seed, peers, 120, load)
    outcome = Arena(trace, policy, gossip_s, seed).run()
    jobs = outcome.jobs
    for agent in range(peers):
        mine = np.flatnonzero(jobs.agent == agent)
        spans = np.array(served(trace, outcome, agent)).reshape(-1, 2)
        assert np.allclose(jobs.started_s[mine], spans[:, 0])
        assert np.allclose(jobs.ended_s[mine], spans[:, 1])
    access_s = np.array([agent.access_s for agent in trace.population.agents])
    for query in trace.queries:
        parts = np.flatnonzero(jobs.query == query.index)
        away = jobs.agent[parts] != query.asker
        way_s = np.where(away, access_s[query.asker] + access_s[jobs.agent[parts]], 0.0)
        assert len(parts) >= 1
        assert set(jobs.agent[parts]) <= set(query.candidates)
        assert np.isclose(outcome.latency_s[query.index], (jobs.ended_s[parts] + way_s).max() - query.at_s)
        if len(parts) == 1:
            assert outcome.right[query.index] == query.right[query.candidates.index(jobs.agent[parts[0]])]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 12), st.floats(0.3, 1.2), st.sampled_from([1.0, 2.0, 10.0]))
def test_gossip_says_what_was_so_when_it_was_said_and_is_as_old_as_it_must_be(
    seed: int, peers: int, load: float, gossip_s: float
):
    heard = []

    class Listener(Policy):
        gossips = True

        def route(self, query: Query) -> Move:
            heard.extend((query.at_s, agent, self.view.seen(agent, query.at_s)) for agent in query.candidates)
            return Send((self.rng.choice(query.candidates),))

    trace = drawn(seed, peers, 150, load)
    jobs = Arena(trace, Listener, gossip_s, seed).run().jobs
    spread_s = GOSSIP_ROUND_S * np.log(peers) / np.log(4)
    for now_s, agent, seen in heard:
        if seen is None:
            assert now_s <= gossip_s + spread_s + 0.002
            continue
        age_s, at_s = now_s - seen.at_ms / 1000, seen.at_ms / 1000
        assert spread_s - 0.001 <= age_s <= spread_s + gossip_s + 0.002
        mine = jobs.agent == agent
        near = np.abs(np.concatenate([jobs.arrived_s[mine], jobs.ended_s[mine], trace.busy_s[agent]]) - at_s)
        if near.size and near.min() < 0.001:  # the millisecond cannot tell
            continue
        busy = [end for end in trace.busy_s[agent] if end > at_s]
        inside = int((mine & (jobs.arrived_s <= at_s) & (jobs.ended_s > at_s)).sum()) + len(busy)
        ended = mine & (jobs.ended_s <= at_s)
        assert seen.running + seen.waiting == inside
        assert seen.running == min(inside, seen.slots)
        assert seen.arrived == (mine & (jobs.arrived_s <= at_s)).sum() + len(trace.busy_s[agent])
        assert seen.served == ended.sum() + len(trace.busy_s[agent]) - len(busy)
        if not trace.busy_s[agent]:
            assert abs(seen.busy_ms - 1000 * (jobs.ended_s - jobs.started_s)[ended].sum()) <= 1
