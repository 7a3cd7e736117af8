"""When a query goes to its hub, what it bids there, and what comes of a grant. Pure."""

from p2pagent.peer import choice
from p2pagent.peer.choice import Option
from p2pagent.peer.epochs import EPOCH_MS
from p2pagent.peer.events import Cleared, Contest
from p2pagent.peer.messages import Call
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.terms import Timing, Toll, make_quote
from p2pagent.types import PeerId

CONTESTS_MAX = 3
"""Epochs that a query bids in before it waits in line."""


def is_contested(query: Query, winner: Conversation, me: PeerId) -> bool:
    """Whether the best that was quoted is a wait in line that is longer than a hub's clearing.

    A query for one agent waits there: a hub would have nothing else to offer it.
    """
    quote = winner.quote
    assert quote is not None
    elsewhere = winner.option.agent.peer != me and query.ask.policy.only is None
    behind_ms = 0
    if query.ask.batch and not quote.wait_ms:  # its slots go to others of the batch: it waits for an answer of theirs
        behind_ms = quote.tpot_us * winner.option.habit.output_tokens // 1000
    is_long = quote.ttft_ms + behind_ms >= EPOCH_MS
    return elsewhere and query.contests < CONTESTS_MAX and not quote.free_slots and is_long


def contest(query: Query, waiting: Conversation, me: PeerId) -> Contest:
    """The bid of a query that otherwise waits as `waiting` has quoted."""
    assert waiting.quote is not None
    own = [c for c in query.quoted() if c.option.agent.peer == me]
    local = max((choice.worth_at(c.option, c.quote, query.ask) for c in own if c.quote), default=0)
    gains = choice.gains(query.ranked, waiting.option, waiting.quote, local, query.ask, me)
    delay = query.ask.policy.delay_microcredits_per_s
    return Contest(query.ask.query, query.relevance.prototypes[0], query.contests, delay, tuple(gains))


def granted(query: Query, option: Option, call: Call, cleared: Cleared, epoch: int, me: PeerId) -> Conversation:
    """The conversation by which a grant is claimed, with the quote that buyer and seller both take it for.

    Its seller has not been asked how fast it is, and has said when the slot should be free.
    """
    toll = Toll(cleared.sheet, cleared.toll_microcredits)
    wait_ms = EPOCH_MS + cleared.wait_ms
    quote = make_quote(
        call, me, option.advert.rates, Timing(wait_ms, wait_ms, wait_ms, 0), toll, free_slots=1, queued=0
    )
    return Conversation(call, query.ask.query, option, quote=quote, epoch=epoch)
