"""Routing policies against one another on one trace, in virtual time.

Agents serve first come first served, each slot at constant speed; an agent keeps the prefixes of the conversations that
it served last, so that service starts after the prefill of what is not cached, whoever routed. A probe reads an agent
when it gets there; the award waits for the last quote. Snapshots are taken every gossip period, at each agent at a time
of its own, and have reached everybody after the logarithm of the number of peers in gossip rounds.

Because service starts in order of arrival, when an answer ends is known when its question arrives: there are no events
for starts and ends, and a run costs a few heap operations per question.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from math import log
from random import Random

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.routing.beliefs import Snapshot
from p2pagent.sim.policy import Answer, Policy, Quote, Send, View, was_right
from p2pagent.sim.traces import Agent, Query, Trace

GOSSIP_ROUND_S = 0.2
GOSSIP_FANOUT = 3
"""Of memberlist's LAN defaults: what is new is told to so many in each round."""

FORGET = 0.95
"""Weight of the past in an agent's mean over its own service times, from which it forecasts waits."""

MakePolicy = Callable[[Trace, View, Random], Policy]


class Jobs(Struct, frozen=True):
    """Every answer given: to which question, by which agent, when that arrived, was started and ended, in seconds."""

    query: NDArray[np.int64]
    agent: NDArray[np.int64]
    arrived_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    cached_tokens: NDArray[np.int64]


class Outcome(Struct, frozen=True):
    """What became of each question of the trace, in its order, and the answers that it took."""

    latency_s: NDArray[np.float64]
    right: NDArray[np.bool_]
    probes: NDArray[np.int64]
    jobs: Jobs


