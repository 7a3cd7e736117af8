"""What no claim can do to a score."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p2pagent.routing.posteriors import CLAIM_WEIGHT, SHRINKAGE
from p2pagent.routing.prototypes import Relevance
from p2pagent.routing.scoring import capability
from tests.claims import score

PROTOTYPES = 8
ROUNDING = 1e-5

claims = st.binary(min_size=PROTOTYPES, max_size=PROTOTYPES)


@st.composite
def relevances(draw: st.DrawFn) -> Relevance:
    prototypes = draw(st.lists(st.integers(0, PROTOTYPES - 1), min_size=1, max_size=3, unique=True))
    parts = [draw(st.floats(0.01, 1)) for _ in prototypes]
    weights = tuple(part / sum(parts) for part in parts)
    return Relevance(tuple(prototypes), weights, draw(st.floats(-1, 1)))


@given(relevances(), st.lists(claims, max_size=6))
def test_scores_are_probabilities(relevance: Relevance, capabilities: list[bytes]) -> None:
    for rated in score(relevance, capabilities):
        assert -ROUNDING <= rated.quality <= 1 + ROUNDING
        assert 0 <= rated.uncertainty <= 0.5


@given(relevances(), st.integers(0, 255), st.integers(0, 255))
def test_the_uniformly_weak_never_beat_the_uniformly_strong(relevance: Relevance, one: int, other: int) -> None:
    weak, strong = score(relevance, [bytes([min(one, other)] * PROTOTYPES), bytes([max(one, other)] * PROTOTYPES)])
    assert weak.quality <= strong.quality + ROUNDING


@given(relevances(), claims, st.integers(0, PROTOTYPES - 1), st.integers(0, 255))
def test_raising_a_claim_never_lowers_a_score(relevance: Relevance, claim: bytes, place: int, higher: int) -> None:
    raised = bytes(max(c, higher) if m == place else c for m, c in enumerate(claim))
    before, after = score(relevance, [claim, raised])
    assert after.quality >= before.quality - ROUNDING


@given(claims, st.integers(0, PROTOTYPES - 1), st.integers(0, 255))
def test_one_claim_moves_a_score_no_further_than_its_weight_in_answers(claim: bytes, place: int, told: int) -> None:
    """A prototype's claim is `CLAIM_WEIGHT` answers of `CLAIM_WEIGHT + SHRINKAGE`, and its part of the pooled skill."""
    other = bytes(told if m == place else c for m, c in enumerate(claim))
    before, after = score(Relevance((place,), (1.0,), 1.0), [claim, other])
    share = (CLAIM_WEIGHT + SHRINKAGE / PROTOTYPES) / (CLAIM_WEIGHT + SHRINKAGE)
    assert abs(after.quality - before.quality) <= share * abs(told - claim[place]) / 255 + ROUNDING


@given(st.lists(st.tuples(st.integers(0, PROTOTYPES - 1), st.booleans()), max_size=60))
def test_a_measured_capability_lies_between_its_answers(answers: list[tuple[int, bool]]) -> None:
    prototypes = np.array([m for m, _ in answers], dtype=np.int64)
    correct = np.array([right for _, right in answers], dtype=np.bool_)
    claim = capability(prototypes, correct, PROTOTYPES)
    assert len(claim) == PROTOTYPES
    pooled = round(255 * float(correct.mean())) if answers else 0
    for prototype, byte in enumerate(claim):
        own = [right for m, right in answers if m == prototype]
        if not own:
            assert abs(byte - pooled) <= 1
        elif all(own):
            assert byte >= pooled - 1
        elif not any(own):
            assert byte <= pooled + 1
