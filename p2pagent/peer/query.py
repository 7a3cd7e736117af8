"""What the buyer remembers of a question under way, and how it is told to the user."""

from typing import Literal

from msgspec import Struct, field

from p2pagent.peer.choice import Option
from p2pagent.peer.events import Answered, Ask, Candidate
from p2pagent.peer.wire import Call, Final, Quote, Receipt
from p2pagent.routing.prototypes import Relevance
from p2pagent.types import AgentRef, PeerId, Usage


class Conversation(Struct, eq=False):
    """One call to one agent and what became of it."""

    call: Call
    query: str
    option: Option
    state: Literal["called", "refused", "quoted", "released", "awarded", "failed"] = "called"
    reason: str = ""
    quote: Quote | None = None
    expires_ms: int = 0

    @property
    def ident(self) -> bytes:
        """What its frames are tagged with."""
        return self.call.conversation


class Query(Struct, eq=False):
    """One question of the user."""

    ask: Ask
    embedding: bytes
    relevance: Relevance
    asked_ms: int
    state: Literal["finding", "calling", "clearing", "awarded"] = "calling"
    ranked: list[Option] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    failed: set[AgentRef] = field(default_factory=set)
    runner_up: Conversation | None = None
    pieces: list[str] = field(default_factory=list)
    answer_bytes: int = 0
    first_ms: int = 0
    round: int = 0
    restarts: int = 0

    def quoted(self) -> list[Conversation]:
        """Conversations whose quotes can be taken up now."""
        return [c for c in self.conversations if c.state == "quoted"]


EXPLAINED_MAX = 16


def explained(query: Query) -> tuple[Candidate, ...]:
    """The agents considered, those that were called first, each with what it said and what became of it."""
    last = {c.option.agent: c for c in query.conversations}
    options = [c.option for c in last.values()] + [o for o in query.ranked if o.agent not in last]
    rows = []
    for option in options[:EXPLAINED_MAX]:
        conversation = last.get(option.agent)
        quote = conversation.quote if conversation else None
        rows.append(
            Candidate(
                agent=option.agent,
                model=option.advert.model,
                quality=round(option.score.quality, 4),
                uncertainty=round(option.score.uncertainty, 4),
                expected_cost_microcredits=option.cost_microcredits,
                worth_microcredits=option.worth_microcredits,
                outcome=_outcome(conversation),
                reason=conversation.reason if conversation else "",
                price_cap_microcredits=quote.price_cap_microcredits if quote else None,
                ttft_ms=quote.ttft_ms if quote else None,
                free_slots=quote.free_slots if quote else None,
            )
        )
    return tuple(rows)


def answered(
    query: Query, winner: Conversation, receipt: Receipt, final: Final, receipt_id: bytes, me: PeerId, now_ms: int
) -> Answered:
    """What the user is told at the end. The own agent's answers have neither price nor receipt."""
    option = winner.option
    return Answered(
        text="".join(query.pieces),
        agent=option.agent,
        model=option.advert.model,
        delegated=option.agent.peer != me,
        usage=Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens),
        price_microcredits=receipt.price_microcredits if option.agent.peer != me else 0,
        slot_price_microcredits=receipt.slot_price_microcredits,
        receipt_id=receipt_id.hex(),
        finish_reason=final.finish_reason,
        ttft_ms=(query.first_ms or now_ms) - query.asked_ms,
        total_ms=now_ms - query.asked_ms,
        restarts=query.restarts,
        candidates=explained(query),
        why=why(query, winner, me),
    )


def why(query: Query, winner: Conversation, me: PeerId) -> str:
    """One sentence on why this agent answered."""
    option = winner.option
    own = option.agent.peer == me
    who = "your own agent" if own else f"{option.agent.name} at {option.agent.peer[-6:]}"
    rivals = [o for o in query.ranked if o.agent != option.agent]
    reason = f"{who} was expected to answer well with probability {option.score.quality:.2f}"
    if not rivals:
        return f"{reason}; nobody else could be asked"
    best = rivals[0]
    gain = option.worth_microcredits - best.worth_microcredits
    whom = "your own agent" if best.agent.peer == me else f"{best.agent.name} at {best.agent.peer[-6:]}"
    if gain >= 0:
        more = f"{gain / 1_000_000:.6f} credits more"
        return f"{reason} and is worth {more} than the next best, {whom} ({best.score.quality:.2f})"
    return f"{reason}; {whom} promised more, but quoted a longer wait, refused, or went away"


def _outcome(
    conversation: Conversation | None,
) -> Literal["not called", "called", "refused", "quoted", "awarded", "failed"]:
    if conversation is None:
        return "not called"
    return "quoted" if conversation.state == "released" else conversation.state
