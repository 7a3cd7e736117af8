"""The terms of a sale: a quote follows from the seller's signed record and the call, a receipt from the quote.

The seller makes both, the buyer checks both. Every check names what is wrong; the sender is to blame for it.
"""

from hashlib import sha256

from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.market.receipts import metered, price_cap
from p2pagent.peer.events import Ask
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Award, Call, Final, Mark, Quote, RateCard, Receipt, Turn
from p2pagent.peer.wire import opened
from p2pagent.routing.marks import Told
from p2pagent.types import Microcredits, PeerId, Usage

QUOTES_MS = 2_000
"""Quotes that have not come by then are not waited for."""

QUOTE_MS = 5_000
"""A quote, and the slot it holds, lasts this long without an award."""

QUOTE_MS_MAX = 60_000


def make_call(
    ask: Ask, embedding: bytes, space: str, advert: AgentAdvert, conversation: bytes, deadline_ms: int, told: Told
) -> Call:
    """What a seller is told of a question before it has won it; a slot later than `deadline_ms` from now is no use."""
    return Call(
        conversation=conversation,
        agent=advert.name,
        space=space,
        embedding=embedding,
        prompt_tokens=ask.tokens_called(advert),
        max_tokens=ask.sampling.max_tokens,
        deadline_ms=deadline_ms,
        domain=told.domain,
        prefix=tuple(Mark(*mark) for mark in told.marks),
    )


def make_award(ask: Ask, conversation: bytes) -> Award:
    """What the winner is told of it: the prompt."""
    turns = tuple(Turn(turn.role, turn.content) for turn in ask.turns)
    return Award(conversation, turns, ask.sampling.temperature_milli, ask.sampling.seed)


class Timing(Struct, frozen=True):
    """When an answer's tokens are expected, from now on.

    Attributes:
        wait_ms: until it gets a slot.
        ttft_ms: until its first token, the wait included.
        ttft_high_ms: by when the first token is there in nineteen of twenty answers, if the wait is what it seems.
        tpot_us: from one token to the next.
    """

    wait_ms: int
    ttft_ms: int
    ttft_high_ms: int
    tpot_us: int


class Toll(Struct, frozen=True):
    """What an answer costs above its metered tokens, and the id of the sheet that says so."""

    sheet: bytes = b""
    price_microcredits: Microcredits = 0


NO_TOLL = Toll()


def make_quote(
    call: Call,
    buyer: PeerId,
    rates: RateCard,
    timing: Timing,
    toll: Toll,
    *,
    free_slots: int,
    queued: int,
    cached_tokens: int = 0,
    evicted_tokens: int = 0,
) -> Quote:
    """What the seller offers for `call`. What leaves its cache is told as a power of two: it is about others."""
    slot_price = toll.price_microcredits
    evicted = evicted_tokens * max(0, rates.prompt - rates.cached)
    return Quote(
        conversation=call.conversation,
        buyer=buyer,
        agent=call.agent,
        free_slots=free_slots,
        queued=queued,
        wait_ms=timing.wait_ms,
        ttft_ms=timing.ttft_ms,
        ttft_high_ms=timing.ttft_high_ms,
        tpot_us=timing.tpot_us,
        cached_tokens=cached_tokens,
        evicted_microcredits=1 << evicted.bit_length() - 1 if evicted else 0,
        rates=rates,
        sheet=toll.sheet,
        slot_price_microcredits=slot_price,
        price_cap_microcredits=price_cap(rates, call.prompt_tokens, call.max_tokens, slot_price, cached_tokens),
        expires_ms=QUOTE_MS,
    )


def make_receipt(call: Call, quote: Quote, seller: PeerId, usage: Usage, answer: str, now_ms: int) -> Receipt:
    """What is owed for `answer`: metered tokens, no more of them than were called for, no fewer cached than quoted."""
    prompt = min(usage.prompt_tokens, call.prompt_tokens)
    cached = min(max(usage.cached_tokens, quote.cached_tokens), prompt)
    billed = Usage(prompt, cached, min(usage.output_tokens, call.max_tokens))
    return Receipt(
        conversation=call.conversation,
        buyer=quote.buyer,
        seller=seller,
        agent=call.agent,
        prompt_tokens=billed.prompt_tokens,
        cached_tokens=billed.cached_tokens,
        output_tokens=billed.output_tokens,
        rates=quote.rates,
        sheet=quote.sheet,
        slot_price_microcredits=quote.slot_price_microcredits,
        price_microcredits=metered(quote.rates, billed) + quote.slot_price_microcredits,
        answer_sha256=sha256(answer.encode()).digest(),
        issued_ms=now_ms,
    )


def check_quote(quote: Quote, call: Call, advert: AgentAdvert, me: PeerId, toll_max: Microcredits) -> None:
    """Accept `quote` for `call`, or say what is wrong. `toll_max` is what the sheet that it names justifies.

    Raises:
        RemoteError: for somebody else, at other rates than signed into the record, or not priced by them.
    """
    _require(quote.buyer == me, "quote is for another buyer")
    _require(quote.agent == call.agent, "quote is for another agent")
    _require(quote.rates == advert.rates, "quote departs from the signed rate card")
    _require(bool(quote.sheet) or not quote.slot_price_microcredits, "slot price without a sheet")
    _require(quote.slot_price_microcredits <= toll_max, "slot price above what its sheet justifies")
    _require(quote.wait_ms <= quote.ttft_ms <= quote.ttft_high_ms, "first token before its slot, or after its bound")
    _require(quote.cached_tokens <= call.prompt_tokens, "more cached tokens than the prompt has")
    slot_price = quote.slot_price_microcredits
    cap = price_cap(quote.rates, call.prompt_tokens, call.max_tokens, slot_price, quote.cached_tokens)
    _require(quote.price_cap_microcredits == cap, "price cap does not follow from the rate card")
    _require(quote.expires_ms <= QUOTE_MS_MAX, "quote lasts too long")


def check_final(final: Final, call: Call, quote: Quote, answer: str, seller: PeerId, keys: Keys) -> Receipt:
    """The receipt in `final` if it follows from the quote and is for `answer`.

    Raises:
        RemoteError: not signed by the seller, or it claims anything that the quote or the answer does not bear out.
    """
    receipt = opened(Receipt, final.receipt, final.signature, seller, keys)
    usage = Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens)
    _require(receipt.conversation == call.conversation, "receipt for another conversation")
    _require(receipt.buyer == keys.peer and receipt.seller == seller, "receipt between others")
    _require(receipt.agent == call.agent, "receipt for another agent")
    _require(receipt.rates == quote.rates, "receipt departs from the quoted rates")
    _require(receipt.sheet == quote.sheet, "receipt names another sheet")
    _require(receipt.slot_price_microcredits == quote.slot_price_microcredits, "receipt departs from the slot price")
    _require(usage.cached_tokens <= usage.prompt_tokens <= call.prompt_tokens, "receipt claims a longer prompt")
    quoted = min(quote.cached_tokens, usage.prompt_tokens)
    _require(usage.cached_tokens >= quoted, "receipt denies cached tokens that were quoted")
    _require(usage.output_tokens <= call.max_tokens, "receipt claims a longer answer")
    owed = metered(receipt.rates, usage) + receipt.slot_price_microcredits
    _require(receipt.price_microcredits == owed, "receipt's price does not follow from its tokens")
    _require(owed <= quote.price_cap_microcredits, "receipt exceeds the quoted cap")
    _require(receipt.answer_sha256 == sha256(answer.encode()).digest(), "receipt is for another answer")
    return receipt


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise RemoteError(fault)
