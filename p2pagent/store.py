"""What a device must not forget: its ledger, what it measured of its agents, the directory it knew, its incarnation.

One SQLite file. `Store` is the trio side: it lets one worker thread at a time into the blocking `Database`, and books
all receipts that wait for their turn in one transaction: a busy ledger pays for one fsync per batch, not per receipt.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from p2pagent import books, ratings
from p2pagent.books import (
    BOOKED,
    SIGNED_RECEIPTS,
    TURNOVERS,
    Booked,
    Booking,
    Database,
    Turnover,
    booked,
    booking_of,
    span,
)
from p2pagent.database import faults, opened
from p2pagent.errors import Exit, LocalError
from p2pagent.ledger import PEER_ACCOUNT, SignedReceipt
from p2pagent.peer.effects import Learned
from p2pagent.peer.events import Delivery, Disputed, Outcome, Rated, Rating
from p2pagent.peer.gossip_messages import SignedRecord
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import Dispute, SignedRefund
from p2pagent.types import AgentRef, Microcredits, PeerId

CACHE_ROWS_MAX = 256
"""More than one device's agents times the calibrations they are ever measured by; the oldest go first."""
SHEETS_MAX = 256
EXPLANATIONS_MAX = 1024
RECORDS_MAX = 1024
"""As many as one gossip digest can name."""
UNACKNOWLEDGED_MAX = 4096
"""The newest are the ones whose seller is most likely still there."""
BATCH_MAX = 256
"""Receipts per transaction: what the last of them waits stays a matter of milliseconds."""

FILE = "store.db"
"""Its name in a device's folder."""

_FORGET_OLDEST, _FORGET_SHEETS, _FORGET_EXPLANATIONS = (
    f"DELETE FROM {table} WHERE rowid <= (SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1 OFFSET ?)"  # noqa: S608
    for table in ("capabilities", "sheets", "explanations")
)

_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")


