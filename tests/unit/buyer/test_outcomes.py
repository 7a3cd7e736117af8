"""What an answer, or its absence, teaches of the agent that was awarded."""

from collections.abc import Callable
from typing import Literal

import msgspec
import pytest

from p2pagent.peer.awards import FELL_MS, PROGRESS_MS, STALLED_MS
from p2pagent.peer.calling import ROUNDS_MAX
from p2pagent.peer.effects import Effect, Send, SetTimer
from p2pagent.peer.events import (
    CancelAsk,
    Generated,
    GenerationEnded,
    GenerationFailed,
    PeerDown,
    PeerIdle,
    PeerUp,
    Rated,
    Rating,
    Unsent,
)
from p2pagent.peer.messages import Award, Call, Chunk, Fail
from p2pagent.peer.scout import BARRED_MS
from p2pagent.peer.telling import explained
from p2pagent.peer.updates import Answered
from p2pagent.routing import exploration
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.marketplace import EXPERTS, FAULTS, SUBJECT, Market, answer, connect, judged, learned, local_job, remembered
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_delta, make_final, make_quote


@pytest.mark.parametrize(("expect", "good"), [("", None), ("ABC.", True), ("abd", False)])
def test_an_answer_is_judged_by_what_was_expected_or_left_to_the_user(
    market: Market, expect: str, good: bool | None
) -> None:
    market.handle(msgspec.structs.replace(make_ask("q", SUBJECT), expect=expect))
    market.quote(*EXPERTS)
    effects = answer(market, ALICE, "abc")
    told = market.told[-1]
    assert isinstance(told, Answered)
    assert told.good is good
    assert learned(effects) == ([] if good is None else [told.agent])
    (kept,) = remembered(effects)
    assert (kept.receipt_id.hex(), kept.delivery.agent, kept.delivery.space) == (
        told.receipt_id,
        told.agent,
        market.space.name,
    )
    assert kept.delivery.quality == told.candidates[0].quality
    assert kept.rating == (None if good is None else Rating(good, START_MS))
    assert market.peer.memory.outcomes(told.agent) == (good is not None)


def test_what_is_expected_never_leaves_this_device(market: Market) -> None:
    market.handle(msgspec.structs.replace(make_ask("q", SUBJECT), expect="the secret"))
    effects = [*market.effects]
    market.quote(*EXPERTS)
    effects += market.effects
    assert "the secret" not in repr([e for e in effects if isinstance(e, Send)])


