"""The double-entry rules: what receipts and refunds move in one peer's books, and whether several peers' books agree.

A ledger has one account per peer it deals with (`peer:<id>`, positive where that peer owes us) and two of its own:
`income`, negative as a credit is, and `expense`. Every receipt moves two accounts by opposite amounts, and its refund
moves the same two back.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.messages import Receipt, Refund, SignedRefund
from p2pagent.peer.wire import SIGNED_DOMAINS, parsed, receipt_id
from p2pagent.types import Microcredits, PeerId

Role = Literal["buyer", "seller"]
State = Literal["settled", "not yet", "disputed", "refunded"]
"""Of a receipt; `not yet`: its seller is not known to have booked it."""

PEER_ACCOUNT = "peer:"
"""What the name of a peer's account begins with; its peer id follows."""


class Entry(Struct, frozen=True, array_like=True):
    """A movement of one account."""

    account: str
    amount_microcredits: Microcredits


class SignedReceipt(Struct, frozen=True):
    """A receipt as both sides keep it: the very bytes that were signed, and both signatures over them."""

    body: bytes
    seller_signature: bytes
    buyer_signature: bytes

    @property
    def receipt_id(self) -> bytes:
        """What names it on both sides."""
        return receipt_id(self.body)


class Row(Struct, frozen=True):
    """A receipt as it lies in a ledger: `receipt_id` and what follows `signed` were written beside the signed bytes."""

    receipt_id: bytes
    signed: SignedReceipt
    role: Role
    other: PeerId
    price_microcredits: Microcredits
    issued_ms: int
    acknowledged: bool


class Book(Struct, frozen=True):
    """All that one device's ledger holds, in the order of booking; nothing of it is checked."""

    owner: PeerId
    rows: tuple[Row, ...]
    refunds: dict[bytes, SignedRefund]
    disputed: frozenset[bytes]
    entries: tuple[tuple[bytes, Entry], ...]
    """Each with the id of the receipt that it is for."""


class Movement(Struct, frozen=True):
    """One change of the balance with a peer. `balance_microcredits` is what that peer owes us after it."""

    kind: Literal["receipt", "refund"]
    at_ms: int
    receipt_id: bytes
    receipt: Receipt
    role: Role
    other: PeerId
    balance_microcredits: Microcredits
    state: State


class AuditReport(Struct, frozen=True):
    """What `audit` found. Receipts are named by their ids, in ascending order."""

    receipts: int
    """Distinct receipts of which at least one copy is good."""
    bad_signatures: tuple[bytes, ...]
    """A copy of these is malformed, not signed by both of its parties, or held by somebody who is neither."""
    one_sided: tuple[bytes, ...]
    """Of these only one party holds a good copy, although the other's book was audited too."""
    residue_microcredits: Microcredits
    """Sum over all pairs of audited peers of |what one says the other owes it + the reverse|."""


def receipt_in(body: bytes) -> Receipt:
    """The receipt in `body`, whoever signed it.

    Raises:
        RemoteError: malformed.
    """
    return parsed(body, Receipt)


def refund_in(body: bytes) -> Refund:
    """The refund in `body`, whoever signed it.

    Raises:
        RemoteError: malformed.
    """
    return parsed(body, Refund)


def side(receipt: Receipt | Refund, me: PeerId) -> tuple[Role, PeerId]:
    """The role of `me` in `receipt`, and the other party.

    Raises:
        ValueError: `me` is not exactly one of its two parties.
    """
    buyer, seller = PeerId(receipt.buyer), PeerId(receipt.seller)
    if (me == buyer) == (me == seller):
        raise ValueError(f"{me} is not one side of a receipt between {buyer} and {seller}")
    return ("buyer", seller) if me == buyer else ("seller", buyer)


def entries(receipt: Receipt, me: PeerId) -> tuple[Entry, Entry]:
    """What `receipt` moves in the books of `me`; the amounts sum to exactly 0.

    Raises:
        ValueError: `me` is not exactly one of its two parties.
    """
    role, other = side(receipt, me)
    return moved(role, other, receipt.price_microcredits)


def moved(role: Role, other: PeerId, price: Microcredits) -> tuple[Entry, Entry]:
    """What a receipt over `price` with `other` moves in the books of whoever has `role` in it."""
    if role == "seller":
        return Entry(PEER_ACCOUNT + other, price), Entry("income", -price)
    return Entry(PEER_ACCOUNT + other, -price), Entry("expense", price)


