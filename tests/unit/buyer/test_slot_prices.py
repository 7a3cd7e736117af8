"""A price of a slot holds as far as a sheet bears it out."""

import msgspec
import pytest

from p2pagent.market.pricing import decayed
from p2pagent.market.receipts import metered, price_cap
from p2pagent.peer.effects import Archive, Effect, Tell
from p2pagent.peer.events import CancelAsk
from p2pagent.peer.hub import FETCHES_MAX
from p2pagent.peer.hub_messages import Fetch, SignedSheet
from p2pagent.peer.messages import Chunk
from p2pagent.peer.sheet import body_id
from p2pagent.peer.sheets import CLOCK_MS
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.updates import Answered
from p2pagent.peer.wire import encode, sealed
from p2pagent.routing.hubs import draw
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.clearings import CLEARED_MS, EPOCH, Query, clear_book, make_bid, make_book, make_commit, make_offer
from tests.marketplace import EXPERTS, SUBJECT, Market
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_delta, make_final, make_quote, sent

PRICE = 700
CLEARED = CLEARED_MS - START_MS
"""Milliseconds after the start."""


AUCTIONEER = next(
    keys
    for keys in map(SimKeys, range(20, 60))
    if draw("/", EPOCH, [k.peer for k in (ME, *EXPERTS, keys)])[0] == keys.peer
)


def priced(auctioneer: SimKeys = AUCTIONEER, **changes: object) -> SignedSheet:
    """A sheet by which a slot of ALICE's agent is worth `PRICE` to one more buyer."""
    bids = {
        keys: encode(make_bid(keys, [Query({AgentRef(ALICE.peer, "agent"): gain})], hub="/"))
        for keys, gain in ((SimKeys(11), 900), (SimKeys(12), PRICE))
    }
    commits = [make_commit(keys, auctioneer, bid, 1, hub="/") for keys, bid in bids.items()]
    book = make_book(auctioneer, commits, [make_offer(ALICE, auctioneer, {("agent", 0): 1}, hub="/")], hub="/")
    sheet = clear_book(auctioneer, book, {body_id(bid): bid for bid in bids.values()}).sheet
    return SignedSheet(*sealed(msgspec.structs.replace(sheet, **changes), auctioneer))


def priced_quote(market: Market, sheet: SignedSheet, price: int, after_ms: int = CLEARED) -> list[Effect]:
    """ALICE quotes at `price` for a slot and names the sheet."""
    call = market.calls[ALICE]
    rates = make_advert("any", {}).rates
    changes = {
        "sheet": body_id(sheet.body),
        "slot_price_microcredits": price,
        "price_cap_microcredits": price_cap(rates, call.prompt_tokens, call.max_tokens, price),
    }
    return market.get(ALICE, make_quote(ALICE, call, **changes), after_ms)


@pytest.fixture
def asked(space: Space) -> Market:
    """All experts have been called and have not quoted."""
    market = Market(space)
    market.get(AUCTIONEER, make_delta(AUCTIONEER, space, make_advert("agent", {5: 0.95})))
    market.ask()
    return market


@pytest.mark.parametrize("age_ms", [0, 700, 5_000])
def test_a_slot_price_is_believed_once_its_sheet_is_there(asked: Market, age_ms: int) -> None:
    price = decayed(PRICE, age_ms)
    effects = priced_quote(asked, priced(), price, CLEARED + age_ms)
    assert sent(effects) == [Fetch(body_id(priced().body))]
    assert isinstance(asked.get(ALICE, priced(), CLEARED + age_ms)[0], Archive)
    asked.quote(BOB, CAROL)
    assert asked.awarded == [ALICE]
    asked.get(ALICE, Chunk(asked.calls[ALICE].conversation, 0, "abc"))
    usage = Usage(asked.calls[ALICE].prompt_tokens, 0, 3)
    owed = metered(make_advert("any", {}).rates, usage) + price
    terms = {"sheet": body_id(priced().body), "slot_price_microcredits": price, "price_microcredits": owed}
    asked.get(ALICE, make_final(ALICE, asked.calls[ALICE], "abc", **terms))
    (answer,) = [e.update for e in asked.effects if isinstance(e, Tell)]
    assert isinstance(answer, Answered)
    assert (answer.how, answer.price_microcredits, answer.slot_price_microcredits) == ("posted", owed, price)


