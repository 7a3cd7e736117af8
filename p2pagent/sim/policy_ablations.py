"""Ours with one part taken out each, and the strict reading of PPAI, to see what each part brings."""

from collections.abc import Sequence

from p2pagent.routing import game
from p2pagent.sim.policy import DELAY_MICROCREDITS_PER_S, Move, Send
from p2pagent.sim.policy_game import Game, Prospect
from p2pagent.sim.traces import Query


class Unpriced(Game):
    """Selfish: what a question costs others counts for nothing."""

    tolls = False


class Unprobed(Game):
    """One agent is drawn by the logit response and gets the question unasked; the own agent is as good as it is."""

    def route(self, query: Query) -> Move:
        prospects = [self.prospect(query, agent) for agent in query.candidates[1:]]
        heat = game.temperature([p.unseen_s for p in prospects], DELAY_MICROCREDITS_PER_S)
        drawn = prospects[game.draw([p.utility for p in prospects], heat, 1, self.rng)[0]]
        own = self.quoted(query, self.view.own(query, query.at_s))
        chosen = drawn.agent if drawn.utility > own else query.asker
        self.sent(query, chosen, query.at_s)
        return Send((chosen,))


class Greedy(Game):
    """As many probes, but of the best believed instead of a logit draw."""

    def chosen(self, prospects: Sequence[Prospect], floor: float) -> list[int]:
        count = len(super().chosen(prospects, floor))
        best = sorted(prospects, key=lambda prospect: -prospect.utility)
        return [prospect.agent for prospect in best[:count]]


class Forgetful(Game):
    """What the asker has itself sent since it last looked is not added."""

    def own_since(self, query: Query, agent: int) -> int:  # noqa: ARG002
        return 0


class RatesOnly(Game):
    """PPAI read strictly: beliefs over arrival and service rates alone, the best taken unasked."""

    learns = False

    def route(self, query: Query) -> Move:
        best = max(query.candidates, key=lambda agent: self._usual_worth(query, agent))
        return Send((best,))

    def _usual_worth(self, query: Query, agent: int) -> float:
        belief = self.belief(query, agent)
        belief.seen_ms = None  # without a look the stationary wait is what is expected
        wait_s = belief.expect(0, 0).wait_s
        seconds = wait_s + belief.service_s + self.view.round_trip_s(query.asker, agent)
        return self.worth(query, agent, seconds)


class PricedProbeAll(Game):
    """Probes every stranger and deducts what a question costs others: ours without beliefs about whom to probe."""

    def chosen(self, prospects: Sequence[Prospect], floor: float) -> list[int]:  # noqa: ARG002
        return [prospect.agent for prospect in prospects]


class PricedPowerOfTwo(Game):
    """Two strangers drawn alike, and the better of their quotes and the own agent by the same utility as ours."""

    def chosen(self, prospects: Sequence[Prospect], floor: float) -> list[int]:  # noqa: ARG002
        return [prospect.agent for prospect in self.rng.sample(prospects, min(2, len(prospects)))]
