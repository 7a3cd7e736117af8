"""Baselines that follow caches: sticky session, SGLang's cache-aware router, Preble's E2, LBGR.

The last three are central routers in their papers. Here every asker runs the rule on what it has itself sent and got
back, and on the same stale snapshots that everybody has: a network of peers has no router that sees all requests.
"""

from collections import defaultdict, deque
from random import Random

from p2pagent.sim.policy import Answer, Move, Policy, Send, View
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN
from p2pagent.sim.traces import Query, Trace

IMBALANCE_REQUESTS = 32
IMBALANCE_RATIO = 1.0001
MATCHED_SHARE = 0.5
WINDOW_S = 180.0
REBALANCE_RATIO = 1.5
UNCACHED_MS_PER_CHARACTER = 1.0
RESERVED_WEIGHT = 1.0
DECAY = 31 / 32
DECAY_S = 0.02
RESIDUAL_FORGET = 0.95


class Sticky(Policy):
    """A conversation stays where its first question went, which is any candidate."""

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._home: dict[int, int] = {}

    def route(self, query: Query) -> Move:
        home = self._home.setdefault(query.conversation, self.rng.choice(query.candidates))
        return Send((home,))


class Router(Policy):
    """What all routers below keep per asker: prefixes sent to each agent, and questions that are not answered yet."""

    gossips = True
    learns = True

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self.sent_tokens: dict[tuple[int, int], int] = defaultdict(int)
        self._prefix: dict[tuple[int, int], int] = {}
        self._flying: dict[tuple[int, int], int] = defaultdict(int)

    def cached_tokens(self, query: Query, agent: int) -> int:
        """How much of the prompt the router believes `agent` to hold."""
        return min(self._prefix.get((agent, query.conversation), 0), query.prompt_tokens)

    def queue(self, query: Query, agent: int) -> int:
        """Questions at `agent`: as last gossiped, or as many as are its asker's own if that is more."""
        seen = self.view.seen(agent, query.at_s)
        return max(self._flying[query.asker, agent], seen.running + seen.waiting if seen else 0)

    def send(self, query: Query, agent: int) -> Move:
        """Note what the agent will hold, and send."""
        self.sent_tokens[query.asker, agent] += query.prompt_tokens - self.cached_tokens(query, agent)
        self._prefix[agent, query.conversation] = query.prompt_tokens
        self._flying[query.asker, agent] += 1
        return Send((agent,))

    def answered(self, query: Query, answer: Answer) -> None:
        self._flying[query.asker, answer.agent] -= 1


class SGLang(Router):
    """SGLang's router (sgl-router, cache_aware): balance when it is off by much, else the longest prefix.

    If the longest queue exceeds the shortest by more than 32 requests and 1.0001 times, the shortest; else if more than
    half of the prompt matches, the agent with the match; else the agent that was sent the least text.
    """

    def route(self, query: Query) -> Move:
        queues = {agent: self.queue(query, agent) for agent in query.candidates}
        most, least = max(queues.values()), min(queues.values())
        if most - least > IMBALANCE_REQUESTS and most > IMBALANCE_RATIO * least:
            return self.send(query, min(queues, key=lambda agent: (queues[agent], self.rng.random())))
        matched = max(query.candidates, key=lambda agent: self.cached_tokens(query, agent))
        if self.cached_tokens(query, matched) > MATCHED_SHARE * query.prompt_tokens:
            return self.send(query, matched)
        smallest = min(query.candidates, key=lambda agent: (self.sent_tokens[query.asker, agent], self.rng.random()))
        return self.send(query, smallest)


