"""The store of a daemon, running or stopped, read without it for audits, exports and explanations. Read only."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from p2pagent import ratings
from p2pagent.books import SIGNED_RECEIPTS, Database, span
from p2pagent.database import SCHEMA_VERSION, faults, schema_version
from p2pagent.errors import Exit, LocalError
from p2pagent.ledger import Book, Entry, Row, SignedReceipt
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import SignedRefund
from p2pagent.ratings import Judged
from p2pagent.types import PeerId


class Named(Struct, frozen=True):
    """What the beginning of an id names in a store: receipts, how they came about, sheets; each by its whole id."""

    receipts: dict[bytes, SignedReceipt]
    explanations: dict[bytes, bytes]
    sheets: dict[bytes, SignedSheet]
    judged: dict[bytes, Judged]


def read_receipts(path: Path) -> list[SignedReceipt]:
    """The ledger of another daemon, running or stopped, in the order of booking. Blocks; nothing is written to it.

    Raises:
        LocalError: missing, damaged, of a newer version, or not a store.
    """
    with _reading(path) as connection:
        schema_version(connection, path)
        return [SignedReceipt(*row) for row in Database(connection).read(f"{SIGNED_RECEIPTS} ORDER BY rowid")]


def read_book(path: Path) -> Book:
    """All that the ledger of a daemon holds, running or stopped, at one moment. Blocks; writes nothing.

    Raises:
        LocalError: missing, damaged, of another version, or not a store.
    """
    with _reading(path) as connection:
        _require_current(connection, path)
        read = Database(connection).read
        connection.execute("BEGIN")  # a daemon may be booking meanwhile
        ((owner,),) = read("SELECT value FROM meta WHERE key = 'owner'")
        rows = read(
            "SELECT id, body, seller_signature, buyer_signature, role, other, price_microcredits, issued_ms,"
            " acknowledged FROM receipts ORDER BY rowid"
        )
        refunds = read("SELECT receipt_id, body, signature FROM refunds ORDER BY rowid")
        disputes = read("SELECT receipt_id FROM disputes")
        moves = read("SELECT receipt_id, account, amount_microcredits FROM entries ORDER BY rowid")
    return Book(
        owner=PeerId(owner),
        rows=tuple(
            Row(ident, SignedReceipt(*signed), role, PeerId(other), price, issued_ms, bool(acknowledged))
            for ident, *signed, role, other, price, issued_ms, acknowledged in rows
        ),
        refunds={ident: SignedRefund(body, signature) for ident, body, signature in refunds},
        disputed=frozenset(ident for (ident,) in disputes),
        entries=tuple((ident, Entry(account, amount)) for ident, account, amount in moves),
    )


def read_named(path: Path, prefix: str) -> Named:
    """What `prefix`, up to 64 hex digits, names in the store of a daemon, running or stopped. Blocks; writes nothing.

    Raises:
        LocalError: missing, damaged, of another version, or not a store.
    """
    ids = span(prefix)
    with _reading(path) as connection:
        _require_current(connection, path)
        read = Database(connection).read
        receipts = read(
            "SELECT id, body, seller_signature, buyer_signature FROM receipts WHERE id BETWEEN ? AND ?", *ids
        )
        explanations = read("SELECT receipt_id, body FROM explanations WHERE receipt_id BETWEEN ? AND ?", *ids)
        sheets = read("SELECT id, body, signature FROM sheets WHERE id BETWEEN ? AND ?", *ids)
        judged = {row[0]: ratings.judged(connection, row[0]) for row in receipts}
    return Named(
        receipts={row[0]: SignedReceipt(*row[1:]) for row in receipts},
        explanations=dict(explanations),
        sheets={row[0]: SignedSheet(*row[1:]) for row in sheets},
        judged={ident: each for ident, each in judged.items() if each is not None},
    )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The database at `path`, not to be written to. Its faults are the owner's to mend."""
    with faults(path), closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as connection:
        yield connection


def _require_current(connection: sqlite3.Connection, path: Path) -> None:
    if schema_version(connection, path) < SCHEMA_VERSION:
        cause = f"the ledger {path} is empty or of an older p2pagent"
        raise LocalError(cause, "`p2pagent up` brings it up to date", Exit.STORE)
