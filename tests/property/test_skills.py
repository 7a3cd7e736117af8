"""The table of agents against a fresh reckoning of each, whatever was put and removed; and the two scorers."""

from math import sqrt

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p2pagent.routing.posteriors import CLAIM_WEIGHT, SHRINKAGE, Experience, belief
from p2pagent.routing.prototypes import Calibration, Relevance
from p2pagent.routing.scoring import Cosine, Posterior, Scores, best
from p2pagent.routing.skills import Skills

PROTOTYPES = 6
CLOSE = 1e-4

claims = st.binary(min_size=PROTOTYPES, max_size=PROTOTYPES)
days = st.integers(0, 400).map(lambda day: day * 86_400_000)


@st.composite
def relevances(draw: st.DrawFn) -> Relevance:
    prototypes = draw(st.lists(st.integers(0, PROTOTYPES - 1), min_size=1, max_size=3, unique=True))
    parts = [draw(st.floats(0.01, 1)) for _ in prototypes]
    return Relevance(tuple(prototypes), tuple(p / sum(parts) for p in parts), draw(st.floats(-1, 1)))


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    families = draw(st.lists(st.integers(0, 2), min_size=PROTOTYPES, max_size=PROTOTYPES))
    questions = draw(st.lists(st.floats(0.1, 200), min_size=PROTOTYPES, max_size=PROTOTYPES))
    weights = draw(st.tuples(st.floats(0, 200), st.floats(0.1, 50)))
    return Calibration(np.array(families), np.array(questions), *weights)


@st.composite
def experiences(draw: st.DrawFn) -> Experience:
    experience = Experience()
    for relevance, good, now_ms in draw(st.lists(st.tuples(relevances(), st.booleans(), days), max_size=8)):
        experience = experience.observed(relevance, good=good, now_ms=now_ms)
    return experience


changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 90), claims, experiences()),
        st.tuples(st.just("remove"), st.integers(0, 90), claims, st.none()),
    ),
    max_size=40,
)


def slow_score(relevance: Relevance, calibration: Calibration, claimed: bytes, experience: Experience) -> float:
    """The formulas of the docstrings, one term at a time."""
    n, c = calibration.questions, [byte / 255 for byte in claimed]
    members = range(PROTOTYPES)
    pooled = sum(n[m] * c[m] for m in members) / sum(n)

    def family(f: int) -> float:
        own = [m for m in members if calibration.families[m] == f]
        weight = calibration.pooled_questions
        return float((sum(n[m] * c[m] for m in own) + weight * pooled) / (sum(n[m] for m in own) + weight))

    k = calibration.family_questions
    claim = [(n[m] * c[m] + k * family(calibration.families[m])) / (n[m] + k) for m in members]
    good = [experience.good.get(m, 0.0) for m in members]
    seen = [experience.seen.get(m, 0.0) for m in members]
    w = CLAIM_WEIGHT + SHRINKAGE
    h = min(1.0, (w + sum(good)) / (w + sum(seen[m] * claim[m] for m in members)))
    mean = [(w * h * claim[m] + good[m]) / (w + seen[m]) for m in members]
    overall = (w * h * pooled + sum(good)) / (w + sum(seen))
    near = calibration.familiarity(relevance)
    mixed = sum(r * mean[m] for m, r in zip(relevance.prototypes, relevance.weights, strict=True))
    return float(near * mixed + (1 - near) * overall)


@given(calibrations(), relevances(), claims, experiences())
def test_a_score_is_what_the_formulas_say(
    calibration: Calibration, relevance: Relevance, claimed: bytes, experience: Experience
) -> None:
    skills: Skills[str] = Skills(calibration)
    skills.put("agent", claimed, experience, experience.at_ms)
    rated = Posterior().score(relevance, skills).at(0)
    assert abs(rated.quality - slow_score(relevance, calibration, claimed, experience)) < CLOSE
    assert -CLOSE <= rated.quality <= 1 + CLOSE
    assert 0 <= rated.uncertainty <= 0.5


