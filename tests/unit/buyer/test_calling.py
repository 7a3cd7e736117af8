"""Whom a buyer calls, whose quotes it waits for, and whom it awards."""

from collections.abc import Callable
from typing import Literal

import msgspec
import pytest

from p2pagent.peer.calling import LATE_MS
from p2pagent.peer.effects import Effect, Generate, Post, Send, SetTimer
from p2pagent.peer.events import Ask, CancelAsk, Generated, GenerationEnded, PeerDown, ProvidersFound, Unsent
from p2pagent.peer.messages import Award, Call, Chunk, Fail, Final, RateCard, Refuse, Release, SignedQuote
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.routing.marks import chain
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.marketplace import EXPERTS, SUBJECT, Market, answer, local_job
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_delta, make_final, make_quote, sent


def quotes_awaited_until(market: Market) -> list[int]:
    """Until when quotes are waited for from now on, in ms after the start."""
    return [e.at_ms - START_MS for e in market.effects if isinstance(e, SetTimer) and e.timer.kind == "quotes"]


def test_the_best_is_awarded_the_runner_up_kept_and_the_rest_let_go(market: Market) -> None:
    market.ask()
    assert set(market.calls) == set(EXPERTS)
    market.quote(CAROL, BOB)
    assert market.awarded == []
    market.quote(ALICE)
    assert (market.awarded, market.released) == ([ALICE], [CAROL])
    market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "abc"))
    assert market.released == [BOB]
    market.get(ALICE, make_final(ALICE, market.calls[ALICE], "abc"))
    assert any(isinstance(e, Post) for e in market.effects)
    answered = market.told[-1]
    assert isinstance(answered, Answered)
    assert (answered.text, answered.agent.peer, answered.restarts) == ("abc", ALICE.peer, 0)
    assert market.peer.buyer.running == 0


