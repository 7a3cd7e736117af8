"""The selling state machine, driven through `Peer.handle`: every way in which a sale can go."""

import msgspec
import pytest

from p2pagent.config import Preferences
from p2pagent.keys import Keys
from p2pagent.peer.events import (
    Abort,
    AgentsChanged,
    Blame,
    Effect,
    Generate,
    Generated,
    GenerationEnded,
    GenerationFailed,
    PeerDown,
    Post,
    Posted,
    SetTimer,
    TimerFired,
)
from p2pagent.peer.peer import Peer
from p2pagent.peer.seller import HOLDS_PER_BUYER_MAX, QUEUE_PER_SLOT_MAX, QUOTE_MS, Account, SellerStatistics
from p2pagent.peer.wire import (
    SIGNED_DOMAINS,
    Call,
    Chunk,
    Fail,
    Final,
    Quote,
    Receipt,
    Refuse,
    Release,
    Settle,
    Settled,
    SignedQuote,
    opened,
    receipt_id,
)
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import Usage
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, ME, ident, make_award, make_call, make_peer, receive, sent

PRICE = 10 * len("reverse the word abc") + 40 * 3


@pytest.fixture
def peer(space: Space) -> Peer:
    return make_peer(space, make_advert("agent", {0: 0.95}, slots=2))


def quoted(peer: Peer, space: Space, number: int, buyer: SimKeys = ALICE, **changes: object) -> Quote:
    (answer,) = sent(receive(peer, buyer, make_call(space, number, **changes)), buyer)
    assert isinstance(answer, SignedQuote)
    return opened(Quote, answer.body, answer.signature, ME.peer, buyer)


def refused(peer: Peer, call: Call, buyer: SimKeys = ALICE) -> str:
    (answer,) = sent(receive(peer, buyer, call), buyer)
    assert isinstance(answer, Refuse)
    return answer.reason


def started(effects: list[Effect]) -> list[bytes]:
    return [e.job for e in effects if isinstance(e, Generate)]


def awarded(peer: Peer, number: int, buyer: SimKeys = ALICE, after_ms: int = 1) -> list[bytes]:
    return started(receive(peer, buyer, make_award(number), after_ms))


USAGE = Usage(20, 0, 3)


def ended(peer: Peer, number: int, usage: Usage = USAGE) -> list[Effect]:
    return peer.handle(GenerationEnded(ident(number), usage, "stop"), START_MS + 500)


def expire(peer: Peer, effects: list[Effect], after_ms: int = QUOTE_MS) -> list[Effect]:
    (timer,) = [e.timer for e in effects if isinstance(e, SetTimer)]
    return peer.handle(TimerFired(timer), START_MS + after_ms)


def statistics(peer: Peer) -> SellerStatistics:
    return peer.seller.statistics()


