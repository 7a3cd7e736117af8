"""Whom to ping and whom to give up: fairness, helpers, local health, and how long a suspicion lasts."""

from collections import Counter
from math import ceil, log, log10
from random import Random

import pytest

from p2pagent.peer.detector import (
    ACCUSERS_MAX,
    ACK_MS,
    CONFIRMATIONS,
    HEALTH_MAX,
    NUMBERS,
    PROBES_MAX,
    RELAYS,
    SUSPICION_MAX_MULTIPLE,
    SUSPICION_MULTIPLE,
    TICK_MS,
    Detector,
    Suspicions,
)
from p2pagent.types import PeerId
from tests.scenario import START_MS

A, B, C, D, E = PEERS = [PeerId(f"peer-{i}") for i in range(5)]
MANY = [PeerId(f"peer-{i:03}") for i in range(100)]


@pytest.fixture
def detector(rng):
    return Detector(rng)


def suspicions(*accusers: PeerId, proof: tuple[int, int] = (1, 0)) -> Suspicions:
    table = Suspicions()
    for accuser in accusers:
        table.accuse(A, proof, accuser, START_MS)
    return table


def lasts_ms(table: Suspicions, members: int) -> int:
    return next(ms for ms in range(0, 1_000_000, 1_000) if table.confirmed(members, START_MS + ms))


# --- whose turn it is -----------------------------------------------------------------------------------------------


def test_every_member_is_pinged_once_in_each_round(detector):
    for _ in range(3):
        assert Counter(detector.next_target(MANY) for _ in MANY) == Counter(MANY)


def test_no_two_rounds_and_no_two_peers_have_one_order(detector):
    rounds = [[detector.next_target(MANY) for _ in MANY] for _ in range(2)]
    other = Detector(Random(5))
    assert rounds[0] != rounds[1]
    assert [other.next_target(MANY) for _ in MANY] not in rounds


def test_nobody_waits_longer_than_two_rounds_as_others_come_and_go(detector, rng):
    stable, waited = MANY[:20], Counter()
    for turn in range(1_000):
        fleeting = [PeerId(f"fleeting-{turn // 7}-{i}") for i in range(rng.randrange(20))]
        target = detector.next_target([*stable, *fleeting])
        waited.update(stable)
        waited.pop(target, None)
        assert max(waited.values()) <= 2 * 40


def test_a_newcomer_has_its_turn_in_the_next_round(detector):
    for _ in range(50):
        detector.next_target(MANY)
    assert A not in {detector.next_target([*MANY, A]) for _ in range(50)}
    assert A in {detector.next_target([*MANY, A]) for _ in range(101)}


def test_nobody_to_ping_is_nobody(detector):
    assert detector.next_target([]) is None


# --- pings under way ------------------------------------------------------------------------------------------------


def test_numbers_wrap_and_none_comes_again_soon(detector):
    numbers = [detector.number() for _ in range(NUMBERS)]
    assert sorted(numbers) == list(range(NUMBERS))
    assert detector.number() == numbers[0]


def test_an_answer_ends_the_ping(detector):
    number = detector.begin(A, START_MS)
    assert detector.pings_of(A) == [number]
    detector.on_ack(number, A)
    assert detector.pings_of(A) == []
    assert detector.overdue(START_MS + TICK_MS) == []


def test_nobody_else_can_answer_for_it(detector):
    number = detector.begin(A, START_MS)
    detector.helpers(number, [C])
    detector.on_ack(number, B)
    detector.on_nack(number, B)
    [probe] = detector.overdue(START_MS + TICK_MS)
    assert not probe.vouched
    assert probe.tried == set()


def test_a_helper_that_had_an_answer_vouches_for_the_target_and_no_more(detector):
    number = detector.begin(A, START_MS)
    detector.helpers(number, [B])
    detector.on_ack(number, B)
    assert detector.pings_of(A) == [number]
    [probe] = detector.overdue(START_MS + TICK_MS)
    assert probe.vouched
    assert detector.health == 0


def test_a_ping_is_given_up_when_its_turn_is_over_and_not_before(detector):
    detector.begin(A, START_MS)
    assert detector.overdue(START_MS + TICK_MS - 1) == []
    assert [probe.target for probe in detector.overdue(START_MS + TICK_MS)] == [A]
    assert detector.overdue(START_MS + TICK_MS) == []


def test_helpers_are_three_others_asked_once(detector):
    number = detector.begin(A, START_MS)
    helpers = detector.helpers(number, [A, *MANY])
    assert len(set(helpers)) == RELAYS
    assert A not in helpers
    assert detector.helpers(number, MANY) == []


def test_helpers_differ_from_ping_to_ping(detector):
    helped = Counter()
    for _ in range(200):
        number = detector.begin(A, START_MS)
        helped.update(detector.helpers(number, MANY))
        detector.on_ack(number, A)
    assert len(helped) > 90


def test_without_helpers_they_may_be_asked_later(detector):
    number = detector.begin(A, START_MS)
    assert detector.helpers(number, [A]) == []
    assert detector.helpers(number, [A, B]) == [B]


