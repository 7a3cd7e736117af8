"""Receipts that we countersigned and whose sellers have not yet said that they booked them.

Rule: our signature leaves this device only after our own ledger holds the receipt, and is sent again at every meeting
until the seller acknowledges it. Booking is idempotent on both sides, so a payment is neither lost nor doubled.
"""

from collections.abc import Set as AbstractSet

from msgspec import Struct

from p2pagent.keys import Keys
from p2pagent.peer.events import Acknowledged, Effect, Post, Send
from p2pagent.peer.wire import SIGNED_DOMAINS, Final, Receipt, Settle, Settled, receipt_id
from p2pagent.types import PeerId

DEBTS_MAX = 4096
"""Kept in memory; what exceeds it stays in the ledger and is sent again after the next start."""


class Debt(Struct, frozen=True):
    """One receipt owed to `seller`, under both signatures."""

    seller: PeerId
    settle: Settle


class Debts:
    """All receipts on their way to their sellers."""

    def __init__(self, keys: Keys, open_debts: list[Debt]) -> None:
        self._keys = keys
        self._open = {receipt_id(debt.settle.receipt): debt for debt in open_debts}

    def countersign(self, seller: PeerId, final: Final) -> tuple[bytes, Effect]:
        """The receipt's id, and the effect that books it here."""
        ident = receipt_id(final.receipt)
        own = self._keys.sign(SIGNED_DOMAINS[Receipt], final.receipt)
        self._open[ident] = Debt(seller, Settle(final.receipt, final.signature, own))
        if len(self._open) > DEBTS_MAX:
            del self._open[next(iter(self._open))]
        return ident, Post(ident, final.receipt, final.signature, own)

    def on_posted(self, ident: bytes) -> list[Effect]:
        """Our ledger holds it: now the seller may have our signature."""
        debt = self._open.get(ident)
        return [] if debt is None else [Send(debt.seller, debt.settle)]

    def on_settled(self, seller: PeerId, settled: Settled) -> list[Effect]:
        """The seller's ledger holds it too."""
        debt = self._open.get(settled.receipt_id)
        if debt is None or debt.seller != seller:
            return []
        del self._open[settled.receipt_id]
        return [Acknowledged(settled.receipt_id)]

    def remind(self, sellers: AbstractSet[PeerId]) -> list[Effect]:
        """Send again what these sellers, to whom there is a connection, have not acknowledged."""
        return [Send(debt.seller, debt.settle) for debt in self._open.values() if debt.seller in sellers]
