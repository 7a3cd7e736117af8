"""The selling state machine, driven through `Peer.handle`: every way in which a sale can go."""

import msgspec
import pytest

from p2pagent.config import Preferences
from p2pagent.keys import Keys
from p2pagent.peer.credit import Account
from p2pagent.peer.effects import Abort, Blame, Effect, Generate, Post, SetTimer
from p2pagent.peer.events import (
    AgentsChanged,
    CacheChanged,
    Generated,
    GenerationEnded,
    GenerationFailed,
    PeerDown,
    Posted,
    TimerFired,
)
from p2pagent.peer.gossip_messages import Load
from p2pagent.peer.messages import (
    Award,
    Call,
    Chunk,
    Fail,
    Final,
    Mark,
    Quote,
    Receipt,
    Refuse,
    Release,
    Seek,
    Settle,
    Settled,
    SignedQuote,
    Turn,
)
from p2pagent.peer.peer import Peer
from p2pagent.peer.seller import SALES_MAX, SALES_PER_BUYER_MAX, SellerStatistics
from p2pagent.peer.stall import QUEUE_PER_SLOT_MAX, OwnLoad
from p2pagent.peer.terms import QUOTE_MS
from p2pagent.peer.wire import SIGNED_DOMAINS, opened, receipt_id
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import LATENCY_US_MAX, WAIT_MS_MAX, Task
from p2pagent.routing.residency import Held
from p2pagent.sim.keys import SimKeys
from p2pagent.types import ChatMessage, Usage
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


def begun(peer: Peer, jobs: list[bytes]) -> list[bytes]:
    """The conversations that these jobs answer, as their first pieces tell."""
    pieces = [piece for job in jobs for piece in sent(peer.handle(Generated(job, ""), START_MS + 9))]
    return [piece.conversation for piece in pieces if isinstance(piece, Chunk)]


USAGE = Usage(20, 0, 3)


def ended(peer: Peer, job: bytes, usage: Usage = USAGE) -> list[Effect]:
    return peer.handle(GenerationEnded(job, usage, "stop"), START_MS + 500)


def expire(peer: Peer, effects: list[Effect], after_ms: int = QUOTE_MS) -> list[Effect]:
    (timer,) = [e.timer for e in effects if isinstance(e, SetTimer)]
    return peer.handle(TimerFired(timer), START_MS + after_ms)


def statistics(peer: Peer) -> SellerStatistics:
    return peer.seller.statistics()


def test_who_can_wait_no_longer_than_the_line_is_refused_at_once(peer: Peer, space: Space) -> None:
    for number in (1, 2):
        receive(peer, BOB, make_call(space, number))
        awarded(peer, number, BOB)
    wait_ms = quoted(peer, space, 3).wait_ms
    assert wait_ms > 0
    assert quoted(peer, space, 4, deadline_ms=wait_ms).free_slots == 0
    assert refused(peer, make_call(space, 5, deadline_ms=wait_ms - 1)) == "late"
    (own,) = sent(peer.seller.on_call(ME.peer, make_call(space, 6, deadline_ms=0), START_MS))
    assert isinstance(own, SignedQuote)


def test_what_the_owner_meets_at_its_own_agent_is_known_exactly(peer: Peer, space: Space) -> None:
    def load() -> OwnLoad:
        return peer.seller.own_load("agent", Task(20, 0, 64), START_MS)

    idle = load()
    assert (idle.wait_ms, idle.load) == (0, Load(0, 0, 0, 0, 0))
    assert idle.answer_ms > 0
    for number in range(5):  # two at work, three strangers in line, whom the owner's questions overtake
        receive(peer, BOB, make_call(space, number))
        awarded(peer, number, BOB)
    assert statistics(peer).waiting == 3
    busy = load()
    assert busy.wait_ms == pytest.approx(idle.answer_ms, rel=0.3)
    assert busy.load == Load(2, 3, 5, 0, 0)
    for number, rounds in ((7, 1), (8, 2)):  # each of the two slots serves one of them in a round
        peer.seller.on_call(ME.peer, make_call(space, number), START_MS)
        peer.seller.on_award(ME.peer, make_award(number), START_MS)
        assert load().wait_ms == pytest.approx(rounds * busy.wait_ms, rel=0.1)


