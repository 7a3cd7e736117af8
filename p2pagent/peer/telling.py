"""How a query went, as its user is told: who was considered, who answered, and why."""

from typing import Literal

from p2pagent.peer.choice import Option, utility
from p2pagent.peer.events import Ask
from p2pagent.peer.messages import Final, Receipt
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.updates import Answered, Candidate
from p2pagent.types import AgentRef, Microcredits, PeerId, Usage

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
                worth_microcredits=_worth(option, conversation, query.ask),
                outcome=_outcome(conversation),
                reason=conversation.reason if conversation else "",
                price_cap_microcredits=quote.price_cap_microcredits if quote else None,
                slot_price_microcredits=quote.slot_price_microcredits if quote else None,
                ttft_ms=quote.ttft_ms if quote else None,
                free_slots=quote.free_slots if quote else None,
                outcomes=option.outcomes,
                wait_ms=option.prospect.wait_ms if option.prospect else None,
                toll_microcredits=conversation.toll_microcredits if quote and conversation else None,
                chance=None if option.chance is None else round(option.chance, 4),
                cached_tokens=quote.cached_tokens if quote else option.habit.cached_tokens,
            )
        )
    return tuple(rows)


def answered(
    query: Query,
    winner: Conversation,
    receipt: Receipt,
    final: Final,
    receipt_id: bytes,
    good: bool | None,
    me: PeerId,
    now_ms: int,
) -> Answered:
    """What the user is told at the end. The own agent's answers have neither price nor receipt."""
    option = winner.option
    own = option.agent.peer == me
    return Answered(
        text="".join(query.pieces),
        agent=option.agent,
        model=option.advert.model,
        delegated=not own,
        usage=Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens),
        how="own" if own else "posted" if winner.epoch is None else "cleared",
        price_microcredits=0 if own else receipt.price_microcredits,
        prompt_microcredits=receipt.rates.prompt,
        cached_microcredits=receipt.rates.cached,
        output_microcredits=receipt.rates.output,
        slot_price_microcredits=receipt.slot_price_microcredits,
        sheet=receipt.sheet.hex(),
        receipt_id=receipt_id.hex(),
        finish_reason=final.finish_reason,
        ttft_ms=(query.first_ms or now_ms) - query.asked_ms,
        total_ms=now_ms - query.asked_ms,
        restarts=query.restarts,
        candidates=explained(query),
        why=why(query, winner, me),
        good=good,
    )


def why(query: Query, winner: Conversation, me: PeerId) -> str:
    """In a sentence or two, why this agent answered: what it promised, whom it beat or who was out of reach."""
    option = winner.option
    promise = f"{_named(option.agent, me)} was expected to answer well with probability {option.score.quality:.2f}"
    if option.trial:
        promise += ", and being new here was given a try"
    if winner.epoch is not None and winner.quote is not None:
        toll = _credits(winner.quote.slot_price_microcredits)
        return (
            f"{promise}. Nobody better had a slot free at once; the hub's clearing of epoch {winner.epoch} gave your"
            f" question one there, for {toll} credits above the price of its tokens"
        )
    denied = f". A hub was asked for a slot and gave none: {query.denied}" if query.denied else ""
    return promise + _comparison(query, winner, me) + denied


def _comparison(query: Query, winner: Conversation, me: PeerId) -> str:
    last = {c.option.agent: c for c in query.conversations}
    worths = {
        option.agent: _worth(option, last.get(option.agent), query.ask)
        for option in query.ranked
        if option.agent != winner.option.agent
    }
    if not worths:
        return "; nobody else could be asked"
    best = max(worths, key=lambda agent: worths[agent])
    whom = _named(best, me)
    gain = _worth(winner.option, winner, query.ask) - worths[best]
    if gain >= 0:
        return f" and is worth {_credits(gain)} credits more than the next best, {whom}"
    return f"; {whom} promised {_credits(-gain)} credits more, but {_obstacle(last.get(best))}"


def _obstacle(rival: Conversation | None) -> str:
    """Why somebody who promised more did not answer."""
    if rival is None:
        return "was not among the first asked"
    match rival.state:
        case "refused" | "failed":
            return f"{rival.state} ({rival.reason})"
        case "called":
            return "had not quoted yet"
        case _:
            return "its free slot went to another of your questions"


def _worth(option: Option, conversation: Conversation | None, ask: Ask) -> Microcredits:
    """What choosing an agent is expected to gain, by its quote or by what was believed of it before."""
    if conversation is not None and conversation.quote is not None:
        return conversation.worth(ask)
    return utility(option, option.prospect, ask) if option.prospect else option.worth_microcredits


def _named(agent: AgentRef, me: PeerId) -> str:
    return "your own agent" if agent.peer == me else agent.short


def _credits(microcredits: Microcredits) -> str:
    return f"{microcredits / 1_000_000:.6f}"


def _outcome(
    conversation: Conversation | None,
) -> Literal["not called", "called", "refused", "quoted", "awarded", "failed"]:
    if conversation is None:
        return "not called"
    return "quoted" if conversation.state == "released" else conversation.state
