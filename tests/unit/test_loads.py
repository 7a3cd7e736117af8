"""What a buyer believes of the load of agents: gossip, quotes, its own questions, and how much of that it keeps."""

import msgspec
import pytest

from p2pagent.market.pricing import HALF_LIFE_MS, decayed
from p2pagent.peer import loads as module
from p2pagent.peer.gossip_messages import Load
from p2pagent.peer.loads import Loads, Prospect
from p2pagent.peer.messages import Quote
from p2pagent.peer.wire import parsed
from p2pagent.routing.beliefs import Belief, Prior, Snapshot
from p2pagent.routing.prototypes import Space
from p2pagent.types import AgentRef
from tests.strangers import ALICE, BOB, make_call, make_quote

AGENT, OTHER = AgentRef(ALICE.peer, "agent"), AgentRef(BOB.peer, "agent")
NOW = 1_000_000
BUSY, IDLE = Load(2, 6, 40, 30, 60_000), Load(0, 0, 40, 40, 60_000)


def quote(space: Space, **changes: object) -> Quote:
    offer = parsed(make_quote(ALICE, make_call(space, 1), **changes).body, Quote)
    assert isinstance(offer, Quote)
    return offer


def prospect(
    loads: Loads, agent: AgentRef = AGENT, now_ms: int = NOW, own: tuple[tuple[int, float], ...] = ()
) -> Prospect:
    return loads.prospect(agent, 2, own, now_ms)


def test_gossip_is_learned_as_the_belief_says() -> None:
    loads, belief = Loads(), Belief(Prior(slots=2))
    for at_ms, load in ((NOW - 9_000, IDLE), (NOW - 1_000, Load(2, 3, 48, 43, 66_000))):
        loads.heard(AGENT, load, 2, at_ms, NOW)
        counters = (load.arrived, load.served, load.busy_ms)
        belief.learn(Snapshot(at_ms, load.running, load.waiting, 2, *counters))
    expected = belief.expect(NOW, 0)
    assert prospect(loads) == Prospect(
        round(1000 * expected.wait_s),
        round(1000 * belief.service_s),
        round(1000 * expected.toll_s),
        expected.unseen,
        expected.utilisation,
        0,
        expected.inside,
    )
    assert expected.wait_s > 0


def test_who_is_busy_is_believed_to_make_one_wait_longer_than_who_is_idle() -> None:
    loads = Loads()
    loads.heard(AGENT, BUSY, 2, NOW, NOW)
    loads.heard(OTHER, IDLE, 2, NOW, NOW)
    assert prospect(loads).wait_ms > 1_000
    assert prospect(loads, OTHER).wait_ms == 0


def test_a_quote_is_a_fresh_look_and_says_what_a_slot_costs(space: Space) -> None:
    loads = Loads()
    loads.heard(AGENT, BUSY, 2, NOW - 500, NOW)
    loads.quoted(AGENT, quote(space, free_slots=1, queued=0, slot_price_microcredits=800), 2, NOW)
    assert (prospect(loads).wait_ms, prospect(loads).slot_price) == (0, 800)
    later_ms = NOW + HALF_LIFE_MS
    assert prospect(loads, now_ms=later_ms).slot_price == decayed(800, HALF_LIFE_MS) == 400
    loads.quoted(AGENT, quote(space, free_slots=0, queued=9), 2, later_ms)
    assert prospect(loads, now_ms=later_ms).wait_ms > 1_000
    assert prospect(loads, now_ms=later_ms).slot_price == 0


def test_who_has_no_room_is_believed_full(space: Space) -> None:
    loads = Loads()
    loads.quoted(AGENT, quote(space, free_slots=1), 2, NOW)
    loads.full(AGENT, 8, 2, NOW)
    assert prospect(loads).wait_ms > 1_000


def test_own_questions_count_from_the_last_look_on_each_by_its_probability(space: Space) -> None:
    loads = Loads()
    loads.quoted(AGENT, quote(space, free_slots=2), 2, NOW)

    def wait_ms(*own: tuple[int, float]) -> int:
        return prospect(loads, own=own).wait_ms

    assert wait_ms((NOW - 1, 1.0), (NOW - 1, 1.0), (NOW - 1, 1.0)) == 0
    assert wait_ms((NOW, 1.0)) == 0
    two, three = wait_ms(*[(NOW, 1.0)] * 2), wait_ms(*[(NOW + 5, 1.0)] * 3)
    assert 0 < two < three
    assert wait_ms(*[(NOW, 0.5)] * 4) == two


def test_clocks_that_differ_do_no_harm() -> None:
    loads = Loads()
    loads.heard(AGENT, BUSY, 2, NOW + 50_000, NOW)
    ahead = prospect(loads)
    loads.heard(OTHER, BUSY, 2, NOW, NOW)
    assert ahead == prospect(loads, OTHER)