class Server:
    """One agent at work."""

    def __init__(self, agent: Agent, usual_s: float, busy_s: tuple[float, ...]) -> None:
        self.agent = agent
        self._free_s = [*busy_s, *[0.0] * (agent.slots - len(busy_s))]
        heapq.heapify(self._free_s)
        self._ends = [(end_s, usual_s) for end_s in sorted(busy_s)]
        self._arrived = len(busy_s)
        self._served = 0
        self._busy_s = 0.0
        self._usual_s = usual_s
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._cached_tokens = 0

    def admit(self, query: Query, now_s: float) -> tuple[float, float, int]:
        """Take `query` in: when its service starts and ends, and how many tokens of its prompt were cached."""
        cached = self._use_cache(query)
        service_s = self.agent.service_s(query.prompt_tokens, cached, query.output_tokens)
        start_s = max(now_s, self._free_s[0])
        heapq.heapreplace(self._free_s, start_s + service_s)
        self._settle(now_s)
        heapq.heappush(self._ends, (start_s + service_s, service_s))
        self._arrived += 1
        self._usual_s += (1 - FORGET) * (service_s - self._usual_s)
        return start_s, start_s + service_s, cached

    def quote(self, name: int, query: Query, output_tokens: float, now_s: float) -> Quote:
        """What it says of itself at `now_s`."""
        self._settle(now_s)
        slots, inside = self.agent.slots, len(self._ends)
        ahead = inside - slots + 1
        cached = min(self._cache.get(query.conversation, 0), query.prompt_tokens)
        return Quote(
            agent=name,
            at_s=now_s,
            slots=slots,
            free_slots=max(0, 1 - ahead),
            waiting=max(0, ahead - 1),
            wait_s=self._usual_s * ahead / slots if ahead > 0 else 0.0,
            service_s=self.agent.service_s(query.prompt_tokens, cached, output_tokens),
        )

    def snapshot(self, now_s: float) -> Snapshot:
        """What it gossips of itself at `now_s`."""
        self._settle(now_s)
        inside = len(self._ends)
        return Snapshot(
            at_ms=round(now_s * 1000),
            running=min(inside, self.agent.slots),
            waiting=max(0, inside - self.agent.slots),
            slots=self.agent.slots,
            arrived=self._arrived,
            served=self._served,
            busy_ms=round(self._busy_s * 1000),
        )

    def _settle(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            self._served += 1
            self._busy_s += heapq.heappop(self._ends)[1]

    def _use_cache(self, query: Query) -> int:
        """Put the conversation up to this answer's end into the cache, least recently used out first."""
        held = self._cache.pop(query.conversation, 0)
        whole = query.prompt_tokens + query.output_tokens
        self._cache[query.conversation] = whole
        self._cached_tokens += whole - held
        while self._cached_tokens > self.agent.cache_tokens:
            self._cached_tokens -= self._cache.popitem(last=False)[1]
        return min(held, query.prompt_tokens)


ASK, QUOTED, ARRIVE, ANSWERED, GOSSIP = range(5)


class Arena:
    """One policy on one trace. `run` once."""

    def __init__(self, trace: Trace, policy: MakePolicy, gossip_s: float, seed: int) -> None:
        self._queries = trace.queries
        self._output_tokens = float(np.mean([query.output_tokens for query in trace.queries]))
        prompt_tokens = float(np.mean([query.prompt_tokens for query in trace.queries]))
        agents = trace.population.agents
        self._servers = [
            Server(agent, agent.service_s(prompt_tokens, 0, self._output_tokens), busy_s)
            for agent, busy_s in zip(agents, trace.busy_s, strict=True)
        ]
        self._access_s = [agent.access_s for agent in agents]
        self._gossip_s = gossip_s
        self._spread_s = GOSSIP_ROUND_S * log(len(agents), 1 + GOSSIP_FANOUT)
        self._seen: list[list[Snapshot]] = [[] for _ in agents]
        self._heap: list[tuple[float, int, int, int, int]] = []
        self._count = 0
        self._quotes: dict[int, list[Quote]] = {}
        self._sent_s: dict[int, float] = {}
        self._latency_s = np.zeros(len(trace.queries))
        self._right = np.zeros(len(trace.queries), dtype=bool)
        self._probes = np.zeros(len(trace.queries), dtype=np.int64)
        self._jobs: list[tuple[int, int, float, float, float, int]] = []
        rng = Random(seed)
        self._policy = policy(trace, self, rng)
        if self._policy.gossips:
            for agent in range(len(agents)):
                self._at(gossip_s * rng.random(), GOSSIP, 0, agent)

    def run(self) -> Outcome:
        """Let every question of the trace be asked and answered."""
        for query in self._queries:
            self._until(query.at_s)
            self._arrival(query)
        self._until(float("inf"))
        columns = zip(*self._jobs, strict=True)
        jobs = Jobs(*(np.array(column) for column in columns))
        return Outcome(self._latency_s, self._right, self._probes, jobs)

    def seen(self, agent: int, now_s: float) -> Snapshot | None:
        """See `View`."""
        known = self._seen[agent]
        while len(known) > 1 and known[1].at_ms <= 1000 * (now_s - self._spread_s):
            del known[0]
        return known[0] if known and known[0].at_ms <= 1000 * (now_s - self._spread_s) else None

    def own(self, query: Query, now_s: float) -> Quote:
        """See `View`."""
        return self._servers[query.asker].quote(query.asker, query, self._output_tokens, now_s)

    def round_trip_s(self, one: int, other: int) -> float:
        """See `View`."""
        return 2 * self._way_s(one, other)

    def _at(self, at_s: float, kind: int, query: int, agent: int) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, kind, query, agent))

    def _way_s(self, one: int, other: int) -> float:
        return 0.0 if one == other else self._access_s[one] + self._access_s[other]

    def _until(self, end_s: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            now_s, _, kind, index, agent = heapq.heappop(heap)
            if kind == GOSSIP:
                self._gossip(agent, now_s)
                continue
            query = self._queries[index]
            if kind == ASK:
                quote = self._servers[agent].quote(agent, query, self._output_tokens, now_s)
                self._quotes[index].append(quote)
            elif kind == QUOTED:
                winner = self._policy.award(query, self._quotes.pop(index), now_s)
                self._send(query, (winner,), now_s)
            elif kind == ARRIVE:
                self._arrive(query, agent, now_s)
            else:
                answer = Answer(agent, was_right(query, agent), self._sent_s[index], now_s)
                self._policy.answered(query, answer)

    def _arrival(self, query: Query) -> None:
        now_s = query.at_s
        move = self._policy.route(query)
        if isinstance(move, Send):
            self._send(query, tuple(move.agents), now_s)
            return
        assert len(set(move.agents)) == len(move.agents)
        self._quotes[query.index] = []
        slowest_s = 0.0
        for agent in move.agents:
            way_s = self._way_s(query.asker, agent)
            slowest_s = max(slowest_s, 2 * way_s)
            self._at(now_s + way_s, ASK, query.index, agent)
        self._probes[query.index] = len(move.agents)
        self._at(now_s + slowest_s, QUOTED, query.index, 0)

    def _send(self, query: Query, agents: tuple[int, ...], now_s: float) -> None:
        assert agents
        assert set(agents) <= set(query.candidates)
        self._sent_s[query.index] = now_s
        self._right[query.index] = self._policy.right(query, agents)
        for agent in agents:
            self._at(now_s + self._way_s(query.asker, agent), ARRIVE, query.index, agent)

    def _arrive(self, query: Query, agent: int, now_s: float) -> None:
        start_s, end_s, cached = self._servers[agent].admit(query, now_s)
        self._jobs.append((query.index, agent, now_s, start_s, end_s, cached))
        back_s = end_s + self._way_s(query.asker, agent)
        # An answer to several is there when the slowest is.
        self._latency_s[query.index] = max(self._latency_s[query.index], back_s - query.at_s)
        if self._policy.learns:
            self._at(back_s, ANSWERED, query.index, agent)

    def _gossip(self, agent: int, now_s: float) -> None:
        self._seen[agent].append(self._servers[agent].snapshot(now_s))
        if now_s < self._queries[-1].at_s:
            self._at(now_s + self._gossip_s, GOSSIP, 0, agent)
