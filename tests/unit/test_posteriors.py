"""Beliefs about an agent: worked examples."""

import msgspec
import numpy as np
import pytest

from p2pagent.routing.posteriors import CLAIM_WEIGHT, HALF_LIFE_DAYS, SHRINKAGE, Experience, belief, carried
from p2pagent.routing.prototypes import Calibration, HashingEmbedder, Relevance, Space, one_family

WEIGHT = CLAIM_WEIGHT + SHRINKAGE
HALF_LIFE_MS = round(HALF_LIFE_DAYS * 86_400_000)
TWO_KINDS = Calibration(np.array([0, 0, 1]), np.array([30.0, 10.0, 20.0]), family_questions=20.0, pooled_questions=4.0)


def at(prototype: int) -> Relevance:
    return Relevance((prototype,), (1.0,), 1.0)


def answered(*answers: tuple[int, bool]) -> Experience:
    experience = Experience()
    for prototype, good in answers:
        experience = experience.observed(at(prototype), good=good, now_ms=0)
    return experience


def test_claims_are_shrunk_towards_the_family_and_families_towards_pooled_skill() -> None:
    believed = belief(TWO_KINDS, bytes([255, 0, 51]), Experience(), 0)
    pooled = (30 * 1 + 20 * 0.2) / 60
    first, second = (30 + 4 * pooled) / 44, (20 * 0.2 + 4 * pooled) / 24
    assert believed.mean == pytest.approx([(30 + 20 * first) / 50, 20 * first / 30, (4 + 20 * second) / 40])
    assert believed.pooled_mean == pytest.approx(pooled)
    assert believed.variance == pytest.approx(believed.mean * (1 - believed.mean) / (WEIGHT + 1))


def test_answers_join_the_claim_which_counts_as_a_handful() -> None:
    believed = belief(one_family(2), bytes([255, 255]), answered((0, True), (0, True), (0, True)), 0)
    assert believed.mean == pytest.approx([1, 1])
    doubted = belief(one_family(2), bytes([0, 0]), answered((0, True), (0, True), (0, True)), 0)
    assert doubted.mean == pytest.approx([3 / (WEIGHT + 3), 0])
    assert doubted.variance[0] == pytest.approx(doubted.mean[0] * (1 - doubted.mean[0]) / (WEIGHT + 4))


def test_who_falls_short_in_one_place_is_believed_less_in_all() -> None:
    honest = belief(one_family(4), bytes([255] * 4), answered(*[(0, True)] * 6), 0)
    liar = belief(one_family(4), bytes([255] * 4), answered(*[(0, False)] * 6), 0)
    assert honest.mean[3] == pytest.approx(1)
    assert liar.mean[3] == pytest.approx(WEIGHT / (WEIGHT + 6))
    assert liar.mean[0] == pytest.approx(WEIGHT * liar.mean[3] / (WEIGHT + 6))
    assert liar.pooled_mean == pytest.approx(liar.mean[0])


def test_a_liar_is_found_out_within_a_handful_of_answers() -> None:
    modest, boaster = bytes([153] * 4), bytes([255] * 4)
    bad = 0
    while belief(one_family(4), boaster, answered(*[(0, False)] * bad), 0).mean[0] >= 0.6:
        bad += 1
    assert bad <= 3
    assert belief(one_family(4), modest, Experience(), 0).mean[0] == pytest.approx(0.6)


def test_modesty_is_corrected_where_it_was_seen_and_nowhere_else() -> None:
    believed = belief(one_family(2), bytes([51, 51]), answered(*[(0, True)] * 30), 0)
    assert believed.mean[0] > 0.85
    assert believed.mean[1] == pytest.approx(0.2)


def test_experience_halves_with_its_half_life_and_a_clock_set_back_changes_nothing() -> None:
    experience = answered((0, True), (1, False))
    later = experience.decayed(HALF_LIFE_MS)
    assert later.seen == pytest.approx({0: 0.5, 1: 0.5})
    assert later.good == pytest.approx({0: 0.5})
    assert later.outcomes == 2
    assert later.decayed(0) == later


def test_an_answer_is_spread_over_the_prototypes_that_its_question_is_near_to() -> None:
    between = Relevance((2, 0), (0.75, 0.25), 1.0)
    experience = Experience().observed(between, good=True, now_ms=5)
    assert experience.seen == {2: 0.75, 0: 0.25} == experience.good


def test_a_rating_taken_back_leaves_what_was_before() -> None:
    before = answered((0, True), (1, False))
    after = before.observed(at(1), good=True, now_ms=1_000).retracted(
        at(1), good=True, judged_ms=1_000, now_ms=HALF_LIFE_MS
    )
    expected = before.decayed(HALF_LIFE_MS)
    assert after.outcomes == 2
    assert after.seen == pytest.approx(expected.seen)
    assert after.good.get(0) == pytest.approx(expected.good[0])
    assert after.good.get(1, 0.0) == pytest.approx(0, abs=1e-9)


def test_experience_is_kept_as_a_value() -> None:
    experience = answered((0, True), (3, False))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(experience), type=Experience) == experience


def test_counts_follow_their_prototypes_to_the_nearest_ones_of_a_new_version() -> None:
    old = Space(HashingEmbedder(), np.eye(3, dtype=np.float32))
    new = Space(HashingEmbedder(), np.array([[0, 0.1, 1], [0, 1, 0], [0.9, 0.4, 0], [1, 0, 0.2]], dtype=np.float32))
    moved = carried(answered((0, True), (1, False), (2, True)), old.places_in(new))
    assert moved.seen == {3: 1.0, 1: 1.0, 0: 1.0}
    assert moved.good == {3: 1.0, 0: 1.0}
    assert moved.outcomes == 3
    fewer = Space(HashingEmbedder(), np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32))
    both = carried(answered((0, True), (1, False)), old.places_in(fewer))
    assert both.seen == {0: 2.0}
    assert both.good == {0: 1.0}


def test_what_two_prototypes_that_became_one_have_in_a_question_is_added_up() -> None:
    both = Experience().observed(Relevance((1, 1), (0.75, 0.25), 0.9), good=True, now_ms=1)
    assert both.seen == both.good == {1: 1.0}
