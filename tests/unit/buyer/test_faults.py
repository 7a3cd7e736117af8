"""Peers that break the protocol are shunned, and what was dealt with them is settled all the same."""

import pytest

from p2pagent.peer.directory import FAULT_MS, FAULTS_MAX
from p2pagent.peer.effects import Blame, Effect, Post, Shun
from p2pagent.peer.events import CancelAsk, Generated, GenerationEnded, Misbehaved, PeerUp, Posted
from p2pagent.peer.messages import Final, Receipt, Settle, Settled, SignedQuote
from p2pagent.peer.updates import Unanswered
from p2pagent.peer.wire import SIGNED_DOMAINS, receipt_id
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import Usage
from tests.marketplace import EXPERTS, SUBJECT, Market, answer, local_job
from tests.scenario import START_MS, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_award, make_call, sent


def misbehave(market: Market, keys: SimKeys, times: int, after_ms: int = 0, every_ms: int = 0) -> list[Effect]:
    return [
        effect
        for number in range(times)
        for effect in market.handle(Misbehaved(keys.peer, "noise"), after_ms + every_ms * number)
    ]


def test_a_fault_of_the_own_engine_is_not_held_against_ourselves(space: Space) -> None:
    market = Market(space, ())
    for number in range(FAULTS_MAX + 1):
        market.handle(make_ask(f"q{number}", 0))
        job = local_job(market.effects)
        effects = [effect for _ in range(65) for effect in market.handle(Generated(job, "x"))]
        assert not any(isinstance(e, Blame | Shun) for e in effects)
        assert isinstance(market.told[-1], Unanswered)
    assert market.peer.directory.faults(ME.peer, START_MS) == 0
    assert misbehave(market, ME, 1) == []


@pytest.mark.parametrize("every_ms", [0, 1, 100])
def test_who_breaks_the_protocol_too_often_is_shunned_once(market: Market, every_ms: int) -> None:
    effects = misbehave(market, ALICE, FAULTS_MAX - 1, every_ms=every_ms)
    assert effects == [Blame(ALICE.peer, "noise")] * (FAULTS_MAX - 1)
    last = misbehave(market, ALICE, 1, every_ms * (FAULTS_MAX - 1))
    assert last == [Blame(ALICE.peer, "noise"), Shun(ALICE.peer)]
    assert misbehave(market, ALICE, 3, every_ms * FAULTS_MAX) == [Blame(ALICE.peer, "noise")] * 3


def test_a_fault_now_and_then_is_forgotten(market: Market) -> None:
    effects = misbehave(market, ALICE, 4 * FAULTS_MAX, every_ms=FAULT_MS)
    assert not any(isinstance(e, Shun) for e in effects)
    assert market.peer.directory.faults(ALICE.peer, START_MS + 4 * FAULTS_MAX * FAULT_MS) == 0


def test_whoever_is_shunned_is_neither_asked_nor_listened_to_until_time_has_passed(market: Market) -> None:
    misbehave(market, ALICE, FAULTS_MAX)
    call = make_call(market.space, 1)
    assert market.get(ALICE, call) == []
    assert market.get(ALICE, make_award(1)) == []
    market.ask()
    assert set(market.calls) == {BOB, CAROL}
    market.handle(CancelAsk("q"))
    later_ms = FAULT_MS + 1
    (quote,) = sent(market.get(ALICE, call, later_ms), ALICE)
    assert isinstance(quote, SignedQuote)
    market.handle(make_ask("later", SUBJECT), later_ms)
    assert set(market.calls) == set(EXPERTS)
    assert Shun(ALICE.peer) in misbehave(market, ALICE, 1, later_ms)


def test_what_was_dealt_with_a_shunned_peer_is_settled_all_the_same(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    effects = answer(market, ALICE)
    (bought,) = [e.receipt_id for e in effects if isinstance(e, Post)]
    market.get(ALICE, make_call(market.space, 1))
    job = local_job(market.get(ALICE, make_award(1)))
    (final,) = sent(market.handle(GenerationEnded(job, Usage(20, 0, 3), "stop")), ALICE)
    assert isinstance(final, Final)
    misbehave(market, ALICE, FAULTS_MAX)
    (settle,) = sent(market.handle(Posted(bought, new=True)), ALICE)
    assert isinstance(settle, Settle)
    assert market.get(ALICE, Settled(bought)) != []
    assert sent(market.handle(PeerUp(ALICE.peer)), ALICE).count(settle) == 0
    signature = ALICE.sign(SIGNED_DOMAINS[Receipt], final.receipt)
    (post,) = market.get(ALICE, Settle(final.receipt, final.signature, signature))
    assert isinstance(post, Post)
    sold = receipt_id(final.receipt)
    assert sent(market.handle(Posted(sold, new=True)), ALICE) == [Settled(sold)]
