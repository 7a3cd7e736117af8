"""What a buyer accepts: a quote that follows from the seller's signed record and the call, a receipt from the quote.

Every check names what is wrong; the sender is to blame for it.
"""

from hashlib import sha256

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.market.receipts import Rates, metered, price_cap
from p2pagent.peer.wire import AgentAdvert, Call, Final, Quote, Receipt, opened
from p2pagent.types import PeerId, Usage

QUOTE_MS_MAX = 60_000


def check_quote(quote: Quote, call: Call, advert: AgentAdvert, me: PeerId) -> None:
    """Accept `quote` for `call`, or say what is wrong.

    Raises:
        RemoteError: for somebody else, at other rates than signed into the record, or not priced by them.
    """
    rates = Rates(quote.rates.prompt, quote.rates.cached, quote.rates.output)
    _require(quote.buyer == me, "quote is for another buyer")
    _require(quote.agent == call.agent, "quote is for another agent")
    _require(quote.rates == advert.rates, "quote departs from the signed rate card")
    _require(quote.slot_price_microcredits == 0, "slot price without a sheet")
    cap = price_cap(rates, call.prompt_tokens, call.max_tokens, quote.slot_price_microcredits)
    _require(quote.price_cap_microcredits == cap, "price cap does not follow from the rate card")
    _require(quote.cached_tokens <= call.prompt_tokens, "more cached tokens than the prompt has")
    _require(quote.expires_ms <= QUOTE_MS_MAX, "quote lasts too long")


def check_final(final: Final, call: Call, quote: Quote, answer: str, seller: PeerId, keys: Keys) -> Receipt:
    """The receipt in `final` if it follows from the quote and is for `answer`.

    Raises:
        RemoteError: not signed by the seller, or it claims anything that the quote or the answer does not bear out.
    """
    receipt = opened(Receipt, final.receipt, final.signature, seller, keys)
    usage = Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens)
    rates = Rates(receipt.rates.prompt, receipt.rates.cached, receipt.rates.output)
    _require(receipt.conversation == call.conversation, "receipt for another conversation")
    _require(receipt.buyer == keys.peer and receipt.seller == seller, "receipt between others")
    _require(receipt.agent == call.agent, "receipt for another agent")
    _require(receipt.rates == quote.rates, "receipt departs from the quoted rates")
    _require(receipt.slot_price_microcredits == quote.slot_price_microcredits, "receipt departs from the slot price")
    _require(usage.cached_tokens <= usage.prompt_tokens <= call.prompt_tokens, "receipt claims a longer prompt")
    _require(usage.output_tokens <= call.max_tokens, "receipt claims a longer answer")
    owed = metered(rates, usage) + receipt.slot_price_microcredits
    _require(receipt.price_microcredits == owed, "receipt's price does not follow from its tokens")
    _require(owed <= quote.price_cap_microcredits, "receipt exceeds the quoted cap")
    _require(receipt.answer_sha256 == sha256(answer.encode()).digest(), "receipt is for another answer")
    return receipt


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise RemoteError(fault)
