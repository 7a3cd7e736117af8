"""`p2pagent auction show` on a store that a daemon has left behind."""

import json
import sqlite3
from pathlib import Path

import click.testing
import msgspec
import pytest
import trio
from typer.testing import CliRunner

from p2pagent import home as homes
from p2pagent.cli import app
from p2pagent.errors import Exit
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import SignedReceipt
from p2pagent.peer.events import Delivery, Rating
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import RateCard, Receipt
from p2pagent.peer.sheet import body_id
from p2pagent.peer.wire import sealed
from p2pagent.routing.prototypes import Relevance
from p2pagent.store import open_store
from tests.clearings import Query, agent, make_bid, make_clearing
from tests.scripted_node import ANSWERED

AUCTIONEER, RIVAL, SELLER = (Ed25519Keys(bytes([n]) * 32) for n in (1, 2, 3))
WANTS = [Query({agent(SELLER): 900})]
TOLL = 300
DELIVERY = Delivery(agent(SELLER), "space", Relevance((0,), (1.0,), 0.5), 0.625)


def settled(buyer: Ed25519Keys, seller: Ed25519Keys, number: int, **changes: object) -> SignedReceipt:
    """A receipt with both signatures; 328 microcredits are its tokens'."""
    receipt = Receipt(
        conversation=number.to_bytes(16, "big"),
        buyer=buyer.peer,
        seller=seller.peer,
        agent="a",
        prompt_tokens=20,
        cached_tokens=8,
        output_tokens=5,
        rates=RateCard(10, 1, 40),
        sheet=b"",
        slot_price_microcredits=0,
        price_microcredits=328,
        answer_sha256=bytes(32),
        issued_ms=1_800_000_000_000,
    )
    body, signature = sealed(msgspec.structs.replace(receipt, **changes), seller)
    return SignedReceipt(body, signature, buyer.sign("p2pagent/receipt/1", body))


