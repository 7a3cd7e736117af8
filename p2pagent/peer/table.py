"""The queries under way and their conversations: whose a message is, and how a conversation ends."""

from collections.abc import Iterator
from typing import Literal

from p2pagent.peer.effects import Effect, Send, Tell
from p2pagent.peer.messages import Release
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.scout import Bound, bound_for
from p2pagent.peer.telling import explained
from p2pagent.peer.updates import Unanswered
from p2pagent.types import AgentRef, PeerId


class Table:
    """All queries of this device's user. A conversation is live from its call until it is dropped or let go."""

    def __init__(self) -> None:
        self.queries: dict[str, Query] = {}
        self._live: dict[bytes, Conversation] = {}

    def open(self, query: Query, conversation: Conversation) -> None:
        """A conversation of `query` begins."""
        query.conversations.append(conversation)
        self._live[conversation.ident] = conversation

    def get(self, ident: bytes) -> Conversation | None:
        """The live conversation of this id."""
        return self._live.get(ident)

    def mine(self, seller: PeerId, ident: bytes) -> Conversation | None:
        """The live conversation `ident` if it is with `seller`; late messages of ended ones are of no interest."""
        conversation = self._live.get(ident)
        return conversation if conversation is not None and conversation.option.agent.peer == seller else None

    def query_of(self, conversation: Conversation) -> Query:
        """The query that a live conversation is about."""
        return self.queries[conversation.query]

    def live(self, query: Query) -> list[Conversation]:
        """The live conversations of `query`."""
        return [conversation for conversation in query.conversations if conversation.ident in self._live]

    @property
    def sellers(self) -> set[PeerId]:
        """With whom there are live conversations."""
        return {conversation.option.agent.peer for conversation in self._live.values()}

    def with_seller(self, seller: PeerId) -> list[Conversation]:
        """All live conversations with `seller`."""
        return [c for c in self._live.values() if c.option.agent.peer == seller]

    def holds(self, agent: AgentRef) -> bool:
        """Whether a slot of `agent` is held for one of our queries."""
        own = self.with_seller(agent.peer)
        return any(c.state == "quoted" and c.option.agent == agent and c.quote and c.quote.free_slots for c in own)

    def unread(self) -> list[Conversation]:
        """Those whose quotes wait for their sheets."""
        return [c for c in self._live.values() if c.unread is not None and c.state == "called"]

    def bound(self, now_ms: int) -> Bound:
        """Where our queries go."""
        return bound_for(self.queries.values(), now_ms)

    def drop(self, conversation: Conversation, state: Literal["refused", "failed"], reason: str) -> None:
        """The other side has ended it."""
        self._live.pop(conversation.ident, None)
        conversation.state, conversation.reason = state, reason

    def close(self, conversation: Conversation) -> None:
        """It has come to its good end."""
        del self._live[conversation.ident]

    def let_go(self, conversation: Conversation) -> list[Effect]:
        """We have no use for it any more."""
        self._live.pop(conversation.ident, None)
        conversation.state = "released" if conversation.state == "quoted" else conversation.state
        return [Send(conversation.option.agent.peer, Release(conversation.ident))]

    def release(self, query: Query, but: Conversation | None = None) -> Iterator[Effect]:
        """Let go of all conversations of a query except `but`."""
        for conversation in self.live(query):
            if conversation is not but:
                yield from self.let_go(conversation)
        query.runner_up = None

    def unanswered(self, query: Query, reason: str, *, partial: bool = False) -> list[Effect]:
        """The query ends without an answer."""
        del self.queries[query.ask.query]
        return [*self.release(query), Tell(query.ask.query, Unanswered(reason, partial, explained(query)))]
