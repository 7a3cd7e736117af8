"""Sellers that cheat, fall silent, give up or go away in mid-answer, and who takes over."""

from collections.abc import Callable

import pytest

from p2pagent.peer.awards import OWN_PROGRESS_MS, PREDICTED_MS_MAX, PROGRESS_MS
from p2pagent.peer.effects import Blame, Effect, Generate, Post, SetTimer
from p2pagent.peer.events import CancelAsk, Generated, PeerDown
from p2pagent.peer.messages import Call, Chunk, Fail, Refuse
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.marketplace import EXPERTS, FAULTS, SUBJECT, Market, answer, local_job
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_delta, make_final, sent


@pytest.mark.parametrize("fault", [f for _, f in FAULTS], ids=[name for name, _ in FAULTS])
def test_a_cheat_is_blamed_and_the_runner_up_takes_over(
    market: Market, fault: Callable[[Market], list[Effect]]
) -> None:
    market.ask()
    market.quote(*EXPERTS)
    # Were the runner-up let go at the first chunk already, there would be a second round; either way somebody answers.
    fault(market)
    assert market.blamed == [ALICE.peer]
    assert ALICE in market.released
    assert not any(isinstance(e, Post) for e in market.effects)
    if not market.awarded:
        market.quote(BOB, CAROL)
    assert market.awarded == [BOB]
    answer(market, BOB, "bob")
    answered = market.told[-1]
    assert isinstance(answered, Answered)
    assert (answered.text, answered.restarts, answered.agent) == ("bob", 1, AgentRef(BOB.peer, "agent"))


def test_an_answer_that_never_ends_is_cut_off(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    conversation = market.calls[ALICE].conversation
    for index in range(64):
        market.get(ALICE, Chunk(conversation, index, "x"))
        assert market.blamed == []
    market.get(ALICE, Chunk(conversation, 64, "x"))
    assert market.blamed == [ALICE.peer]
    assert any(isinstance(update, Restarted) for update in market.told)


def test_a_seller_that_gives_up_before_its_first_word_costs_nothing_but_time(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    market.get(ALICE, Fail(market.calls[ALICE].conversation, "engine"))
    assert market.awarded == [BOB]
    assert not any(isinstance(update, Restarted) for update in market.told)


def test_a_runner_up_whose_quote_has_expired_is_asked_again(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    before = market.calls[BOB]
    market.get(ALICE, Fail(market.calls[ALICE].conversation, "engine"), after_ms=6_000)
    assert market.awarded == []
    assert market.released == [ALICE, BOB]
    assert market.calls[BOB] != before


def test_the_local_agent_takes_over_only_where_no_stranger_is_believed_better(space: Space) -> None:
    market = Market(space)
    dave = SimKeys(4)
    market.get(dave, make_delta(dave, space, make_advert("agent", {SUBJECT: 0.6})))
    market.ask()
    for keys in (BOB, CAROL):
        market.get(keys, Refuse(market.calls[keys].conversation, "busy"))
    market.quote(ALICE)
    assert market.awarded == [ALICE]
    market.handle(PeerDown(ALICE.peer))
    assert [type(m) for m in sent(market.effects, dave)] == [Call]
    assert not any(isinstance(e, Generate) for e in market.effects)


def test_a_runner_up_that_goes_away_is_not_awarded(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    market.handle(PeerDown(BOB.peer))
    market.handle(PeerDown(ALICE.peer))
    assert market.awarded == []
    market.quote(CAROL)
    assert market.awarded == [CAROL]


def test_counterparties_are_those_with_whom_something_would_break_off(market: Market) -> None:
    assert market.peer.counterparties() == set()
    market.ask()
    assert market.peer.counterparties() == {ME.peer, *(keys.peer for keys in EXPERTS)}
    market.quote(*EXPERTS)
    assert market.peer.counterparties() == {ALICE.peer, BOB.peer}  # who answers, and who is next
    answer(market, ALICE)
    assert market.peer.counterparties() == set()


def test_a_seller_that_falls_silent_is_replaced(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "a"))
    market.fire("progress", PROGRESS_MS + 100)
    (again,) = market.effects
    assert isinstance(again, SetTimer)
    assert again.timer.mark == 1
    market.fire("progress", 2 * PROGRESS_MS + 100)
    assert market.released == [ALICE]
    restarted = market.told[-1]
    assert isinstance(restarted, Restarted)
    assert restarted.reason == "fell silent"


def test_a_promise_for_next_month_is_not_waited_for(market: Market) -> None:
    market.ask(delay_microcredits_per_s=0)
    market.quote(*EXPERTS, ttft_ms=1 << 31)
    (at_ms,) = [e.at_ms for e in market.effects if isinstance(e, SetTimer) and e.timer.kind == "progress"]
    assert at_ms == START_MS + PROGRESS_MS + PREDICTED_MS_MAX


@pytest.mark.parametrize("stage", ["called", "quoted", "awarded", "answering"])
def test_a_user_that_goes_away_releases_everybody_still_held(market: Market, stage: str) -> None:
    market.ask()
    held = set(EXPERTS)
    if stage != "called":
        market.quote(ALICE, BOB)
    if stage in ("awarded", "answering"):
        market.quote(CAROL)
        held = {ALICE, BOB}
    if stage == "answering":
        market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "a"))
        held = {ALICE}
    market.handle(CancelAsk("q"))
    assert set(market.released) == held
    assert market.peer.buyer.running == 0
    assert market.peer.seller.statistics().slots_busy == 0
    for keys in EXPERTS:
        assert market.get(keys, make_final(keys, market.calls[keys], "")) == []


def test_raw_pieces_that_break_off_end_the_query(market: Market) -> None:
    market.ask(raw=True)
    market.quote(*EXPERTS)
    market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "a"))
    market.handle(PeerDown(ALICE.peer))
    assert market.told[0] == Text("a")
    outcome = market.told[-1]
    assert isinstance(outcome, Unanswered)
    assert outcome.partial