class Store:
    """The database, from trio. Every method may raise `LocalError` (disk full, damaged file) besides what it names."""

    def __init__(self, thread: "_Thread", database: Database, me: PeerId) -> None:
        self._thread = thread
        self._database = database
        self._me = me
        self._turn = trio.Lock()
        self._queue: deque[Booking] = deque()

    async def post(self, receipt_body: bytes, seller_signature: bytes, buyer_signature: bytes) -> bool:
        """Book a receipt whose two signatures were verified; whether it was new. On return it is on the disk.

        A cancelled caller is kept waiting for it: what both sides have signed is not left half told.

        Raises:
            RemoteError: malformed.
            ValueError: this device is not exactly one of its two parties.
        """
        booking = booking_of(SignedReceipt(receipt_body, seller_signature, buyer_signature), self._me)
        with trio.CancelScope(shield=True):
            self._queue.append(booking)
            async with self._turn:
                while booking.new is None:
                    await self._post_queue(booking)
        assert booking.new is not None
        return booking.new

    async def _post_queue(self, mine: Booking) -> None:
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
        sql = f"{SIGNED_RECEIPTS} WHERE acknowledged = 0 ORDER BY rowid DESC LIMIT ?"
        return [SignedReceipt(*row) for row in await self._alone(self._database.read, sql, UNACKNOWLEDGED_MAX)]

    async def all_receipts(self) -> list[SignedReceipt]:
        """The whole ledger in the order of booking, for an audit."""
        sql = f"{SIGNED_RECEIPTS} ORDER BY rowid"
        return [SignedReceipt(*row) for row in await self._alone(self._database.read, sql)]

    async def receipts(self, limit: int) -> list[Booked]:
        """The latest `limit` receipts, newest first by the order of booking (clocks of others may lie)."""
        sql = f"{BOOKED} ORDER BY receipts.rowid DESC LIMIT ?"
        return [booked(row) for row in await self._alone(self._database.read, sql, max(limit, 0))]

    async def disputed(self, limit: int) -> list[Booked]:
        """The latest `limit` receipts in dispute and not refunded, on either side, newest dispute first."""
        sql = f"{BOOKED} WHERE reason IS NOT NULL AND refunds.body IS NULL ORDER BY disputes.rowid DESC LIMIT ?"
        return [booked(row) for row in await self._alone(self._database.read, sql, max(limit, 0))]

    async def find(self, prefix: str) -> Booked:
        """The one receipt whose id begins with `prefix`, 6 to 64 hex digits.

        Raises:
            LocalError: there is none, or more than one.
        """
        ids = span(prefix)
        rows = await self._alone(self._database.read, f"{BOOKED} WHERE id BETWEEN ? AND ? LIMIT 2", *ids)
        if len(rows) != 1:
            cause = "more than one receipt begins with" if rows else "no receipt here begins with"
            raise LocalError(f"{cause} {prefix}", "`p2pagent ledger` lists the latest receipts", Exit.STORE)
        return booked(rows[0])

    async def raise_dispute(self, dispute: Dispute, raised_ms: int, *, automatic: bool = False) -> bool:
        """Keep a dispute of a receipt in which we are the buyer; False if it was in dispute or refunded before.

        It is `automatic` where no user raised it.
        """
        keep = partial(books.keep_dispute, automatic=automatic)
        return await self._alone(self._database.transact, keep, dispute, raised_ms)

    async def record_dispute(self, buyer: PeerId, dispute: Dispute, raised_ms: int) -> SignedRefund | None:
        """Keep what `buyer` disputes if it was sold to it, and give back the refund if there is one already."""
        return await self._alone(self._database.transact, books.record_dispute, buyer, dispute, raised_ms)

    async def book_refund(self, refund: SignedRefund) -> Outcome:
        """Book a refund of ours or to us whose signature was verified, once; on return it is on the disk."""
        return await self._alone(self._database.transact, books.book_refund, self._me, refund)

    async def acknowledge_refund(self, receipt_id: bytes) -> None:
        """The buyer has booked this refund: it need not be sent again."""
        sql = "UPDATE refunds SET acknowledged = 1 WHERE receipt_id = ?"
        await self._alone(self._database.write, (sql, [(receipt_id,)]))

    async def open_disputes(self) -> list[Disputed]:
        """What this device disputes as a buyer and was not refunded; the newest 4096, newest first."""
        sql = f"{BOOKED} WHERE reason IS NOT NULL AND refunds.body IS NULL AND role = 'buyer'"
        sql += " ORDER BY disputes.rowid DESC LIMIT ?"
        rows = await self._alone(self._database.read, sql, UNACKNOWLEDGED_MAX)
        return [Disputed(PeerId(row[3]), Dispute(row[0], row[5])) for row in rows]

    async def unacknowledged_refunds(self) -> list[SignedRefund]:
        """Refunds of ours that their buyers have not confirmed; the newest 4096, newest first."""
        sql = "SELECT body, signature FROM refunds WHERE acknowledged = 0 ORDER BY rowid DESC LIMIT ?"
        return [SignedRefund(*row) for row in await self._alone(self._database.read, sql, UNACKNOWLEDGED_MAX)]

    async def balances(self) -> dict[PeerId, Microcredits]:
        """What each peer ever dealt with owes us in microcredits; negative where we owe it."""
        sql = "SELECT account, sum(amount_microcredits) FROM entries WHERE account GLOB ? GROUP BY account"
        rows = await self._alone(self._database.read, sql, PEER_ACCOUNT + "*")
        return {PeerId(account.removeprefix(PEER_ACCOUNT)): balance for account, balance in rows}

    async def turnovers(self) -> dict[PeerId, Turnover]:
        """What was bought of each peer ever dealt with and sold to it, refunds taken off."""
        rows = await self._alone(self._database.read, TURNOVERS)
        return {PeerId(other): Turnover(bought, sold) for other, bought, sold in rows}

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

    async def archive(self, sheet_id: bytes, sheet: SignedSheet) -> None:
        """Keep a sheet that was checked; the 256 that came last are kept."""
        put = ("REPLACE INTO sheets VALUES (?, ?, ?)", [(sheet_id, sheet.body, sheet.signature)])
        await self._alone(self._database.write, put, (_FORGET_SHEETS, [(SHEETS_MAX,)]))

    async def explain(self, receipt_id: bytes, explanation: bytes) -> None:
        """Keep how a receipt of ours came about (JSON); the 1024 that came last are kept."""
        put = ("REPLACE INTO explanations VALUES (?, ?)", [(receipt_id, explanation)])
        await self._alone(self._database.write, put, (_FORGET_EXPLANATIONS, [(EXPLANATIONS_MAX,)]))

    async def remember(self, receipt_id: bytes, delivery: Delivery, rating: Rating | None) -> None:
        """Keep what is needed to rate a receipt of ours; that of the 4096 newest is kept."""
        await self._alone(self._database.transact, ratings.keep_delivery, receipt_id, delivery, rating)

    async def rate(self, receipt_id: bytes, rating: Rating) -> Rated | None:
        """Rate a receipt of ours, in place of an earlier rating; None if what that needs is not kept any more."""
        return await self._alone(self._database.transact, ratings.rate, receipt_id, rating)

    async def save_experience(self, learned: Sequence[Learned]) -> None:
        """Keep what is known of these agents, in place of what was; that of the 4096 learned of last is kept."""
        await self._alone(self._database.transact, ratings.save_experience, learned)

    async def load_experience(self) -> dict[str, dict[AgentRef, bytes]]:
        """What is known of agents, by the name of the space."""
        return await self._alone(self._database.transact, ratings.load_experience)

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


class _Thread:
    """A worker thread of its own, so that no other blocking work of the daemon delays the ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, call: Callable[[*_Args], _T], *args: *_Args) -> _T:
        with faults(self._path):
            return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)
