"""One round of buying: whom a query may go to, best first, and how quoted queries are decided together."""

from random import Random

from msgspec import Struct

from p2pagent.config import Preferences
from p2pagent.peer import choice
from p2pagent.peer.choice import Option
from p2pagent.peer.directory import Directory
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.wire import AgentAdvert
from p2pagent.routing.prototypes import Space
from p2pagent.types import AgentRef, PeerId


class Scout(Struct):
    """Finds the agents that a query may go to. `local` are this device's own."""

    me: PeerId
    space: Space
    preferences: Preferences
    directory: Directory
    rng: Random
    local: tuple[AgentAdvert, ...] = ()

    def rank(self, query: Query, now_ms: int) -> list[Option]:
        """Everybody whom the query's privacy class admits, its prompt fits, and who has not failed it; best first."""
        adverts = [(self.me, advert) for advert in self.local]
        if query.ask.policy.privacy != "local":
            for peer, entry in self.directory.reachable(now_ms):
                if entry.record.space == self.space.name and self._admits(query, peer):
                    adverts += [(peer, advert) for advert in entry.record.agents]
        fitting = [
            (peer, advert)
            for peer, advert in sorted(adverts, key=lambda found: (found[0], found[1].name))
            if query.ask.prompt_tokens < advert.context_tokens
            and len(advert.capability) == len(self.space.prototypes)
            and AgentRef(peer, advert.name) not in query.failed
        ]
        self.rng.shuffle(fitting)  # equals must not all meet at the peer that everybody lists first
        return choice.options(query.relevance, fitting, query.ask, self.preferences.caution, self.me)

    def _admits(self, query: Query, peer: PeerId) -> bool:
        return query.ask.policy.privacy == "any" or peer in self.preferences.trusted


class Decision(Struct, frozen=True):
    """Who serves a query, and who would be next. Without a winner nobody that quoted is worth its price."""

    query: Query
    winner: Conversation | None
    runner_up: Conversation | None


def decide(ready: list[Query], me: PeerId) -> list[Decision]:
    """Clear one owner's queries that have their quotes, in one exact assignment.

    A query that gains nowhere still goes to the local agent if that has quoted: it costs the user nothing.
    """
    worths: list[dict[AgentRef, int]] = []
    free: dict[AgentRef, int] = {}
    for query in ready:
        worth = {}
        for conversation in query.quoted():
            quote, agent = conversation.quote, conversation.option.agent
            assert quote is not None
            if agent.peer != me and quote.price_cap_microcredits > query.ask.policy.price_max_microcredits:
                continue
            worth[agent] = choice.worth_at(conversation.option, quote, query.ask)
            free[agent] = max(free.get(agent, 0), quote.free_slots or len(ready))
        worths.append(worth)
    return [
        _decision(query, worth, agent, me)
        for query, worth, agent in zip(ready, worths, choice.clear(worths, free), strict=True)
    ]


def _decision(query: Query, worth: dict[AgentRef, int], assigned: AgentRef | None, me: PeerId) -> Decision:
    order = sorted(worth, key=lambda agent: (-worth[agent], agent))
    winner = assigned or next((agent for agent in order if agent.peer == me), None)
    second = next((agent for agent in order if agent != winner), None)
    quoted = {c.option.agent: c for c in query.quoted()}
    return Decision(query, quoted[winner] if winner else None, quoted[second] if winner and second else None)