def test_an_empty_answer_is_bad(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    effects = market.get(ALICE, make_final(ALICE, market.calls[ALICE], ""))
    assert [kept.rating for kept in remembered(effects)] == [Rating(False, START_MS)]
    assert learned(effects) == [AgentRef(ALICE.peer, "agent")]


def test_the_own_agent_is_judged_without_a_receipt(space: Space) -> None:
    market = Market(space, ())
    market.handle(msgspec.structs.replace(make_ask("q", 0), expect="x"))
    job = local_job(market.effects)
    market.handle(Generated(job, "y"))
    effects = market.handle(GenerationEnded(job, Usage(20, 0, 1), "stop"))
    assert learned(effects) == [AgentRef(ME.peer, "agent")]
    assert remembered(effects) == []


@pytest.mark.parametrize(
    "failure",
    [
        *(
            lambda m, reason=reason: m.get(ALICE, Fail(m.calls[ALICE].conversation, reason))
            for reason in ("engine", "busy", "expired")
        ),
        lambda m: m.fire("progress", PROGRESS_MS + 100),
        *(fault for _, fault in FAULTS),
    ],
)
def test_a_delegation_that_fails_is_a_bad_outcome(market: Market, failure: Callable[[Market], object]) -> None:
    market.ask()
    market.quote(*EXPERTS)
    failure(market)
    assert judged(market) == [1, 0, 0]
    assert learned(market.effects) == [AgentRef(ALICE.peer, "agent")]


@pytest.mark.parametrize(
    "failure",
    [
        lambda m: m.get(ALICE, Fail(m.calls[ALICE].conversation, "length")),
        lambda m: m.get(ALICE, Fail(m.calls[ALICE].conversation, "embedding")),
        lambda m: m.get(ALICE, Chunk(m.calls[ALICE].conversation, 1, "x")),
        lambda m: m.handle(Unsent(ALICE.peer)),
        lambda m: m.handle(PeerIdle(ALICE.peer)),
        lambda m: m.handle(PeerDown(BOB.peer)),
        lambda m: m.handle(CancelAsk("q")),
    ],
)
def test_what_is_not_the_doing_of_who_was_awarded_is_no_outcome(
    market: Market, failure: Callable[[Market], object]
) -> None:
    connect(market)
    market.ask()
    market.quote(*EXPERTS)
    failure(market)
    assert judged(market) == [0, 0, 0]
    market.pass_time(FELL_MS)
    assert judged(market) == [0, 0, 0]


@pytest.mark.parametrize("reason", ["busy", "expired"])
def test_who_promised_no_slot_need_not_have_one(market: Market, reason: Literal["busy", "expired"]) -> None:
    market.ask()
    market.quote(*EXPERTS, free_slots=0)
    market.get(ALICE, Fail(market.calls[ALICE].conversation, reason))
    assert judged(market) == [0, 0, 0]


def test_who_is_awarded_as_its_quote_ends_may_say_that_it_has_ended(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    bob = market.calls[BOB].conversation
    market.get(ALICE, Fail(market.calls[ALICE].conversation, "engine"), after_ms=4_900)
    assert market.awarded == [BOB]
    market.get(BOB, Fail(bob, "expired"), after_ms=5_100)
    assert judged(market) == [1, 0, 0]


def test_who_breaks_its_connection_is_judged_once_others_have_stood_for_a_while(market: Market) -> None:
    connect(market)
    market.ask()
    market.quote(*EXPERTS)
    market.handle(PeerDown(ALICE.peer))
    assert market.awarded == [BOB]
    market.pass_time(FELL_MS - 1)
    assert judged(market) == [0, 0, 0]
    market.pass_time(FELL_MS)
    assert judged(market) == [1, 0, 0]
    market.pass_time(FELL_MS)
    assert judged(market) == [1, 0, 0]


def test_who_broke_its_connection_is_asked_again_as_soon_as_it_is_back(market: Market) -> None:
    connect(market)
    market.ask()
    market.quote(*EXPERTS)
    market.handle(PeerDown(ALICE.peer))
    market.handle(CancelAsk("q"))
    market.handle(PeerUp(ALICE.peer), 1_000)
    market.calls.clear()
    market.handle(make_ask("again", SUBJECT), 1_000)
    assert ALICE in market.calls


@pytest.mark.parametrize("last", [PeerDown, PeerIdle, Unsent])
def test_who_fell_with_all_others_is_not_judged(
    market: Market, last: type[PeerDown] | type[PeerIdle] | type[Unsent]
) -> None:
    """However long each of them took to be noticed: it is this device that fell off."""
    connect(market)
    market.ask()
    market.quote(*EXPERTS)
    market.handle(PeerDown(BOB.peer))
    market.handle(PeerDown(ALICE.peer), FELL_MS // 2)
    market.handle(last(CAROL.peer), FELL_MS)
    connect(market, FELL_MS + 100)
    market.pass_time(FELL_MS // 2 + FELL_MS)
    assert judged(market) == [0, 0, 0]


def test_nobody_is_judged_by_a_device_that_slept(market: Market) -> None:
    connect(market)
    market.ask()
    market.quote(*EXPERTS)
    market.handle(PeerDown(ALICE.peer))
    market.pass_time(FELL_MS + STALLED_MS + 1)
    assert judged(market)[0] == 0


def test_a_progress_timer_that_goes_off_far_too_late_starts_anew(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    woken_ms = PROGRESS_MS + 100 + STALLED_MS + 1
    market.fire("progress", woken_ms)
    (again,) = market.effects
    assert isinstance(again, SetTimer)
    assert again.at_ms == START_MS + woken_ms + PROGRESS_MS
    assert judged(market) == [0, 0, 0]
    market.fire("progress", woken_ms + PROGRESS_MS)
    assert market.awarded == []
    assert judged(market) == [1, 0, 0]


@pytest.mark.parametrize(
    "quitting",
    [
        *(
            lambda m, reason=reason: m.get(ALICE, Fail(m.calls[ALICE].conversation, reason))
            for reason in ("engine", "busy", "length")
        ),
        lambda m: m.get(ALICE, Chunk(m.calls[ALICE].conversation, 1, "x")),
        lambda m: m.handle(PeerIdle(ALICE.peer)),
    ],
)
def test_who_wins_and_gives_up_wins_no_more_for_a_while(market: Market, quitting: Callable[[Market], object]) -> None:
    won = []
    for number in range(20):
        market.calls.clear()
        market.handle(make_ask(f"q{number}", SUBJECT))
        market.quote(*market.calls, free_slots=0)
        won += market.awarded
        if ALICE in market.awarded:
            quitting(market)
        market.handle(CancelAsk(f"q{number}"))
    assert won == [ALICE] + [BOB] * 19
    market.calls.clear()
    market.handle(make_ask("later", SUBJECT), BARRED_MS)
    assert ALICE in market.calls


def test_whoever_fails_the_own_idle_agent_answers_in_the_end(space: Space) -> None:
    market = Market(space, ())
    strangers = [SimKeys(number) for number in range(10, 50)]
    for keys in strangers:
        market.get(keys, make_delta(keys, space, make_advert("agent", {SUBJECT: 0.95})))
    market.ask()
    todo, seen = list(market.effects), list[Effect]()
    awards = 0
    while todo:
        seen.append(effect := todo.pop(0))
        keys = next((k for k in strangers if isinstance(effect, Send) and effect.peer == k.peer), None)
        if keys is not None and isinstance(effect, Send) and isinstance(effect.message, Call):
            todo += market.get(keys, make_quote(keys, effect.message))
        if keys is not None and isinstance(effect, Send) and isinstance(effect.message, Award):
            awards += 1
            todo += market.get(keys, Fail(effect.message.conversation, "engine"))
    assert awards >= ROUNDS_MAX
    job = local_job(seen)
    market.handle(Generated(job, "own"))
    market.handle(GenerationEnded(job, Usage(20, 0, 1), "stop"))
    assert isinstance(market.told[-1], Answered)


def test_an_engine_of_ours_that_breaks_off_is_not_held_against_it(space: Space) -> None:
    market = Market(space, ())
    market.handle(make_ask("q", 0))
    market.handle(GenerationFailed(local_job(market.effects), "engine"))
    assert market.peer.memory.outcomes(AgentRef(ME.peer, "agent")) == 0


def test_who_answers_badly_is_asked_no_more(market: Market) -> None:
    """ALICE claims to be the best, and is found out in a handful of answers."""
    awarded = []
    for number in range(12):
        market.calls.clear()
        market.handle(msgspec.structs.replace(make_ask(f"q{number}", SUBJECT), expect="right"))
        market.quote(*market.calls)
        (seller,) = market.awarded
        awarded.append(seller)
        answer(market, seller, "wrong" if seller is ALICE else "right")
    assert awarded[0] is ALICE
    assert awarded.count(ALICE) <= 4
    assert awarded[-6:] == [BOB] * 6
    market.calls.clear()
    market.ask()
    told = {c.agent.peer: c for c in explained(market.peer.buyer._table.queries["q"])}
    assert told[ALICE.peer].outcomes == awarded.count(ALICE)
    assert told[ALICE.peer].quality < told[BOB.peer].quality


def test_a_rating_of_the_user_moves_the_next_choice(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS)
    (kept,) = remembered(answer(market, ALICE))
    for number in range(4):
        market.handle(Rated(kept.delivery, Rating(False, START_MS + number), None))
    market.calls.clear()
    market.ask()
    market.quote(*market.calls)
    assert market.awarded == [BOB]
    for number in range(4):
        market.handle(Rated(kept.delivery, Rating(True, START_MS + 9), Rating(False, START_MS + number)))
    market.handle(CancelAsk("q"))
    market.calls.clear()
    market.ask()
    market.quote(*market.calls)
    assert market.awarded == [ALICE]


def test_a_newcomer_that_is_tried_is_told_as_one(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 1)
    market = Market(space, (ALICE,))
    market.ask()
    market.quote(ALICE)
    answer(market, ALICE)
    told = market.told[-1]
    assert isinstance(told, Answered)
    assert "being new here was given a try" in told.why