def moved_back(role: Role, other: PeerId, price: Microcredits) -> tuple[Entry, Entry]:
    """What the refund of such a receipt moves: the same two accounts, reversed."""
    one, two = moved(role, other, price)
    return Entry(one.account, -one.amount_microcredits), Entry(two.account, -two.amount_microcredits)


def gives_back(refund: Refund, ident: bytes, receipt: Receipt) -> bool:
    """Whether `refund` undoes exactly what the receipt of that id moved."""
    return (refund.receipt_id, refund.buyer, refund.seller, refund.price_microcredits) == (
        ident,
        receipt.buyer,
        receipt.seller,
        receipt.price_microcredits,
    )


def state(*, acknowledged: bool, disputed: bool, refunded: bool) -> State:
    """What has become of a receipt."""
    if refunded:
        return "refunded"
    if disputed:
        return "disputed"
    return "settled" if acknowledged else "not yet"


def movements(book: Book) -> list[Movement]:
    """All receipts and refunds in the order of booking, each with the balance that it led to.

    Raises:
        RemoteError: a body is malformed.
    """
    first: dict[bytes, int] = {}
    last: dict[bytes, int] = {}
    for place, (ident, _) in enumerate(book.entries):
        first.setdefault(ident, place)
        last[ident] = place
    end = len(book.entries)
    booked = [(first.get(row.receipt_id, end), row, False) for row in book.rows]
    booked += [(last.get(row.receipt_id, end), row, True) for row in book.rows if row.receipt_id in book.refunds]
    balances: defaultdict[PeerId, Microcredits] = defaultdict(int)
    found = []
    for _, row, back in sorted(booked, key=lambda movement: movement[0]):
        change = (moved_back if back else moved)(row.role, row.other, row.price_microcredits)[0]
        balances[row.other] += change.amount_microcredits
        found.append(
            Movement(
                kind="refund" if back else "receipt",
                at_ms=refund_in(book.refunds[row.receipt_id].body).issued_ms if back else row.issued_ms,
                receipt_id=row.receipt_id,
                receipt=receipt_in(row.signed.body),
                role=row.role,
                other=row.other,
                balance_microcredits=balances[row.other],
                state=state(
                    acknowledged=row.acknowledged,
                    disputed=row.receipt_id in book.disputed,
                    refunded=row.receipt_id in book.refunds,
                ),
            )
        )
    return found


def audit(books: Mapping[PeerId, Iterable[SignedReceipt]], keys: Keys) -> AuditReport:
    """Whether the books of several peers, each from its own database, tell one story.

    Only good copies count: well-formed, signed by both parties, held by one of them. A receipt with a party whose book
    is not in `books` has its signatures checked and nothing more, so that a single book can be audited by itself.
    """
    bad: set[bytes] = set()
    held: dict[bytes, tuple[Receipt, set[PeerId]]] = {}
    for holder, book in books.items():
        for signed in book:
            receipt = good_receipt(signed, holder, keys)
            if receipt is None:
                bad.add(signed.receipt_id)
            else:
                held.setdefault(signed.receipt_id, (receipt, set()))[1].add(holder)

    one_sided: list[bytes] = []
    residues: defaultdict[frozenset[PeerId], Microcredits] = defaultdict(int)
    for ident, (receipt, holders) in held.items():
        parties = frozenset((PeerId(receipt.buyer), PeerId(receipt.seller)))
        if not parties <= books.keys():
            continue
        if holders != parties:
            one_sided.append(ident)
        residues[parties] += sum(entries(receipt, holder)[0].amount_microcredits for holder in holders)
    return AuditReport(
        receipts=len(held),
        bad_signatures=tuple(sorted(bad)),
        one_sided=tuple(sorted(one_sided)),
        residue_microcredits=sum(map(abs, residues.values())),
    )


def good_receipt(signed: SignedReceipt, holder: PeerId, keys: Keys) -> Receipt | None:
    """The receipt if it is well-formed, signed by both of its parties and `holder` is one of them."""
    try:
        receipt = receipt_in(signed.body)
        side(receipt, holder)
    except (RemoteError, ValueError):
        return None
    domain = SIGNED_DOMAINS[Receipt]
    both = keys.verify(PeerId(receipt.seller), domain, signed.body, signed.seller_signature) and keys.verify(
        PeerId(receipt.buyer), domain, signed.body, signed.buyer_signature
    )
    return receipt if both else None
