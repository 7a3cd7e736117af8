"""The store keeps what it was given, once, across restarts and kills, and names what is wrong with a bad file."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import trio

from p2pagent.archive import read_book, read_receipts
from p2pagent.books import Turnover, booking_of
from p2pagent.database import _MIGRATIONS
from p2pagent.errors import Exit, LocalError, RemoteError
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import SignedReceipt, receipt_in
from p2pagent.peer.disputes import make_refund
from p2pagent.peer.events import Disputed
from p2pagent.peer.gossip_messages import SignedRecord
from p2pagent.peer.messages import Dispute, RateCard, Receipt, SignedRefund
from p2pagent.peer.wire import sealed
from p2pagent.store import (
    BATCH_MAX,
    CACHE_ROWS_MAX,
    RECORDS_MAX,
    Store,
    open_store,
)

ME, OTHER = Ed25519Keys(b"\1" * 32), Ed25519Keys(b"\2" * 32)


def settled(
    number: int, price_microcredits: int, buyer: Ed25519Keys = ME, seller: Ed25519Keys = OTHER
) -> SignedReceipt:
    """Receipt `number` with both signatures; this device is the buyer unless told."""
    receipt = Receipt(
        conversation=number.to_bytes(16, "big"),
        buyer=buyer.peer,
        seller=seller.peer,
        agent="agent",
        prompt_tokens=10,
        cached_tokens=0,
        output_tokens=5,
        rates=RateCard(1, 1, 1),
        sheet=b"",
        slot_price_microcredits=0,
        price_microcredits=price_microcredits,
        answer_sha256=bytes(32),
        issued_ms=1_000_000 - number,
    )
    body, seller_signature = sealed(receipt, seller)
    return SignedReceipt(body, seller_signature, sealed(receipt, buyer)[1])


async def post(store: Store, signed: SignedReceipt) -> bool:
    return await store.post(signed.body, signed.seller_signature, signed.buyer_signature)


def sums(path: Path) -> Counter[bytes]:
    """What the entries of each receipt in the file add up to."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT receipt_id, sum(amount_microcredits) FROM entries GROUP BY receipt_id").fetchall()
    connection.close()
    return Counter(dict(rows))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder with % and ?" / "ledger.db"


@pytest.fixture(autouse=True)
def _folder(path: Path) -> None:
    path.parent.mkdir()


async def test_a_receipt_moves_the_ledger_once(path: Path) -> None:
    bought, sold = settled(1, 300), settled(2, 1000, buyer=OTHER, seller=ME)
    async with open_store(path, ME.peer) as store:
        assert await post(store, bought)
        assert await post(store, sold)
        assert not await post(store, bought)
        assert await store.balances() == {OTHER.peer: 700}
        assert await store.turnovers() == {OTHER.peer: Turnover(300, 1000)}
        newest, oldest = await store.receipts(10)
        assert (newest.receipt_id, newest.role, newest.other, newest.acknowledged) == (
            sold.receipt_id,
            "seller",
            OTHER.peer,
            True,
        )
        assert (oldest.receipt, oldest.role, oldest.acknowledged) == (receipt_in(bought.body), "buyer", False)
        assert len(await store.receipts(1)) == 1
        assert await store.receipts(0) == []
    assert set(sums(path).values()) == {0}


async def test_everything_survives_a_restart(path: Path) -> None:
    receipts = [settled(number, 10 * number) for number in range(3)]
    records = [SignedRecord(b"one", bytes(64)), SignedRecord(b"two", bytes(64))]
    async with open_store(path, ME.peer) as store:
        for signed in receipts:
            await post(store, signed)
        await store.acknowledge(receipts[1].receipt_id)
        await store.save_records([SignedRecord(b"older", bytes(64))])
        await store.save_records(records)
        await store.cache("capability", b"\x01\x02")
    async with open_store(path, ME.peer) as store:
        assert await store.all_receipts() == receipts
        assert await store.unacknowledged() == [receipts[2], receipts[0]]
        assert await store.balances() == {OTHER.peer: -30}
        assert await store.load_records() == records
        assert await store.cached("capability") == b"\x01\x02"