def silence(effects: list[Effect]) -> list[int]:
    return [e.at_ms - START_MS for e in effects if isinstance(e, SetTimer) and e.timer.kind == "progress"]


def test_the_own_agent_is_given_longer_than_a_stranger(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS, wait_ms=20, ttft_ms=50, ttft_high_ms=70)
    assert silence(market.effects) == [PROGRESS_MS + 20 + 70]
    market.handle(make_ask("own", 0))
    job = local_job(market.effects)
    (own_ms,) = silence(market.effects)
    assert own_ms >= OWN_PROGRESS_MS > PROGRESS_MS
    market.handle(Generated(job, "x"), own_ms - 1)
    assert silence(market.fire("progress", own_ms)) == [own_ms + OWN_PROGRESS_MS]
    market.fire("progress", own_ms + OWN_PROGRESS_MS)
    assert [u.reason for u in market.told if isinstance(u, Restarted)] == ["fell silent"]


@pytest.mark.parametrize("pieces", [0, 2])
def test_a_piece_lost_on_the_way_is_nobodys_fault(market: Market, pieces: int) -> None:
    market.ask()
    market.quote(*EXPERTS)
    conversation = market.calls[ALICE].conversation
    for index in range(pieces):
        market.get(ALICE, Chunk(conversation, index, "x"))
    market.get(ALICE, Chunk(conversation, pieces + 1, "x"))
    assert market.blamed == []
    assert ALICE in market.released
    assert market.peer.directory.faults(ALICE.peer, START_MS) == 0
    restarts = [u.reason for u in market.told if isinstance(u, Restarted)]
    assert restarts == ["lost a piece of its answer"] * bool(pieces)
    if not market.awarded:
        market.quote(BOB, CAROL)
    assert market.awarded == [BOB]


def test_a_piece_sent_twice_is_a_fault(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    for _ in range(2):
        market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "x"))
    assert [e for e in market.effects if isinstance(e, Blame)] == [Blame(ALICE.peer, "sent its answer out of order")]
    assert market.peer.directory.faults(ALICE.peer, START_MS) == 1
