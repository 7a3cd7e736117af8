"""Baselines that know scores, snapshots or fresh probes; each from its published rule."""

from collections.abc import Sequence
from random import Random

from p2pagent.sim.policy import Ask, Move, Policy, Quote, Send, View, expected_quality
from p2pagent.sim.traces import Query, Trace


class Local(Policy):
    """The asker's own agent answers everything."""

    def route(self, query: Query) -> Move:
        return Send((query.asker,))


class RandomAgent(Policy):
    """Any candidate."""

    def route(self, query: Query) -> Move:
        return Send((self.rng.choice(query.candidates),))


class RoundRobin(Policy):
    """Each asker goes through its candidates in turn: of those at hand, the one that it sent to longest ago."""

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._turn: dict[tuple[int, int], int] = {}

    def route(self, query: Query) -> Move:
        chosen = min(query.candidates, key=lambda agent: self._turn.get((query.asker, agent), -1))
        self._turn[query.asker, chosen] = query.index
        return Send((chosen,))


class ScoreOnly(Policy):
    """The candidate of the highest expected quality, whatever its load."""

    def route(self, query: Query) -> Move:
        return Send((max(query.candidates, key=lambda agent: expected_quality(query, agent)),))


class StaleLeastLoaded(Policy):
    """Join the shortest queue per slot as last gossiped: what herds (Mitzenmacher, How useful is old information?)."""

    gossips = True

    def route(self, query: Query) -> Move:
        loads = []
        for agent in query.candidates:
            seen = self.view.seen(agent, query.at_s)
            load = (seen.running + seen.waiting) / seen.slots if seen else 0.0
            loads.append((load, self.rng.random(), agent))
        return Send((min(loads)[2],))


class PowerOfTwo(Policy):
    """Probe two candidates drawn at random, take the shorter wait (Mitzenmacher, TPDS 2001; doi 10.1109/71.963420).

    Ties go to the one that serves sooner. The asker's own agent is read without a round trip if it is drawn.
    """

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._own: set[int] = set()

    def route(self, query: Query) -> Move:
        drawn = self.rng.sample(query.candidates, min(2, len(query.candidates)))
        if query.asker in drawn:
            drawn.remove(query.asker)
            self._own.add(query.index)
        return Ask(drawn)

    def award(self, query: Query, quotes: Sequence[Quote], now_s: float) -> int:
        known = list(quotes)
        if query.index in self._own:
            self._own.remove(query.index)
            known.append(self.view.own(query, now_s))
        return min(known, key=lambda quote: (quote.wait_s, quote.service_s)).agent


class ProbeAll(Policy):
    """Probe every stranger, take the highest utility: PPAI read as a request for the state of all candidates."""

    def route(self, query: Query) -> Move:
        return Ask(query.candidates[1:])

    def award(self, query: Query, quotes: Sequence[Quote], now_s: float) -> int:
        known = [*quotes, self.view.own(query, now_s)]
        return max(known, key=lambda quote: self.quoted_worth(query, quote)).agent
