"""What the buyer remembers of a question under way."""

from typing import Literal

from msgspec import Struct, field

from p2pagent.peer.choice import Option, worth_at
from p2pagent.peer.events import Ask, Delivery
from p2pagent.peer.messages import Call, Chunk, Quote, SignedQuote
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.routing.marks import Link
from p2pagent.routing.prototypes import Relevance
from p2pagent.types import AgentRef, Microcredits

ANSWER_BYTES_PER_TOKEN_MAX = 128
"""More bytes than this for each token asked for are no answer but a flood."""

LOST_PIECE = "lost a piece of its answer"


class Conversation(Struct, eq=False):
    """One call to one agent and what became of it."""

    call: Call
    query: str
    option: Option
    state: Literal["called", "refused", "quoted", "released", "awarded", "failed"] = "called"
    reason: str = ""
    quote: Quote | None = None
    expires_ms: int = 0
    awarded_ms: int = 0
    due_ms: int = 0
    """When its next sign of life, once awarded, is to be there."""
    toll_microcredits: Microcredits = 0
    """What it is believed to cost others, beyond the slot's price; decides, but is not paid."""
    unread: SignedQuote | None = None
    """A quote whose sheet is still on its way."""
    epoch: int | None = None
    """Of the clearing in which a hub granted it; None where the agent was asked for a quote."""

    @property
    def ident(self) -> bytes:
        """What its frames are tagged with."""
        return self.call.conversation

    @property
    def was_promised_a_slot(self) -> bool:
        """Whether one was held for it as it was awarded, for long enough to be there when the award got there.

        That takes no longer than a quote that is waited for takes to be asked for and come.
        """
        held = self.quote is not None and self.quote.free_slots > 0
        return held and self.awarded_ms + QUOTES_MS <= self.expires_ms

    def worth(self, ask: Ask) -> Microcredits:
        """What taking up its quote is expected to gain, toll deducted."""
        assert self.quote is not None
        return worth_at(self.option, self.quote, ask) - self.toll_microcredits


class Query(Struct, eq=False):
    """One question of the user."""

    ask: Ask
    embedding: bytes
    relevance: Relevance
    asked_ms: int
    links: tuple[Link, ...] = ()
    seed: int = 0
    """Of what is drawn for the whole query: whether newcomers are tried, and who of many alike is considered."""
    state: Literal["finding", "calling", "clearing", "bidding", "awarded", "lost"] = "calling"
    ranked: list[Option] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    failed: set[AgentRef] = field(default_factory=set)
    runner_up: Conversation | None = None
    pieces: list[str] = field(default_factory=list)
    answer_bytes: int = 0
    first_ms: int = 0
    round: int = 0
    called_ms: int = 0
    restarts: int = 0
    contests: int = 0
    denied: str = ""
    """Why a hub gave it no slot."""

    def delivery(self, conversation: Conversation, space: str) -> Delivery:
        """The answer that `conversation` brings, as it can be judged."""
        option = conversation.option
        return Delivery(option.agent, space, self.relevance, round(option.score.quality, 4))

    def quoted(self) -> list[Conversation]:
        """Conversations whose quotes can be taken up now."""
        return [c for c in self.conversations if c.state == "quoted"]

    def fault_of(self, chunk: Chunk) -> str | None:
        """What is wrong with the next piece of the answer; a lost one is nobody's fault."""
        if chunk.index != len(self.pieces):
            return LOST_PIECE if chunk.index > len(self.pieces) else "sent its answer out of order"
        limit = self.ask.sampling.max_tokens
        much = self.answer_bytes + len(chunk.text.encode()) > ANSWER_BYTES_PER_TOKEN_MAX * limit
        return "sent more than was asked for" if len(self.pieces) >= limit or much else None

    def take(self, chunk: Chunk) -> None:
        """Add a piece that is right."""
        self.pieces.append(chunk.text)
        self.answer_bytes += len(chunk.text.encode())

    def best_quoted(self) -> Conversation | None:
        """The quote that is worth most."""
        return max(self.quoted(), key=lambda conversation: conversation.worth(self.ask), default=None)
