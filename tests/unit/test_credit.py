"""How far each peer is trusted: what is booked, unsigned or promised, and that mutual trade nets out."""

import pytest

from p2pagent.config import Preferences
from p2pagent.peer.credit import BUYERS_MAX, FORGIVEN_MS, UNSIGNED_PER_BUYER_MAX, Account, Credit
from p2pagent.peer.effects import Generate, Post
from p2pagent.peer.events import GenerationEnded, Posted
from p2pagent.peer.messages import Call, Chunk, Final, Receipt, Refuse, Settle, Settled, SignedQuote
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import SIGNED_DOMAINS
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId, Usage
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import (
    ALICE,
    BOB,
    make_award,
    make_call,
    make_delta,
    make_final,
    make_peer,
    make_quote,
    receive,
    sent,
)
from tests.strangers import ident as conversation

CAP = 10 * 20 + 40 * 64
SUBJECT = 1
TEXT = "x" * 64


def test_a_newcomer_may_owe_its_allowance_and_no_more() -> None:
    credit = Credit(100, {})
    assert credit.allows(ALICE.peer, 100, START_MS)
    assert not credit.allows(ALICE.peer, 101, START_MS)


@pytest.mark.parametrize(
    ("account", "most"),
    [
        (Account(), 100),
        (Account(balance_microcredits=30), 70),
        (Account(unsigned_microcredits=30), 70),
        (Account(settled_microcredits=30), 115),
        (Account(-40, 10, 41), 150),
        (Account(100, 50, 0), -50),
    ],
)
def test_what_is_booked_and_what_is_unsigned_lessens_what_may_be_promised(account: Account, most: int) -> None:
    credit = Credit(100, {ALICE.peer: account})
    assert credit.allows(ALICE.peer, most, START_MS)
    assert not credit.allows(ALICE.peer, most + 1, START_MS)
    assert credit.allows(BOB.peer, 100, START_MS)


def test_a_delivered_answer_is_unsigned_until_it_is_sold_once() -> None:
    accounts: dict[PeerId, Account] = {}
    credit = Credit(100, accounts)
    credit.delivered(b"1", ALICE.peer, 30)
    credit.delivered(b"2", ALICE.peer, 5)
    assert (accounts[ALICE.peer], credit.unsigned) == (Account(0, 35, 0), 2)
    for new in (True, False, False):
        credit.sold(b"1", ALICE.peer, 30, new=new)
        assert (accounts[ALICE.peer], credit.unsigned) == (Account(30, 5, 30), 1)


def test_a_sale_that_the_ledger_held_already_ends_what_was_unsigned_alone() -> None:
    accounts = {ALICE.peer: Account(30, 0, 30)}  # as read from the ledger at the start
    Credit(100, accounts).sold(b"1", ALICE.peer, 30, new=False)
    assert accounts[ALICE.peer] == Account(30, 0, 30)


def test_a_purchase_makes_up_for_a_sale() -> None:
    accounts: dict[PeerId, Account] = {}
    credit = Credit(100, accounts)
    credit.delivered(b"1", ALICE.peer, 80)
    credit.sold(b"1", ALICE.peer, 80, new=True)
    credit.bought(ALICE.peer, 80)
    assert accounts[ALICE.peer] == Account(0, 0, 160)


def test_a_refund_undoes_a_deal_on_either_side_and_raises_no_limit() -> None:
    accounts: dict[PeerId, Account] = {}
    credit = Credit(100, accounts)
    credit.delivered(b"1", ALICE.peer, 80)
    credit.sold(b"1", ALICE.peer, 80, new=True)
    credit.bought(ALICE.peer, 30)
    assert (credit.used(ALICE.peer, START_MS), credit.limit(ALICE.peer)) == (50, 155)
    credit.got_back(ALICE.peer, 30)
    assert accounts[ALICE.peer] == Account(80, 0, 80)
    credit.took_back(ALICE.peer, 80)
    assert accounts[ALICE.peer] == Account()
    assert (credit.used(ALICE.peer, START_MS), credit.limit(ALICE.peer)) == (0, 100)


def test_who_signs_for_nothing_gets_nothing_more_however_cheap() -> None:
    credit = Credit(100, {})
    for number in range(UNSIGNED_PER_BUYER_MAX):
        assert credit.allows(ALICE.peer, 0, START_MS)
        credit.delivered(b"%d" % number, ALICE.peer, 0)
    assert not credit.allows(ALICE.peer, 0, START_MS)
    assert credit.allows(BOB.peer, 100, START_MS)
    credit.sold(b"0", ALICE.peer, 0, new=True)
    assert credit.allows(ALICE.peer, 0, START_MS)


def test_of_too_many_buyers_the_one_longest_without_a_new_answer_is_let_off() -> None:
    accounts: dict[PeerId, Account] = {}
    credit = Credit(100, accounts)
    for number in range(BUYERS_MAX + 1):
        credit.delivered(b"first", PeerId(str(number)), 7)
        if number == 1:
            credit.delivered(b"again", PeerId("0"), 5)
    assert accounts[PeerId("1")].unsigned_microcredits == 0
    assert accounts[PeerId("0")].unsigned_microcredits == 12
    assert credit.unsigned == BUYERS_MAX + 1
    credit.sold(b"first", PeerId("1"), 7, new=True)
    assert accounts[PeerId("1")] == Account(7, 0, 7)


