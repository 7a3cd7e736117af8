"""What a device must not forget: its ledger, what it measured of its agents, the directory it knew, its incarnation.

One SQLite file. `Store` is the trio side: it lets one worker thread at a time into the blocking `Database`, and books
all receipts that wait for their turn in one transaction: a busy ledger pays for one fsync per batch, not per receipt.
"""

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio
from msgspec import Struct

from p2pagent.errors import Exit, LocalError
from p2pagent.ledger import PEER_ACCOUNT, Role, SignedReceipt, entries, receipt_in, side
from p2pagent.peer.wire import Receipt, SignedRecord
from p2pagent.types import Microcredits, PeerId

CACHE_ROWS_MAX = 256
"""More than one device's agents times the calibrations they are ever measured by; the oldest go first."""
RECORDS_MAX = 4096
"""As many as one gossip digest can name."""
UNACKNOWLEDGED_MAX = 4096
"""The newest are the ones whose seller is most likely still there."""
BATCH_MAX = 256
"""Receipts per transaction: what the last of them waits stays a matter of milliseconds."""

_APPLICATION_ID = 0x70327061  # "p2pa", shown by file(1)
_MIGRATIONS = (
    f"""
    PRAGMA application_id = {_APPLICATION_ID};
    CREATE TABLE receipts (
        id BLOB PRIMARY KEY NOT NULL,
        body BLOB NOT NULL,
        seller_signature BLOB NOT NULL,
        buyer_signature BLOB NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('buyer', 'seller')),
        other TEXT NOT NULL,
        price_microcredits INTEGER NOT NULL CHECK (price_microcredits >= 0),
        issued_ms INTEGER NOT NULL,
        acknowledged INTEGER NOT NULL CHECK (acknowledged IN (0, 1))
    ) STRICT;
    CREATE INDEX receipts_unacknowledged ON receipts (acknowledged) WHERE acknowledged = 0;
    CREATE INDEX receipts_by_other ON receipts (other, price_microcredits);
    CREATE TABLE entries (
        receipt_id BLOB NOT NULL REFERENCES receipts (id),
        account TEXT NOT NULL,
        amount_microcredits INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX entries_by_account ON entries (account, amount_microcredits);
    CREATE TABLE capabilities (
        key TEXT PRIMARY KEY NOT NULL CHECK (length(key) <= 1024),
        value BLOB NOT NULL CHECK (length(value) <= 65536)
    ) STRICT;
    CREATE TABLE records (body BLOB NOT NULL, signature BLOB NOT NULL) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value ANY NOT NULL) STRICT;
    """,
)
"""Each brings the schema one version on; `PRAGMA user_version` counts those that have run."""

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
        """Replace the snapshot of the directory by the first 4096 of `records`."""
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
        database = await thread(stack.enter_context, _open_database(path, me))
        try:
            yield Store(thread, database, me)
        finally:
            with trio.CancelScope(shield=True):
                await thread(stack.close)


def read_receipts(path: Path) -> list[SignedReceipt]:
    """The ledger of another daemon, running or stopped, in the order of booking. Blocks; nothing is written to it.

    Raises:
        LocalError: missing, damaged, of a newer version, or not a store.
    """
    with _faults(path), closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as connection:
        _schema_version(connection, path)
        return [SignedReceipt(*row) for row in Database(connection).read(f"{_SIGNED_RECEIPTS} ORDER BY rowid")]


class _Thread:
    """A worker thread of its own, so that no other blocking work of the daemon delays the ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, call: Callable[[*_Args], _T], *args: *_Args) -> _T:
        with _faults(self._path):
            return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)


@contextmanager
def _open_database(path: Path, me: PeerId) -> Iterator[Database]:
    # The guard is a database of its own: SQLite's exclusive mode on the store itself would shut out audits too.
    guard_path = path.with_name(path.name + ".lock")
    with (
        closing(sqlite3.connect(guard_path, timeout=0, check_same_thread=False)) as guard,
        closing(sqlite3.connect(path, timeout=5, check_same_thread=False)) as connection,
    ):
        guard.execute("BEGIN EXCLUSIVE")
        version = _schema_version(connection, path)
        # 3 ms per thousand receipts, once: better than balances summed up from a damaged page.
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise LocalError(f"the ledger {path} {_DAMAGED[0]} ({verdict})", _DAMAGED[1], Exit.STORE)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")
        with connection:
            connection.execute("INSERT INTO meta VALUES ('owner', ?) ON CONFLICT (key) DO NOTHING", (me,))
        (owner,) = connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        if owner != me:
            raise LocalError(
                f"the ledger {path} belongs to {owner}, and this device is now {me}",
                "restore the key that goes with it, or move the ledger away",
                Exit.STORE,
            )
        yield Database(connection)


def _schema_version(connection: sqlite3.Connection, path: Path) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION_ID and (application or version or tables):
        raise LocalError(f"{path} is not a p2pagent ledger", "move that file away", Exit.STORE)
    if version > len(_MIGRATIONS):
        raise LocalError(
            f"the ledger {path} has schema version {version}, this program knows {len(_MIGRATIONS)}",
            "install the newer p2pagent that wrote it",
            Exit.STORE,
        )
    return int(version)


_DAMAGED = ("is damaged", "restore it from a backup, or move it away to start with an empty one")
_UNREACHABLE = ("cannot be used", "check that its folder exists, is yours and can be written")
_FAULTS = {
    sqlite3.SQLITE_BUSY: ("is in use", "stop the other p2pagent daemon, or give this one a data folder of its own"),
    sqlite3.SQLITE_FULL: ("has no room left on its disk", "free some space; all that was booked before is safe"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _UNREACHABLE,
    sqlite3.SQLITE_PERM: _UNREACHABLE,
    sqlite3.SQLITE_READONLY: _UNREACHABLE,
    sqlite3.SQLITE_IOERR: _UNREACHABLE,
}
"""By primary result code. Any other code is a bug of ours and stays what it is."""


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        fault = _FAULTS.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF)
        if fault is None:
            raise
        cause, hint = fault
        raise LocalError(f"the ledger {path} {cause} ({error})", hint, Exit.STORE) from error