def test_a_sale_from_call_to_receipt(peer: Peer, space: Space) -> None:
    quote = quoted(peer, space, 1)
    assert (quote.free_slots, quote.queued, quote.expires_ms) == (2, 0, QUOTE_MS)
    assert quote.price_cap_microcredits == 10 * 20 + 40 * 64
    assert statistics(peer).slots_busy == 1
    (generate,) = receive(peer, ALICE, make_award(1))
    assert isinstance(generate, Generate)
    assert (generate.agent, generate.priority, generate.sampling.max_tokens) == ("agent", 1, 64)
    pieces = [sent(peer.handle(Generated(generate.job, text), START_MS + 9))[0] for text in ("cb", "a")]
    assert pieces == [Chunk(ident(1), 0, "cb"), Chunk(ident(1), 1, "a")]
    (final,) = sent(ended(peer, generate.job), ALICE)
    assert isinstance(final, Final)
    receipt = opened(Receipt, final.receipt, final.signature, ME.peer, ALICE)
    assert receipt.price_microcredits == PRICE
    assert statistics(peer) == SellerStatistics(sales=0, slots_busy=0, waiting=0, unsigned=1)


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
    assert begun(peer, awarded(peer, 1)) == [ident(1)]
    assert expire(peer, effects) == []
    assert statistics(peer).slots_busy == 1


def test_slots_in_use_and_held_never_exceed_the_agents(peer: Peer, space: Space) -> None:
    free = [quoted(peer, space, n, ALICE if n % 2 else BOB).free_slots for n in range(1, 6)]
    assert free == [2, 1, 0, 0, 0]
    assert statistics(peer).slots_busy == 2
    jobs = [job for n in range(1, 6) for job in awarded(peer, n, ALICE if n % 2 else BOB)]
    assert begun(peer, jobs) == [ident(1), ident(2)]
    assert (statistics(peer).slots_busy, statistics(peer).waiting) == (2, 3)


