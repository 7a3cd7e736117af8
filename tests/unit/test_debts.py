"""Receipts on their way to their sellers: our signature leaves only what our own ledger holds, again and again."""

import pytest

from p2pagent.peer.credit import Account, Credit
from p2pagent.peer.debts import DEBTS_MAX, REMINDERS_MAX, Debt, Debts
from p2pagent.peer.effects import Acknowledged, Effect, Post, Send, SetTimer
from p2pagent.peer.events import PeerUp, Posted, Timer, TimerFired
from p2pagent.peer.messages import Call, Chunk, Final, Receipt, Settle, Settled
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import SIGNED_DOMAINS, receipt_id
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import PeerId
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, ME, make_call, make_delta, make_final, make_peer, make_quote, receive, sent

SUBJECT = 1
PRICE = 7


def final_of(space: Space, number: int, seller: SimKeys = ALICE) -> Final:
    return make_final(seller, make_call(space, number), "abc")


def settle_of(final: Final) -> Settle:
    return Settle(final.receipt, final.signature, ME.sign(SIGNED_DOMAINS[Receipt], final.receipt))


class Book:
    """`Debts` with the accounts that it keeps."""

    def __init__(self, booked: list[Debt] | None = None) -> None:
        self.accounts: dict[PeerId, Account] = {}
        self.debts = Debts(ME, Credit(0, self.accounts), booked or [])

    def sign(self, final: Final, seller: SimKeys = ALICE) -> bytes:
        ident, post = self.debts.countersign(seller.peer, final, PRICE)
        assert ident == receipt_id(final.receipt)
        assert isinstance(post, Post)
        assert post.buyer_signature == settle_of(final).buyer_signature
        return ident

    def reminders(self, *sellers: SimKeys) -> list[Effect]:
        return self.debts.remind({keys.peer for keys in sellers})


@pytest.fixture
def book() -> Book:
    return Book()


def test_nothing_is_sent_before_the_own_ledger_holds_it(book: Book, space: Space) -> None:
    final = final_of(space, 1)
    ident = book.sign(final)
    assert book.reminders(ALICE, BOB) == []
    settle = Send(ALICE.peer, settle_of(final))
    assert book.debts.on_posted(ident, new=True) == [settle]
    for _ in range(3):
        assert book.reminders(ALICE, BOB) == [settle]
    assert book.reminders(BOB) == []
    assert book.reminders() == []


def test_a_purchase_counts_once_however_often_it_is_booked(book: Book, space: Space) -> None:
    ident = book.sign(final_of(space, 1))
    assert book.accounts == {}
    for new in (True, False, False):
        book.debts.on_posted(ident, new=new)
        assert book.accounts == {ALICE.peer: Account(-PRICE, 0, PRICE)}


def test_only_the_seller_acknowledges(book: Book, space: Space) -> None:
    ident = book.sign(final_of(space, 1))
    book.debts.on_posted(ident, new=True)
    assert book.debts.on_settled(BOB.peer, Settled(ident)) == []
    assert book.debts.on_settled(ALICE.peer, Settled(bytes(32))) == []
    assert len(book.reminders(ALICE)) == 1
    assert book.debts.on_settled(ALICE.peer, Settled(ident)) == [Acknowledged(ident)]
    assert book.reminders(ALICE) == []
    assert book.debts.on_settled(ALICE.peer, Settled(ident)) == []
    assert book.debts.on_posted(ident, new=False) == []


def test_no_more_reminders_at_a_time_than_a_queue_takes(book: Book, space: Space) -> None:
    idents = [book.sign(final_of(space, number)) for number in range(2 * REMINDERS_MAX + 3)]
    for ident in idents:
        book.debts.on_posted(ident, new=True)
    sizes = []
    while reminders := book.reminders(ALICE):
        sizes.append(len(reminders))
        for effect in reminders:
            assert isinstance(effect, Send)
            assert isinstance(effect.message, Settle)
            book.debts.on_settled(ALICE.peer, Settled(receipt_id(effect.message.receipt)))
    assert sizes == [REMINDERS_MAX, REMINDERS_MAX, 3]


