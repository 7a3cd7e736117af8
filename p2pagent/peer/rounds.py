"""How one owner's queries that have their quotes are decided together."""

from msgspec import Struct

from p2pagent.market.clearing import WEIGHT_MAX
from p2pagent.peer import choice
from p2pagent.peer.query import Conversation, Query
from p2pagent.types import AgentRef, PeerId


class Decision(Struct, frozen=True):
    """Who serves a query, and who would be next. Without a winner nobody that quoted is worth its price."""

    query: Query
    winner: Conversation | None
    runner_up: Conversation | None


class Place(Struct, frozen=True, order=True):
    """A slot of an agent: free now, or after so many answers."""

    agent: AgentRef
    answers_ahead: int


def decide(ready: list[Query], me: PeerId) -> list[Decision]:
    """Clear one owner's queries that have their quotes, in one exact assignment.

    An agent offers as many places as it has slots free, and beyond them places to wait at, as many as it has slots
    after each answer, each worth less by the delay of one more. A query that gains nowhere still goes to the local
    agent if that has quoted: it costs nothing. One that is for a single agent has no way out at all.
    """
    worths: list[dict[Place, int]] = []
    places: dict[Place, int] = {}
    for query in ready:
        worth: dict[Place, int] = {}
        for conversation in query.quoted():
            quote, option = conversation.quote, conversation.option
            assert quote is not None
            first = 0 if quote.free_slots else 1
            slots = max(1, option.advert.slots)
            for ahead in range(first, first + 1 + -(-len(ready) // slots)):
                place = Place(option.agent, ahead)
                longer = (ahead - first) * choice.answer_cost(option, quote, query.ask)
                worth[place] = conversation.worth(query.ask) - longer
                if query.ask.policy.only is not None:
                    worth[place] = max(1, worth[place] + WEIGHT_MAX // 2)
                places[place] = max(places.get(place, 0), slots if ahead else quote.free_slots)
        worths.append(worth)
    chosen = choice.clear(worths, places)
    return [_decision(query, worth, place, me) for query, worth, place in zip(ready, worths, chosen, strict=True)]


def _decision(query: Query, worth: dict[Place, int], assigned: Place | None, me: PeerId) -> Decision:
    quoted = {c.option.agent: c for c in query.quoted()}
    best = {agent: max(w for place, w in worth.items() if place.agent == agent) for agent in quoted}
    order = sorted(quoted, key=lambda agent: (-best[agent], agent))
    winner = assigned.agent if assigned else next((agent for agent in order if agent.peer == me), None)
    second = next((agent for agent in order if agent != winner), None)
    return Decision(query, quoted[winner] if winner else None, quoted[second] if winner and second else None)
