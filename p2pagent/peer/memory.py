"""What is remembered of agents: what they claim, and what this device's own judged answers say. Nobody else is told."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random

import msgspec
from msgspec import structs

from p2pagent.bounded import bound
from p2pagent.peer.effects import Effect, Learned
from p2pagent.peer.events import Delivery, Rated, Rating
from p2pagent.routing.exploration import explored
from p2pagent.routing.posteriors import Experience, carried
from p2pagent.routing.prototypes import Relevance, Space
from p2pagent.routing.scoring import Posterior, Score
from p2pagent.routing.skills import Skills
from p2pagent.types import AgentRef

AGENTS_MAX = 4096
"""Agents of which experience is kept, those that were learned of last."""

SKILLS_MAX = 2048
"""Agents in the table that queries read; beyond that only those stay that are candidates now."""

RECKONED_MS = 86_400_000
"""What is believed of an agent is reckoned anew this long after, since outcomes fade."""

Saved = Mapping[str, Mapping[AgentRef, bytes]]
"""Experience of agents by the name of the space in which it was made, as it was `Learned`."""


class Memory:
    """All that is known of agents in one space.

    `saved` is of earlier runs; what cannot be read of it is left out, and what was learned in the version of the space
    before this one is carried over.
    """

    def __init__(self, space: Space, saved: Saved) -> None:
        self._space = space.name
        self._size = len(space.prototypes)
        self._skills: Skills[AgentRef] = Skills(space.calibration)
        self._claims: dict[AgentRef, tuple[bytes, int]] = {}
        self._experience: dict[AgentRef, Experience] = {}
        self._earlier = ""
        self._from_earlier: list[int] = []
        if space.earlier is not None:
            self._earlier, self._from_earlier = space.earlier.name, space.earlier.places_in(space)
            for agent, experience in _read(saved.get(self._earlier, {}), len(self._from_earlier)):
                self._experience[agent] = carried(experience, self._from_earlier)
        self._experience.update(_read(saved.get(self._space, {}), self._size))

    def judge(self, delivery: Delivery, rating: Rating) -> list[Effect]:
        """An answer was judged."""
        relevance = self._read_here(delivery)
        if relevance is None:
            return []
        known = self._experience.get(delivery.agent, Experience())
        return self._keep(
            delivery.agent, known.observed(relevance, good=rating.good, now_ms=rating.at_ms), rating.at_ms
        )

    def on_rated(self, rated: Rated) -> list[Effect]:
        """The user has judged an answer, in place of what was said of it before."""
        delivery, rating, earlier = rated.delivery, rated.rating, rated.earlier
        relevance = self._read_here(delivery)
        if earlier is not None and relevance is not None:
            if earlier.good == rating.good:
                return []
            known = self._experience.get(delivery.agent, Experience())
            self._experience[delivery.agent] = known.retracted(
                relevance, good=earlier.good, judged_ms=earlier.at_ms, now_ms=rating.at_ms
            )
        return self.judge(delivery, rating)

    def outcomes(self, agent: AgentRef) -> int:
        """Answers of `agent` that were judged here."""
        return self._experience[agent].outcomes if agent in self._experience else 0

    def scores(
        self, relevance: Relevance, agents: Sequence[tuple[AgentRef, bytes]], rng: Random, now_ms: int, *, trials: bool
    ) -> list[tuple[Score, Score]]:
        """For each agent with its claims what is expected of it, and what to value it by: newcomers in `trials`."""
        for agent, claims in agents:
            known, reckoned_ms = self._claims.get(agent, (b"", 0))
            if known != claims or (now_ms - reckoned_ms >= RECKONED_MS and agent in self._experience):
                self._put(agent, claims, now_ms)
        if len(self._claims) > SKILLS_MAX:
            self._forget_all_but({agent for agent, _ in agents})
        places = [self._skills.place(agent) for agent, _ in agents]
        expected = Posterior().score(relevance, self._skills).of(places)
        valued = explored(expected, self._skills.outcomes[places], rng) if trials else expected
        return [(expected.at(place), valued.at(place)) for place in range(len(agents))]

    def _forget_all_but(self, agents: set[AgentRef]) -> None:
        for agent in [agent for agent in self._claims if agent not in agents]:
            del self._claims[agent]
            self._skills.remove(agent)

    def _read_here(self, delivery: Delivery) -> Relevance | None:
        """Where a question lay among our prototypes; None if that was in a space that is not known here."""
        if delivery.space == self._space:
            to: Sequence[int] = range(self._size)
        elif delivery.space == self._earlier:
            to = self._from_earlier
        else:
            return None
        relevance = delivery.relevance
        if any(prototype >= len(to) for prototype in relevance.prototypes):
            return None
        return structs.replace(relevance, prototypes=tuple(to[prototype] for prototype in relevance.prototypes))

    def _keep(self, agent: AgentRef, experience: Experience, now_ms: int) -> list[Effect]:
        self._experience.pop(agent, None)
        self._experience[agent] = experience
        bound(self._experience, AGENTS_MAX)
        if agent in self._claims:
            self._put(agent, self._claims[agent][0], now_ms)
        return [Learned(agent, self._space, msgspec.msgpack.encode(experience))]

    def _put(self, agent: AgentRef, claims: bytes, now_ms: int) -> None:
        self._skills.put(agent, claims, self._experience.get(agent, Experience()), now_ms)
        self._claims[agent] = claims, now_ms


def _read(saved: Mapping[AgentRef, bytes], size: int) -> Iterator[tuple[AgentRef, Experience]]:
    """What is well formed of what was saved in a space of so many prototypes."""
    for agent, body in saved.items():
        try:
            experience = msgspec.msgpack.decode(body, type=Experience)
        except msgspec.DecodeError:
            continue
        if all(0 <= prototype < size for prototype in experience.good.keys() | experience.seen.keys()):
            yield agent, experience
