"""What a device must not forget: its ledger, what it measured of its agents, the directory it knew, its incarnation.

One SQLite file. `Store` is the trio side: it lets one worker thread at a time into the blocking `Database`, and books
all receipts that wait for their turn in one transaction: a busy ledger pays for one fsync per batch, not per receipt.
"""

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio
from msgspec import Struct

from p2pagent.database import faults, opened, schema_version
from p2pagent.errors import LocalError
from p2pagent.ledger import PEER_ACCOUNT, Role, SignedReceipt, entries, receipt_in, side
from p2pagent.peer.wire import Receipt, SignedRecord
from p2pagent.types import Microcredits, PeerId

CACHE_ROWS_MAX = 256
"""More than one device's agents times the calibrations they are ever measured by; the oldest go first."""
RECORDS_MAX = 1024
"""As many as one gossip digest can name."""
UNACKNOWLEDGED_MAX = 4096
"""The newest are the ones whose seller is most likely still there."""
BATCH_MAX = 256
"""Receipts per transaction: what the last of them waits stays a matter of milliseconds."""

_SIGNED_RECEIPTS = "SELECT body, seller_signature, buyer_signature FROM receipts"
_NEXT_INCARNATION = """
    INSERT INTO meta VALUES ('incarnation', ?)
    ON CONFLICT (key) DO UPDATE SET value = max(value + 1, excluded.value) RETURNING value
"""
_FORGET_OLDEST = """
    DELETE FROM capabilities
    WHERE rowid <= (SELECT rowid FROM capabilities ORDER BY rowid DESC LIMIT 1 OFFSET ?)
"""

_Value = bytes | str | int
_Row = tuple[Any, ...]
_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")


class Booked(Struct, frozen=True):
    """A receipt in the ledger. `role` is ours in it; `acknowledged`: the seller is known to have booked it too."""

    receipt_id: bytes
    receipt: Receipt
    role: Role
    other: PeerId
    acknowledged: bool


