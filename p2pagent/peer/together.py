"""What the quotes for several queries of one owner say together.

A seller holds few slots for one stranger, lest quotes that nobody takes up keep it from others. So of many calls at
once it quotes most a wait, though slots are free: what it tells one query is free is free to each of them.
"""

from collections import Counter
from typing import NamedTuple

from msgspec.structs import replace

from p2pagent.peer.messages import Quote
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.rounds import decide
from p2pagent.types import AgentRef, PeerId


class Outcome(NamedTuple):
    """Who serves a query and who would be next; `at_once`: a slot is free for it, whatever it was quoted itself."""

    query: Query
    winner: Conversation | None
    runner_up: Conversation | None
    at_once: bool


def decide_together(ready: list[Query], me: PeerId) -> list[Outcome]:
    """Clear one owner's queries that have their quotes, read together, in one exact assignment."""
    decided = decide(read_together(ready), me)
    # They were decided on copies; what is awarded is the conversation that was copied.
    own = {conversation.ident: conversation for query in ready for conversation in query.quoted()}
    winners = [own[d.winner.ident] if d.winner else None for d in decided]
    served = served_at_once([winner for winner in winners if winner is not None], most_free(ready))
    booked = {conversation.option.agent for conversation in served if not holds(conversation)}
    outcomes = []
    for query, decision, winner in zip(ready, decided, winners, strict=True):
        second = own[decision.runner_up.ident] if decision.runner_up else None
        if second is not None and holds(second) and second.option.agent in booked:
            second = None  # its slot is for another of these queries
        outcomes.append(Outcome(query, winner, second, winner in served))
    return outcomes


def most_free(ready: list[Query]) -> dict[AgentRef, Quote]:
    """Of each agent that has a slot free the quote that names most of them."""
    found: dict[AgentRef, Quote] = {}
    for conversation in (c for query in ready for c in query.quoted()):
        quote, agent = conversation.quote, conversation.option.agent
        assert quote is not None
        if quote.free_slots > (found[agent].free_slots if agent in found else 0):
            found[agent] = quote
    return found


def read_together(ready: list[Query]) -> list[Query]:
    """Copies in which whoever was quoted a wait has what its agent told another: slots free, and how soon."""
    free = most_free(ready)

    def read(conversation: Conversation) -> Conversation:
        quote, best = conversation.quote, free.get(conversation.option.agent)
        assert quote is not None
        if quote.free_slots or best is None:
            return conversation
        sooner_ms = max(0, quote.wait_ms - best.wait_ms)
        soon = replace(
            quote,
            free_slots=best.free_slots,
            wait_ms=quote.wait_ms - sooner_ms,
            ttft_ms=quote.ttft_ms - sooner_ms,
            ttft_high_ms=quote.ttft_high_ms - sooner_ms,
        )
        return replace(conversation, quote=soon)

    return [replace(query, conversations=[read(c) for c in query.quoted()]) for query in ready]


def served_at_once(winners: list[Conversation], free: dict[AgentRef, Quote]) -> list[Conversation]:
    """Those of `winners` that get a free slot, by what `most_free` says; whose slot is held comes first."""
    room = Counter({agent: quote.free_slots for agent, quote in free.items()})
    served = []
    for winner in sorted(winners, key=lambda conversation: not holds(conversation)):
        if room[winner.option.agent] > 0:
            room[winner.option.agent] -= 1
            served.append(winner)
    return served


def holds(conversation: Conversation) -> bool:
    """Whether a slot is held for it."""
    return conversation.quote is not None and conversation.quote.free_slots > 0
