"""Expected quality: worked examples."""

import numpy as np
import pytest

from p2pagent.routing.prototypes import FAMILIAR_COSINE, NOVEL_COSINE, Relevance
from p2pagent.routing.scoring import Score, capability
from tests.claims import score

EXPERT = bytes([255, 0, 0, 0])
STEADY = bytes([128, 128, 128, 128])


def at(prototype: int, cosine: float = 1.0) -> Relevance:
    return Relevance((prototype,), (1.0,), cosine)


def test_a_claim_is_shrunk_toward_pooled_skill() -> None:
    (rated,) = score(at(0), [EXPERT])
    assert rated.quality == pytest.approx((5 * 1.0 + 1 * 0.25) / 6)
    assert rated.uncertainty == pytest.approx((rated.quality * (1 - rated.quality) / 7) ** 0.5)


def test_a_question_between_prototypes_weighs_them() -> None:
    between = Relevance((0, 1), (0.75, 0.25), 1.0)
    (rated,) = score(between, [EXPERT])
    assert rated.quality == pytest.approx(0.75 * (5 + 0.25) / 6 + 0.25 * 0.25 / 6)


def test_a_question_unlike_any_prototype_knows_only_pooled_skill() -> None:
    expert, steady = score(at(0, NOVEL_COSINE), [EXPERT, STEADY])
    assert expert.quality == pytest.approx(0.25)
    assert steady.quality == pytest.approx(128 / 255)


def test_between_new_and_familiar_the_mixture_is_linear() -> None:
    qualities = [score(at(0, c), [EXPERT])[0].quality for c in (NOVEL_COSINE, 0.3, FAMILIAR_COSINE)]
    assert qualities[1] == pytest.approx((qualities[0] + qualities[2]) / 2)


def test_nobody_has_no_score() -> None:
    assert score(at(0), []) == []


def test_caution_takes_off_uncertainty_within_bounds() -> None:
    assert Score(0.5, 0.1).cautious(1) == pytest.approx(0.4)
    assert Score(0.05, 0.1).cautious(3) == 0
    assert Score(0.95, 0.1).cautious(-3) == 1


def test_capability_is_the_share_of_right_answers_shrunk_to_the_pooled_one() -> None:
    claim = capability(np.array([0, 0, 0, 1]), np.array([True, True, True, False]), 3)
    pooled = 0.75
    assert claim == bytes(round(255 * share) for share in ((3 + pooled) / 4, pooled / 2, pooled))


def test_whoever_answered_nothing_claims_nothing() -> None:
    assert capability(np.array([], dtype=np.int64), np.array([], dtype=np.bool_), 4) == bytes(4)