def test_nobody_helps_with_a_ping_that_was_answered(detector):
    number = detector.begin(A, START_MS)
    detector.on_ack(number, A)
    assert detector.helpers(number, MANY) == []
    assert detector.helpers(number + 1, MANY) == []


def test_pings_under_way_are_bounded(detector):
    for peer in MANY:
        detector.begin(peer, START_MS)
    assert len(detector.overdue(START_MS + TICK_MS)) == PROBES_MAX


# --- local health (Lifeguard, section IV-A) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "nacks", "worse"), [([], [], 1), ([B, C, D], [], 3), ([B, C, D], [B, C], 1), ([B, C, D], [B, C, D], 0)]
)
def test_health_worsens_by_each_helper_that_was_not_heard(detector, asked, nacks, worse):
    number = detector.begin(A, START_MS)
    detector.helpers(number, asked)
    for helper in [*nacks, *nacks]:
        detector.on_nack(number, helper)
    detector.overdue(START_MS + TICK_MS)
    assert detector.health == worse


def test_each_answer_is_one_step_back(detector):
    detector.worse(2)
    for health in (1, 0, 0):
        detector.on_ack(detector.begin(A, START_MS), A)
        assert detector.health == health


def test_health_stretches_turn_and_patience_and_is_bounded(detector):
    assert (detector.tick_ms, detector.ack_ms) == (TICK_MS, ACK_MS)
    detector.worse(3)
    assert (detector.tick_ms, detector.ack_ms) == (4 * TICK_MS, 4 * ACK_MS)
    detector.begin(A, START_MS)
    assert detector.overdue(START_MS + 4 * TICK_MS - 1) == []
    assert detector.overdue(START_MS + 4 * TICK_MS) != []
    detector.worse(100)
    assert detector.health == HEALTH_MAX


# --- how long a suspicion lasts (Lifeguard, section IV-B) -----------------------------------------------------------


def paper_ms(confirmations: int, wanted: int, members: int) -> int:
    """max(Min, Max - (Max - Min) log(C + 1) / log(K + 1)), Min = alpha log10(n) periods, Max = beta Min."""
    least = 4 * max(1, log10(members)) * 2_000
    most = 6 * least
    return ceil(max(least, most - (most - least) * log(confirmations + 1) / log(wanted + 1)))


@pytest.mark.parametrize("members", [4, 10, 50, 160])
@pytest.mark.parametrize("accusers", [1, 2, 3, 5])
def test_a_suspicion_lasts_as_the_paper_says(members, accusers):
    expected = paper_ms(accusers - 1, CONFIRMATIONS, members)
    table = suspicions(*MANY[:accusers])
    assert table.confirmed(members, START_MS + expected - 1) == []
    assert table.confirmed(members, START_MS + expected) == [A]


def test_the_least_and_the_most_are_those_of_the_constants():
    least_ms = SUSPICION_MULTIPLE * 2 * TICK_MS
    assert lasts_ms(suspicions(B, C, D), 100) == least_ms
    assert lasts_ms(suspicions(B), 100) == SUSPICION_MAX_MULTIPLE * least_ms


@pytest.mark.parametrize("members", [0, 1, 2])
def test_where_nobody_could_confirm_the_least_holds(members):
    assert lasts_ms(suspicions(B), members) == SUSPICION_MULTIPLE * TICK_MS


def test_one_member_that_could_confirm_is_enough():
    assert lasts_ms(suspicions(B), 3) == SUSPICION_MAX_MULTIPLE * SUSPICION_MULTIPLE * TICK_MS
    assert lasts_ms(suspicions(B, C), 3) == SUSPICION_MULTIPLE * TICK_MS


def test_one_accuser_counts_once():
    table = suspicions(B, B, B)
    assert not table.accuse(A, (1, 0), B, START_MS)
    assert table.heard(A, (1, 0), B)
    assert not table.heard(A, (1, 0), C)
    assert table.confirmed(100, START_MS + paper_ms(1, 2, 100)) == []


def test_a_refutation_ends_the_case_and_an_older_word_does_not():
    table = suspicions(B, proof=(2, 3))
    for proof in ((1, 9), (2, 2), (2, 3)):
        table.refute(A, proof)
        assert A in table
    table.refute(A, (2, 4))
    assert A not in table


def test_a_new_incarnation_ends_the_case():
    table = suspicions(B, proof=(2, 3))
    table.refute(A, (3, 0))
    assert A not in table


def test_an_accusation_of_something_later_begins_anew():
    table = suspicions(B, C, D)
    assert table.accuse(A, (1, 1), B, START_MS + 5_000)
    assert table.confirmed(100, START_MS + 5_000 + paper_ms(0, 2, 100) - 1) == []
    assert not table.accuse(A, (1, 0), E, START_MS + 5_000)
    assert table.heard(A, (1, 0), E)


def test_contact_ends_the_case():
    table = suspicions(B)
    table.drop(A)
    assert A not in table
    table.drop(A)


def test_accusers_of_one_peer_are_bounded():
    table = suspicions(*MANY)
    assert [table.heard(A, (1, 0), accuser) for accuser in MANY].count(True) == ACCUSERS_MAX
