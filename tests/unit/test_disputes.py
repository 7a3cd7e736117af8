"""What is disputed is told until it is refunded; what is refunded is told until it is booked; money moves once."""

from itertools import chain

import pytest
from msgspec import structs

from p2pagent.errors import RemoteError
from p2pagent.ledger import receipt_in, refund_in
from p2pagent.peer.credit import Account, Credit
from p2pagent.peer.debts import REMINDERS_MAX
from p2pagent.peer.disputes import LOOKUPS_PER_PEER_MAX, Disputes, make_refund
from p2pagent.peer.effects import Blame, Effect, PostRefund, RecordDispute, RefundAcknowledged, Send
from p2pagent.peer.events import Disputed, DisputeRecorded, Outcome, PeerUp, RefundPosted, Timer, TimerFired
from p2pagent.peer.messages import Call, Dispute, Receipt, Settled, SignedRefund
from p2pagent.peer.wire import encode, receipt_id, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import PeerId
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, ME, make_call, make_delta, make_final, make_peer, receive, sent

SUBJECT = 1
PRICE = 7


def deal(space: Space, number: int, seller: SimKeys, buyer: SimKeys) -> tuple[bytes, Receipt]:
    """A receipt and its id."""
    final = make_final(seller, make_call(space, number), "abc", buyer=buyer.peer, price_microcredits=PRICE)
    return receipt_id(final.receipt), receipt_in(final.receipt)


def disputed(number: int, seller: SimKeys = ALICE) -> Disputed:
    return Disputed(seller.peer, Dispute(number.to_bytes(32, "big"), "wrong"))


def refunded(space: Space, number: int = 1, seller: SimKeys = ALICE, buyer: SimKeys = ME) -> tuple[bytes, SignedRefund]:
    ident, receipt = deal(space, number, seller, buyer)
    return ident, make_refund(ident, receipt, seller, START_MS)


class Desk:
    """`Disputes` with the accounts that it keeps."""

    def __init__(self, disputed: list[Disputed] | None = None, refunds: list[SignedRefund] | None = None) -> None:
        self.accounts: dict[PeerId, Account] = {}
        self.disputes = Disputes(ME, Credit(0, self.accounts), disputed or [], refunds or [])

    def post(self, refund: SignedRefund, outcome: Outcome) -> list[Effect]:
        return self.disputes.on_refund_posted(RefundPosted(refund, outcome))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_dispute_is_told_at_once_and_at_every_meeting_with_its_seller_alone(desk: Desk) -> None:
    one, two = disputed(1), disputed(2, BOB)
    assert desk.disputes.on_disputed(one) == [Send(ALICE.peer, one.dispute)]
    assert desk.disputes.on_disputed(two) == [Send(BOB.peer, two.dispute)]
    for _ in range(2):
        assert desk.disputes.on_up(ALICE.peer) == [Send(ALICE.peer, one.dispute)]
    assert desk.disputes.sellers == {ALICE.peer, BOB.peer}
    assert desk.disputes.remind({ALICE.peer, BOB.peer}) == []


def test_a_seller_that_had_not_booked_the_receipt_is_told_once_it_has(desk: Desk) -> None:
    one = disputed(1)
    desk.disputes.on_disputed(one)
    settled = Settled(one.dispute.receipt_id)
    assert desk.disputes.on_settled(BOB.peer, settled) == []
    assert desk.disputes.on_settled(ALICE.peer, Settled(bytes(32))) == []
    assert desk.disputes.on_settled(ALICE.peer, settled) == [Send(ALICE.peer, one.dispute)]


def test_of_many_disputes_a_few_are_told_at_a_time_and_none_is_left_out(desk: Desk) -> None:
    all_ = [disputed(number) for number in range(2 * REMINDERS_MAX + 3)]
    for each in all_:
        desk.disputes.on_disputed(each)
    turns = [desk.disputes.on_up(ALICE.peer) for _ in range(3)]
    assert {len(turn) for turn in turns} == {REMINDERS_MAX}
    told = {effect.message for effect in chain(*turns) if isinstance(effect, Send)}
    assert told == {each.dispute for each in all_}