def test_a_charge_shrinks_the_standing_and_is_forgiven_over_time() -> None:
    credit = Credit(100, {})
    credit.charge(ALICE.peer, 60, START_MS)
    assert credit.allows(ALICE.peer, 40, START_MS)
    assert not credit.allows(ALICE.peer, 41, START_MS)
    assert credit.allows(BOB.peer, 100, START_MS)
    assert not credit.allows(ALICE.peer, 90, START_MS + FORGIVEN_MS // 2 - 1)
    assert credit.allows(ALICE.peer, 90, START_MS + FORGIVEN_MS // 2)
    credit.charge(ALICE.peer, 30, START_MS + FORGIVEN_MS // 2)
    assert credit.charged(ALICE.peer, START_MS + FORGIVEN_MS // 2) == 40
    assert credit.charged(ALICE.peer, START_MS + FORGIVEN_MS) == 0
    assert not credit.allows(ALICE.peer, 101, START_MS + FORGIVEN_MS)


def test_a_clock_that_is_set_back_makes_no_charge_larger() -> None:
    credit = Credit(100, {})
    credit.charge(ALICE.peer, 60, START_MS)
    assert credit.charged(ALICE.peer, START_MS - 10 * FORGIVEN_MS) == 60


def test_charges_come_on_top_of_what_is_owed() -> None:
    credit = Credit(100, {ALICE.peer: Account(balance_microcredits=30)})
    credit.charge(ALICE.peer, 30, START_MS)
    assert credit.allows(ALICE.peer, 40, START_MS)
    assert not credit.allows(ALICE.peer, 41, START_MS)


def test_charges_are_remembered_of_a_bounded_number_of_buyers() -> None:
    credit = Credit(100, {})
    for number in range(BUYERS_MAX + 1):
        credit.charge(PeerId(str(number)), 7, START_MS)
        if number == 1:
            credit.charge(PeerId("0"), 7, START_MS)
    assert len(credit._charges) == BUYERS_MAX
    assert credit.charged(PeerId("0"), START_MS) == 14
    assert credit.charged(PeerId("1"), START_MS) == 0


# --- through the peer -----------------------------------------------------------------------------------------------


def sell(peer: Peer, space: Space, number: int) -> bool:
    """ALICE buys from us, and signs twice what she owes; whether she was quoted for it."""
    (quote,) = sent(receive(peer, ALICE, make_call(space, number)), ALICE)
    if isinstance(quote, Refuse):
        assert quote.reason == "credit"
        return False
    (generate,) = receive(peer, ALICE, make_award(number))
    assert isinstance(generate, Generate)
    (final,) = sent(peer.handle(GenerationEnded(generate.job, Usage(20, 0, 64), "stop"), START_MS), ALICE)
    assert isinstance(final, Final)
    settle = Settle(final.receipt, final.signature, ALICE.sign(SIGNED_DOMAINS[Receipt], final.receipt))
    for new in (True, False):
        (post,) = receive(peer, ALICE, settle)
        assert isinstance(post, Post)
        (settled,) = sent(peer.handle(Posted(post.receipt_id, new), START_MS), ALICE)
        assert isinstance(settled, Settled)
    return True


def buy(peer: Peer, query: str) -> None:
    """We buy from ALICE as much as she bought."""
    (call,) = sent(peer.handle(make_ask(query, SUBJECT), START_MS), ALICE)
    assert isinstance(call, Call)
    receive(peer, ALICE, make_quote(ALICE, call))
    receive(peer, ALICE, Chunk(call.conversation, 0, TEXT))
    effects = receive(peer, ALICE, make_final(ALICE, call, TEXT))
    (post,) = [e for e in effects if isinstance(e, Post)]
    assert sent(effects, ALICE) == []
    assert [type(m) for m in sent(peer.handle(Posted(post.receipt_id, new=True), START_MS), ALICE)] == [Settle]
    peer.handle(Posted(post.receipt_id, new=False), START_MS)
    receive(peer, ALICE, Settled(post.receipt_id))


def traders(space: Space, accounts: dict[PeerId, Account]) -> Peer:
    preferences = Preferences(newcomer_credit_microcredits=CAP)
    peer = make_peer(space, make_advert("agent", {0: 0.95}), preferences=preferences, accounts=accounts)
    receive(peer, ALICE, make_delta(ALICE, space, make_advert("agent", {SUBJECT: 0.95})))
    return peer


def test_two_that_sell_each_other_never_run_out_of_credit(space: Space) -> None:
    accounts = {ALICE.peer: Account()}
    peer = traders(space, accounts)
    for number in range(20):
        assert sell(peer, space, number)
        buy(peer, f"q{number}")
    price = accounts[ALICE.peer].settled_microcredits // 40
    assert abs(accounts[ALICE.peer].balance_microcredits) < price
    assert accounts[ALICE.peer].unsigned_microcredits == 0


def test_one_that_only_buys_runs_out_of_credit(space: Space) -> None:
    accounts = {ALICE.peer: Account()}
    peer = traders(space, accounts)
    sold = 0
    while sell(peer, space, sold):
        sold += 1
        assert sold < 10
    account = accounts[ALICE.peer]
    assert sold >= 1
    assert account.balance_microcredits == account.settled_microcredits <= CAP + account.settled_microcredits // 2
    buy(peer, "q")
    assert sell(peer, space, 50)


def test_a_conversation_that_ends_without_an_answer_costs_no_credit(space: Space) -> None:
    accounts = {ALICE.peer: Account()}
    peer = traders(space, accounts)
    for _ in range(5):
        (quote,) = sent(receive(peer, ALICE, make_call(space, 1)), ALICE)
        assert isinstance(quote, SignedQuote)
        (void,) = sent(receive(peer, ALICE, make_award(1, subject=3)), ALICE)
        assert void.conversation == conversation(1)
    assert accounts == {ALICE.peer: Account()}
