"""Receipts that we countersigned and whose sellers have not yet said that they booked them.

Rule: our signature leaves this device only after our own ledger holds the receipt, and is sent again at every meeting
until the seller acknowledges it. Booking is idempotent on both sides, so a payment is neither lost nor doubled.
"""

from collections.abc import Set as AbstractSet
from itertools import islice

from msgspec import Struct

from p2pagent.keys import Keys
from p2pagent.peer.credit import Credit
from p2pagent.peer.effects import Acknowledged, Effect, Post, Send
from p2pagent.peer.messages import Final, Receipt, Settle, Settled
from p2pagent.peer.wire import SIGNED_DOMAINS, receipt_id
from p2pagent.types import Microcredits, PeerId

DEBTS_MAX = 4096
"""Kept in memory; what exceeds it stays in the ledger and is sent again after the next start."""


REMINDERS_MAX = 64
"""Sent at a time: what a neighbour's queue takes without loss."""


class Debt(Struct, frozen=True):
    """One receipt owed to `seller`, under both signatures."""

    seller: PeerId
    settle: Settle
    price_microcredits: Microcredits


class Debts:
    """All receipts on their way to their sellers."""

    def __init__(self, keys: Keys, credit: Credit, booked: list[Debt]) -> None:
        self._keys = keys
        self._credit = credit
        self._open = {receipt_id(debt.settle.receipt): debt for debt in booked}
        self._booked = set(self._open)

    def countersign(self, seller: PeerId, final: Final, price: Microcredits) -> tuple[bytes, Effect]:
        """The receipt's id, and the effect that books it here."""
        ident = receipt_id(final.receipt)
        own = self._keys.sign(SIGNED_DOMAINS[Receipt], final.receipt)
        self._open[ident] = Debt(seller, Settle(final.receipt, final.signature, own), price)
        if len(self._open) > DEBTS_MAX and self._booked:
            self._drop(next(ident for ident in self._open if ident in self._booked))
        return ident, Post(ident, final.receipt, final.signature, own)

    def on_posted(self, ident: bytes, *, new: bool) -> list[Effect]:
        """Our ledger holds it: now the seller may have our signature."""
        debt = self._open.get(ident)
        if debt is None:
            return []
        self._booked.add(ident)
        if new:
            self._credit.bought(debt.seller, debt.price_microcredits)
        return [Send(debt.seller, debt.settle)]

    def on_settled(self, seller: PeerId, settled: Settled) -> list[Effect]:
        """The seller's ledger holds it too."""
        debt = self._open.get(settled.receipt_id)
        if debt is None or debt.seller != seller:
            return []
        self._drop(settled.receipt_id)
        return [Acknowledged(settled.receipt_id)]

    def remind(self, sellers: AbstractSet[PeerId]) -> list[Effect]:
        """Send again some of what these sellers, to whom there is a connection, have not acknowledged."""
        due = (ident for ident, debt in self._open.items() if ident in self._booked and debt.seller in sellers)
        turn = list(islice(due, REMINDERS_MAX))
        for ident in turn:
            self._open[ident] = self._open.pop(ident)  # to the end: the others' turn is next
        return [Send(self._open[ident].seller, self._open[ident].settle) for ident in turn]

    def _drop(self, ident: bytes) -> None:
        del self._open[ident]
        self._booked.discard(ident)
