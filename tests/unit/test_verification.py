"""Whatever is changed in a ledger is found, named by its receipt, and nothing else is accused."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from p2pagent.archive import read_book
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import Book, SignedReceipt, movements, receipt_in, refund_in
from p2pagent.peer.disputes import make_refund
from p2pagent.peer.wire import encode
from p2pagent.store import open_store
from p2pagent.verification import compare, verify
from tests.booked import BACK, BOUGHT, DEALS, GIVEN, ME, OTHER, PRICE, SOLD, THIRD, keep, settled, tamper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an honest ledger."""
    trio.run(keep, tmp_path / "store.db", ME, DEALS, (BACK, GIVEN))
    return tmp_path / "store.db"


@pytest.fixture
def honest(path: Path) -> Book:
    return read_book(path)


def wrong(book: Book) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.wrong for finding in verify(book, OTHER) if finding.wrong}


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


SIGNATURES = "receipts signed by both parties"
FILED = "receipts filed as they read"
PRICES = "prices of tokens at their rates"
REFUNDS = "refunds signed by their sellers"
ENTRIES = "entries of receipts and refunds"
SUM = "sum of all entries"
BALANCES = "balances"
ALL = (SIGNATURES, FILED, PRICES, REFUNDS, ENTRIES, SUM, BALANCES)
NAMES = {
    name: (signed.receipt_id.hex(),) for name, signed in zip(("bought", "sold", "back", "given"), DEALS, strict=True)
}


def test_an_honest_ledger_holds(path: Path) -> None:
    findings = verify(read_book(path), OTHER)
    assert [(f.check, f.checked, f.wrong) for f in findings] == [
        (check, count, ()) for check, count in zip(ALL, (4, 4, 4, 2, 12, 12, 2), strict=True)
    ]


def test_an_empty_ledger_holds(tmp_path: Path) -> None:
    trio.run(empty, tmp_path / "store.db")
    assert all(not finding.wrong and not finding.checked for finding in verify(read_book(tmp_path / "store.db"), OTHER))


async def empty(path: Path) -> None:
    async with open_store(path, ME.peer):
        pass


SALE = SOLD.receipt_id


@pytest.mark.parametrize(
    ("sql", "parameters", "found"),
    [
        ("UPDATE receipts SET seller_signature = ? WHERE id = ?", (flipped(SOLD.seller_signature), SALE), {SIGNATURES}),
        ("UPDATE receipts SET buyer_signature = ? WHERE id = ?", (flipped(SOLD.buyer_signature), SALE), {SIGNATURES}),
        (
            "UPDATE receipts SET buyer_signature = seller_signature, seller_signature = buyer_signature WHERE id = ?",
            (SALE,),
            {SIGNATURES},
        ),
        # The last byte of the body is of the time at which it was issued; one cut off makes it no receipt at all.
        ("UPDATE receipts SET body = ? WHERE id = ?", (flipped(SOLD.body), SALE), {SIGNATURES, FILED}),
        ("UPDATE receipts SET body = ? WHERE id = ?", (SOLD.body[:-1], SALE), {SIGNATURES}),
        ("UPDATE receipts SET body = ? WHERE id = ?", (BOUGHT.body, SALE), {SIGNATURES, FILED, ENTRIES}),
        ("UPDATE receipts SET price_microcredits = 1 WHERE id = ?", (SALE,), {FILED, BALANCES}),
        ("UPDATE receipts SET role = 'buyer' WHERE id = ?", (SALE,), {FILED, BALANCES}),
        ("UPDATE receipts SET issued_ms = 1 WHERE id = ?", (SALE,), {FILED}),
        (
            "UPDATE entries SET amount_microcredits = 1 WHERE account = 'income' AND receipt_id = ?",
            (SALE,),
            {ENTRIES, SUM},
        ),
        (
            "UPDATE entries SET amount_microcredits = 2 * amount_microcredits WHERE receipt_id = ?",
            (SALE,),
            {ENTRIES, BALANCES},
        ),
        ("UPDATE entries SET account = 'expense' WHERE account = 'income' AND receipt_id = ?", (SALE,), {ENTRIES}),
        ("DELETE FROM entries WHERE account = 'income' AND receipt_id = ?", (SALE,), {ENTRIES, SUM}),
        ("DELETE FROM entries WHERE receipt_id = ?", (SALE,), {ENTRIES, BALANCES}),
        (
            "INSERT INTO entries SELECT * FROM entries WHERE account = 'income' AND receipt_id = ?",
            (SALE,),
            {ENTRIES, SUM},
        ),
        ("INSERT INTO entries SELECT * FROM entries WHERE receipt_id = ?", (SALE,), {ENTRIES, BALANCES}),
    ],
)
def test_a_receipt_or_entry_that_was_changed_is_named(
    path: Path, sql: str, parameters: tuple[bytes | int | str, ...], found: set[str]
) -> None:
    tamper(path, sql, *parameters)
    seen = wrong(read_book(path))
    assert seen.keys() == found
    assert {names for check, names in seen.items() if check not in (SUM, BALANCES)} <= {NAMES["sold"]}
    assert seen.get(BALANCES, (OTHER.peer,)) == (OTHER.peer,)


@pytest.mark.parametrize("at", range(len(SOLD.body)))
def test_any_byte_of_a_body_that_is_flipped_is_named(honest: Book, at: int) -> None:
    bent = replace(SOLD, body=flipped(SOLD.body, at))
    rows = tuple(replace(row, signed=bent) if row.receipt_id == SALE else row for row in honest.rows)
    assert wrong(replace(honest, rows=rows))[SIGNATURES] == NAMES["sold"]