class Database:
    """The blocking core. Not thread-safe: its owner sees to it that one thread at a time is inside."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, sql: str, *parameters: _Value) -> list[_Row]:
        """All rows of a query."""
        return self._connection.execute(sql, parameters).fetchall()

    def write(self, *statements: tuple[str, Sequence[Sequence[_Value]]]) -> None:
        """Run each statement once per row of parameters, all in one transaction."""
        with self._connection:
            for sql, rows in statements:
                self._connection.executemany(sql, rows)

    def post(self, batch: Sequence["_Booking"]) -> list[bool]:
        """Book all of `batch` or, on an error, nothing; for each whether it is new."""
        with self._connection:
            return [self._book(booking) for booking in batch]

    def _book(self, booking: "_Booking") -> bool:
        cursor = self._connection.execute(
            "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", booking.row
        )
        if not cursor.rowcount:
            return False
        self._connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", booking.entries)
        return True

    def next_incarnation(self, now_ms: int) -> int:
        """A number above every earlier one, and at least `now_ms`."""
        with self._connection:
            rows = self.read(_NEXT_INCARNATION, now_ms)
        return int(rows[0][0])


class _Booking(Struct, eq=False):
    """A receipt on its way into the ledger, as rows; `new` once it is there."""

    row: tuple[_Value, ...]
    entries: Sequence[tuple[_Value, ...]]
    new: bool | None = None


def _booking(signed: SignedReceipt, me: PeerId) -> _Booking:
    receipt = receipt_in(signed.body)
    role, other = side(receipt, me)
    moved = [(signed.receipt_id, entry.account, entry.amount_microcredits) for entry in entries(receipt, me)]
    signatures = (signed.seller_signature, signed.buyer_signature)
    what = (role, other, receipt.price_microcredits, receipt.issued_ms)
    return _Booking((signed.receipt_id, signed.body, *signatures, *what, role == "seller"), moved)


class Store:
    """The database, from trio. Every method may raise `LocalError` (disk full, damaged file) besides what it names."""

    def __init__(self, thread: "_Thread", database: Database, me: PeerId) -> None:
        self._thread = thread
        self._database = database
        self._me = me
        self._turn = trio.Lock()
        self._queue: deque[_Booking] = deque()

    async def post(self, receipt_body: bytes, seller_signature: bytes, buyer_signature: bytes) -> bool:
        """Book a receipt whose two signatures were verified; whether it was new. On return it is on the disk.

        A cancelled caller is kept waiting for it: what both sides have signed is not left half told.

        Raises:
            RemoteError: malformed.
            ValueError: this device is not exactly one of its two parties.
        """
        booking = _booking(SignedReceipt(receipt_body, seller_signature, buyer_signature), self._me)
        with trio.CancelScope(shield=True):
            self._queue.append(booking)
            async with self._turn:
                while booking.new is None:
                    await self._post_queue(booking)
        assert booking.new is not None
        return booking.new

    async def _post_queue(self, mine: _Booking) -> None:
        batch = list(islice(self._queue, BATCH_MAX))
        try:
            news = await self._thread(self._database.post, batch)
        except LocalError:
            self._queue.remove(mine)  # the others will try for themselves when it is their turn
            raise
        for booking, new in zip(batch, news, strict=True):
            booking.new = new
            self._queue.popleft()

    async def acknowledge(self, receipt_id: bytes) -> None:
        """The seller has booked this receipt: it need not be sent again."""
        await self._alone(self._database.write, ("UPDATE receipts SET acknowledged = 1 WHERE id = ?", [(receipt_id,)]))

    async def unacknowledged(self) -> list[SignedReceipt]:
        """Receipts for which this device owes and the seller has not confirmed; the newest 4096, newest first."""
        sql = f"{_SIGNED_RECEIPTS} WHERE acknowledged = 0 ORDER BY rowid DESC LIMIT ?"
        return [SignedReceipt(*row) for row in await self._alone(self._database.read, sql, UNACKNOWLEDGED_MAX)]

    async def all_receipts(self) -> list[SignedReceipt]:
        """The whole ledger in the order of booking, for an audit."""
        sql = f"{_SIGNED_RECEIPTS} ORDER BY rowid"
        return [SignedReceipt(*row) for row in await self._alone(self._database.read, sql)]

    async def receipts(self, limit: int) -> list[Booked]:
        """The latest `limit` receipts, newest first by the order of booking (clocks of others may lie)."""
        sql = "SELECT id, body, role, other, acknowledged FROM receipts ORDER BY rowid DESC LIMIT ?"
        rows = await self._alone(self._database.read, sql, max(limit, 0))
        return [Booked(row[0], receipt_in(row[1]), row[2], PeerId(row[3]), bool(row[4])) for row in rows]

    async def balances(self) -> dict[PeerId, Microcredits]:
        """What each peer ever dealt with owes us in microcredits; negative where we owe it."""
        sql = "SELECT account, sum(amount_microcredits) FROM entries WHERE account GLOB ? GROUP BY account"
        rows = await self._alone(self._database.read, sql, PEER_ACCOUNT + "*")
        return {PeerId(account.removeprefix(PEER_ACCOUNT)): balance for account, balance in rows}

    async def volumes(self) -> dict[PeerId, Microcredits]:
        """Settled turnover with each peer in microcredits, both directions added."""
        sql = "SELECT other, sum(price_microcredits) FROM receipts GROUP BY other"
        return dict(await self._alone(self._database.read, sql))

    async def next_incarnation(self, now_ms: int) -> int:
        """A number above every earlier one, and at least `now_ms` (Unix time), even where the clock has gone back."""
        return await self._alone(self._database.next_incarnation, now_ms)

    async def cached(self, key: str) -> bytes | None:
        """What was cached under `key`, or None."""
        rows = await self._alone(self._database.read, "SELECT value FROM capabilities WHERE key = ?", key)
        return rows[0][0] if rows else None

    async def cache(self, key: str, value: bytes) -> None:
        """Keep `value` (at most 64 KiB) under `key` (at most 1024 characters); the 256 written last are kept."""
        # REPLACE gives the row a new, highest rowid: rowid order is the order of writing.
        put = ("REPLACE INTO capabilities VALUES (?, ?)", [(key, value)])
        await self._alone(self._database.write, put, (_FORGET_OLDEST, [(CACHE_ROWS_MAX,)]))

    async def save_records(self, records: Sequence[SignedRecord]) -> None:
        """Replace the snapshot of the directory by the first 1024 of `records`."""
        put = ("INSERT INTO records VALUES (?, ?)", [(each.body, each.signature) for each in records[:RECORDS_MAX]])
        await self._alone(self._database.write, ("DELETE FROM records", [()]), put)

    async def load_records(self) -> list[SignedRecord]:
        """The last snapshot of the directory. Leases may have run out since."""
        rows = await self._alone(self._database.read, "SELECT body, signature FROM records ORDER BY rowid")
        return [SignedRecord(*row) for row in rows]

    async def _alone(self, call: Callable[[*_Args], _T], *args: *_Args) -> _T:
        async with self._turn:
            return await self._thread(call, *args)


@asynccontextmanager
async def open_store(path: Path, me: PeerId) -> AsyncIterator[Store]:
    """The store of peer `me` at `path`, made if there is none. Leave the block after the last task that uses it.

    Raises:
        LocalError: in use by another daemon, another peer's, of a newer version, damaged, or not to be opened.
    """
    thread = _Thread(path)
    with ExitStack() as stack:
        connection = await thread(stack.enter_context, opened(path, me))
        try:
            yield Store(thread, Database(connection), me)
        finally:
            with trio.CancelScope(shield=True):
                await thread(stack.close)


def read_receipts(path: Path) -> list[SignedReceipt]:
    """The ledger of another daemon, running or stopped, in the order of booking. Blocks; nothing is written to it.

    Raises:
        LocalError: missing, damaged, of a newer version, or not a store.
    """
    with faults(path), closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as connection:
        schema_version(connection, path)
        return [SignedReceipt(*row) for row in Database(connection).read(f"{_SIGNED_RECEIPTS} ORDER BY rowid")]


class _Thread:
    """A worker thread of its own, so that no other blocking work of the daemon delays the ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, call: Callable[[*_Args], _T], *args: *_Args) -> _T:
        with faults(self._path):
            return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)