@given(calibrations(), changes, relevances())
def test_the_table_holds_each_agent_as_it_was_last_put(
    calibration: Calibration, steps: list[tuple[str, int, bytes, Experience | None]], relevance: Relevance
) -> None:
    skills: Skills[int] = Skills(calibration)
    held: dict[int, tuple[bytes, Experience]] = {}
    for what, agent, claimed, experience in steps:
        if what == "put" and experience is not None:
            skills.put(agent, claimed, experience, experience.at_ms)
            held[agent] = claimed, experience
        elif agent in held:
            skills.remove(agent)
            del held[agent]
    assert len(skills) == len(held)
    assert set(skills.agents) == set(held)
    scores = Posterior().score(relevance, skills)
    assert scores.quality.shape == scores.uncertainty.shape == (len(held),)
    for agent, (claimed, experience) in held.items():
        place = skills.place(agent)
        assert skills.agents[place] == agent
        assert skills.outcomes[place] == round(sum(experience.seen.values()))
        fresh = belief(calibration, claimed, experience, experience.at_ms)
        assert np.allclose(skills.mean[:, place], fresh.mean, atol=1e-6)
        assert np.allclose(skills.variance[:, place], fresh.variance, atol=1e-6)
        assert abs(scores.quality[place] - slow_score(relevance, calibration, claimed, experience)) < CLOSE


@given(st.integers(65, 200))
def test_the_table_grows(count: int) -> None:
    skills: Skills[int] = Skills(Calibration(np.zeros(2, dtype=np.int64), np.ones(2)))
    for agent in range(count):
        skills.put(agent, bytes([agent % 256, 255 - agent % 256]))
    assert np.array_equal(np.rint(skills.claims[0] * 255), np.arange(count) % 256)
    assert -1 not in skills


@given(relevances(), st.lists(claims, min_size=1, max_size=6))
def test_cosine_is_the_angle_and_forgets_how_strong_an_agent_is(relevance: Relevance, claimed: list[bytes]) -> None:
    calibration = Calibration(np.zeros(PROTOTYPES, dtype=np.int64), np.ones(PROTOTYPES))
    skills: Skills[int] = Skills(calibration)
    for agent, capability in enumerate(claimed):
        skills.put(agent, capability)
        skills.put(agent + 100, bytes(byte // 2 * 2 for byte in capability))
        skills.put(agent + 200, bytes(byte // 2 for byte in capability))
    scores = Cosine().score(relevance, skills)
    dense = np.zeros(PROTOTYPES)
    dense[list(relevance.prototypes)] = relevance.weights
    for agent, capability in enumerate(claimed):
        skill = np.frombuffer(capability, dtype=np.uint8).astype(np.float64)
        norms = np.linalg.norm(dense) * np.linalg.norm(skill)
        expected = dense @ skill / norms if norms else 0.0
        assert abs(scores.quality[skills.place(agent)] - expected) < CLOSE
        halves = [scores.quality[skills.place(agent + shift)] for shift in (100, 200)]
        assert abs(halves[0] - halves[1]) < CLOSE
    assert not scores.uncertainty.any()


scored = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=40)


@given(scored, st.integers(1, 12), st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
def test_the_best_are_those_that_a_sort_puts_first(rated: list[tuple[int, int]], count: int, caution: float) -> None:
    """Small integers, so that many tie: equals come by place."""
    scores = Scores(*(np.array(column, dtype=np.float32) for column in zip(*rated, strict=True)))
    values = [quality - caution * uncertainty for quality, uncertainty in rated]
    wanted = sorted(range(len(rated)), key=lambda place: (-values[place], place))[:count]
    assert best(scores, count, caution) == wanted


def test_nobody_is_the_best_of_nobody() -> None:
    skills: Skills[int] = Skills(Calibration(np.zeros(2, dtype=np.int64), np.ones(2)))
    for scorer in (Posterior(), Cosine()):
        assert best(scorer.score(Relevance((0,), (1.0,), 1.0), skills), 3, 1.0) == []


def test_uncertainty_is_that_of_a_weighted_sum_of_beta_variables() -> None:
    calibration = Calibration(np.zeros(2, dtype=np.int64), np.full(2, 5.0))
    skills: Skills[int] = Skills(calibration)
    skills.put(0, bytes([204, 51]))
    means = [(5 * c + 0.5) / 6 for c in (0.8, 0.2)]
    expected = sqrt(sum(r**2 * m * (1 - m) / 7 for r, m in zip((0.75, 0.25), means, strict=True)))
    rated = Posterior().score(Relevance((0, 1), (0.75, 0.25), 1.0), skills).at(0)
    assert abs(rated.uncertainty - expected) < 1e-6