def test_a_conversation_id_used_twice_is_a_fault(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    for buyer in (ALICE, BOB):
        assert receive(peer, buyer, make_call(space, 1)) == [Blame(buyer.peer, "conversation id used twice")]
    assert statistics(peer).slots_busy == 1


def test_a_second_award_starts_nothing(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    assert begun(peer, awarded(peer, 1)) == [ident(1)]
    assert sent(receive(peer, ALICE, make_award(1))) == [Fail(ident(1), "expired")]
    assert statistics(peer).slots_busy == 1


def test_nobody_takes_up_or_releases_anothers_quote(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    assert sent(receive(peer, BOB, make_award(1)), BOB) == [Fail(ident(1), "expired")]
    assert receive(peer, BOB, Release(ident(1))) == []
    assert begun(peer, awarded(peer, 1)) == [ident(1)]


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
    (job,) = awarded(peer, 1)
    ended(peer, job)
    assert refused(peer, make_call(space, 2)) == "credit"
    assert quoted(peer, space, 3, BOB).free_slots == 2
    owing = make_peer(space, make_advert("agent", {}), preferences=poor, accounts={ALICE.peer: Account(1)})
    assert refused(owing, make_call(space, 1)) == "credit"


def settle(final: Final, buyer: Keys) -> Settle:
    return Settle(final.receipt, final.signature, buyer.sign(SIGNED_DOMAINS[Receipt], final.receipt))


def sold(peer: Peer, space: Space, number: int) -> Final:
    quoted(peer, space, number)
    (job,) = awarded(peer, number)
    (final,) = sent(ended(peer, job), ALICE)
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
    assert statistics(peer).unsigned == 1


@pytest.mark.parametrize("taken_up", [False, True])
def test_a_release_frees_the_slot_and_stops_the_work(peer: Peer, space: Space, taken_up: bool) -> None:
    quoted(peer, space, 1)
    jobs = awarded(peer, 1) if taken_up else []
    assert len(jobs) == taken_up
    assert receive(peer, ALICE, Release(ident(1))) == [Abort(job) for job in jobs]
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)
    for job in [*jobs, ident(1)]:
        assert peer.handle(Generated(job, "late"), START_MS) == []
        assert ended(peer, job) == []


def test_own_questions_start_before_those_of_others_that_wait(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=1))
    jobs = []
    for number in (1, 2, 3):
        quoted(peer, space, number)
        jobs += awarded(peer, number)
    assert started(peer.handle(make_ask("own", 0), START_MS)) == []
    (first,) = jobs
    effects = ended(peer, first)
    (own,) = started(effects)
    assert [e.priority for e in effects if isinstance(e, Generate)] == [0]
    second = started(peer.handle(GenerationEnded(own, Usage(20, 0, 0), "stop"), START_MS + 600))
    assert begun(peer, second) == [ident(2)]
    third = started(ended(peer, second[0]))
    assert begun(peer, third) == [ident(3)]


def test_a_full_queue_and_a_greedy_buyer_are_turned_away(peer: Peer, space: Space) -> None:
    for number in range(SALES_PER_BUYER_MAX):
        quoted(peer, space, number)
    assert refused(peer, make_call(space, 99)) == "enough"
    one_slot = make_peer(space, make_advert("agent", {}, slots=1))
    for number in range(1 + QUEUE_PER_SLOT_MAX):
        quoted(one_slot, space, number)
        awarded(one_slot, number)
    assert refused(one_slot, make_call(space, 99, 0), BOB) == "busy"


def test_a_buyer_that_went_away_leaves_nothing_behind(peer: Peer, space: Space) -> None:
    for number in range(1, 5):
        quoted(peer, space, number)
    first, third = [*awarded(peer, 1), *awarded(peer, 3)]
    quoted(peer, space, 9, BOB)
    assert awarded(peer, 9, BOB) == []
    effects = peer.handle(PeerDown(ALICE.peer), START_MS)
    assert {e.job for e in effects if isinstance(e, Abort)} == {first, third}
    assert begun(peer, started(effects)[-1:]) == [ident(9)]
    assert statistics(peer) == SellerStatistics(sales=1, slots_busy=1, waiting=0, unsigned=0)


def test_an_engine_that_breaks_off_is_owed_nothing(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    (job,) = awarded(peer, 1)
    effects = peer.handle(GenerationFailed(job, "engine"), START_MS)
    assert sent(effects) == [Fail(ident(1), "engine")]
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)


def test_a_receipt_bills_no_more_than_was_called_for(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1, max_tokens=2)
    (job,) = awarded(peer, 1)
    (final,) = sent(ended(peer, job, Usage(9_999, 9_999, 9_999)))
    assert isinstance(final, Final)
    receipt = opened(Receipt, final.receipt, final.signature, ME.peer, ALICE)
    assert (receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens) == (20, 20, 2)


def test_another_agent_that_becomes_ready_disturbs_no_sale(peer: Peer, space: Space) -> None:
    quoted(peer, space, 1)
    quoted(peer, space, 2, BOB)
    (job,) = awarded(peer, 1)
    both = (make_advert("agent", {0: 0.95}, slots=2), make_advert("second", {1: 0.95}))
    peer.handle(AgentsChanged(both, ()), START_MS)
    assert statistics(peer).slots_busy == 2
    assert quoted(peer, space, 3).free_slots == 0
    ended(peer, job)
    receive(peer, BOB, Release(ident(2)))
    receive(peer, ALICE, Release(ident(3)))
    assert statistics(peer).slots_busy == 0
    assert quoted(peer, space, 4).free_slots == 2


def test_the_sales_of_an_agent_that_stopped_for_good_fail(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {}, slots=1))
    for number in (1, 2, 3):
        quoted(peer, space, number)
    (job,) = awarded(peer, 1)
    assert awarded(peer, 2) == []
    effects = peer.handle(AgentsChanged((), ()), START_MS)
    assert [e for e in effects if isinstance(e, Abort | Generate)] == [Abort(job)]
    assert sent(effects) == [Fail(ident(number), "engine") for number in (1, 2, 3)]
    assert statistics(peer) == SellerStatistics(0, 0, 0, 0)
    assert ended(peer, job) == []
    assert sent(receive(peer, ALICE, make_award(3))) == [Fail(ident(3), "expired")]
    assert refused(peer, make_call(space, 4)) == "agent"