def test_what_was_disputed_and_refunded_before_the_start_goes_on(space: Space) -> None:
    one = disputed(1)
    ident, refund = refunded(space, 2, seller=ME, buyer=ALICE)
    desk = Desk([one], [refund])
    assert desk.disputes.on_up(ALICE.peer) == [Send(ALICE.peer, one.dispute), Send(ALICE.peer, refund)]
    assert desk.disputes.on_settled(ALICE.peer, Settled(ident)) == [RefundAcknowledged(ident)]
    assert desk.accounts == {}


def test_a_refund_ends_the_dispute_and_gives_back_once(desk: Desk, space: Space) -> None:
    ident, refund = refunded(space)
    desk.accounts[ALICE.peer] = Account(-PRICE, 0, PRICE)
    desk.disputes.on_disputed(Disputed(ALICE.peer, Dispute(ident, "wrong")))
    for outcome in ("new", "known", "known"):
        assert desk.disputes.on_refund(ALICE.peer, refund) == [PostRefund(refund)]
        assert desk.post(refund, outcome) == [Send(ALICE.peer, Settled(ident))]
        assert desk.accounts == {ALICE.peer: Account()}
        assert desk.disputes.sellers == set()
    assert desk.disputes.on_up(ALICE.peer) == []


def test_a_refund_that_fits_no_receipt_is_blamed_and_ends_no_dispute(desk: Desk, space: Space) -> None:
    ident, refund = refunded(space)
    desk.disputes.on_disputed(Disputed(ALICE.peer, Dispute(ident, "wrong")))
    desk.disputes.on_refund(ALICE.peer, refund)
    (blame,) = desk.post(refund, "unfounded")
    assert isinstance(blame, Blame)
    assert blame.peer == ALICE.peer
    assert desk.accounts == {}
    assert desk.disputes.sellers == {ALICE.peer}


def test_refunds_that_are_forged_or_between_others_are_refused(desk: Desk, space: Space) -> None:
    _, refund = refunded(space)
    ident, receipt = deal(space, 1, ALICE, ME)
    stolen = SignedRefund(*sealed(structs.replace(refund_in(refund.body), seller=BOB.peer), BOB))
    cases = [
        (BOB, refund),
        (ALICE, structs.replace(refund, signature=bytes(64))),
        (ALICE, structs.replace(refund, body=refund.body[:-1])),
        (ALICE, structs.replace(refund, body=encode(receipt))),
        (ALICE, make_refund(ident, structs.replace(receipt, buyer=BOB.peer), ALICE, START_MS)),
        (ALICE, make_refund(ident, structs.replace(receipt, seller=BOB.peer), ALICE, START_MS)),
    ]
    for sender, bad in cases:
        with pytest.raises(RemoteError):
            desk.disputes.on_refund(sender.peer, bad)
    assert desk.disputes.on_refund(BOB.peer, stolen) == [PostRefund(stolen)]  # whether it fits, the ledger says


def test_our_refund_leaves_when_it_is_booked_and_until_its_buyer_has_it(desk: Desk, space: Space) -> None:
    ident, refund = refunded(space, seller=ME, buyer=ALICE)
    desk.accounts[ALICE.peer] = Account(PRICE, 0, PRICE)
    assert desk.disputes.on_up(ALICE.peer) == []
    assert desk.post(refund, "new") == [Send(ALICE.peer, refund)]
    assert desk.accounts == {ALICE.peer: Account()}
    for _ in range(2):
        assert desk.disputes.on_up(ALICE.peer) == desk.disputes.remind({ALICE.peer, BOB.peer}) != []
    assert desk.disputes.on_up(BOB.peer) == desk.disputes.remind({BOB.peer}) == []
    assert desk.disputes.on_settled(BOB.peer, Settled(ident)) == []
    assert desk.disputes.on_settled(ALICE.peer, Settled(ident)) == [RefundAcknowledged(ident)]
    assert desk.disputes.on_settled(ALICE.peer, Settled(ident)) == []
    assert desk.disputes.on_up(ALICE.peer) == desk.disputes.remind({ALICE.peer}) == []