class Books:
    """The home of a buyer that was granted a slot: one receipt and its sheet, and a receipt of something it sold."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "store.db"
        me = Ed25519Keys(homes.identity(home))
        self.me = me
        owners = [(me, WANTS), (RIVAL, [Query({agent(SELLER): TOLL})])]
        sheet = make_clearing(AUCTIONEER, [(SELLER, {("a", 0): 1})], owners).sheet
        self.sheet = SignedSheet(*sealed(sheet, AUCTIONEER))
        self.sheet_id = body_id(self.sheet.body)
        self.granted = {
            "conversation": make_bid(me, WANTS).wants[0].conversation,
            "sheet": self.sheet_id,
            "slot_price_microcredits": TOLL,
            "price_microcredits": 328 + TOLL,
        }
        self.bought = settled(me, SELLER, 1, **self.granted)
        self.sold = settled(RIVAL, me, 2)

    def keep(self, *receipts: SignedReceipt) -> None:
        trio.run(self._keep, receipts)

    async def _keep(self, receipts: tuple[SignedReceipt, ...]) -> None:
        answer = msgspec.structs.replace(ANSWERED, text="", how="cleared", sheet=self.sheet_id.hex())
        async with open_store(self.path, self.me.peer) as store:
            for receipt in receipts:
                await store.post(receipt.body, receipt.seller_signature, receipt.buyer_signature)
            await store.archive(self.sheet_id, self.sheet)
            await store.explain(self.bought.receipt_id, msgspec.json.encode(answer))
            await store.remember(self.bought.receipt_id, DELIVERY, None)

    def rate(self, *, good: bool) -> None:
        async def rate() -> None:
            async with open_store(self.path, self.me.peer) as store:
                await store.rate(self.bought.receipt_id, Rating(good, 5))

        trio.run(rate)

    def show(self, ident: bytes | str, *options: str) -> click.testing.Result:
        name = ident.hex()[:12] if isinstance(ident, bytes) else ident
        return CliRunner().invoke(
            app, ["auction", "show", name, *options, "--home", str(self.home)], prog_name="p2pagent"
        )

    def spoil(self, sql: str, *values: bytes) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(sql, values)
        connection.close()


@pytest.fixture
def books(tmp_path: Path) -> Books:
    books = Books(tmp_path)
    books.keep(books.bought, books.sold)
    return books


def test_a_receipt_is_explained_from_the_candidates_to_the_sheet(books: Books) -> None:
    result = books.show(books.bought.receipt_id)
    assert (result.exit_code, result.stderr) == (0, "")
    told = [
        f"bought from {SELLER.peer}",
        "0.90±0.05",
        ANSWERED.why,
        f"by others was worth, by sheet {books.sheet_id.hex()[:12]}\n",
        "0.000628  the sum of the terms",
        "you: 1 of 1 queries got a slot",
        "it gains 0.000900, you pay a toll of 0.000300",
        "replayed: all signatures",
    ]
    places = [result.stdout.index(line) for line in told]
    assert places == sorted(places)


@pytest.mark.parametrize(("good", "word"), [(True, "good"), (False, "bad")])
def test_what_was_expected_and_what_the_user_said_of_it(books: Books, good: bool, word: str) -> None:
    name = books.bought.receipt_id.hex()[:12]
    before = books.show(books.bought.receipt_id).stdout
    assert f"expected with probability 0.62; `p2pagent rate {name} good`" in before
    books.rate(good=good)
    assert f"expected with probability 0.62; it was rated {word}\n" in books.show(books.bought.receipt_id).stdout
    told = json.loads(books.show(books.bought.receipt_id, "--json").stdout)
    assert (told["expected_quality"], told["rating"]) == (0.625, {"good": good, "at_ms": 5})
    assert "expected with" not in books.show(books.sold.receipt_id).stdout


def test_the_same_as_json(books: Books) -> None:
    told = json.loads(books.show(books.bought.receipt_id, "--json").stdout)
    assert (told["role"], told["how"], told["fault"]) == ("buyer", "cleared", "")
    assert [term["microcredits"] for term in told["price"]["terms"]] == [120, 8, 200, TOLL]
    assert told["explanation"]["candidates"][0]["quality"] == 0.9
    assert "text" not in told["explanation"]
    assert told["sheet"]["yours"][0]["grant"]["toll_microcredits"] == TOLL


def test_a_sheet_is_shown_by_itself(books: Books) -> None:
    result = books.show(books.sheet_id)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"sheet {books.sheet_id.hex()}\nhub ")
    told = json.loads(books.show(books.sheet_id.hex().upper(), "--json").stdout)
    assert (told["sheet"], told["welfare_microcredits"], told["fault"]) == (books.sheet_id.hex(), 900, "")


def test_a_receipt_of_what_we_sold_has_its_price_and_no_why(books: Books) -> None:
    result = books.show(books.sold.receipt_id)
    assert result.exit_code == 0
    assert f"sold to {RIVAL.peer}" in result.stdout
    assert "nobody else was known to want this slot" in result.stdout
    assert "kept by the buyer alone" in result.stderr


def test_what_is_no_longer_kept_is_told(books: Books) -> None:
    books.spoil("DELETE FROM sheets")
    books.spoil("DELETE FROM explanations")
    result = books.show(books.bought.receipt_id)
    assert result.exit_code == 0
    assert "0.000628  the sum of the terms" in result.stdout
    assert "why this agent was chosen is not kept here" in result.stderr
    assert f"its sheet {books.sheet_id.hex()} is no longer kept here" in result.stderr


def test_without_its_explanation_a_grant_is_known_by_its_sheet(books: Books) -> None:
    books.spoil("DELETE FROM explanations")
    assert json.loads(books.show(books.bought.receipt_id, "--json").stdout)["how"] == "cleared"


@pytest.mark.parametrize("what", ["body", "signature"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_sheet_that_does_not_hold(books: Books, what: str, options: tuple[str, ...]) -> None:
    value = bytearray(getattr(books.sheet, what))
    value[-1] ^= 1
    books.spoil(f"UPDATE sheets SET {what} = ?", bytes(value))
    for ident in (books.sheet_id, books.bought.receipt_id):
        result = books.show(ident, *options)
        assert result.exit_code == Exit.STORE
        assert "does not hold: " in result.stderr
        assert "replayed" not in result.stdout
        if options:
            assert json.loads(result.stdout)["fault"]


def test_a_toll_that_the_sheet_did_not_grant(books: Books) -> None:
    more = {"slot_price_microcredits": TOLL + 1, "price_microcredits": 329 + TOLL}
    forged = settled(books.me, SELLER, 3, **books.granted | more)
    books.keep(forged)
    result = books.show(forged.receipt_id)
    assert result.exit_code == Exit.STORE
    assert "charges another toll than its sheet grants" in result.stderr


def test_a_price_that_its_terms_do_not_make(books: Books) -> None:
    forged = settled(books.me, SELLER, 3, price_microcredits=1)
    books.keep(forged)
    result = books.show(forged.receipt_id)
    assert result.exit_code == Exit.STORE
    assert "NOT the sum of the terms" in result.stdout


def test_a_receipt_that_is_none(books: Books) -> None:
    books.spoil("UPDATE receipts SET body = ?", books.sold.body)
    result = books.show(books.bought.receipt_id)
    assert (result.exit_code, result.stdout) == (Exit.STORE, "")
    assert "does not hold: its bytes are not those of its id" in result.stderr


def test_an_explanation_that_cannot_be_read_is_none(books: Books) -> None:
    books.spoil("UPDATE explanations SET body = ?", b'{"type": "answered"}')
    result = books.show(books.bought.receipt_id)
    assert result.exit_code == 0
    assert "why this agent was chosen is not kept here" in result.stderr


def test_unknown_and_ambiguous_ids_name_the_ledger(books: Books) -> None:
    unknown = books.show("00" * 32)
    assert unknown.exit_code == Exit.STORE
    assert "no receipt or sheet here begins with" in unknown.stderr
    assert "p2pagent ledger" in unknown.stderr
    books.spoil("INSERT INTO sheets SELECT ?, body, signature FROM sheets", books.bought.receipt_id[:31] + b"x")
    ambiguous = books.show(books.bought.receipt_id)
    assert ambiguous.exit_code == Exit.STORE
    assert "2 receipts and sheets begin with" in ambiguous.stderr
    assert books.show(books.bought.receipt_id.hex()).exit_code == 0


@pytest.mark.parametrize("ident", ["12345", "0x1234567", "g" * 12, "0" * 65])
def test_what_is_no_id(books: Books, ident: str) -> None:
    assert books.show(ident).exit_code == 2


def test_no_store_is_made_by_looking(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["auction", "show", "123456", "--home", str(tmp_path)], prog_name="p2pagent")
    assert result.exit_code == Exit.STORE
    assert list(tmp_path.iterdir()) == []


def test_a_store_from_before_sheets_were_kept(books: Books) -> None:
    books.spoil("PRAGMA user_version = 1")
    result = books.show(books.sheet_id)
    assert result.exit_code == Exit.STORE
    assert "p2pagent up" in result.stderr
