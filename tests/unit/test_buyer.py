"""The buying state machine, driven through `Peer.handle`: strangers that are late, refuse, lie, stall or go away."""

from collections.abc import Callable
from hashlib import sha256
from typing import Literal

import msgspec
import pytest

from p2pagent.market.pricing import decayed
from p2pagent.market.receipts import metered, price_cap
from p2pagent.peer.awards import FELL_MS, OWN_PROGRESS_MS, PREDICTED_MS_MAX, PROGRESS_MS, STALLED_MS
from p2pagent.peer.buyer import FIND_MS
from p2pagent.peer.calling import LATE_MS, ROUNDS_MAX
from p2pagent.peer.directory import FAULT_MS, FAULTS_MAX
from p2pagent.peer.effects import (
    Archive,
    Blame,
    Effect,
    Find,
    Generate,
    Learned,
    Post,
    Remember,
    Send,
    SetTimer,
    Shun,
    Tell,
)
from p2pagent.peer.events import (
    Ask,
    CancelAsk,
    Generated,
    GenerationEnded,
    GenerationFailed,
    Misbehaved,
    PeerDown,
    PeerIdle,
    PeerUp,
    Posted,
    ProvidersFound,
    Rated,
    Rating,
    Timer,
    TimerFired,
    Unsent,
)
from p2pagent.peer.hub import FETCHES_MAX
from p2pagent.peer.hub_messages import Fetch, SignedSheet
from p2pagent.peer.messages import (
    Award,
    Call,
    Chunk,
    Fail,
    Final,
    RateCard,
    Receipt,
    Refuse,
    Release,
    Settle,
    Settled,
    SignedQuote,
)
from p2pagent.peer.scout import BARRED_MS
from p2pagent.peer.sheet import body_id
from p2pagent.peer.sheets import CLOCK_MS
from p2pagent.peer.telling import explained
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered
from p2pagent.peer.wire import SIGNED_DOMAINS, WireMessage, encode, receipt_id, sealed
from p2pagent.routing import exploration, game
from p2pagent.routing.hubs import draw
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.clearings import CLEARED_MS, EPOCH, Query, clear_book, make_bid, make_book, make_commit, make_offer
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import (
    ALICE,
    BOB,
    CAROL,
    ME,
    make_award,
    make_call,
    make_delta,
    make_final,
    make_peer,
    make_quote,
    receive,
    sent,
    three_best,
)

SUBJECT = 1
EXPERTS = (ALICE, BOB, CAROL)


class Market:
    """`ME`, poor at `SUBJECT`, among experts on it; `effects` are those of the latest event."""

    def __init__(self, space: Space, experts: tuple[SimKeys, ...] = EXPERTS, *, local: bool = True) -> None:
        self.space = space
        self.peer = make_peer(space, *([make_advert("agent", {0: 0.95})] if local else []))
        self.effects: list[Effect] = []
        self.told: list[object] = []
        self.due: list[tuple[int, Timer]] = []
        self.calls: dict[SimKeys, Call] = {}
        for rank, keys in enumerate(experts):
            self.get(keys, make_delta(keys, space, make_advert("agent", {SUBJECT: 0.95 - rank / 10})))

    def handle(self, event: object, after_ms: int = 0) -> list[Effect]:
        self.effects = self.peer.handle(event, START_MS + after_ms)  # type: ignore[arg-type]
        self._notice()
        return self.effects

    def get(self, sender: SimKeys, message: WireMessage, after_ms: int = 0) -> list[Effect]:
        self.effects = receive(self.peer, sender, message, after_ms)
        self._notice()
        return self.effects

    def ask(self, **changes: object) -> None:
        self.handle(make_ask("q", SUBJECT, **changes))

    def quote(self, *sellers: SimKeys, **changes: object) -> None:
        for keys in sellers:
            self.get(keys, make_quote(keys, self.calls[keys], **changes))

    def pass_time(self, after_ms: int) -> None:
        """The progress timers that are due by then go off."""
        for at_ms, timer in self.due[:]:
            if timer.kind == "progress" and at_ms <= START_MS + after_ms:
                self.handle(TimerFired(timer), after_ms)

    def fire(self, kind: str, after_ms: int) -> list[Effect]:
        """The latest timer of this kind goes off."""
        return self.handle(TimerFired([timer for _, timer in self.due if timer.kind == kind][-1]), after_ms)

    @property
    def awarded(self) -> list[SimKeys]:
        return [k for k in EXPERTS if any(isinstance(m, Award) for m in sent(self.effects, k))]

    @property
    def released(self) -> list[SimKeys]:
        return [k for k in EXPERTS if any(isinstance(m, Release) for m in sent(self.effects, k))]

    @property
    def blamed(self) -> list[str]:
        return [e.peer for e in self.effects if isinstance(e, Blame)]

    def _notice(self) -> None:
        self.due += [(e.at_ms, e.timer) for e in self.effects if isinstance(e, SetTimer)]
        self.told += [e.update for e in self.effects if isinstance(e, Tell)]
        for keys in EXPERTS:
            for message in sent(self.effects, keys):
                if isinstance(message, Call):
                    self.calls[keys] = message


@pytest.fixture(autouse=True)
def _three_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "choose", three_best)
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 0)


@pytest.fixture
def market(space: Space) -> Market:
    return Market(space)


def local_job(effects: list[Effect]) -> bytes:
    (job,) = [e.job for e in effects if isinstance(e, Generate)]
    return job