class Preble(Router):
    """Preble's E2 (Srivatsa et al., ICLR 2025, arXiv 2407.00023): exploit a long prefix, else explore by load.

    Exploit where the cached prefix is longer than the rest of the prompt, among equals the least loaded. Else the least
    of the load of the last three minutes, prefill of what is not cached, and prefill again of what would be evicted. If
    the heaviest load is over 1.5 times the lightest, what would go to the heaviest goes to the lightest. Load is
    seconds of work: the asker's own of the window, and the queue last gossiped at the agent's usual service time.
    """

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._recent: dict[tuple[int, int], deque[tuple[float, float]]] = defaultdict(deque)
        self._work_s: dict[tuple[int, int], float] = defaultdict(float)
        self._output_tokens = sum(query.output_tokens for query in trace.queries) / len(trace.queries)

    def route(self, query: Query) -> Move:
        loads = {agent: self._load_s(query, agent) for agent in query.candidates}
        cached = {agent: self.cached_tokens(query, agent) for agent in query.candidates}
        longest = max(cached.values())
        if 2 * longest > query.prompt_tokens:
            chosen = min((agent for agent in cached if cached[agent] == longest), key=loads.__getitem__)
        else:
            chosen = min(loads, key=lambda agent: (loads[agent] + self._explore_s(query, agent), self.rng.random()))
        heaviest, lightest = max(loads, key=loads.__getitem__), min(loads, key=loads.__getitem__)
        if chosen == heaviest and loads[heaviest] > REBALANCE_RATIO * loads[lightest]:
            chosen = lightest
        work_s = self._service_s(query, chosen)
        self._recent[query.asker, chosen].append((query.at_s, work_s))
        self._work_s[query.asker, chosen] += work_s
        return self.send(query, chosen)

    def _load_s(self, query: Query, agent: int) -> float:
        recent = self._recent[query.asker, agent]
        while recent and recent[0][0] < query.at_s - WINDOW_S:
            self._work_s[query.asker, agent] -= recent.popleft()[1]
        queued_s = self.queue(query, agent) * self._service_s(query, agent)
        return (self._work_s[query.asker, agent] + queued_s) / self.agents[agent].slots

    def _explore_s(self, query: Query, agent: int) -> float:
        missing = query.prompt_tokens - self.cached_tokens(query, agent)
        over = self.sent_tokens[query.asker, agent] + missing - self.agents[agent].cache_tokens
        return (missing + min(max(0, over), missing)) / self.agents[agent].prefill_tokens_per_s

    def _service_s(self, query: Query, agent: int) -> float:
        cached = self.cached_tokens(query, agent)
        return self.agents[agent].service_s(query.prompt_tokens, cached, self._output_tokens)


class Lbgr(Router):
    """LBGR (ICLR 2026, arXiv 2601.18999; fzwark/KVRouting, `EtaOnline3D`): the least predicted end-to-end time.

    1 ms per uncached character, plus the work reserved at the agent, which fades by 31/32 every 20 ms and ends with the
    answer, plus the residual that recursive least squares on a constant learn of what came (forgetting .95). The
    published rule has no snapshot: a prediction is what it learns load from.
    """

    gossips = False

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._reserved: dict[tuple[int, int], tuple[float, float]] = {}
        self._residual: dict[tuple[int, int], tuple[float, float]] = {}
        self._predicted: dict[int, tuple[float, float]] = {}

    def route(self, query: Query) -> Move:
        base, reserved, total = {}, {}, {}
        for agent in query.candidates:
            uncached = query.prompt_tokens - self.cached_tokens(query, agent)
            base[agent] = UNCACHED_MS_PER_CHARACTER * CHARACTERS_PER_TOKEN * uncached
            reserved[agent] = self._reserved_ms(query.asker, agent, query.at_s)
            residual, _ = self._residual.get((query.asker, agent), (0.0, 0.0))
            total[agent] = base[agent] + RESERVED_WEIGHT * reserved[agent] + residual
        chosen = min(total, key=lambda agent: (total[agent], self.rng.random()))
        self._reserved[query.asker, chosen] = reserved[chosen] + base[chosen], query.at_s
        self._predicted[query.index] = base[chosen], reserved[chosen]
        return self.send(query, chosen)

    def answered(self, query: Query, answer: Answer) -> None:
        super().answered(query, answer)
        key = query.asker, answer.agent
        base, reserved = self._predicted.pop(query.index)
        lasted_s = answer.answered_s - answer.sent_s
        rest = base * DECAY ** (lasted_s / DECAY_S)
        self._reserved[key] = max(0.0, self._reserved_ms(*key, answer.answered_s) - rest), answer.answered_s
        # On a constant alone, recursive least squares are a mean whose weights fade.
        mean, weight = self._residual.get(key, (0.0, 0.0))
        weight = RESIDUAL_FORGET * weight + 1
        missed = max(1.0, 1000 * lasted_s - base - RESERVED_WEIGHT * reserved)
        self._residual[key] = mean + (missed - mean) / weight, weight

    def _reserved_ms(self, asker: int, agent: int, now_s: float) -> float:
        work, at_s = self._reserved.get((asker, agent), (0.0, now_s))
        return work * float(DECAY ** ((now_s - at_s) / DECAY_S))
