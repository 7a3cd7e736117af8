"""How far each peer is trusted to pay: what lies between us, what is still unsigned, what has been promised.

Rule: what a peer owes, has had without signing for it, and may still come to owe by open quotes, stays within its
credit limit, and the answers that it has not signed for are few; a quote beyond that is refused.
"""

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.market.receipts import credit_limit
from p2pagent.types import Microcredits, PeerId

UNSIGNED_PER_BUYER_MAX = 64
"""Signing takes one round trip; who has let so many answers go unsigned gets no more, however cheap they are."""

FORGIVEN_MS = 3_600_000
"""In this time as much standing comes back as a newcomer has."""

BUYERS_MAX = 4096
"""With unsigned answers, or with charges; beyond it the one longest without a new one is let off."""


class Account(Struct):
    """What a peer owes us on balance (booked), what it will owe once it signs, and the turnover so far."""

    balance_microcredits: Microcredits = 0
    unsigned_microcredits: Microcredits = 0
    settled_microcredits: Microcredits = 0


class Credit:
    """The accounts of all peers, kept in step with the ledger."""

    def __init__(self, newcomer_credit: Microcredits, accounts: dict[PeerId, Account]) -> None:
        self._newcomer_credit = newcomer_credit
        self._accounts = accounts
        self._unsigned: dict[PeerId, dict[bytes, Microcredits]] = {}
        self._charges: dict[PeerId, tuple[Microcredits, int]] = {}

    def charge(self, buyer: PeerId, amount: Microcredits, now_ms: int) -> None:
        """`buyer` kept a slot from others, or had work done, for nothing: its standing shrinks by what that was worth.

        Nobody gains by it, so nobody has a reason to bring it about.
        """
        charged = self.charged(buyer, now_ms) + amount
        self._charges.pop(buyer, None)
        self._charges[buyer] = (charged, now_ms)
        bound(self._charges, BUYERS_MAX)

    def charged(self, buyer: PeerId, now_ms: int) -> Microcredits:
        """What is left of the charges against `buyer` after some time."""
        amount, then_ms = self._charges.get(buyer, (0, now_ms))
        return max(0, amount - self._newcomer_credit * max(0, now_ms - then_ms) // FORGIVEN_MS)

    def allows(self, buyer: PeerId, promised: Microcredits, now_ms: int) -> bool:
        """Whether `buyer` may come to owe `promised` more."""
        if len(self._unsigned.get(buyer, ())) >= UNSIGNED_PER_BUYER_MAX:
            return False
        return self.used(buyer, now_ms) + promised <= self.limit(buyer)

    def limit(self, buyer: PeerId) -> Microcredits:
        """What `buyer` may owe us at most."""
        return credit_limit(self._newcomer_credit, self._accounts.get(buyer, Account()).settled_microcredits)

    def used(self, buyer: PeerId, now_ms: int) -> Microcredits:
        """How much of that is used up, open quotes apart; negative where we owe `buyer`."""
        account = self._accounts.get(buyer, Account())
        return account.balance_microcredits + account.unsigned_microcredits + self.charged(buyer, now_ms)

    def delivered(self, receipt_id: bytes, buyer: PeerId, price: Microcredits) -> None:
        """An answer worth `price` went to `buyer`, who has not signed for it yet."""
        self._accounts.setdefault(buyer, Account()).unsigned_microcredits += price
        self._unsigned[buyer] = self._unsigned.pop(buyer, {}) | {receipt_id: price}
        if len(self._unsigned) > BUYERS_MAX:
            forgotten = next(iter(self._unsigned))
            self._accounts[forgotten].unsigned_microcredits -= sum(self._unsigned.pop(forgotten).values())

    def sold(self, receipt_id: bytes, buyer: PeerId, price: Microcredits, *, new: bool) -> None:
        """The ledger holds a sale to `buyer`, if `new` for the first time."""
        account = self._accounts.setdefault(buyer, Account())
        unsigned = self._unsigned.get(buyer, {})
        account.unsigned_microcredits -= unsigned.pop(receipt_id, 0)
        if not unsigned:
            self._unsigned.pop(buyer, None)
        if new:
            account.balance_microcredits += price
            account.settled_microcredits += price

    def bought(self, seller: PeerId, price: Microcredits) -> None:
        """The ledger holds a purchase from `seller`."""
        account = self._accounts.setdefault(seller, Account())
        account.balance_microcredits -= price
        account.settled_microcredits += price

    def took_back(self, buyer: PeerId, price: Microcredits) -> None:
        """The ledger holds our refund of a sale to `buyer`."""
        self._undo(buyer, -price, price)

    def got_back(self, seller: PeerId, price: Microcredits) -> None:
        """The ledger holds the refund of a purchase from `seller`."""
        self._undo(seller, price, price)

    def _undo(self, peer: PeerId, change: Microcredits, price: Microcredits) -> None:
        # A limit that kept what refunded turnover had raised could be raised for nothing: sell, give back, sell again.
        account = self._accounts.setdefault(peer, Account())
        account.balance_microcredits += change
        account.settled_microcredits -= price

    @property
    def unsigned(self) -> int:
        """Answers delivered for which nobody has signed yet."""
        return sum(map(len, self._unsigned.values()))