def quotes_awaited_until(market: Market) -> list[int]:
    """Until when quotes are waited for from now on, in ms after the start."""
    return [e.at_ms - START_MS for e in market.effects if isinstance(e, SetTimer) and e.timer.kind == "quotes"]


def connect(market: Market, after_ms: int = 0) -> None:
    for keys in EXPERTS:
        market.handle(PeerUp(keys.peer), after_ms)


def judged(market: Market) -> list[int]:
    """How many answers of each expert count."""
    return [market.peer.memory.outcomes(AgentRef(keys.peer, "agent")) for keys in EXPERTS]


def answer(market: Market, seller: SimKeys, text: str = "abc", **changes: object) -> list[Effect]:
    call = market.calls[seller]
    market.get(seller, Chunk(call.conversation, 0, text))
    return market.get(seller, make_final(seller, call, text, **changes))


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
def test_where_all_strangers_called_are_silent_others_are_called_if_they_beat_the_own_agent(
    space: Space, skill: float, worth_asking: bool
) -> None:
    market = Market(space)
    dave = SimKeys(4)
    market.get(dave, make_delta(dave, space, make_advert("agent", {SUBJECT: skill})))
    market.ask()
    assert set(market.calls) == set(EXPERTS)
    market.fire("quotes", QUOTES_MS)
    assert bool(sent(market.effects, dave)) == worth_asking
    assert any(isinstance(e, Generate) for e in market.effects) != worth_asking
    if worth_asking:
        (call,) = [m for m in sent(market.effects, dave) if isinstance(m, Call)]
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


FAULTS: list[tuple[str, Callable[[Market], list[Effect]]]] = [
    ("out of order", lambda m: [m.get(ALICE, Chunk(m.calls[ALICE].conversation, 0, "x")) for _ in range(2)][-1]),
    ("receipt at another price", lambda m: answer(m, ALICE, price_microcredits=1)),
    ("receipt for another answer", lambda m: answer(m, ALICE, answer_sha256=sha256(b"other").digest())),
    ("receipt for a longer prompt", lambda m: answer(m, ALICE, prompt_tokens=1_000)),
    ("receipt for a longer answer", lambda m: answer(m, ALICE, output_tokens=65)),
    ("receipt for another buyer", lambda m: answer(m, ALICE, buyer=BOB.peer)),
    ("receipt signed by another", lambda m: m.get(ALICE, make_final(BOB, m.calls[ALICE], ""))),
]


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
    assert at_ms == START_MS + PROGRESS_MS + 2 * PREDICTED_MS_MAX


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


def test_nobody_good_enough_is_looked_for_once(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    assert [type(e) for e in market.effects] == [Find, SetTimer]
    market.handle(ProvidersFound("q", "cell", ()))
    assert local_job(market.effects) or sent(market.effects)
    market.handle(make_ask("again", SUBJECT))
    assert not any(isinstance(e, Find) for e in market.effects)


def test_an_expert_found_meanwhile_is_called_at_once(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    market.get(ALICE, make_delta(ALICE, space, make_advert("agent", {SUBJECT: 0.95})))
    assert ALICE in market.calls


def test_a_look_up_is_waited_for_no_longer_than_it_is_worth(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    (cell,) = [e.cell for e in market.effects if isinstance(e, Find)]
    market.handle(ProvidersFound("q", cell, (ALICE.peer,)))
    assert not any(isinstance(e, Generate) for e in market.effects)
    market.fire("quotes", FIND_MS)
    assert local_job(market.effects)


def test_without_any_agent_the_user_is_told(space: Space) -> None:
    market = Market(space, (), local=False)
    market.ask(privacy="local")
    (unanswered,) = market.told
    assert isinstance(unanswered, Unanswered)
    assert not unanswered.partial


def test_raw_pieces_that_break_off_end_the_query(market: Market) -> None:
    market.ask(raw=True)
    market.quote(*EXPERTS)
    market.get(ALICE, Chunk(market.calls[ALICE].conversation, 0, "a"))
    market.handle(PeerDown(ALICE.peer))
    assert market.told[0] == Text("a")
    outcome = market.told[-1]
    assert isinstance(outcome, Unanswered)
    assert outcome.partial


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


def silence(effects: list[Effect]) -> list[int]:
    return [e.at_ms - START_MS for e in effects if isinstance(e, SetTimer) and e.timer.kind == "progress"]


def test_the_own_agent_is_given_longer_than_a_stranger(market: Market) -> None:
    market.ask()
    market.quote(*EXPERTS, ttft_ms=50)
    assert silence(market.effects) == [PROGRESS_MS + 2 * 50]
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


def test_a_quote_that_comes_after_the_user_has_gone_is_let_go(market: Market) -> None:
    market.ask()
    market.handle(CancelAsk("q"))
    market.quote(ALICE)
    assert market.effects == [Send(ALICE.peer, Release(market.calls[ALICE].conversation))]


# --- outcomes ---------------------------------------------------------------------------------------------------------


def learned(effects: list[Effect]) -> list[AgentRef]:
    return [e.agent for e in effects if isinstance(e, Learned)]


def remembered(effects: list[Effect]) -> list[Remember]:
    return [e for e in effects if isinstance(e, Remember)]


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


# --- faults ---------------------------------------------------------------------------------------------------------


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


# --- slot prices ----------------------------------------------------------------------------------------------------

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