def test_the_prompt_travels_in_the_award_alone(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    messages = [e for e in market.effects if isinstance(e, Send)]
    assert ["sort the letters of" in repr(e) for e in messages] == [isinstance(e.message, Award) for e in messages]


def test_quotes_that_are_late_are_not_waited_for(market: Market) -> None:
    market.ask()
    market.quote(BOB)
    market.fire("quotes", QUOTES_MS)
    assert market.awarded == [BOB]
    market.quote(ALICE)
    assert market.effects == [Send(ALICE.peer, Release(market.calls[ALICE].conversation))]


def test_quotes_are_waited_for_as_long_again_as_the_first_one_took(market: Market) -> None:
    market.ask()
    market.get(ALICE, make_quote(ALICE, market.calls[ALICE]), after_ms=LATE_MS + 100)
    assert quotes_awaited_until(market) == [2 * (LATE_MS + 100)]
    market.get(CAROL, make_quote(CAROL, market.calls[CAROL]), after_ms=LATE_MS + 150)
    assert quotes_awaited_until(market) == []
    market.fire("quotes", 2 * (LATE_MS + 100))
    assert market.awarded == [ALICE]
    market.quote(BOB)
    assert market.released == [BOB]


def test_an_early_quote_leaves_the_others_time_and_the_own_one_hurries_nobody(market: Market) -> None:
    market.ask()  # the own agent has quoted in the same step
    assert quotes_awaited_until(market) == [QUOTES_MS]
    market.quote(ALICE)
    assert quotes_awaited_until(market) == [LATE_MS]


def test_who_is_believed_to_be_much_better_is_waited_for_in_full(market: Market) -> None:
    market.ask()
    market.quote(BOB)
    assert quotes_awaited_until(market) == []


def test_no_quote_for_a_batch_is_hurried(market: Market) -> None:
    market.handle(msgspec.structs.replace(make_ask("q", SUBJECT), batch="b"))
    market.quote(ALICE)
    assert quotes_awaited_until(market) == []


def test_who_holds_the_prompt_and_has_a_slot_free_is_awarded_before_the_others_have_quoted(market: Market) -> None:
    market.ask()
    market.quote(ALICE, cached_tokens=16)
    assert (market.awarded, market.released) == ([ALICE], [])
    market.quote(CAROL)
    market.quote(BOB)
    assert (market.awarded, market.released) == ([], [CAROL]), "the better one of those that come late stands by"
    market.get(ALICE, Fail(market.calls[ALICE].conversation, "engine"))
    assert market.awarded == [BOB]
    answer(market, BOB)
    assert isinstance(market.told[-1], Answered)


def test_who_is_believed_to_hold_more_of_the_prompt_is_waited_for(market: Market) -> None:
    ask = make_ask("q", SUBJECT)
    caching = msgspec.structs.replace(make_advert("agent", {SUBJECT: 0.85}), cache_tokens=10_000)
    market.get(BOB, make_delta(BOB, market.space, caching, sequence=2))
    recall = market.peer.buyer._scout.recall
    recall.told(AgentRef(BOB.peer, "agent"), chain(ask.turns), ask.prompt_tokens, ask.prompt_tokens, 0)
    market.handle(ask)
    market.quote(ALICE, cached_tokens=16)
    assert market.awarded == []
    market.quote(CAROL)
    market.quote(BOB, cached_tokens=16)
    assert len(market.awarded) == 1


def test_where_who_held_the_prompt_fails_before_the_others_have_quoted_they_are_asked_again(market: Market) -> None:
    market.ask()
    market.quote(ALICE, cached_tokens=16)
    effects = market.get(ALICE, Fail(market.calls[ALICE].conversation, "engine"))
    assert {type(m) for m in sent(effects, BOB)} == {Release, Call}


def test_the_timer_of_a_round_that_is_over_does_nothing(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    assert market.fire("quotes", QUOTES_MS) == []


def test_when_all_refuse_only_the_local_agent_is_left(market: Market) -> None:
    market.ask()
    for keys in EXPERTS:
        market.get(keys, Refuse(market.calls[keys].conversation, "busy"))
    job = local_job(market.effects)
    market.handle(Generated(job, "x"))
    market.handle(GenerationEnded(job, Usage(20, 0, 1), "stop"))
    answered = market.told[-1]
    assert isinstance(answered, Answered)
    assert not answered.delegated
    assert answered.price_microcredits == 0
    assert {c.agent.peer: c.outcome for c in answered.candidates} == {
        ME.peer: "awarded",
        **{keys.peer: "refused" for keys in EXPERTS},
    }


@pytest.mark.parametrize(("skill", "worth_asking"), [(0.6, True), (0.05, False)])
@pytest.mark.parametrize(
    "lose",
    [
        lambda m: m.fire("quotes", QUOTES_MS),
        lambda m: [m.get(k, Refuse(m.calls[k].conversation, "busy")) for k in EXPERTS][-1],
        lambda m: [m.handle(PeerDown(k.peer)) for k in EXPERTS][-1],
        lambda m: [m.handle(Unsent(k.peer)) for k in EXPERTS][-1],
    ],
    ids=["silent", "busy", "down", "unsent"],
)
def test_where_all_strangers_called_are_lost_others_are_called_if_they_beat_the_own_agent(
    space: Space, lose: Callable[[Market], list[Effect]], skill: float, worth_asking: bool
) -> None:
    market = Market(space)
    dave = SimKeys(4)
    market.get(dave, make_delta(dave, space, make_advert("agent", {SUBJECT: skill})))
    market.ask()
    assert set(market.calls) == set(EXPERTS)
    effects = lose(market)
    assert bool(sent(effects, dave)) == worth_asking
    assert any(isinstance(e, Generate) for e in effects) != worth_asking
    if worth_asking:
        (call,) = [m for m in sent(effects, dave) if isinstance(m, Call)]
        market.get(dave, Refuse(call.conversation, "busy"))
        assert local_job(market.effects)  # its slot, let go of for the second round, was asked for again


def believed_wait_ms(market: Market, keys: SimKeys) -> int:
    return market.peer.buyer._scout.loads.prospect(AgentRef(keys.peer, "agent"), 2, (), START_MS).wait_ms


@pytest.mark.parametrize("reason", ["busy", "late", "enough", "credit", "length"])
def test_only_who_is_busy_is_believed_to_be(
    market: Market, reason: Literal["busy", "late", "enough", "credit", "length"]
) -> None:
    market.ask()
    market.get(ALICE, Refuse(market.calls[ALICE].conversation, reason))
    assert (believed_wait_ms(market, ALICE) > 1_000) == (reason == "busy")


@pytest.mark.parametrize("first", [1, 0])
def test_who_holds_a_slot_for_one_question_is_not_full_for_having_none_for_the_next(market: Market, first: int) -> None:
    market.ask()
    market.quote(ALICE, free_slots=first)
    market.handle(make_ask("r", SUBJECT))
    market.quote(ALICE, free_slots=0)
    assert (believed_wait_ms(market, ALICE) > 0) == (first == 0)


def test_when_all_of_a_round_refuse_the_next_one_asks_others(space: Space) -> None:
    market = Market(space, local=False)
    dave = SimKeys(4)
    market.get(dave, make_delta(dave, space, make_advert("agent", {SUBJECT: 0.6})))
    market.ask()
    assert set(market.calls) == set(EXPERTS)
    for keys in EXPERTS:
        market.get(keys, Refuse(market.calls[keys].conversation, "busy"))
    (call,) = sent(market.effects)
    assert isinstance(call, Call)
    market.get(dave, Refuse(call.conversation, "busy"))
    outcome = market.told[-1]
    assert isinstance(outcome, Unanswered)
    assert len(outcome.candidates) == 4


def test_a_refusal_or_quote_in_anothers_name_counts_for_nothing(market: Market) -> None:
    market.ask()
    assert market.get(BOB, Refuse(market.calls[ALICE].conversation, "busy")) == []
    conversation = market.calls[ALICE].conversation
    assert market.get(BOB, make_quote(BOB, market.calls[ALICE])) == [Send(BOB.peer, Release(conversation))]
    market.get(BOB, make_quote(ALICE, market.calls[ALICE]))
    assert market.blamed == [BOB.peer]
    market.quote(*EXPERTS)
    assert market.awarded == [ALICE]


@pytest.mark.parametrize(
    "lie",
    [
        {"buyer": BOB.peer},
        {"agent": "other"},
        {"price_cap_microcredits": 1},
        {"slot_price_microcredits": 1},
        {"cached_tokens": 1_000},
        {"expires_ms": 60_001},
    ],
)
def test_a_quote_that_does_not_follow_is_a_fault_and_no_candidate(market: Market, lie: dict[str, object]) -> None:
    market.ask()
    market.quote(ALICE, **lie)
    assert market.blamed == [ALICE.peer]
    market.quote(BOB, CAROL)
    assert market.awarded == [BOB]


def test_no_quote_may_cost_more_than_the_user_allows(market: Market) -> None:
    market.ask(price_max_microcredits=100)
    market.handle(ProvidersFound("q", "cell", ()))
    assert market.calls == {}
    assert local_job(market.effects)


def test_without_any_agent_the_user_is_told(space: Space) -> None:
    market = Market(space, (), local=False)
    market.ask(privacy="local")
    (unanswered,) = market.told
    assert isinstance(unanswered, Unanswered)
    assert not unanswered.partial


def test_a_fortune_for_an_answer_does_not_break_the_clearing(market: Market) -> None:
    ask: Ask = make_ask("q", SUBJECT, value_microcredits=1 << 53, delay_microcredits_per_s=1 << 40)
    market.handle(ask)
    market.quote(*EXPERTS, ttft_ms=1 << 31)
    assert market.peer.buyer.running == 1


def test_quotes_are_read_by_who_signed_them(market: Market) -> None:
    market.ask()
    quote = make_quote(ALICE, market.calls[ALICE])
    market.get(ALICE, msgspec.structs.replace(quote, signature=bytes(64)))
    assert market.blamed == [ALICE.peer]
    assert isinstance(quote, SignedQuote)
    assert market.get(ALICE, Final(quote.signature[:16], "stop", b"", bytes(64))) == []


# --- what a review found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_agents_too_dear_for_the_user_do_not_keep_a_cheap_one_from_being_called(space: Space, local: bool) -> None:
    market = Market(space, (), local=local)
    dear = msgspec.structs.replace(make_advert("agent", {SUBJECT: 0.95}), rates=RateCard(10, 1, 50))
    for keys in EXPERTS:
        market.get(keys, make_delta(keys, space, dear))
    dave = SimKeys(4)
    market.get(dave, make_delta(dave, space, make_advert("agent", {SUBJECT: 0.7})))
    market.ask(price_max_microcredits=3_000)
    called = {e.peer for e in market.effects if isinstance(e, Send) and isinstance(e.message, Call)}
    assert called == {dave.peer}
    market.handle(CancelAsk("q"))
    market.ask(price_max_microcredits=4_000)
    assert set(market.calls) == set(EXPERTS)


def test_the_local_agent_is_never_too_dear(space: Space) -> None:
    market = Market(space, ())
    market.handle(make_ask("own", 0, price_max_microcredits=0))
    assert local_job(market.effects)


def test_a_quote_that_comes_after_the_user_has_gone_is_let_go(market: Market) -> None:
    market.ask()
    market.handle(CancelAsk("q"))
    market.quote(ALICE)
    assert market.effects == [Send(ALICE.peer, Release(market.calls[ALICE].conversation))]
