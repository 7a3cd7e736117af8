"""Rules that learn who is good, on calibration questions of which the answer is plain."""

from random import Random

import numpy as np
import pytest

from p2pagent.sim.baselines_scores import (
    PROTOTYPES_MAX,
    Kabb,
    KabbOne,
    NearestNeighbours,
    RouterDC,
    Scorer,
    SemanticRouter,
    UniRoute,
    Vote,
    contrasted,
    medoids,
)
from p2pagent.sim.policy import Answer
from tests.arenas import Scene, drawn, query, trace


@pytest.mark.parametrize("policy", [RouterDC, UniRoute, NearestNeighbours, SemanticRouter])
def test_scorers_send_to_the_agent_that_knows_the_subject(policy: type[Scorer]):
    queries = query(0, subject=0), query(1, subject=1)
    made = policy(trace(*queries), Scene(), Random(1))
    assert [made.route(q).agents for q in queries] == [(1,), (2,)]


@pytest.mark.parametrize("policy", [RouterDC, UniRoute, NearestNeighbours, SemanticRouter])
def test_scorers_choose_far_better_than_chance(policy: type[Scorer]):
    questions = drawn(1, 40, 800, 0.5)
    made = policy(questions, Scene(), Random(1))
    skill = questions.population.skill
    chosen = np.mean([skill[made.route(q).agents[0], q.subject] for q in questions.queries])
    at_random = np.mean([skill[list(q.candidates), q.subject].mean() for q in questions.queries])
    assert chosen > at_random + 0.04


def test_the_contrastive_loss_ranks_agents_by_how_often_they_are_right():
    rng = np.random.default_rng(0)
    right = rng.random((400, 4)) < [0.9, 0.7, 0.5, 0.2]
    assert np.argsort(-contrasted(right, rng)).tolist() == [0, 1, 2, 3]


def test_medoids_cover_what_is_alike_and_are_few():
    eye = np.eye(20)
    assert len(medoids(np.repeat(eye[:3], 5, axis=0))) == 3
    assert len(medoids(eye)) == PROTOTYPES_MAX
    crowd = np.concatenate([np.repeat(eye[1:2], 4, axis=0), eye[:1]])
    assert medoids(crowd)[0].tolist() == eye[1].tolist()


@pytest.mark.parametrize(
    ("right", "verdict"), [((True, True, False), True), ((False, True, False), False), ((True, True, True), True)]
)
def test_a_vote_is_right_if_most_are(right: tuple[bool, ...], verdict: bool):
    made = Vote(trace(query()), Scene(), Random(1))
    assert sorted(made.route(query()).agents) == [0, 1, 2]
    assert made.right(query(right=right), (0, 1, 2)) is verdict


def test_a_tied_vote_is_not_right():
    assert not Vote(trace(query()), Scene(), Random(1)).right(query(), (0, 1))


def outcomes(made: Kabb, agent: int, right: bool, count: int, at_s: float = 0.0) -> None:
    for _ in range(count):
        made.answered(query(), Answer(agent, right, at_s, at_s))


def test_kabb_sends_to_the_two_of_which_it_has_heard_best():
    made = Kabb(trace(query()), Scene(), Random(1))
    outcomes(made, 0, False, 60)
    outcomes(made, 1, True, 60)
    outcomes(made, 2, True, 60)
    assert all(set(made.route(query()).agents) == {1, 2} for _ in range(20))


def test_kabb_believes_the_better_of_the_two():
    made = Kabb(trace(query()), Scene(), Random(1))
    outcomes(made, 1, True, 5)
    outcomes(made, 2, False, 5)
    assert made.right(query(right=(False, True, False)), (2, 1))
    assert not made.right(query(right=(False, False, True)), (2, 1))


def test_kabb_prefers_whose_concepts_overlap():
    made = KabbOne(trace(query()), Scene(), Random(1))
    sent = [made.route(query(quality=(0.5, 0.9, 0.5))).agents[0] for _ in range(2_000)]
    assert sent.count(1) > 1.1 * max(sent.count(0), sent.count(2))


def test_kabb_forgets_a_hundredth_a_second():
    made = Kabb(trace(query()), Scene(), Random(1))
    outcomes(made, 1, True, 9)
    a, b = made._arm(0, 1, 100.0)
    assert (a, b) == pytest.approx((10 * 0.99**100, 0.99**100))