def test_a_sheet_at_hand_is_not_fetched_again(asked: Market) -> None:
    priced_quote(asked, priced(), PRICE)
    asked.get(ALICE, priced(), CLEARED)
    asked.handle(CancelAsk("q"), CLEARED)
    asked.handle(make_ask("q", SUBJECT), CLEARED)
    assert sent(priced_quote(asked, priced(), PRICE)) == []


@pytest.mark.parametrize(
    ("price", "age_ms", "blamed"),
    [
        (PRICE + 1, 0, True),
        (PRICE + 1, CLOCK_MS, True),
        (PRICE, CLOCK_MS + 10, False),
        (1, 60_000, False),
        (PRICE, -CLOCK_MS - 1, False),
    ],
)
def test_a_price_above_what_the_sheet_bears_today_is_not_paid(
    asked: Market, price: int, age_ms: int, blamed: bool
) -> None:
    """Of an old sheet, or of one from the future, it may be a matter of clocks; above what it ever bore it is a lie."""
    sheet = priced(cleared_ms=CLEARED_MS)
    priced_quote(asked, sheet, price, CLEARED + age_ms)
    asked.get(ALICE, sheet, CLEARED + age_ms)
    assert asked.blamed == [ALICE.peer] * blamed
    assert asked.released == [ALICE]
    asked.quote(BOB, CAROL)
    assert asked.awarded == [BOB]


def test_a_price_without_a_sheet_is_a_fault(asked: Market) -> None:
    call = asked.calls[ALICE]
    cap = price_cap(make_advert("any", {}).rates, call.prompt_tokens, call.max_tokens, 5)
    asked.quote(ALICE, slot_price_microcredits=5, price_cap_microcredits=cap)
    assert asked.blamed == [ALICE.peer]
    assert asked.released == [ALICE]


@pytest.mark.parametrize("wrong", [False, True])
def test_a_sheet_that_never_comes_or_is_wrong_costs_the_seller_this_sale(asked: Market, wrong: bool) -> None:
    sheet = priced(slot_prices_microcredits=(PRICE + 5,)) if wrong else priced()
    priced_quote(asked, sheet, PRICE)
    asked.quote(BOB, CAROL)
    assert asked.awarded == []
    if wrong:
        asked.get(ALICE, sheet, CLEARED)
        assert asked.blamed == [AUCTIONEER.peer]
    asked.fire("quotes", QUOTES_MS)
    assert asked.awarded == [BOB]
    assert ALICE in asked.released
    assert asked.blamed == []


def test_a_sheet_that_nobody_asked_for_is_not_taken(asked: Market) -> None:
    assert asked.get(ALICE, priced(), CLEARED) == []
    assert not asked.peer.hub.sheets._held


def test_a_sheet_of_whoever_the_seller_likes_justifies_nothing(asked: Market) -> None:
    friend = SimKeys(99)
    priced_quote(asked, priced(friend), PRICE)
    assert asked.get(ALICE, priced(friend), CLEARED) == []
    asked.quote(BOB, CAROL)
    asked.fire("quotes", QUOTES_MS)
    assert asked.awarded == [BOB]


def test_one_quote_brings_one_fetch_whatever_else_is_quoted(asked: Market) -> None:
    assert sent(priced_quote(asked, priced(), PRICE)) == [Fetch(body_id(priced().body))]
    for number in range(2 * FETCHES_MAX):
        other = SignedSheet(number.to_bytes(4, "big"), bytes(64))
        assert priced_quote(asked, other, PRICE) == []
    assert len(asked.peer.hub._fetching) == 1
    asked.get(ALICE, priced(), CLEARED)
    asked.quote(BOB, CAROL)
    assert asked.awarded == [ALICE]


def test_a_slot_price_beyond_the_users_limit_is_not_paid(space: Space) -> None:
    market = Market(space)
    market.get(AUCTIONEER, make_delta(AUCTIONEER, space, make_advert("agent", {5: 0.95})))
    cap = price_cap(make_advert("any", {}).rates, len(make_ask("q", SUBJECT).turns[0].content), 64, 0)
    market.ask(price_max_microcredits=cap + PRICE - 1)
    priced_quote(market, priced(), PRICE)
    market.get(ALICE, priced(), CLEARED)
    assert market.blamed == []
    market.quote(BOB, CAROL)
    assert market.awarded == [BOB]
