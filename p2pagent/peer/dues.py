"""Receipts for what we sold: booked once the buyer has countersigned, and acknowledged as often as it asks."""

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.credit import Credit
from p2pagent.peer.effects import Effect, Post, Send
from p2pagent.peer.messages import Receipt, Settle, Settled
from p2pagent.peer.wire import opened, receipt_id
from p2pagent.types import PeerId


class Dues:
    """All receipts on their way into our ledger."""

    def __init__(self, keys: Keys, credit: Credit) -> None:
        self._keys = keys
        self._credit = credit
        self._booking: dict[bytes, Receipt] = {}

    def on_settle(self, buyer: PeerId, settle: Settle) -> list[Effect]:
        """Book a receipt that the buyer countersigned.

        Raises:
            RemoteError: it is not a receipt between us, or a signature is wrong.
        """
        receipt = opened(Receipt, settle.receipt, settle.seller_signature, self._keys.peer, self._keys)
        opened(Receipt, settle.receipt, settle.buyer_signature, buyer, self._keys)
        if receipt.seller != self._keys.peer or receipt.buyer != buyer:
            raise RemoteError("receipt between others")
        ident = receipt_id(settle.receipt)
        self._booking[ident] = receipt
        return [Post(ident, settle.receipt, settle.seller_signature, settle.buyer_signature)]

    def on_posted(self, ident: bytes, *, new: bool) -> list[Effect]:
        """The ledger has it: tell the buyer, and let its debt count as booked; `new` unless it did already."""
        receipt = self._booking.pop(ident, None)
        if receipt is None:
            return []
        buyer = PeerId(receipt.buyer)
        self._credit.sold(ident, buyer, receipt.price_microcredits, new=new)
        return [Send(buyer, Settled(ident))]