def test_those_that_are_not_booked_yet_do_not_use_up_the_reminders(book: Book, space: Space) -> None:
    idents = [book.sign(final_of(space, number)) for number in range(REMINDERS_MAX + 1)]
    book.debts.on_posted(idents[-1], new=True)
    assert len(book.reminders(ALICE)) == 1


def test_what_the_ledger_held_at_the_start_is_sent_but_not_counted_again(space: Space) -> None:
    settle = settle_of(final_of(space, 1))
    book = Book([Debt(ALICE.peer, settle, PRICE)])
    assert book.reminders(ALICE) == [Send(ALICE.peer, settle)]
    assert book.accounts == {}


def test_no_more_debts_are_kept_than_the_bound(space: Space) -> None:
    settle = settle_of(final_of(space, 0))
    kept = [Debt(ALICE.peer, Settle(b"%d" % n, *settle_bytes(settle)), PRICE) for n in range(DEBTS_MAX)]
    book = Book(kept)
    ident = book.sign(final_of(space, 1))
    book.debts.on_posted(ident, new=True)
    assert book.debts.on_settled(ALICE.peer, Settled(receipt_id(b"0"))) == []
    assert book.debts.on_settled(ALICE.peer, Settled(receipt_id(b"1"))) == [Acknowledged(receipt_id(b"1"))]
    assert book.debts.on_settled(ALICE.peer, Settled(ident)) == [Acknowledged(ident)]


def settle_bytes(settle: Settle) -> tuple[bytes, bytes]:
    return settle.seller_signature, settle.buyer_signature


# --- through the peer -----------------------------------------------------------------------------------------------


def bought(space: Space) -> tuple[Peer, Post]:
    peer = make_peer(space, make_advert("agent", {0: 0.95}))
    receive(peer, ALICE, make_delta(ALICE, space, make_advert("agent", {SUBJECT: 0.95})))
    peer.handle(PeerUp(ALICE.peer), START_MS)
    (call,) = sent(peer.handle(make_ask("q", SUBJECT), START_MS), ALICE)
    assert isinstance(call, Call)
    receive(peer, ALICE, make_quote(ALICE, call))
    receive(peer, ALICE, Chunk(call.conversation, 0, "abc"))
    (post,) = [e for e in receive(peer, ALICE, make_final(ALICE, call, "abc")) if isinstance(e, Post)]
    return peer, post


def settles(effects: list[Effect]) -> list[bytes]:
    return [receipt_id(m.receipt) for m in sent(effects, ALICE) if isinstance(m, Settle)]


def exchange(peer: Peer) -> list[Effect]:
    effects = peer.handle(TimerFired(Timer("remind")), START_MS)
    assert any(isinstance(e, SetTimer) for e in effects)
    return effects


def test_a_meeting_before_the_ledger_has_it_does_not_let_the_signature_out(space: Space) -> None:
    peer, post = bought(space)
    assert settles(peer.handle(PeerUp(ALICE.peer), START_MS)) == []
    assert settles(exchange(peer)) == []
    assert settles(peer.handle(Posted(post.receipt_id, new=True), START_MS)) == [post.receipt_id]
    for meeting in (peer.handle(PeerUp(ALICE.peer), START_MS), exchange(peer)):
        assert settles(meeting) == [post.receipt_id]
    assert receive(peer, ALICE, Settled(post.receipt_id)) == [Acknowledged(post.receipt_id)]
    for meeting in (peer.handle(PeerUp(ALICE.peer), START_MS), exchange(peer)):
        assert settles(meeting) == []


def test_debts_of_the_last_run_are_sent_when_their_seller_is_met(space: Space) -> None:
    finals = [final_of(space, number) for number in range(REMINDERS_MAX + 1)]
    debts = [Debt(ALICE.peer, settle_of(final), PRICE) for final in finals]
    peer = make_peer(space, debts=debts)
    assert settles(exchange(peer)) == []
    assert settles(peer.handle(PeerUp(BOB.peer), START_MS)) == []
    assert settles(peer.handle(PeerUp(ALICE.peer), START_MS)) == [receipt_id(f.receipt) for f in finals[:-1]]
    assert len(settles(exchange(peer))) == REMINDERS_MAX
