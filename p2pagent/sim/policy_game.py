"""Ours: the game of `routing.game`, played as a peer's buyer plays it."""

from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from random import Random
from typing import ClassVar, NamedTuple

from p2pagent.routing import game
from p2pagent.routing.beliefs import Belief
from p2pagent.sim.policy import DELAY_MICROCREDITS_PER_S, Answer, Ask, Move, Policy, Quote, View
from p2pagent.sim.traces import Query, Trace


class Prospect(NamedTuple):
    """A stranger before it is asked: what it is worth in microcredits, and what of its load is not seen."""

    agent: int
    utility: float
    unseen_s: float
    utilisation: float


class Game(Policy):
    """Beliefs per asker and agent, a logit draw of whom to probe, the best of the quotes and the asker's own agent.

    Every utility is less the toll: what the question costs those that come after it.
    """

    gossips = True
    learns = True
    tolls: ClassVar[bool] = True

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._beliefs: dict[tuple[int, int], Belief] = {}
        self._heard: dict[int, Belief] = defaultdict(Belief)
        self._flying: dict[tuple[int, int], list[float]] = defaultdict(list)

    def route(self, query: Query) -> Move:
        floor = self.quoted(query, self.view.own(query, query.at_s))
        return Ask(self.chosen([self.prospect(query, agent) for agent in query.candidates[1:]], floor))

    def chosen(self, prospects: Sequence[Prospect], floor: float) -> list[int]:
        """Whom to ask, where the own agent is worth `floor`."""
        _, utilities, unseen_s, utilisation = zip(*prospects, strict=True)
        places = game.choose(utilities, unseen_s, utilisation, DELAY_MICROCREDITS_PER_S, self.rng, floor)
        return [prospects[place].agent for place in places]

    def prospect(self, query: Query, agent: int) -> Prospect:
        """What is believed of one stranger now."""
        belief = self.belief(query, agent)
        expected = belief.expect(round(1000 * query.at_s), self.own_since(query, agent))
        own_s = expected.wait_s + belief.service_s
        seconds = own_s + 2 * self.view.round_trip_s(query.asker, agent)
        if self.tolls:
            seconds += game.heeded(expected.toll_s, own_s)
        return Prospect(agent, self.worth(query, agent, seconds), expected.unseen, expected.utilisation)

    def belief(self, query: Query, agent: int) -> Belief:
        """The asker's belief about `agent`, with all that has been gossiped by now."""
        key, seen = (query.asker, agent), self.view.seen(agent, query.at_s)
        heard = self._heard[agent]
        if seen is not None:
            heard.learn(seen)
        belief = self._beliefs.get(key)
        if belief is None:
            # Gossip is the same for all: whoever looks at an agent for the first time has heard of it as all others.
            belief = self._beliefs[key] = copy(heard)
        elif seen is not None:
            belief.learn(seen)
        return belief

    def own_since(self, query: Query, agent: int) -> int:
        """How many of the asker's own questions are at `agent` that it cannot have counted when last looked at."""
        looked_ms = self._beliefs[query.asker, agent].seen_ms
        arrivals = self._flying[query.asker, agent]
        return len(arrivals) if looked_ms is None else sum(1000 * at > looked_ms for at in arrivals)

    def award(self, query: Query, quotes: Sequence[Quote], now_s: float) -> int:
        known = [*quotes, self.view.own(query, now_s)]
        best = max(known, key=lambda quote: self.quoted(query, quote))
        self.sent(query, best.agent, now_s)
        return best.agent

    def quoted(self, query: Query, quote: Quote) -> float:
        """What an answer as quoted is worth, and what the quote tells of the queue is learned."""
        belief = self.belief(query, quote.agent)
        at_ms = round(1000 * quote.at_s)
        belief.learn_quote(at_ms, quote.free_slots, quote.waiting, quote.slots)
        value = self.quoted_worth(query, quote)
        if not self.tolls:
            return value
        expected = belief.expect(at_ms, 0)
        return value - DELAY_MICROCREDITS_PER_S * game.heeded(expected.toll_s, expected.wait_s + belief.service_s)

    def sent(self, query: Query, agent: int, now_s: float) -> None:
        """Remember when an own question will reach `agent`."""
        self._flying[query.asker, agent].append(now_s + self.view.round_trip_s(query.asker, agent) / 2)

    def answered(self, query: Query, answer: Answer) -> None:
        reached_s = answer.sent_s + self.view.round_trip_s(query.asker, answer.agent) / 2
        self._flying[query.asker, answer.agent].remove(reached_s)