@pytest.mark.parametrize("ahead_ms", [0, 20_000])
def test_a_heartbeat_is_learned_once_whatever_its_clock_says(space: Space, ahead_ms: int) -> None:
    """Heard again at each question it neither hides what was asked since nor what was quoted since."""
    loads = Loads()
    six = [(NOW + 10, 1.0)] * 6
    waits = []
    for after_ms in (0, 500, 1_500):
        loads.heard(AGENT, IDLE, 1, NOW + ahead_ms, NOW + after_ms)
        waits.append(loads.prospect(AGENT, 1, six, NOW + after_ms).wait_ms)
    assert min(waits) > 1_000
    loads.quoted(AGENT, quote(space, free_slots=0, queued=9), 1, NOW + 1_600)
    busy = prospect(loads, now_ms=NOW + 1_700)
    loads.heard(AGENT, IDLE, 1, NOW + ahead_ms, NOW + 1_700)
    assert prospect(loads, now_ms=NOW + 1_700) == busy


def test_how_far_a_clock_leads_is_known_from_then_on() -> None:
    """So a later word of it that was long on its way is as old as it is."""
    ahead, right = Loads(), Loads()
    for loads, lead_ms in ((ahead, 20_000), (right, 0)):
        loads.heard(AGENT, IDLE, 2, NOW + lead_ms, NOW)
        loads.heard(AGENT, Load(2, 6, 48, 40, 60_000), 2, NOW + 2_000 + lead_ms, NOW + 9_000)
    own = ((NOW + 3_000, 1.0),) * 3
    assert prospect(ahead, now_ms=NOW + 9_000, own=own) == prospect(right, now_ms=NOW + 9_000, own=own)


def test_a_clock_that_was_set_back_is_believed_again() -> None:
    corrected, right = Loads(), Loads()
    for loads, lead_ms in ((corrected, 50_000), (right, 0)):
        loads.heard(AGENT, IDLE, 2, NOW + lead_ms, NOW)
        loads.heard(AGENT, Load(2, 6, 48, 40, 60_000), 2, NOW + 2_000, NOW + 2_000)
    assert prospect(corrected, now_ms=NOW + 2_000) == prospect(right, now_ms=NOW + 2_000)


def test_who_holds_a_slot_for_us_may_say_no_more_than_that_it_gives_no_second_one(space: Space) -> None:
    loads = Loads()
    loads.quoted(AGENT, quote(space, free_slots=2), 2, NOW)
    idle = prospect(loads, now_ms=NOW + 10)
    loads.quoted(AGENT, quote(space, free_slots=0, slot_price_microcredits=7), 2, NOW + 10, holding=True)
    assert msgspec.structs.replace(prospect(loads, now_ms=NOW + 10), slot_price=0) == idle
    assert prospect(loads, now_ms=NOW + 10).slot_price == 7
    loads.quoted(AGENT, quote(space, free_slots=0, queued=9), 2, NOW + 20, holding=True)
    assert prospect(loads, now_ms=NOW + 20).wait_ms > 1_000
    loads.quoted(AGENT, quote(space, free_slots=0), 2, NOW + 30)
    assert prospect(loads, now_ms=NOW + 30).wait_ms > idle.wait_ms


def test_a_newcomer_is_believed_to_be_like_the_others() -> None:
    loads = Loads()
    unknown = prospect(loads, OTHER)
    slow = Loads()
    for number in range(3):
        agent = AgentRef(ALICE.peer, f"agent {number}")
        slow.heard(agent, Load(0, 0, 100, 100, 2_000_000), 2, NOW, NOW)
    assert prospect(slow, OTHER, NOW + module.PRIOR_MS).answer_ms > 2 * unknown.answer_ms


@pytest.mark.parametrize(
    "lie", [Load(0, 0, 1, 0, 1 << 52), Load(0, 0, 1 << 40, 0, 0), Load(0, 0, 1, 1, 3_600_000), Load(0, 0, 500, 500, 1)]
)
def test_who_lies_about_its_load_spoils_no_newcomer(lie: Load) -> None:
    def newcomer(*loads_told: Load) -> Prospect:
        loads, now_ms = Loads(), NOW
        for beat in range(10):
            now_ms += 2_000
            for place, load in enumerate(loads_told):
                counters = (beat * load.arrived, beat * load.served, beat * load.busy_ms)
                loads.heard(AgentRef(BOB.peer, f"agent {place}"), Load(0, 0, *counters), 2, now_ms, now_ms)
        return prospect(loads, now_ms=now_ms + module.PRIOR_MS)

    honest = [Load(0, 0, 1, 1, 1_000)] * 3
    assert newcomer(*honest, lie) == newcomer(*honest)


def test_no_more_is_remembered_than_the_table_holds(monkeypatch: pytest.MonkeyPatch, space: Space) -> None:
    monkeypatch.setattr(module, "LOADS_MAX", 3)
    loads = Loads()
    loads.quoted(AGENT, quote(space, slot_price_microcredits=800), 2, NOW)
    for number in range(5):
        loads.heard(AgentRef(BOB.peer, f"agent {number}"), BUSY, 2, NOW, NOW)
        assert prospect(loads).slot_price == 800  # whoever is a candidate stays
    assert len(loads) == 3
