"""Gates: trained on labels, they separate what cosines do not."""

import numpy as np
import pytest

from p2pagent.routing.gate import calibrated, towards_families, trained
from p2pagent.routing.prototypes import TEMPERATURE, Gate, Relevance, Space, Vector, quantised

SUBJECTS, WORDING = 6, 6
"""Dimensions: a question's subject is one of the first, and its last says how it is put."""


class Fixed:
    name = "fixed"

    def embed(self, texts: list[str]) -> Vector:
        raise NotImplementedError


def asked(count: int, seed: int) -> tuple[Vector, np.ndarray, np.ndarray]:
    """Questions of two families about the same subjects: unit rows, the subject and the family of each."""
    rng = np.random.default_rng(seed)
    subjects, families = rng.integers(0, SUBJECTS, count), rng.integers(0, 2, count)
    rows = rng.normal(0, 0.25, (count, SUBJECTS + 1))
    rows[np.arange(count), subjects] += 1
    rows[:, WORDING] = 0.3 * (2 * families - 1) + rng.normal(0, 0.05, count)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), subjects, families


def space(gate: Gate | None) -> Space:
    rows = np.zeros((2 * SUBJECTS, SUBJECTS + 1), dtype=np.float32)
    for prototype in range(2 * SUBJECTS):
        rows[prototype, prototype % SUBJECTS] = 1
        rows[prototype, WORDING] = 0.3 if prototype >= SUBJECTS else -0.3
    return Space(Fixed(), rows, gate)


def mass(of: Space, vectors: Vector, families: np.ndarray) -> float:
    """Mean relevance of the prototypes of a question's own family."""
    own = []
    for vector, family in zip(quantised(vectors), families, strict=True):
        near = of.nearest(vector.tobytes())
        own.append(sum(r for m, r in zip(near.prototypes, near.weights, strict=True) if m // SUBJECTS == family))
    return float(np.mean(own))


def test_our_gate_tells_families_apart_that_cosines_mix_up() -> None:
    vectors, _, families = asked(400, 1)
    bare = space(None)
    gate = towards_families(bare.prototypes, np.repeat([0, 1], SUBJECTS), vectors, families)
    fresh, subjects, kinds = asked(200, 2)
    assert mass(space(gate), fresh, kinds) > 0.97 > mass(bare, fresh, kinds) + 0.02
    nearest = [space(gate).nearest(vector.tobytes()).prototypes[0] for vector in quantised(fresh)]
    assert np.mean(np.array(nearest) % SUBJECTS == subjects) > 0.9


def test_our_gate_is_bayes_rule_with_cosines_as_the_evidence() -> None:
    vectors, _, families = asked(300, 3)
    prototypes = space(None).prototypes
    of = np.repeat([5, 9], SUBJECTS)
    gate = towards_families(prototypes, of, vectors, np.where(families == 0, 5, 9))
    vector = vectors[0]
    odds = np.exp((gate.weights @ vector + gate.bias) / TEMPERATURE)
    evidence = np.exp(prototypes @ vector / TEMPERATURE)
    prior = odds / evidence
    assert prior[:SUBJECTS] == pytest.approx(np.full(SUBJECTS, prior[0]), rel=1e-3)
    assert prior[SUBJECTS:] == pytest.approx(np.full(SUBJECTS, prior[SUBJECTS]), rel=1e-3)
    assert (prior[SUBJECTS] > prior[0]) == (families[0] == 1)


def test_one_family_needs_no_gate() -> None:
    prototypes = space(None).prototypes
    gate = towards_families(prototypes, np.zeros(len(prototypes), dtype=np.int64), prototypes, np.zeros(12, dtype=int))
    assert np.array_equal(gate.weights, prototypes)
    assert not gate.bias.any()


@pytest.mark.parametrize("count", [2, 2 * SUBJECTS])
def test_the_papers_gate_finds_the_prototype(count: int) -> None:
    vectors, subjects, families = asked(600, 4)
    labels = families if count == 2 else subjects + SUBJECTS * families
    gate = trained(vectors, labels, count + 1)
    fresh, subjects, families = asked(200, 5)
    wanted = families if count == 2 else subjects + SUBJECTS * families
    similarities = fresh @ gate.weights.T + gate.bias
    assert np.mean(np.argmax(similarities, axis=1) == wanted) > 0.85
    assert np.all(np.argmin(similarities, axis=1) == count), "a prototype without a question was relevant"


def test_a_gate_is_part_of_a_spaces_name() -> None:
    bare = space(None)
    gate = Gate(bare.prototypes, np.zeros(len(bare.prototypes), dtype=np.float32))
    assert space(gate).name != bare.name
    assert space(Gate(gate.weights, gate.bias + 1)).name != space(gate).name


def test_a_gate_of_bare_prototypes_is_none() -> None:
    bare = space(None)
    gated = space(Gate(bare.prototypes, np.zeros(len(bare.prototypes), dtype=np.float32)))
    for vector in quantised(asked(20, 6)[0]):
        assert gated.nearest(vector.tobytes()) == bare.nearest(vector.tobytes())


def test_a_calibration_counts_its_questions_and_knows_how_far_they_reach() -> None:
    near = [Relevance((0, 1), (0.9, 0.1), 0.8)] * 3 + [Relevance((2, 0), (0.6, 0.4), 0.5)]
    found = calibrated(np.array([0, 0, 1]), near, 50.0)
    assert list(found.questions) == [3, 0, 1]
    assert found.family_questions == 50
    assert found.familiar_cosine == pytest.approx(0.5, abs=0.02)
    assert found.familiarity(near[0]) == 1
    assert found.familiarity(Relevance((0,), (1.0,), found.novel_cosine)) == 0
    far = calibrated(np.array([0]), [Relevance((0,), (1.0,), -0.3)], 1.0)
    assert 0 < far.novel_cosine < far.familiar_cosine


def test_quantiles_say_how_near_fresh_questions_must_be() -> None:
    asked = [Relevance((0,), (1.0,), 0.9)] * 5
    fresh = [Relevance((0,), (1.0,), tenth / 10) for tenth in range(11)]
    found = calibrated(np.array([0]), asked, 1.0, fresh, 0.2, 0.7)
    assert (found.novel_cosine, found.familiar_cosine) == pytest.approx((0.2, 0.7))
    assert [found.familiarity(each) for each in fresh[1:9:2]] == pytest.approx([0, 0.2, 0.6, 1])
    assert list(found.questions) == [5], "what no prototype was made from stands behind no claim"
    unlike = calibrated(np.array([0]), asked, 1.0, asked, 0.2, 0.7)
    assert [unlike.familiarity(each) for each in (asked[0], fresh[8])] == [1, 0]