# --- what a review found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["released", "ended"])
def test_the_engine_of_an_ended_sale_does_not_touch_the_next_one_of_the_same_name(
    peer: Peer, space: Space, how: str
) -> None:
    quoted(peer, space, 1)
    (old,) = awarded(peer, 1)
    if how == "released":
        assert receive(peer, ALICE, Release(ident(1))) == [Abort(old)]
    else:
        ended(peer, old)
    quoted(peer, space, 1)
    (new,) = awarded(peer, 1)
    assert new != old
    before = statistics(peer)
    late = [Generated(old, "stale"), GenerationFailed(old, "engine"), GenerationEnded(old, USAGE, "stop")]
    for event in late:
        assert peer.handle(event, START_MS + 10) == []
    assert statistics(peer) == before
    assert sent(peer.handle(Generated(new, "fresh"), START_MS + 11)) == [Chunk(ident(1), 0, "fresh")]
    assert [type(message) for message in sent(ended(peer, new))] == [Final]


def test_jobs_of_all_agents_and_buyers_have_ids_of_their_own(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=4), make_advert("second", {1: 0.95}, slots=4))
    jobs = []
    for number, (buyer, agent) in enumerate([(ALICE, "agent"), (BOB, "agent"), (ALICE, "second"), (BOB, "second")]):
        quoted(peer, space, number, buyer, agent=agent)
        jobs += awarded(peer, number, buyer)
    jobs += started(peer.handle(make_ask("own", 0), START_MS))
    assert len(set(jobs)) == 5


@pytest.mark.parametrize(("first_ms", "last_ms"), [(1 << 40, 1 << 40), (0, 1 << 40), (1 << 62, 1 << 63)])
def test_one_odd_measurement_spoils_no_quote(peer: Peer, space: Space, first_ms: int, last_ms: int) -> None:
    for _ in range(50):
        (job,) = started(peer.handle(make_ask("own", 0, privacy="local"), START_MS))
        peer.handle(Generated(job, "x"), START_MS + 1 + first_ms)
        peer.handle(GenerationEnded(job, Usage(1, 0, 2), "stop"), START_MS + 1 + last_ms)
    receive(peer, ALICE, make_call(space, 1, prompt_tokens=4_000), 2 * last_ms)
    for number in range(2, 6):  # those that find no slot free have the wait for one on top
        (answer,) = sent(receive(peer, ALICE, make_call(space, number, prompt_tokens=4_000), 2 * last_ms), ALICE)
        assert isinstance(answer, SignedQuote)
        quote = opened(Quote, answer.body, answer.signature, ME.peer, ALICE)
        assert quote.wait_ms <= quote.ttft_ms <= quote.ttft_high_ms <= WAIT_MS_MAX
        assert quote.tpot_us <= LATENCY_US_MAX < 10_000 * max(quote.ttft_ms, quote.tpot_us)


def test_what_open_quotes_promise_counts_against_the_credit(space: Space) -> None:
    cap = 10 * 20 + 40 * 64
    peer = make_peer(
        space, make_advert("agent", {}, slots=8), preferences=Preferences(newcomer_credit_microcredits=2 * cap)
    )
    quoted(peer, space, 1)
    quoted(peer, space, 2)
    (job,) = awarded(peer, 2)
    assert refused(peer, make_call(space, 3)) == "credit"
    assert quoted(peer, space, 4, BOB).price_cap_microcredits == cap
    receive(peer, ALICE, Release(ident(1)))
    quoted(peer, space, 5)
    assert refused(peer, make_call(space, 6)) == "credit"
    peer.handle(GenerationFailed(job, "engine"), START_MS)
    quoted(peer, space, 7)
    assert refused(peer, make_call(space, 8)) == "credit"


