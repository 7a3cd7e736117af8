"""Receipts in dispute, and refunds on their way to their buyers.

Rule 1: a dispute moves no money. A refund does, all of it, and only the seller can sign one.
Rule 2: a dispute is told to the seller at once, as soon as it has booked the receipt, and at every new connection,
until it is refunded; while it is open, no question of ours goes there.
Rule 3: a refund leaves this device only after our own ledger holds it, and is sent again until the buyer has booked it.
Rule 4: what a peer disputes or refunds is looked up in the ledger before anything is kept of it.
"""

from collections import Counter
from collections.abc import Set as AbstractSet
from itertools import islice

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.credit import Credit
from p2pagent.peer.debts import REMINDERS_MAX
from p2pagent.peer.effects import Blame, Effect, PostRefund, RecordDispute, RefundAcknowledged, Send
from p2pagent.peer.events import Disputed, DisputeRecorded, RefundPosted
from p2pagent.peer.messages import Dispute, Receipt, Refund, Settled, SignedRefund
from p2pagent.peer.wire import opened, parsed, sealed
from p2pagent.types import PeerId

REASON_CHARACTERS_MAX = 256
LOOKUPS_PER_PEER_MAX = 64
"""Of one peer in the ledger at a time; what is dropped beyond that comes again."""


def make_refund(ident: bytes, receipt: Receipt, keys: Keys, now_ms: int) -> SignedRefund:
    """The refund of a receipt in which we are the seller."""
    refund = Refund(ident, receipt.buyer, receipt.seller, receipt.price_microcredits, now_ms)
    return SignedRefund(*sealed(refund, keys))


class Disputes:
    """What this device disputes as a buyer, and what it gave back as a seller; whose reminder is next comes first."""

    def __init__(self, keys: Keys, credit: Credit, disputed: list[Disputed], refunds: list[SignedRefund]) -> None:
        self._keys = keys
        self._credit = credit
        self._open = {each.dispute.receipt_id: each for each in disputed}
        self._unacknowledged = {refund.receipt_id: (refund, signed) for signed in refunds for refund in [_in(signed)]}
        self._lookups: Counter[PeerId] = Counter()

    @property
    def sellers(self) -> AbstractSet[PeerId]:
        """Who leaves a dispute of ours open."""
        return {each.seller for each in self._open.values()}

    # --- as the buyer -----------------------------------------------------------------------------------------------

    def on_disputed(self, disputed: Disputed) -> list[Effect]:
        """We dispute a receipt, and our ledger has it on record."""
        self._open[disputed.dispute.receipt_id] = disputed
        return [Send(disputed.seller, disputed.dispute)]

    def on_refund(self, seller: PeerId, signed: SignedRefund) -> list[Effect]:
        """Book what a seller gives back.

        Raises:
            RemoteError: not signed by it, or not between us.
        """
        refund = opened(Refund, signed.body, signed.signature, seller, self._keys)
        if refund.seller != seller or refund.buyer != self._keys.peer:
            raise RemoteError("refund between others")
        return [PostRefund(signed)] if self._looks_up(seller) else []

    # --- as the seller ----------------------------------------------------------------------------------------------

    def on_dispute(self, buyer: PeerId, dispute: Dispute, now_ms: int) -> list[Effect]:
        """Keep what a buyer disputes, if our ledger says that it bought it."""
        return [RecordDispute(buyer, dispute, now_ms)] if self._looks_up(buyer) else []

    def on_recorded(self, recorded: DisputeRecorded) -> list[Effect]:
        """Whoever disputes what is refunded has not heard of it."""
        self._looked_up(recorded.buyer)
        return [] if recorded.refund is None else [Send(recorded.buyer, recorded.refund)]

    # --- both -------------------------------------------------------------------------------------------------------

    def on_refund_posted(self, posted: RefundPosted) -> list[Effect]:
        """Our ledger has a refund, ours or a seller's: now the other side may know."""
        refund = _in(posted.refund)
        buyer, seller = PeerId(refund.buyer), PeerId(refund.seller)
        if seller == self._keys.peer:
            if posted.outcome == "new":
                self._credit.took_back(buyer, refund.price_microcredits)
            self._unacknowledged[refund.receipt_id] = (refund, posted.refund)
            return [Send(buyer, posted.refund)]
        self._looked_up(seller)
        if posted.outcome == "missing":  # lost with a ledger, perhaps: no fault of the seller's
            return []
        if posted.outcome == "unfounded":
            return [Blame(seller, "refund of what we did not buy at that price")]
        if posted.outcome == "new":
            self._credit.got_back(seller, refund.price_microcredits)
        self._open.pop(refund.receipt_id, None)
        return [Send(seller, Settled(refund.receipt_id))]

    def on_settled(self, peer: PeerId, settled: Settled) -> list[Effect]:
        """`peer` has booked a refund of ours; or a receipt, which it can be told now that we dispute."""
        ident = settled.receipt_id
        refund, _ = self._unacknowledged.get(ident, (None, None))
        if refund is not None and refund.buyer == peer:
            del self._unacknowledged[ident]
            return [RefundAcknowledged(ident)]
        disputed = self._open.get(ident)
        return [Send(peer, disputed.dispute)] if disputed is not None and disputed.seller == peer else []

    def on_up(self, peer: PeerId) -> list[Effect]:
        """Tell `peer` again what we dispute, and what it was given back."""
        turn = list(islice((ident for ident, each in self._open.items() if each.seller == peer), REMINDERS_MAX))
        for ident in turn:
            self._open[ident] = self._open.pop(ident)  # to the end: the others' turn is next
        return [*(Send(peer, self._open[ident].dispute) for ident in turn), *self.remind({peer})]

    def remind(self, buyers: AbstractSet[PeerId]) -> list[Effect]:
        """Send again some of the refunds that these buyers, to whom there is a connection, have not acknowledged."""
        due = (ident for ident, (refund, _) in self._unacknowledged.items() if refund.buyer in buyers)
        turn = list(islice(due, REMINDERS_MAX))
        for ident in turn:
            self._unacknowledged[ident] = self._unacknowledged.pop(ident)
        again = (self._unacknowledged[ident] for ident in turn)
        return [Send(PeerId(refund.buyer), signed) for refund, signed in again]

    def _looks_up(self, peer: PeerId) -> bool:
        """Whether one more look into the ledger may be made for `peer`; counts it."""
        if self._lookups[peer] >= LOOKUPS_PER_PEER_MAX:
            return False
        self._lookups[peer] += 1
        return True

    def _looked_up(self, peer: PeerId) -> None:
        self._lookups[peer] -= 1
        if not self._lookups[peer]:
            del self._lookups[peer]


def _in(signed: SignedRefund) -> Refund:
    """The refund in bytes that were checked before."""
    return parsed(signed.body, Refund)