def test_a_sale_from_call_to_receipt(peer: Peer, space: Space) -> None:
    quote = quoted(peer, space, 1)
    assert (quote.free_slots, quote.queued, quote.expires_ms) == (2, 0, QUOTE_MS)
    assert quote.price_cap_microcredits == 10 * 20 + 40 * 64
    assert statistics(peer).slots_busy == 1
    (generate,) = receive(peer, ALICE, make_award(1))
    assert isinstance(generate, Generate)
    assert (generate.agent, generate.priority, generate.sampling.max_tokens) == ("agent", 1, 64)
    pieces = [sent(peer.handle(Generated(ident(1), text), START_MS + 9))[0] for text in ("cb", "a")]
    assert pieces == [Chunk(ident(1), 0, "cb"), Chunk(ident(1), 1, "a")]
    (final,) = sent(ended(peer, 1), ALICE)
    assert isinstance(final, Final)
    receipt = opened(Receipt, final.receipt, final.signature, ME.peer, ALICE)
    assert receipt.price_microcredits == PRICE
    assert statistics(peer) == SellerStatistics(sales=0, slots_busy=0, waiting=0, unsettled=1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent": "nobody"}, "agent"),
        ({"space": "another"}, "space"),
        ({"embedding": b""}, "space"),
        ({"embedding": bytes(256)}, "space"),
        ({"embedding": b"x" * 255}, "space"),
        ({"prompt_tokens": 4096}, "length"),
        ({"max_tokens": 1 << 24}, "credit"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    peer: Peer, space: Space, changes: dict[str, object], reason: str
) -> None:
    assert refused(peer, msgspec.structs.replace(make_call(space, 1), **changes)) == reason
    assert statistics(peer).sales == 0


def test_a_hold_ends_when_its_time_is_up_and_a_late_award_is_told_so(peer: Peer, space: Space) -> None:
    effects = receive(peer, ALICE, make_call(space, 1))
    assert expire(peer, effects, QUOTE_MS - 1) == []
    assert statistics(peer).slots_busy == 1
    assert expire(peer, effects) == []
    assert statistics(peer).slots_busy == 0
    assert sent(receive(peer, ALICE, make_award(1), QUOTE_MS)) == [Fail(ident(1), "expired")]


def test_the_timer_of_a_quote_does_not_touch_the_answer(peer: Peer, space: Space) -> None:
    effects = receive(peer, ALICE, make_call(space, 1))
    assert awarded(peer, 1) == [ident(1)]
    assert expire(peer, effects) == []
    assert statistics(peer).slots_busy == 1


def test_slots_in_use_and_held_never_exceed_the_agents(peer: Peer, space: Space) -> None:
    free = [quoted(peer, space, n, ALICE if n % 2 else BOB).free_slots for n in range(1, 6)]
    assert free == [2, 1, 0, 0, 0]
    assert statistics(peer).slots_busy == 2
    jobs = [job for n in range(1, 6) for job in awarded(peer, n, ALICE if n % 2 else BOB)]
    assert jobs == [ident(1), ident(2)]
    assert (statistics(peer).slots_busy, statistics(peer).waiting) == (2, 3)


def test_a_conversation_id_used_twice_is_a_fault(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    for buyer in (ALICE, BOB):
        assert receive(peer, buyer, make_call(space, 1)) == [Blame(buyer.peer, "conversation id used twice")]
    assert statistics(peer).slots_busy == 1


def test_a_second_award_starts_nothing(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    assert awarded(peer, 1) == [ident(1)]
    assert sent(receive(peer, ALICE, make_award(1))) == [Fail(ident(1), "expired")]
    assert statistics(peer).slots_busy == 1


def test_nobody_takes_up_or_releases_anothers_quote(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    assert sent(receive(peer, BOB, make_award(1)), BOB) == [Fail(ident(1), "expired")]
    assert receive(peer, BOB, Release(ident(1))) == []
    assert awarded(peer, 1) == [ident(1)]


def test_a_prompt_that_was_not_called_about_voids_the_award(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    effects = receive(peer, ALICE, make_award(1, subject=3))
    assert [e.fault for e in effects if isinstance(e, Blame)] == ["prompt differs from its embedding"]
    assert sent(effects) == [Fail(ident(1), "embedding")]
    assert statistics(peer).slots_busy == 0


def test_whoever_owes_too_much_gets_no_quote(space: Space) -> None:
    cap = 10 * 20 + 40 * 64
    poor = Preferences(newcomer_credit_microcredits=cap)
    peer = make_peer(space, make_advert("agent", {}), preferences=poor)
    quoted(peer, space, 1)
    awarded(peer, 1)
    ended(peer, 1)
    assert refused(peer, make_call(space, 2)) == "credit"
    assert quoted(peer, space, 3, BOB).free_slots == 2
    owing = make_peer(space, make_advert("agent", {}), preferences=poor, accounts={ALICE.peer: Account(1)})
    assert refused(owing, make_call(space, 1)) == "credit"


def settle(final: Final, buyer: Keys) -> Settle:
    return Settle(final.receipt, final.signature, buyer.sign(SIGNED_DOMAINS[Receipt], final.receipt))


def sold(peer: Peer, space: Space, number: int) -> Final:
    quoted(peer, space, number)
    awarded(peer, number)
    (final,) = sent(ended(peer, number), ALICE)
    assert isinstance(final, Final)
    return final


def test_a_signed_receipt_turns_an_open_debt_into_a_booked_one_once(space: Space) -> None:
    accounts = {ALICE.peer: Account()}
    peer = make_peer(space, make_advert("agent", {}), accounts=accounts)
    final = sold(peer, space, 1)
    assert accounts[ALICE.peer] == Account(0, PRICE, 0)
    ident_ = receipt_id(final.receipt)
    for new in (True, False):
        (post,) = receive(peer, ALICE, settle(final, ALICE))
        assert isinstance(post, Post)
        assert sent(peer.handle(Posted(ident_, new), START_MS), ALICE) == [Settled(ident_)]
        assert accounts[ALICE.peer] == Account(PRICE, 0, PRICE)


@pytest.mark.parametrize("signer", [BOB, ME])
def test_a_receipt_that_its_buyer_did_not_sign_is_not_booked(peer: Peer, space: Space, signer: SimKeys) -> None:
    final = sold(peer, space, 1)
    for sender in (ALICE, BOB):
        (blame,) = receive(peer, sender, settle(final, signer))
        assert isinstance(blame, Blame)
    assert statistics(peer).unsettled == 1


@pytest.mark.parametrize("taken_up", [False, True])
def test_a_release_frees_the_slot_and_stops_the_work(peer: Peer, space: Space, taken_up: bool) -> None:
    quoted(peer, space, 1)
    if taken_up:
        awarded(peer, 1)
    assert receive(peer, ALICE, Release(ident(1))) == ([Abort(ident(1))] if taken_up else [])
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)
    assert peer.handle(Generated(ident(1), "late"), START_MS) == []
    assert ended(peer, 1) == []


def test_own_questions_start_before_those_of_others_that_wait(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=1))
    for number in (1, 2, 3):
        quoted(peer, space, number)
        awarded(peer, number)
    assert started(peer.handle(make_ask("own", 0), START_MS)) == []
    own = started(ended(peer, 1))
    assert len(own) == 1
    assert own[0] not in (ident(2), ident(3))
    finish = peer.handle(GenerationEnded(own[0], Usage(20, 0, 0), "stop"), START_MS + 600)
    assert started(finish) == [ident(2)]
    assert started(ended(peer, 2)) == [ident(3)]


def test_a_full_queue_and_a_greedy_buyer_are_turned_away(peer: Peer, space: Space) -> None:
    for number in range(HOLDS_PER_BUYER_MAX):
        quoted(peer, space, number)
    assert refused(peer, make_call(space, 99)) == "busy"
    one_slot = make_peer(space, make_advert("agent", {}, slots=1))
    for number in range(1 + QUEUE_PER_SLOT_MAX):
        quoted(one_slot, space, number)
        awarded(one_slot, number)
    assert refused(one_slot, make_call(space, 99, 0), BOB) == "busy"


def test_a_buyer_that_went_away_leaves_nothing_behind(peer: Peer, space: Space) -> None:
    for number in range(1, 5):
        quoted(peer, space, number)
    awarded(peer, 1)
    awarded(peer, 3)
    quoted(peer, space, 9, BOB)
    awarded(peer, 9, BOB)
    effects = peer.handle(PeerDown(ALICE.peer), START_MS)
    assert Abort(ident(1)) in effects
    assert started(effects)[-1] == ident(9)
    assert statistics(peer) == SellerStatistics(sales=1, slots_busy=1, waiting=0, unsettled=0)


def test_an_engine_that_breaks_off_is_owed_nothing(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    awarded(peer, 1)
    effects = peer.handle(GenerationFailed(ident(1), "engine"), START_MS)
    assert sent(effects) == [Fail(ident(1), "engine")]
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)


def test_a_receipt_bills_no_more_than_was_called_for(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1, max_tokens=2)
    awarded(peer, 1)
    (final,) = sent(ended(peer, 1, Usage(9_999, 9_999, 9_999)))
    assert isinstance(final, Final)
    receipt = opened(Receipt, final.receipt, final.signature, ME.peer, ALICE)
    assert (receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens) == (20, 20, 2)


def test_another_agent_that_becomes_ready_disturbs_no_sale(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    quoted(peer, space, 2)
    awarded(peer, 1)
    both = (make_advert("agent", {0: 0.95}, slots=2), make_advert("second", {1: 0.95}))
    peer.handle(AgentsChanged(both, ()), START_MS)
    assert statistics(peer).slots_busy == 2
    assert quoted(peer, space, 3).free_slots == 0
    ended(peer, 1)
    receive(peer, ALICE, Release(ident(2)))
    receive(peer, ALICE, Release(ident(3)))
    assert statistics(peer).slots_busy == 0
    assert quoted(peer, space, 4).free_slots == 2


def test_the_sales_of_an_agent_that_stopped_for_good_fail(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {}, slots=1))
    for number in (1, 2, 3):
        quoted(peer, space, number)
    awarded(peer, 1)
    awarded(peer, 2)
    effects = peer.handle(AgentsChanged((), ()), START_MS)
    assert [e for e in effects if isinstance(e, Abort | Generate)] == [Abort(ident(1))]
    assert sent(effects) == [Fail(ident(number), "engine") for number in (1, 2, 3)]
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)
    assert ended(peer, 1) == []
    assert sent(receive(peer, ALICE, make_award(3))) == [Fail(ident(3), "expired")]
    assert refused(peer, make_call(space, 4)) == "agent"