@pytest.mark.parametrize(
    ("slots", "alices", "bobs"),
    [(1, [1, 0, 0], 0), (2, [2, 0, 0], 1), (3, [3, 0, 0], 2), (4, [4, 3, 0, 0], 2), (5, [5, 4, 0], 3)],
)
def test_no_stranger_keeps_more_than_half_the_slots_from_others(
    space: Space, slots: int, alices: list[int], bobs: int
) -> None:
    peer = make_peer(space, make_advert("agent", {}, slots=slots), make_advert("second", {}, slots=1))
    assert [quoted(peer, space, number).free_slots for number in range(len(alices))] == alices
    assert statistics(peer).slots_busy == max(1, slots // 2)
    assert quoted(peer, space, 90, agent="second").free_slots == 1
    assert quoted(peer, space, 91, BOB).free_slots == bobs


def test_a_quote_without_a_hold_still_gets_a_slot_if_one_is_free(peer: Peer, space: Space) -> None:
    for number, free in ((1, 2), (2, 0)):
        assert quoted(peer, space, number).free_slots == free
    assert begun(peer, awarded(peer, 2)) == [ident(2)]
    assert begun(peer, awarded(peer, 1)) == [ident(1)]
    assert statistics(peer).slots_busy == 2


def test_the_owner_is_never_crowded_out(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=2))
    for number in range(SALES_MAX):
        quoted(peer, space, number, SimKeys(100 + number // SALES_PER_BUYER_MAX))
    assert statistics(peer).sales == SALES_MAX
    assert refused(peer, make_call(space, SALES_MAX), BOB) == "enough"
    assert started(peer.handle(make_ask("own", 0), START_MS)) == []
    assert (statistics(peer).sales, statistics(peer).waiting) == (SALES_MAX + 1, 1)
    effects = receive(peer, SimKeys(100), Release(ident(0)))
    assert [e.priority for e in effects if isinstance(e, Generate)] == [0]


def test_the_owner_is_limited_neither_by_the_queue_nor_by_a_count_of_sales(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=1))
    jobs = []
    for number in range(1 + QUEUE_PER_SLOT_MAX):
        quoted(peer, space, number)
        jobs += awarded(peer, number)
    own = SALES_PER_BUYER_MAX + 3
    for number in range(own):
        assert started(peer.handle(make_ask(f"own {number}", 0), START_MS)) == []
    assert statistics(peer).waiting == QUEUE_PER_SLOT_MAX + own
    assert peer.buyer.running == own
    priorities = []
    while jobs:
        effects = ended(peer, jobs.pop(), Usage(20, 0, 0))
        jobs += started(effects)
        priorities += [e.priority for e in effects if isinstance(e, Generate)]
    assert priorities == [0] * own + [1] * QUEUE_PER_SLOT_MAX


def test_no_more_than_the_bound_wait_even_if_all_were_quoted_before(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {}, slots=1))
    numbers = range(SALES_PER_BUYER_MAX)
    for number in numbers:
        quoted(peer, space, number)
    replies = [sent(receive(peer, ALICE, make_award(number))) for number in numbers]
    fits = 1 + QUEUE_PER_SLOT_MAX
    assert replies == [[]] * fits + [[Fail(ident(number), "busy")] for number in numbers[fits:]]
    assert statistics(peer) == SellerStatistics(sales=fits, slots_busy=1, waiting=QUEUE_PER_SLOT_MAX, unsigned=0)


# --- what holding and breaking off cost -----------------------------------------------------------------------------


def charged(peer: Peer, buyer: SimKeys, after_ms: int = QUOTE_MS) -> int:
    return peer.seller._credit.charged(buyer.peer, START_MS + after_ms)


def test_a_hold_that_lapses_is_charged_to_who_let_it_lapse(peer: Peer, space: Space) -> None:
    held = receive(peer, ALICE, make_call(space, 1))
    only_offered = receive(peer, ALICE, make_call(space, 2))
    released = receive(peer, BOB, make_call(space, 3))
    receive(peer, BOB, Release(ident(3)))
    for effects in (held, only_offered, released):
        expire(peer, effects)
    assert charged(peer, ALICE) == 10 * 20 + 40 * 64
    assert charged(peer, BOB) == 0
    assert charged(peer, ALICE, 3_600_000) == 0


def test_the_owner_is_charged_nothing(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}))
    expire(peer, receive(peer, ME, make_call(space, 1)))
    assert charged(peer, ME) == 0


@pytest.mark.parametrize("how", ["released", "gone"])
@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_an_answer_that_is_broken_off_is_charged_for_what_was_had_of_it(
    peer: Peer, space: Space, how: str, pieces: int
) -> None:
    quoted(peer, space, 1)
    (job,) = awarded(peer, 1)
    for _ in range(pieces):
        peer.handle(Generated(job, "x"), START_MS + 9)
    receive(peer, ALICE, Release(ident(1)), 9) if how == "released" else peer.handle(PeerDown(ALICE.peer), START_MS + 9)
    assert charged(peer, ALICE, 9) == (10 * 20 + 40 * pieces if pieces else 0)
    assert statistics(peer).slots_busy == 0


