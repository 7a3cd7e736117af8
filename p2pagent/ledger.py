"""The double-entry rules: what a receipt moves in one peer's books, and whether the books of several peers agree.

A ledger has one account per peer it deals with (`peer:<id>`, positive where that peer owes us) and two of its own:
`income`, negative as a credit is, and `expense`. Every receipt moves two accounts by opposite amounts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.wire import SIGNED_DOMAINS, Receipt, parsed, receipt_id
from p2pagent.types import Microcredits, PeerId

Role = Literal["buyer", "seller"]

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
    receipt = parsed(body, Receipt)
    assert isinstance(receipt, Receipt)
    return receipt


def side(receipt: Receipt, me: PeerId) -> tuple[Role, PeerId]:
    """The role of `me` in `receipt`, and the other party.

    Raises:
        ValueError: `me` is not exactly one of its two parties.
    """
    buyer, seller = PeerId(receipt.buyer), PeerId(receipt.seller)
    if (me == buyer) == (me == seller):
        raise ValueError(f"{me} is not one side of a receipt between {buyer} and {seller}")
    return ("buyer", seller) if me == buyer else ("seller", buyer)


def entries(receipt: Receipt, me: PeerId) -> tuple[Entry, ...]:
    """What `receipt` moves in the books of `me`; the amounts sum to exactly 0.

    Raises:
        ValueError: `me` is not exactly one of its two parties.
    """
    role, other = side(receipt, me)
    price = receipt.price_microcredits
    if role == "seller":
        return Entry(PEER_ACCOUNT + other, price), Entry("income", -price)
    return Entry(PEER_ACCOUNT + other, -price), Entry("expense", price)


def audit(books: Mapping[PeerId, Iterable[SignedReceipt]], keys: Keys) -> AuditReport:
    """Whether the books of several peers, each from its own database, tell one story.

    Only good copies count: well-formed, signed by both parties, held by one of them. A receipt with a party whose book
    is not in `books` has its signatures checked and nothing more, so that a single book can be audited by itself.
    """
    bad: set[bytes] = set()
    held: dict[bytes, tuple[Receipt, set[PeerId]]] = {}
    for holder, book in books.items():
        for signed in book:
            receipt = _good(signed, holder, keys)
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


def _good(signed: SignedReceipt, holder: PeerId, keys: Keys) -> Receipt | None:
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
