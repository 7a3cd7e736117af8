"""The buyer's arithmetic: worked examples."""

import pytest

from p2pagent.market.clearing import WEIGHT_MAX
from p2pagent.peer.choice import (
    STRANGER_MS,
    Habit,
    Option,
    clear,
    expected_cost,
    gains,
    options,
    patience_ms,
    toll,
    utility,
    worth_at,
)
from p2pagent.peer.loads import Prospect
from p2pagent.peer.messages import Quote
from p2pagent.peer.wire import parsed
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import WAIT_MS_MAX
from p2pagent.routing.scoring import Score
from p2pagent.types import AgentRef, PeerId
from tests.scenario import make_advert, make_ask, make_option
from tests.strangers import ALICE, ME, make_call, make_quote

ASK = make_ask("q", 0)


def option(name: str, worth: int, peer: PeerId = ALICE.peer) -> Option:
    return make_option(AgentRef(peer, name), worth, ASK)


def names(chosen: list[Option]) -> list[str]:
    return [o.agent.name for o in chosen]


def quote(space: Space, **changes: object) -> Quote:
    offer = parsed(make_quote(ALICE, make_call(space, 1), **changes).body, Quote)
    assert isinstance(offer, Quote)
    return offer


def test_utility_is_worth_less_the_believed_seconds_and_the_slot_price() -> None:
    prospect = Prospect(wait_ms=1_500, answer_ms=500, unseen_s=9.0, utilisation=0.5, slot_price=300)
    assert utility(option("agent", 100_000), prospect, ASK) == 100_000 - 300 - 20_000 * 2_000 // 1000


@pytest.mark.parametrize(("slot_price", "beyond"), [(0, 2_000), (1_500, 500), (2_000, 0), (9_000, 0)])
def test_what_others_are_made_to_wait_counts_beyond_what_the_slots_price_says(slot_price: int, beyond: int) -> None:
    prospect = Prospect(wait_ms=100, answer_ms=50, toll_ms=100, slot_price=slot_price)
    assert toll(prospect, slot_price, ASK) == beyond
    assert utility(option("agent", 100_000), prospect, ASK) == 100_000 - 20_000 * 150 // 1000 - slot_price - beyond


def test_others_waits_count_no_more_than_twice_the_own_one() -> None:
    prospect = Prospect(wait_ms=30, answer_ms=20, toll_ms=90_000)
    assert toll(prospect, 0, ASK) == 20_000 * 100 // 1000


@pytest.mark.parametrize(
    ("worth", "floor", "delay_cost", "patience"),
    [
        (50_000, 10_000, 20_000, 2_000),
        (50_000, 10_001, 20_000, 1_999),
        (50_000, 50_000, 20_000, 0),
        (50_000, 60_000, 20_000, 0),
        (1 << 53, 0, 1, WAIT_MS_MAX),
        (50_000, 10_000, 0, WAIT_MS_MAX),
    ],
)
def test_a_slot_is_of_use_until_waiting_for_it_costs_what_is_gained(
    worth: int, floor: int, delay_cost: int, patience: int
) -> None:
    ask = make_ask("q", 0, delay_microcredits_per_s=delay_cost)
    assert patience_ms(option("agent", worth), floor, ask) == patience


def test_worth_is_value_times_quality_less_cost_and_delay() -> None:
    advert = make_advert("agent", dict.fromkeys(range(6), 1.0))
    mine, theirs = options(
        [(ME.peer, advert), (ALICE.peer, advert)], [(Score(1.0, 0.0),) * 2] * 2, [Habit(0, 64)] * 2, ASK, 0.0, ME.peer
    )
    cost = 10 * ASK.prompt_tokens + 40 * 64
    assert mine.cost_microcredits == cost
    assert mine.worth_microcredits == pytest.approx(1_000_000 - cost, abs=1)
    assert mine.worth_microcredits - theirs.worth_microcredits == 20_000 * STRANGER_MS // 1000


def test_equals_keep_the_order_in_which_they_were_given() -> None:
    adverts = [(ALICE.peer, make_advert(name, {0: 0.9})) for name in "badc"]
    assert names(options(adverts, [(Score(0.9, 0.1),) * 2] * 4, [Habit(0, 64)] * 4, ASK, 0.5, ME.peer)) == list("badc")