def test_who_has_been_charged_too_much_gets_no_quote_until_it_is_forgiven(space: Space) -> None:
    cap = 10 * 20 + 40 * 64
    poor = Preferences(newcomer_credit_microcredits=2 * cap)
    peer = make_peer(space, make_advert("agent", {}, slots=1), preferences=poor)
    for number in (1, 2):
        expire(peer, receive(peer, ALICE, make_call(space, number)))
    assert refused(peer, make_call(space, 3)) == "credit"
    (later,) = sent(receive(peer, ALICE, make_call(space, 4), 3_600_000), ALICE)
    assert isinstance(later, SignedQuote)


def test_a_slot_that_is_kept_goes_to_nobody_and_then_to_who_waits(peer: Peer, space: Space) -> None:
    peer.seller.keep("agent", 2)
    assert quoted(peer, space, 1).free_slots == 0
    assert awarded(peer, 1) == []
    assert peer.seller.spare("agent", START_MS) == []
    assert [type(e) for e in peer.seller.let_go("agent", 1, START_MS)] == [Generate]
    assert peer.seller.let_go("agent", 1, START_MS) == []
    assert peer.seller.spare("agent", START_MS)[0] == (1, 0)
    assert peer.seller.let_go("no such agent", 1, START_MS) == []


def test_what_is_promised_of_slots_at_work_leaves_out_those_that_others_wait_for(space: Space) -> None:
    peer = make_peer(space, make_advert("agent", {0: 0.95}, slots=3))
    for number in (1, 2, 3):
        quoted(peer, space, number, SimKeys(10 + number))
        awarded(peer, number, SimKeys(10 + number))
    assert [slots for slots, _ in peer.seller.spare("agent", START_MS)] == [3]
    quoted(peer, space, 4, BOB)
    assert awarded(peer, 4, BOB) == []
    assert [slots for slots, _ in peer.seller.spare("agent", START_MS)] == [2]
    peer.seller.keep("agent", 2)
    assert peer.seller.spare("agent", START_MS) == []


DOCUMENT = "a document of some length, " * 40
DOMAIN = b"d" * 16


def about(space: Space, number: int, question: str, marks: tuple[Mark, ...], **changes: object) -> tuple[Call, Award]:
    """A call with these marks, and the award of a prompt that begins with the document."""
    text = DOCUMENT + question
    fields = {"embedding": space.embed(text), "prompt_tokens": 1_100, "domain": DOMAIN, "prefix": marks}
    call = make_call(space, number, **(fields | changes))
    return call, Award(ident(number), (Turn("user", text),), 0, 0)


def marked(question: str, name: bytes = b"question") -> tuple[Mark, ...]:
    return Mark(b"document", len(DOCUMENT)), Mark(name, len(DOCUMENT + question))


@pytest.fixture
def caching(space: Space) -> Peer:
    return make_peer(space, msgspec.structs.replace(make_advert("agent", {0: 0.95}, slots=9), cache_tokens=4_096))


@pytest.mark.parametrize("ends", [(5, 0), (200, 100), (0, 5, 4)])
def test_marks_out_of_order_are_a_fault(caching: Peer, space: Space, ends: tuple[int, ...]) -> None:
    marks = tuple(Mark(bytes([number]) * 8, end) for number, end in enumerate(ends))
    good, award = about(space, 1, "why?", marked("why?"))
    receive(caching, BOB, good)
    receive(caching, BOB, award)
    call, _ = about(space, 2, "why?", marks)
    for message in (call, Seek(ident(3), "agent", DOMAIN, marks, 100)):
        (fault,) = receive(caching, ALICE, message)
        assert isinstance(fault, Blame)


