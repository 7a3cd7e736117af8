"""What the ledger's database is asked and told, in SQL. Blocking: one thread at a time is inside.

A disputed or refunded receipt keeps its row; a dispute and a refund are rows of their own beside it.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct

from p2pagent.ledger import (
    Role,
    SignedReceipt,
    State,
    entries,
    moved_back,
    receipt_in,
    refund_in,
    side,
    state,
)
from p2pagent.peer.events import Outcome
from p2pagent.peer.messages import Dispute, Receipt, SignedRefund
from p2pagent.types import Microcredits, PeerId

BOOKED = """
    SELECT id, receipts.body, role, other, receipts.acknowledged, reason, raised_ms, refunds.body IS NOT NULL, good,
        automatic
    FROM receipts LEFT JOIN disputes ON disputes.receipt_id = id LEFT JOIN refunds ON refunds.receipt_id = id
    LEFT JOIN deliveries ON deliveries.receipt_id = id
"""
SIGNED_RECEIPTS = "SELECT body, seller_signature, buyer_signature FROM receipts"
TURNOVERS = """
    SELECT other, sum(iif(role = 'buyer' AND refunds.body IS NULL, price_microcredits, 0)),
        sum(iif(role = 'seller' AND refunds.body IS NULL, price_microcredits, 0))
    FROM receipts LEFT JOIN refunds ON refunds.receipt_id = id GROUP BY other
"""
_NEXT_INCARNATION = """
    INSERT INTO meta VALUES ('incarnation', ?)
    ON CONFLICT (key) DO UPDATE SET value = max(value + 1, excluded.value) RETURNING value
"""

Value = bytes | str | int
Row = tuple[Any, ...]
_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")


class Booked(Struct, frozen=True):
    """A receipt in the ledger. `role` is ours in it; `acknowledged`: the seller is known to have booked it too."""

    receipt_id: bytes
    receipt: Receipt
    role: Role
    other: PeerId
    acknowledged: bool
    reason: str | None
    """Why its buyer disputes it; None if it does not."""
    raised_ms: int | None
    refunded: bool
    good: bool | None
    """How its answer was rated; None if it was not, or was sold."""
    automatic: bool
    """A recount raised the dispute, and not the user."""

    @property
    def state(self) -> State:
        """What has become of it."""
        return state(acknowledged=self.acknowledged, disputed=self.reason is not None, refunded=self.refunded)


class Turnover(Struct, frozen=True):
    """All that was bought of a peer and sold to it, refunds taken off."""

    bought_microcredits: Microcredits
    sold_microcredits: Microcredits

    @property
    def turnover_microcredits(self) -> Microcredits:
        """Both directions added: what raises a credit limit."""
        return self.bought_microcredits + self.sold_microcredits


class Database:
    """The blocking core. Not thread-safe: its owner sees to it that one thread at a time is inside."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, sql: str, *parameters: Value) -> list[Row]:
        """All rows of a query."""
        return self._connection.execute(sql, parameters).fetchall()

    def write(self, *statements: tuple[str, Sequence[Sequence[Value]]]) -> None:
        """Run each statement once per row of parameters, all in one transaction."""
        with self._connection:
            for sql, rows in statements:
                self._connection.executemany(sql, rows)

    def post(self, batch: Sequence["Booking"]) -> list[bool]:
        """Book all of `batch` or, on an error, nothing; for each whether it is new."""
        with self._connection:
            return [self._book(booking) for booking in batch]

    def _book(self, booking: "Booking") -> bool:
        cursor = self._connection.execute(
            "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", booking.row
        )
        if not cursor.rowcount:
            return False
        self._connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", booking.entries)
        return True

    def transact(self, call: Callable[[sqlite3.Connection, *_Args], _T], *args: *_Args) -> _T:
        """Run `call` in one transaction: all that it writes is kept, or on an error nothing."""
        with self._connection:
            return call(self._connection, *args)

    def next_incarnation(self, now_ms: int) -> int:
        """A number above every earlier one, and at least `now_ms`."""
        with self._connection:
            rows = self.read(_NEXT_INCARNATION, now_ms)
        return int(rows[0][0])


