"""Newcomers get tried, now and then, as far as they are plausible."""

from random import Random

import numpy as np

from p2pagent.routing.exploration import NEWCOMER_OUTCOMES, TRIAL_SHARE, explored
from p2pagent.routing.posteriors import Experience
from p2pagent.routing.prototypes import Relevance, one_family
from p2pagent.routing.scoring import Posterior, Scores, best
from p2pagent.routing.skills import Skills

QUERIES = 2_000
HERE = Relevance((0,), (1.0,), 1.0)


def trusted(good: int, bad: int) -> Experience:
    experience = Experience()
    for answer in range(good + bad):
        experience = experience.observed(HERE, good=answer < good, now_ms=0)
    return experience


def test_most_queries_are_no_trial_and_change_nothing() -> None:
    scores = Scores(np.array([0.5], dtype=np.float32), np.array([0.1], dtype=np.float32))
    rng = Random(1)
    trials = sum(explored(scores, np.zeros(1, dtype=np.float32), rng) is not scores for _ in range(QUERIES))
    assert abs(trials / QUERIES - TRIAL_SHARE) < 0.03


def test_only_newcomers_are_drawn_and_the_same_draws_come_again() -> None:
    scores = Scores(np.full(2, 0.6, dtype=np.float32), np.full(2, 0.15, dtype=np.float32))
    outcomes = np.array([0, NEWCOMER_OUTCOMES], dtype=np.float32)
    drawn = [explored(scores, outcomes, Random(seed)) for seed in range(QUERIES)]
    trials = [each for each in drawn if each is not scores]
    new, known = np.array([each.quality for each in trials]).T
    assert np.all(known == np.float32(0.6))
    assert abs(new.mean() - 0.6) < 0.05
    assert abs(new.std() - 0.15) < 0.03
    assert all(each.uncertainty[0] == 0 and each.uncertainty[1] == np.float32(0.15) for each in trials)
    again = [explored(scores, outcomes, Random(seed)).quality[0] for seed in range(50)]
    assert again == [each.quality[0] for each in drawn[:50]]


def test_certain_agents_are_drawn_as_they_are() -> None:
    scores = Scores(np.array([0.0, 1.0, 0.5], dtype=np.float32), np.zeros(3, dtype=np.float32))
    drawn = [explored(scores, np.zeros(3, dtype=np.float32), Random(seed)).quality for seed in range(200)]
    assert np.abs(np.array(drawn) - scores.quality).max() < 0.05


def test_a_plausible_newcomer_is_tried_and_a_hopeless_one_is_not() -> None:
    skills: Skills[str] = Skills(one_family(1))
    skills.put("known", bytes([230]), trusted(27, 3))
    skills.put("plausible", bytes([235]))
    skills.put("hopeless", bytes([25]))
    rng = Random(3)
    scores = Posterior().score(HERE, skills)
    first = [skills.agents[best(explored(scores, skills.outcomes, rng), 1, 1.0)[0]] for _ in range(QUERIES)]
    assert best(scores, 1, 1.0) == [skills.place("known")]
    assert 0.02 < first.count("plausible") / QUERIES < TRIAL_SHARE + 0.03
    assert first.count("hopeless") == 0


def test_of_many_weak_newcomers_none_is_lucky() -> None:
    skills: Skills[str] = Skills(one_family(1))
    skills.put("known", bytes([180]), trusted(21, 9))
    for number in range(100):
        skills.put(f"weak {number}", bytes([50]))
    rng = Random(3)
    scores = Posterior().score(HERE, skills)
    for _ in range(QUERIES):
        assert best(explored(scores, skills.outcomes, rng), 1, 1.0) == [skills.place("known")]


def test_a_lying_newcomer_costs_a_handful_of_answers() -> None:
    """It claims perfection and is always wrong; once found out it is chosen as seldom as its answers deserve."""
    rng = Random(5)
    skills: Skills[str] = Skills(one_family(1))
    skills.put("known", bytes([204]), trusted(24, 6))
    lies = Experience()
    for _ in range(QUERIES):
        skills.put("liar", bytes([255]), lies)
        scores = explored(Posterior().score(HERE, skills), skills.outcomes, rng)
        if skills.agents[best(scores, 1, 0.5)[0]] == "liar":
            lies = lies.observed(HERE, good=False, now_ms=0)
    assert 1 <= lies.outcomes <= 6