def test_a_mark_shown_for_another_text_voids_the_award_and_is_a_fault(caching: Peer, space: Space) -> None:
    call, award = about(space, 1, "why?", marked("why?"))
    receive(caching, ALICE, call)
    (job,) = started(receive(caching, ALICE, award))
    ended(caching, job, Usage(1_100, 0, 3))
    lie, _ = about(space, 2, "why?", marked("why?"))
    (answer,) = sent(receive(caching, ALICE, lie), ALICE)
    assert isinstance(answer, SignedQuote)
    assert opened(Quote, answer.body, answer.signature, ME.peer, ALICE).cached_tokens > 1_000
    other = Award(ident(2), (Turn("user", DOCUMENT.upper() + "why?"),), 0, 0)
    effects = receive(caching, ALICE, other)
    assert started(effects) == []
    assert [e.fault for e in effects if isinstance(e, Blame)] == ["marks of another prompt"]
    assert sent(effects, ALICE) == [Fail(ident(2), "marks")]
    further, award = about(space, 3, "who else?", marked("who else?", b"another "))
    receive(caching, ALICE, further)
    assert started(receive(caching, ALICE, award)), "the same document with another question below it"


def test_who_lets_go_of_a_prompt_that_another_was_promised_for_is_charged_for_it(caching: Peer, space: Space) -> None:
    first, award = about(space, 1, "why?", marked("why?"))
    receive(caching, ALICE, first)
    assert started(receive(caching, ALICE, award))
    second, _ = about(space, 2, "who else?", marked("who else?", b"another "))
    receive(caching, ALICE, second)
    receive(caching, ALICE, Release(ident(1)), 9)
    assert charged(caching, ALICE, 9) == 10 * 1_100


def test_a_broken_off_answer_is_charged_no_more_than_was_quoted(caching: Peer, space: Space) -> None:
    first, award = about(space, 1, "why?", marked("why?"))
    receive(caching, BOB, first)
    (job,) = started(receive(caching, BOB, award))
    ended(caching, job, Usage(1_100, 0, 3))
    second, award = about(space, 2, "why?", marked("why?"), max_tokens=1)
    (answer,) = sent(receive(caching, ALICE, second), ALICE)
    assert isinstance(answer, SignedQuote)
    quote = opened(Quote, answer.body, answer.signature, ME.peer, ALICE)
    (job,) = started(receive(caching, ALICE, award))
    caching.handle(Generated(job, "x"), START_MS + 9)
    receive(caching, ALICE, Release(ident(2)), 9)
    assert quote.cached_tokens > 1_000
    assert charged(caching, ALICE, 9) == quote.price_cap_microcredits


def test_what_is_learned_of_an_answer_is_the_prompt_that_it_had(space: Space) -> None:
    def foreseen(called: int) -> int:
        peer = make_peer(space, make_advert("agent", {0: 0.95}))
        for number in range(40):
            quoted(peer, space, number, prompt_tokens=called)
            (job,) = awarded(peer, number)
            peer.handle(Generated(job, "x"), START_MS + 1 + 100)
            (final,) = sent(peer.handle(GenerationEnded(job, Usage(100, 0, 3), "stop"), START_MS + 1 + 120), ALICE)
            assert isinstance(final, Final)
            receive(peer, ALICE, settle(final, ALICE), 200)
        return peer.seller.own_load("agent", Task(1_000, 0, 3), START_MS + 100_000).answer_ms

    assert foreseen(4_000) == foreseen(100)


def test_what_an_engine_tells_of_its_cache_is_quoted(space: Space) -> None:
    advert = msgspec.structs.replace(make_advert("agent", {0: 0.95}, slots=9), cache_tokens=4096)
    peer = make_peer(space, advert)
    marks = (Mark(b"b" * 8, 200), Mark(b"a" * 8, 400))
    changes = {"domain": b"d" * 16, "prefix": marks, "prompt_tokens": 100}
    told = []
    for number, entries in enumerate([((marks[0].tag, 64),), ((marks[1].tag, 96),), ((marks[1].tag, 0),), None]):
        held = None if entries is None else Held(b"d" * 16, entries)
        peer.seller._stalls["agent"].texts.learn(b"d" * 16, marks, [ChatMessage("user", "x" * 400)])
        assert peer.handle(CacheChanged("agent", held), START_MS) == []
        stranger = quoted(peer, space, 100 + number, BOB, **(changes | {"domain": b"e" * 16}))
        told.append((quoted(peer, space, number, **changes).cached_tokens, stranger.cached_tokens))
    assert told == [(64, 0), (96, 0), (64, 0), (0, 0)]
    assert peer.handle(CacheChanged("another", Held(b"d" * 16, ())), START_MS) == []