def refund_of(signed: SignedReceipt, seller: Ed25519Keys, now_ms: int = 5) -> SignedRefund:
    return make_refund(signed.receipt_id, receipt_in(signed.body), seller, now_ms)


async def test_a_refund_moves_the_ledger_back_once_and_the_first_one_stays(path: Path) -> None:
    bought, sold = settled(1, 300), settled(2, 1000, buyer=OTHER, seller=ME)
    to_us, by_us = refund_of(bought, OTHER), refund_of(sold, ME)
    async with open_store(path, ME.peer) as store:
        await post(store, bought)
        await post(store, sold)
        for outcome in ("new", "known"):
            assert await store.book_refund(to_us) == outcome
            assert await store.balances() == {OTHER.peer: 1000}
            assert await store.turnovers() == {OTHER.peer: Turnover(0, 1000)}
        assert await store.book_refund(by_us) == "new"
        assert await store.book_refund(refund_of(sold, ME, now_ms=6)) == "known"
        assert await store.balances() == {OTHER.peer: 0}
        assert [each.state for each in await store.receipts(2)] == ["refunded", "refunded"]
        assert await store.unacknowledged_refunds() == [by_us]
        await store.acknowledge_refund(sold.receipt_id)
        assert await store.unacknowledged_refunds() == []
        assert not await post(store, sold)
        assert await store.balances() == {OTHER.peer: 0}
    assert sums(path) == {bought.receipt_id: 0, sold.receipt_id: 0}


async def test_a_refund_that_fits_no_receipt_of_ours_moves_nothing(path: Path) -> None:
    bought, sold, dearer = settled(1, 300), settled(2, 300, buyer=OTHER, seller=ME), settled(1, 301)
    third = Ed25519Keys(b"\3" * 32)
    stolen = settled(1, 300, seller=third)
    async with open_store(path, ME.peer) as store:
        await post(store, bought)
        await post(store, sold)
        for price, ident, parties, outcome in [
            (dearer, bought.receipt_id, OTHER, "unfounded"),
            (stolen, bought.receipt_id, third, "unfounded"),
            (bought, sold.receipt_id, OTHER, "unfounded"),
            (bought, bytes(32), OTHER, "missing"),
            (stolen, stolen.receipt_id, third, "missing"),
        ]:
            refund = make_refund(ident, receipt_in(price.body), parties, 5)
            assert await store.book_refund(refund) == outcome
        assert await store.balances() == {OTHER.peer: 0}
        assert {each.state for each in await store.receipts(9)} == {"not yet", "settled"}


async def test_a_dispute_is_kept_until_the_refund(path: Path) -> None:
    bought, other = settled(1, 300), settled(2, 10)
    dispute = Dispute(bought.receipt_id, "half is missing")
    async with open_store(path, ME.peer) as store:
        await post(store, bought)
        await post(store, other)
        assert await store.raise_dispute(dispute, 7)
        assert not await store.raise_dispute(Dispute(bought.receipt_id, "another reason"), 8)
    async with open_store(path, ME.peer) as store:
        assert await store.open_disputes() == [Disputed(OTHER.peer, dispute)]
        (kept,) = await store.disputed(9)
        assert (kept.state, kept.reason, kept.raised_ms) == ("disputed", "half is missing", 7)
        assert await store.balances() == {OTHER.peer: -310}
        await store.book_refund(refund_of(bought, OTHER))
        assert await store.open_disputes() == await store.disputed(9) == []
        assert not await store.raise_dispute(dispute, 9)
        assert [each.state for each in await store.receipts(9)] == ["not yet", "refunded"]