def refund_body(signed: SignedReceipt, **changes: object) -> bytes:
    refund = refund_in(make_refund(signed.receipt_id, receipt_in(signed.body), ME, 5).body)
    return encode(replace(refund, **changes))


@pytest.mark.parametrize(
    ("body", "signer"),
    [
        (refund_body(GIVEN), THIRD),
        (refund_body(GIVEN, price_microcredits=PRICE - 1), ME),
        (refund_body(GIVEN, buyer=OTHER.peer), ME),
        (refund_body(GIVEN, seller=OTHER.peer), ME),
        (refund_body(SOLD), ME),
        (GIVEN.body, ME),
        (b"", ME),
    ],
)
def test_a_refund_that_does_not_hold_is_named(path: Path, body: bytes, signer: Ed25519Keys) -> None:
    signature = signer.sign("p2pagent/refund/1", body)
    tamper(path, "UPDATE refunds SET body = ?, signature = ? WHERE receipt_id = ?", body, signature, GIVEN.receipt_id)
    assert wrong(read_book(path)) == {REFUNDS: NAMES["given"]}


def test_a_refund_whose_signature_was_changed_is_named(path: Path) -> None:
    tamper(path, "UPDATE refunds SET signature = ? WHERE receipt_id = ?", bytes(64), BACK.receipt_id)
    assert wrong(read_book(path)) == {REFUNDS: NAMES["back"]}


def test_a_refund_that_was_removed_leaves_entries_without_a_cause(path: Path) -> None:
    tamper(path, "DELETE FROM refunds WHERE receipt_id = ?", BACK.receipt_id)
    assert wrong(read_book(path)) == {ENTRIES: NAMES["back"], BALANCES: (OTHER.peer,)}


def test_entries_of_no_receipt_are_named(path: Path) -> None:
    tamper(path, "INSERT INTO entries VALUES (?, 'income', -5), (?, 'expense', 5)", bytes(32), bytes(32))
    assert wrong(read_book(path)) == {ENTRIES: (bytes(32).hex(),)}


def test_a_price_that_both_signed_but_that_is_no_price_is_named(tmp_path: Path) -> None:
    dear = settled(9, ME, OTHER, price_microcredits=PRICE + 1)
    trio.run(keep, tmp_path / "store.db", ME, (dear,), ())
    assert wrong(read_book(tmp_path / "store.db")) == {PRICES: (dear.receipt_id.hex(),)}


# --- two ledgers ----------------------------------------------------------------------------------------------------


def compared(one: Book, *others: Book) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.wrong for finding in compare(one, others, THIRD) if finding.wrong}


def book_of(folder: Path, deals: tuple[SignedReceipt, ...], refunds: tuple[SignedReceipt, ...]) -> Book:
    folder.mkdir()
    trio.run(keep, folder / "store.db", OTHER, deals, refunds)
    return read_book(folder / "store.db")


SHARED = (BOUGHT, SOLD, BACK)
PAIR = f"{min(ME.peer, OTHER.peer)} {max(ME.peer, OTHER.peer)}"


def test_two_ledgers_that_tell_one_story(honest: Book, tmp_path: Path) -> None:
    other = book_of(tmp_path / "other", SHARED, (BACK,))
    findings = compare(honest, [other], THIRD)
    assert [(finding.checked, finding.wrong) for finding in findings] == [(3, ()), (3, ()), (1, ()), (1, ())]


def test_a_receipt_that_one_of_them_lacks_is_named(honest: Book, tmp_path: Path) -> None:
    other = book_of(tmp_path / "other", (BOUGHT, BACK), (BACK,))
    seen = {"receipts in both books": NAMES["sold"], "balances that mirror each other": (PAIR,)}
    assert compared(honest, other) == compared(other, honest) == seen


def test_a_refund_that_one_of_them_lacks_is_named(honest: Book, tmp_path: Path) -> None:
    other = book_of(tmp_path / "other", SHARED, ())
    seen = {"refunds in both books": NAMES["back"], "balances that mirror each other": (PAIR,)}
    assert compared(honest, other) == compared(other, honest) == seen


def test_a_forged_receipt_of_the_other_is_named(honest: Book, tmp_path: Path) -> None:
    other = book_of(tmp_path / "other", SHARED, (BACK,))
    bent = replace(SOLD, buyer_signature=bytes(64))
    rows = tuple(replace(row, signed=bent) if row.receipt_id == SALE else row for row in other.rows)
    seen = compared(honest, replace(other, rows=rows))
    assert seen["the others' receipts signed by both parties"] == NAMES["sold"]


def test_a_third_ledger_that_has_nothing_to_do_with_it_accuses_nobody(honest: Book, tmp_path: Path) -> None:
    other = book_of(tmp_path / "other", SHARED, (BACK,))
    assert compared(honest, other, honest) == {}


# --- the statement --------------------------------------------------------------------------------------------------


def test_movements_are_in_the_order_of_booking_with_the_balance_after_each(honest: Book) -> None:
    told = [(m.kind, m.receipt_id, m.other, m.balance_microcredits, m.state) for m in movements(honest)]
    assert told == [
        ("receipt", BOUGHT.receipt_id, OTHER.peer, -PRICE, "disputed"),
        ("receipt", SALE, OTHER.peer, 0, "settled"),
        ("receipt", BACK.receipt_id, OTHER.peer, -PRICE, "refunded"),
        ("receipt", GIVEN.receipt_id, THIRD.peer, PRICE, "refunded"),
        ("refund", BACK.receipt_id, OTHER.peer, 0, "refunded"),
        ("refund", GIVEN.receipt_id, THIRD.peer, 0, "refunded"),
    ]


def test_movements_whose_entries_are_gone_are_told_all_the_same(path: Path) -> None:
    tamper(path, "DELETE FROM entries")
    assert len(movements(read_book(path))) == 6