def test_what_is_cached_costs_less_but_no_more_than_the_prompt_is() -> None:
    advert, prompt = make_advert("agent", {}), ASK.prompt_tokens
    assert expected_cost(advert, ASK, 0, 2) == 10 * prompt + 40 * 2
    assert expected_cost(advert, ASK, 5, 2) == 10 * (prompt - 5) + advert.rates.cached * 5 + 40 * 2
    assert expected_cost(advert, ASK, prompt + 9, 2) == advert.rates.cached * prompt + 40 * 2


def test_a_quote_of_more_cached_tokens_than_believed_is_worth_what_they_save(space: Space) -> None:
    rates, one = make_advert("agent", {}).rates, option("agent", 100_000)
    saved = worth_at(one, quote(space, cached_tokens=7), ASK) - worth_at(one, quote(space), ASK)
    assert saved == 7 * (rates.prompt - rates.cached)


def test_whoever_is_late_by_habit_is_worth_less(space: Space) -> None:
    def worth(late_ms: int) -> int:
        one = option("agent", 100_000)
        one.habit = Habit(0, 64, late_ms)
        return worth_at(one, quote(space, ttft_ms=1_000), ASK)

    assert worth(0) - worth(500) == worth(-500) - worth(0) == 20_000 // 2
    assert worth(-9_000) == worth(-1_000)


def test_waiting_costs_the_seconds_until_the_last_token(space: Space) -> None:
    waited = worth_at(option("agent", 1_000), quote(space, ttft_ms=1_500, tpot_us=10_000), ASK)
    assert waited == 1_000 - 20_000 * (1_500 + 640) // 1000


A, B = AgentRef(ALICE.peer, "a"), AgentRef(ALICE.peer, "b")


@pytest.mark.parametrize(
    ("worths", "free", "expected"),
    [
        ([], {}, []),
        ([{}], {}, [None]),
        ([{A: 5, B: 7}], {A: 1, B: 1}, [B]),
        ([{A: 5, B: 7}, {A: 1, B: 6}], {A: 1, B: 1}, [A, B]),
        ([{B: 7}, {B: 6}], {B: 1}, [B, None]),
        ([{B: 7}, {B: 6}], {B: 2}, [B, B]),
        ([{A: -1, B: 0}], {A: 1, B: 1}, [None]),
        ([{A: 5}, {B: 5}], {A: 9, B: 9}, [A, B]),
        ([{A: WEIGHT_MAX, B: -(1 << 80)}, {A: 1 << 80}], {A: 2, B: 1}, [A, A]),
    ],
)
def test_queries_of_one_owner_are_cleared_together(
    worths: list[dict[AgentRef, int]], free: dict[AgentRef, int], expected: list[AgentRef | None]
) -> None:
    assert clear(worths, free) == expected


def test_a_slot_elsewhere_gains_less_by_what_is_to_be_computed_and_held_up_there(space: Space) -> None:
    ask = make_ask("q", 0)
    home, idle, busy = (option(name, 500_000) for name in ("home", "idle", "busy"))
    home.prospect = Prospect(2_000, 300)
    idle.prospect = Prospect(0, 900)
    busy.prospect = Prospect(0, 900, held_up_ms=700)
    waiting = quote(space, ttft_ms=2_100, wait_ms=2_000, ttft_high_ms=2_100, tpot_us=0)
    gain = dict(gains([home, idle, busy], home, waiting, 0, ask, ME.peer))
    delay = ask.policy.delay_microcredits_per_s
    assert gain[home.agent] - gain[idle.agent] == delay * (900 - 100) // 1_000
    assert gain[idle.agent] - gain[busy.agent] == delay * 700 // 1_000


def test_where_a_conversation_begins_counts_whom_it_goes_on_among() -> None:
    ask = make_ask("q", 0)
    prospect = Prospect(0, 200, later_ms=500)
    more = utility(option("a", 10**6), Prospect(0, 200), ask) - utility(option("a", 10**6), prospect, ask)
    assert more == ask.policy.delay_microcredits_per_s * 500 // 1_000