class Booking(Struct, eq=False):
    """A receipt on its way into the ledger, as rows; `new` once it is there."""

    row: tuple[Value, ...]
    entries: Sequence[tuple[Value, ...]]
    new: bool | None = None


def span(prefix: str) -> list[bytes]:
    """The first and the last id that begin with these hex digits."""
    return [bytes.fromhex(prefix.ljust(64, digit)) for digit in "0f"]


def booking_of(signed: SignedReceipt, me: PeerId) -> Booking:
    """What `signed` will be in the ledger of `me`.

    Raises:
        RemoteError: malformed.
        ValueError: `me` is not exactly one of its two parties.
    """
    receipt = receipt_in(signed.body)
    role, other = side(receipt, me)
    moved = [(signed.receipt_id, entry.account, entry.amount_microcredits) for entry in entries(receipt, me)]
    signatures = (signed.seller_signature, signed.buyer_signature)
    what = (role, other, receipt.price_microcredits, receipt.issued_ms)
    return Booking((signed.receipt_id, signed.body, *signatures, *what, role == "seller"), moved)


def booked(row: Row) -> Booked:
    """The receipt in a row of `BOOKED`."""
    ident, body, role, other, acknowledged, reason, raised_ms, refunded, good, automatic = row
    return Booked(
        receipt_id=ident,
        receipt=receipt_in(body),
        role=role,
        other=PeerId(other),
        acknowledged=bool(acknowledged),
        reason=reason,
        raised_ms=raised_ms,
        refunded=bool(refunded),
        good=None if good is None else bool(good),
        automatic=bool(automatic),
    )


def keep_dispute(connection: sqlite3.Connection, dispute: Dispute, raised_ms: int, *, automatic: bool = False) -> bool:
    """Keep the dispute of a receipt in the ledger; False if it was in dispute or refunded before."""
    cursor = connection.execute(
        "INSERT INTO disputes SELECT ?1, ?2, ?3, ?4 WHERE ?1 NOT IN (SELECT receipt_id FROM refunds)"
        " ON CONFLICT (receipt_id) DO NOTHING",
        (dispute.receipt_id, dispute.reason, raised_ms, automatic),
    )
    return bool(cursor.rowcount)


def record_dispute(
    connection: sqlite3.Connection, buyer: PeerId, dispute: Dispute, raised_ms: int
) -> SignedRefund | None:
    """Keep what `buyer` disputes if it was sold to it, and give back the refund if there is one already."""
    sale = "SELECT 1 FROM receipts WHERE id = ? AND role = 'seller' AND other = ?"
    if connection.execute(sale, (dispute.receipt_id, buyer)).fetchone() is None:
        return None
    found = "SELECT body, signature FROM refunds WHERE receipt_id = ?"
    refund = connection.execute(found, (dispute.receipt_id,)).fetchone()
    if refund is not None:
        return SignedRefund(*refund)
    keep_dispute(connection, dispute, raised_ms)
    return None


def book_refund(connection: sqlite3.Connection, me: PeerId, signed: SignedRefund) -> Outcome:
    """Book a refund between `me` and another whose signature was verified, unless it fits no receipt of ours."""
    refund = refund_in(signed.body)
    role, other = side(refund, me)
    deal = "SELECT role, other, price_microcredits FROM receipts WHERE id = ?"
    wanted: tuple[Any, ...] = (role, other, refund.price_microcredits)
    ours = connection.execute(deal, (refund.receipt_id,)).fetchone()
    if ours != wanted:
        return "missing" if ours is None else "unfounded"
    cursor = connection.execute(
        "INSERT INTO refunds VALUES (?, ?, ?, ?) ON CONFLICT (receipt_id) DO NOTHING",
        (refund.receipt_id, signed.body, signed.signature, role == "buyer"),
    )
    if not cursor.rowcount:
        return "known"
    back = moved_back(role, other, refund.price_microcredits)
    rows = [(refund.receipt_id, entry.account, entry.amount_microcredits) for entry in back]
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
    return "new"
