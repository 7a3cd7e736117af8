"""Asking around who has a conversation in its cache, where nobody is known to.

This device was started anew, or another one of its trust domain has begun the conversation. Only peers that are
connected are asked, by marks as in a call (routing/marks.py). A conversation is asked about once: who serves it next
has it in its cache then.
"""

from collections.abc import Set
from random import Random

from msgspec import Struct, field

from p2pagent.peer.effects import Effect, Send
from p2pagent.peer.messages import Holds, Mark, Seek
from p2pagent.peer.query import Query
from p2pagent.peer.scout import Scout
from p2pagent.routing.marks import Marker
from p2pagent.types import AgentRef, PeerId

ASKED_MAX = 64
"""Agents asked about one conversation."""


class Seeking(Struct):
    """All that is asked around. `open` are the answers that a query still waits for, by their ids."""

    marker: Marker
    scout: Scout
    rng: Random
    open: dict[str, dict[bytes, AgentRef]] = field(default_factory=dict)

    def start(self, query: Query, neighbours: Set[PeerId]) -> list[Effect]:
        """Ask, if the query goes on from something that nobody is known to hold."""
        if not query.ask.goes_on or self.is_known(query):
            return []
        there = [o for o in query.ranked if o.agent.peer in neighbours and o.advert.cache_tokens]
        asked = {self.rng.randbytes(16): option for option in there[:ASKED_MAX]}
        if asked:
            self.open[query.ask.query] = {ident: option.agent for ident, option in asked.items()}
        effects: list[Effect] = []
        for ident, option in asked.items():
            told, agent = self.marker.tell(query.links, option.agent.peer), option.agent
            marks, tokens = tuple(Mark(*mark) for mark in told.marks), query.ask.tokens_called(option.advert)
            effects.append(Send(agent.peer, Seek(ident, agent.name, told.domain, marks, tokens)))
        return effects

    def on_holds(self, peer: PeerId, holds: Holds) -> tuple[str, AgentRef] | None:
        """Whose question an answer is to, and about which agent; None if nobody asked, or does not any more."""
        for name, asked in self.open.items():
            if holds.conversation in asked and asked[holds.conversation].peer == peer:
                return name, asked.pop(holds.conversation)
        return None

    def waits(self, query: Query) -> bool:
        """Whether some have not answered yet."""
        return bool(self.open.get(query.ask.query))

    def end(self, query: Query) -> None:
        """The query does not wait any more."""
        self.open.pop(query.ask.query, None)

    def is_known(self, query: Query) -> bool:
        """Whether somebody is believed to hold enough of it to be asked for that."""
        return any(self.scout.is_holder(option, query.ask) for option in query.ranked)