def test_a_dispute_is_looked_up_and_answered_by_the_refund_if_there_is_one(desk: Desk, space: Space) -> None:
    ident, refund = refunded(space, seller=ME, buyer=ALICE)
    dispute = Dispute(ident, "wrong")
    assert desk.disputes.on_dispute(ALICE.peer, dispute, START_MS) == [RecordDispute(ALICE.peer, dispute, START_MS)]
    assert desk.disputes.on_recorded(DisputeRecorded(ALICE.peer, None)) == []
    desk.disputes.on_dispute(ALICE.peer, dispute, START_MS)
    assert desk.disputes.on_recorded(DisputeRecorded(ALICE.peer, refund)) == [Send(ALICE.peer, refund)]
    assert desk.accounts == {}


def test_one_peer_keeps_the_ledger_busy_only_so_far(desk: Desk, space: Space) -> None:
    _, refund = refunded(space)
    for number in range(LOOKUPS_PER_PEER_MAX):
        assert desk.disputes.on_dispute(ALICE.peer, disputed(number).dispute, START_MS)
    assert desk.disputes.on_dispute(ALICE.peer, disputed(0).dispute, START_MS) == []
    assert desk.disputes.on_refund(ALICE.peer, refund) == []
    assert desk.disputes.on_dispute(BOB.peer, disputed(0).dispute, START_MS)
    desk.disputes.on_recorded(DisputeRecorded(ALICE.peer, None))
    assert desk.disputes.on_refund(ALICE.peer, refund) == [PostRefund(refund)]
    assert desk.disputes.on_dispute(ALICE.peer, disputed(0).dispute, START_MS) == []
    desk.post(refund, "unfounded")
    assert desk.disputes.on_dispute(ALICE.peer, disputed(0).dispute, START_MS)


# --- through the peer -----------------------------------------------------------------------------------------------


def test_no_question_goes_to_a_seller_that_leaves_a_dispute_open(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}))
    receive(peer, ALICE, make_delta(ALICE, space, make_advert("agent", {SUBJECT: 0.95})))
    ident, refund = refunded(space)
    dispute = Dispute(ident, "wrong")
    assert sent(peer.handle(Disputed(ALICE.peer, dispute), START_MS), ALICE) == [dispute]
    assert [m for m in sent(peer.handle(make_ask("q1", SUBJECT), START_MS), ALICE) if isinstance(m, Call)] == []
    assert dispute in sent(peer.handle(PeerUp(ALICE.peer), START_MS), ALICE)
    assert receive(peer, ALICE, refund) == [PostRefund(refund)]
    assert sent(peer.handle(RefundPosted(refund, "new"), START_MS), ALICE) == [Settled(ident)]
    assert [type(m) for m in sent(peer.handle(make_ask("q2", SUBJECT), START_MS), ALICE)] == [Call]


def test_a_refund_is_sent_again_at_the_exchange_and_a_forged_one_is_blamed(space: Space) -> None:
    peer = make_peer(space)
    ident, refund = refunded(space, seller=ME, buyer=ALICE)
    peer.handle(PeerUp(ALICE.peer), START_MS)
    assert sent(peer.handle(RefundPosted(refund, "new"), START_MS), ALICE) == [refund]
    assert refund in sent(peer.handle(TimerFired(Timer("remind")), START_MS), ALICE)
    assert receive(peer, ALICE, Settled(ident)) == [RefundAcknowledged(ident)]
    assert refund not in sent(peer.handle(TimerFired(Timer("remind")), START_MS), ALICE)
    (blame,) = receive(peer, BOB, refund)
    assert isinstance(blame, Blame)


def test_who_is_shunned_may_still_dispute_and_refund(space: Space) -> None:
    peer = make_peer(space)
    peer.directory.ban(ALICE.peer)
    ident, refund = refunded(space)
    assert receive(peer, ALICE, make_call(space, 1)) == []
    assert receive(peer, ALICE, refund) == [PostRefund(refund)]
    assert [type(e) for e in receive(peer, ALICE, Dispute(ident, ""))] == [RecordDispute]
