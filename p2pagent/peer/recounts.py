"""Answers counted again: whoever charged more output tokens than its own tokeniser makes of its text is disputed.

Nobody can see which tokens an engine drew, and who is paid by the token gains by telling of more (Velasco et al. 2025,
arXiv 2505.21627). But the text is there, an agent names its tokeniser, and models nearly always draw what that makes of
their text: so many tokens are proper, and a few more, for what has no text.

Rule 1: nobody waits for it. The user has the answer, and the seller its payment, before counting begins.
Rule 2: what is not proper is disputed, not refused: to the seller a refusal would look like a buyer that does not pay.
The money is bounded by the quoted cap, and no question goes there until it is given back.
"""

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.peer.effects import Effect, RaiseDispute, Recount
from p2pagent.peer.events import Recounted
from p2pagent.peer.messages import Dispute, Receipt
from p2pagent.types import PeerId

UNSEEN_TOKENS = 4
"""The end mark, and the first three bytes of a character that was cut short."""

STRAY_SHIFT = 4
"""One token of 2^4 may be a special one, which is not shown, or drawn otherwise than the tokeniser cuts the text."""

BOOKING_MAX = 256
"""Answers whose receipts are being booked; of more than these the oldest are not counted again."""


class Bought(Struct, frozen=True):
    """An answer that we bought."""

    seller: PeerId
    tokeniser: bytes
    claimed_tokens: int
    text: str


class Recounts:
    """Answers from when their receipts are signed until they are booked: only what the ledger has can be disputed."""

    def __init__(self) -> None:
        self._booking: dict[bytes, Bought] = {}

    def on_bought(self, ident: bytes, receipt: Receipt, tokeniser: bytes, text: str) -> None:
        """A receipt for `text` is being booked, by an agent with this tokeniser; one that names none is believed."""
        if tokeniser:
            self._booking[ident] = Bought(PeerId(receipt.seller), tokeniser, receipt.output_tokens, text)
            bound(self._booking, BOOKING_MAX)

    def on_posted(self, ident: bytes) -> list[Effect]:
        """Our ledger has a receipt."""
        bought = self._booking.pop(ident, None)
        if bought is None or bought.claimed_tokens <= proper_tokens(0):
            return []
        return [Recount(ident, bought.seller, bought.tokeniser, bought.claimed_tokens, bought.text)]

    def on_recounted(self, counted: Recounted) -> list[Effect]:
        """An answer has been counted, if its tokeniser is known here."""
        if counted.tokens is None or counted.claimed_tokens <= proper_tokens(counted.tokens):
            return []
        reason = f"claims {counted.claimed_tokens} output tokens, {counted.tokens} by its own tokeniser"
        return [RaiseDispute(counted.seller, Dispute(counted.receipt_id, reason))]


def proper_tokens(tokens: int) -> int:
    """The most that may be claimed for an answer of so many tokens."""
    return tokens + UNSEEN_TOKENS + (tokens >> STRAY_SHIFT)