async def test_a_dispute_says_whether_its_user_raised_it(path: Path) -> None:
    bought, other, third = settled(1, 300), settled(2, 10), settled(3, 10)
    async with open_store(path, ME.peer) as store:
        for each in (bought, other, third):
            await post(store, each)
        assert await store.raise_dispute(Dispute(bought.receipt_id, "claims too much"), 7, automatic=True)
        assert not await store.raise_dispute(Dispute(bought.receipt_id, "so I say"), 8)
        assert await store.raise_dispute(Dispute(other.receipt_id, "so I say"), 8)
        assert not await store.raise_dispute(Dispute(other.receipt_id, "claims too much"), 9, automatic=True)
        assert [(each.reason, each.automatic) for each in await store.receipts(9)] == [
            (None, False),
            ("so I say", False),
            ("claims too much", True),
        ]


async def test_disputes_of_a_ledger_that_knew_no_other_kind_are_its_users(path: Path) -> None:
    booking = booking_of(settled(1, 300), ME.peer)
    connection = sqlite3.connect(path)
    connection.executescript(f"{' '.join(_MIGRATIONS[:3])} PRAGMA user_version = 3;")
    with connection:
        connection.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", booking.row)
        connection.execute("INSERT INTO disputes VALUES (?, 'wrong', 7)", booking.row[:1])
    connection.close()
    async with open_store(path, ME.peer) as store:
        assert [(each.reason, each.automatic) for each in await store.disputed(9)] == [("wrong", False)]


async def test_only_the_buyer_of_a_sale_has_its_dispute_recorded_and_gets_the_refund(path: Path) -> None:
    sold, bought = settled(1, 300, buyer=OTHER, seller=ME), settled(2, 10)
    third = Ed25519Keys(b"\3" * 32).peer
    dispute = Dispute(sold.receipt_id, "wrong")
    async with open_store(path, ME.peer) as store:
        await post(store, sold)
        await post(store, bought)
        for buyer, ident in [(third, sold.receipt_id), (OTHER.peer, bought.receipt_id), (OTHER.peer, bytes(32))]:
            assert await store.record_dispute(buyer, Dispute(ident, ""), 7) is None
        assert await store.disputed(9) == []
        for _ in range(2):
            assert await store.record_dispute(OTHER.peer, dispute, 7) is None
        assert [each.receipt_id for each in await store.disputed(9)] == [sold.receipt_id]
        assert await store.open_disputes() == []
        refund = refund_of(sold, ME)
        await store.book_refund(refund)
        assert await store.record_dispute(OTHER.peer, dispute, 8) == refund
        assert await store.record_dispute(third, dispute, 8) is None


async def test_a_receipt_is_found_by_any_beginning_that_is_its_alone(path: Path) -> None:
    receipts = [settled(number, 1) for number in range(40)]
    async with open_store(path, ME.peer) as store:
        for signed in receipts:
            await post(store, signed)
        for signed in receipts:
            name = signed.receipt_id.hex()
            for digits in (6, 7, 12, 63, 64):
                assert (await store.find(name[:digits])).receipt_id == signed.receipt_id
            assert (await store.find(name.upper())).receipt_id == signed.receipt_id
        twin = receipts[0].receipt_id[:31] + bytes([receipts[0].receipt_id[31] ^ 1])
        store._database.write(
            (
                "INSERT INTO receipts SELECT ?, body, seller_signature, buyer_signature, role, other,"
                " price_microcredits, issued_ms, acknowledged FROM receipts WHERE id = ?",
                [(twin, receipts[0].receipt_id)],
            )
        )
        with pytest.raises(LocalError, match="more than one"):
            await store.find(twin.hex()[:62])
        with pytest.raises(LocalError, match="no receipt") as refused:
            await store.find("0" * 64)
        assert refused.value.exit_code is Exit.STORE


async def test_posts_that_wait_together_share_a_transaction_and_each_has_its_own_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = [settled(number, 1) for number in range(BATCH_MAX + 3)]
    answers: Counter[bool] = Counter()

    async def once(store: Store, signed: SignedReceipt) -> None:
        answers[await post(store, signed)] += 1

    batches: list[int] = []
    async with open_store(path, ME.peer) as store:
        book = store._database.post
        monkeypatch.setattr(store._database, "post", lambda batch: batches.append(len(batch)) or book(batch))
        async with trio.open_nursery() as nursery:
            for signed in receipts * 2:
                nursery.start_soon(once, store, signed)
        assert max(batches) == BATCH_MAX
        assert len(batches) <= 4
        assert answers == {True: len(receipts), False: len(receipts)}
        assert await store.balances() == {OTHER.peer: -len(receipts)}


