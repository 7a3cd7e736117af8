"""Whom one who sees all living agents would ask: references for what the network's answers are worth."""

from bisect import bisect_left, insort
from collections.abc import Callable

from p2pagent.sim.population import SUBJECTS, Agent

Ranking = list[tuple[float, int]]


class Experts:
    """The living agents, by true skill and by claim at each subject."""

    def __init__(self) -> None:
        self._by_skill: list[Ranking] = [[] for _ in range(SUBJECTS)]
        self._by_claim: list[Ranking] = [[] for _ in range(SUBJECTS)]
        self._alive: dict[int, Agent] = {}

    def join(self, agent: Agent) -> None:
        """`agent` is there now."""
        self._alive[agent.index] = agent
        for subject in range(SUBJECTS):
            insort(self._by_skill[subject], (-agent.skills[subject], agent.index))
            insort(self._by_claim[subject], (-agent.claims[subject], agent.index))

    def leave(self, agent: Agent) -> None:
        """`agent` is gone."""
        del self._alive[agent.index]
        for subject in range(SUBJECTS):
            _drop(self._by_skill[subject], (-agent.skills[subject], agent.index))
            _drop(self._by_claim[subject], (-agent.claims[subject], agent.index))

    def most_able(self, subject: int) -> Agent:
        """The one most often right."""
        return self._alive[self._by_skill[subject][0][1]]

    def most_promising(self, subject: int) -> Agent:
        """The one that measured best."""
        return self._alive[self._by_claim[subject][0][1]]

    def most_useful(self, subject: int, value: float, cost: Callable[[Agent], float]) -> Agent:
        """The one with the most of its claim, times the `value` of a right answer, less what it costs its asker.

        No cost is below 0.
        """
        best, most = self.most_promising(subject), float("-inf")
        for claim, index in self._by_claim[subject]:
            if -claim * value <= most:
                break
            agent = self._alive[index]
            worth = -claim * value - cost(agent)
            if worth > most:
                best, most = agent, worth
        return best


def _drop(ranking: Ranking, place: tuple[float, int]) -> None:
    del ranking[bisect_left(ranking, place)]
