"""The ledgers of all simulated devices: durable at once, and there again when a device comes back."""

from collections import defaultdict

from p2pagent.ledger import gives_back, receipt_in, refund_in
from p2pagent.peer.effects import Post
from p2pagent.peer.events import Outcome
from p2pagent.peer.messages import Dispute, SignedRefund
from p2pagent.types import PeerId


class Books:
    """Receipts, refunds and an owner's own disputes, by owner and receipt."""

    def __init__(self) -> None:
        self.ledgers: dict[PeerId, dict[bytes, Post]] = defaultdict(dict)
        self.refunds: dict[PeerId, dict[bytes, SignedRefund]] = defaultdict(dict)
        self.disputes: dict[PeerId, dict[bytes, Dispute]] = defaultdict(dict)

    def post(self, owner: PeerId, post: Post) -> bool:
        """Book a receipt; whether it is new."""
        return self.ledgers[owner].setdefault(post.receipt_id, post) is post

    def refund(self, owner: PeerId, signed: SignedRefund) -> Outcome:
        """Book a refund, if it fits a receipt."""
        refund = refund_in(signed.body)
        post = self.ledgers[owner].get(refund.receipt_id)
        if post is None or not gives_back(refund, post.receipt_id, receipt_in(post.receipt)):
            return "unfounded"
        return "new" if self.refunds[owner].setdefault(refund.receipt_id, signed) is signed else "known"

    def dispute(self, owner: PeerId, dispute: Dispute) -> bool:
        """Keep a dispute of what `owner` has bought; False if it was in dispute or refunded before."""
        ident = dispute.receipt_id
        assert ident in self.ledgers[owner]
        return ident not in self.refunds[owner] and self.disputes[owner].setdefault(ident, dispute) is dispute

    def refund_of(self, owner: PeerId, buyer: PeerId, dispute: Dispute) -> SignedRefund | None:
        """The refund that `owner` has already given `buyer` for what it disputes."""
        back = self.refunds[owner].get(dispute.receipt_id)
        return back if back is not None and refund_in(back.body).buyer == buyer else None