async def test_a_post_once_begun_is_finished_although_its_caller_is_cancelled(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await post(store, settled(1, 5))
        assert await store.balances() == {OTHER.peer: -5}


async def test_what_is_no_receipt_or_not_ours_is_refused(path: Path) -> None:
    async with open_store(path, OTHER.peer) as store:
        with pytest.raises(RemoteError):
            await store.post(b"nonsense", bytes(64), bytes(64))
        with pytest.raises(ValueError, match="not one side"):
            await post(store, settled(1, 5, buyer=ME, seller=ME))
        with pytest.raises(ValueError, match="not one side"):
            await post(store, settled(1, 5, buyer=OTHER, seller=OTHER))
        assert await store.all_receipts() == []


async def test_a_full_disk_books_nothing_and_the_ledger_goes_on_when_there_is_room(path: Path) -> None:
    receipts = [settled(number, 1) for number in range(60)]
    failures: list[LocalError] = []

    async def once(store: Store, signed: SignedReceipt) -> None:
        try:
            await post(store, signed)
        except LocalError as error:
            failures.append(error)

    async with open_store(path, ME.peer) as store:
        ((pages,),) = store._database.read("PRAGMA page_count")
        store._database.read(f"PRAGMA max_page_count = {pages}")
        async with trio.open_nursery() as nursery:
            for signed in receipts:
                nursery.start_soon(once, store, signed)
        booked = await store.all_receipts()
        assert failures
        assert {error.exit_code for error in failures} == {Exit.STORE}
        assert "room" in failures[0].cause
        assert len(booked) + len(failures) == len(receipts)
        store._database.read("PRAGMA max_page_count = 1000000")
        for signed in receipts:
            assert await post(store, signed) == (signed not in booked)
    assert len(sums(path)) == len(receipts)
    assert set(sums(path).values()) == {0}


async def test_incarnations_rise_although_the_clock_jumps_back(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        assert await store.next_incarnation(5000) == 5000
        assert await store.next_incarnation(5000) == 5001
    async with open_store(path, ME.peer) as store:
        assert await store.next_incarnation(10) == 5002
        assert await store.next_incarnation(9000) == 9000


async def test_the_cache_keeps_what_was_written_last(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        for number in range(CACHE_ROWS_MAX):
            await store.cache(f"key {number}", b"old")
        await store.cache("key 0", b"new")
        await store.cache("one more", b"value")
        assert await store.cached("key 0") == b"new"
        assert await store.cached("key 1") is None
        assert await store.cached("key 2") == b"old"
        assert store._database.read("SELECT count(*) FROM capabilities") == [(CACHE_ROWS_MAX,)]


async def test_the_snapshot_is_bounded(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        await store.save_records([SignedRecord(b"", bytes(64))] * (RECORDS_MAX + 1))
        assert len(await store.load_records()) == RECORDS_MAX


async def test_a_book_is_read_whole_beside_the_daemon(path: Path) -> None:
    bought = settled(1, 300)
    refund = refund_of(bought, OTHER)
    async with open_store(path, ME.peer) as store:
        await post(store, bought)
        await store.raise_dispute(Dispute(bought.receipt_id, "wrong"), 7)
        await store.book_refund(refund)
        book = read_book(path)
    assert read_book(path) == book
    (row,) = book.rows
    assert book.owner == ME.peer
    assert (row.signed, row.role, row.other, row.acknowledged) == (bought, "buyer", OTHER.peer, False)
    assert book.refunds == {bought.receipt_id: refund}
    assert book.disputed == {bought.receipt_id}
    assert [entry.amount_microcredits for _, entry in book.entries] == [-300, 300, 300, -300]


async def test_an_empty_file_or_an_older_ledger_is_named_and_brought_up_to_date(path: Path) -> None:
    sqlite3.connect(path).close()
    with pytest.raises(LocalError, match="empty or of an older"):
        read_book(path)
    connection = sqlite3.connect(path)
    connection.executescript(f"{_MIGRATIONS[0]} PRAGMA user_version = 1;")
    connection.close()
    with pytest.raises(LocalError, match="older"):
        read_book(path)
    async with open_store(path, ME.peer) as store:
        await post(store, settled(1, 300))
    assert len(read_book(path).rows) == 1


async def test_a_running_ledger_can_be_audited_but_not_opened_twice(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        await post(store, settled(1, 5))
        assert read_receipts(path) == [settled(1, 5)]
        with pytest.raises(LocalError, match="in use") as refused:
            async with open_store(path, ME.peer):
                pass
        assert refused.value.exit_code is Exit.STORE
        await post(store, settled(2, 5))
    assert read_receipts(path) == [settled(1, 5), settled(2, 5)]
    async with open_store(path, ME.peer) as store:
        assert len(await store.all_receipts()) == 2


async def refusal(path: Path, match: str) -> None:
    with pytest.raises(LocalError, match=match) as refused:
        async with open_store(path, ME.peer):
            pass
    assert refused.value.exit_code is Exit.STORE
    assert refused.value.hint


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)
    trio.run(refusal, path, "damaged")
    with pytest.raises(LocalError, match="damaged"):
        read_receipts(path)
    assert path.read_bytes() == b"not a database " * 1000


def test_a_damaged_page_is_found_at_the_start(path: Path) -> None:
    async def fill() -> None:
        async with open_store(path, ME.peer) as store:
            for number in range(20):
                await post(store, settled(number, 5))

    trio.run(fill)
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_by_account'").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * page_bytes : page * page_bytes] = b"\xa5" * page_bytes
    path.write_bytes(data)
    trio.run(refusal, path, "damaged")


def alter(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.close()


async def test_a_schema_from_the_future_is_refused(path: Path) -> None:
    async with open_store(path, ME.peer):
        pass
    alter(path, "PRAGMA user_version = 99")
    await refusal(path, "schema version 99")
    with pytest.raises(LocalError, match="schema version 99"):
        read_receipts(path)


async def test_the_database_of_another_program_is_refused(path: Path) -> None:
    alter(path, "CREATE TABLE theirs (x)")
    await refusal(path, "not a p2pagent ledger")


async def test_the_ledger_of_another_identity_is_refused(path: Path) -> None:
    async with open_store(path, OTHER.peer):
        pass
    await refusal(path, "belongs to")
    async with open_store(path, OTHER.peer):
        pass


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    await refusal(tmp_path / "missing" / "ledger.db", "cannot be used")
    with pytest.raises(LocalError, match="cannot be used"):
        read_receipts(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_what_was_confirmed_before_a_kill_is_there_after_it(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(100)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    confirmed = {bytes.fromhex(line.decode()) for line in lines if line.endswith(b"\n")}
    assert len(confirmed) >= 100

    found = {signed.receipt_id for signed in read_receipts(path)}
    assert confirmed <= found
    assert set(sums(path)) == found
    assert set(sums(path).values()) == {0}

    async def reopen() -> None:
        async with open_store(path, ME.peer) as store:
            assert {signed.receipt_id for signed in await store.all_receipts()} == found

    trio.run(reopen)


async def _post_for_ever(path: Path) -> None:
    numbers = count()

    async def one_after_another(store: Store) -> None:
        for number in numbers:
            signed = settled(number, number + 1)
            await post(store, signed)
            print(signed.receipt_id.hex(), flush=True)  # noqa: T201

    async with open_store(path, ME.peer) as store, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one_after_another, store)


if __name__ == "__main__":
    trio.run(_post_for_ever, Path(sys.argv[1]))
