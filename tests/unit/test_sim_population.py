"""Who takes part, what is asked, and how runs are measured."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pagent.peer.outcomes import judged
from p2pagent.sim.demand import OUTPUT_TOKENS, PROMPT_TOKENS, draw_asking
from p2pagent.sim.experts import Experts
from p2pagent.sim.metrics import Traffic, spread
from p2pagent.sim.node import Node
from p2pagent.sim.population import GOOD, SUBJECTS, WEAK, Agent, Population, Question
from p2pagent.sim.prefixes import tokens_of
from p2pagent.sim.scenarios import SCENARIOS, Arrivals


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(7)


def test_an_agent_is_what_its_number_and_the_seed_say(population: Population) -> None:
    def drawn(agent: Agent) -> tuple[object, ...]:
        return (agent.keys.peer, agent.skills, agent.advert, agent.speed, agent.access_ms)

    assert drawn(population.draw(3)) == drawn(Population(7).draw(3))
    assert drawn(population.draw(3)) != drawn(Population(8).draw(3))
    assert len({population.draw(number).keys.peer for number in range(100)}) == 100


def test_agents_are_good_at_one_or_two_subjects_as_often_as_these_are_asked_for(population: Population) -> None:
    agents = [population.draw(number) for number in range(2_000)]
    good = [[m for m, skill in enumerate(agent.skills) if skill >= GOOD[0]] for agent in agents]
    assert {len(subjects) for subjects in good} == {1, 2}
    assert all(WEAK[0] <= skill <= WEAK[1] or skill >= GOOD[0] for agent in agents for skill in agent.skills)
    found = [sum(m in subjects for subjects in good) for m in range(SUBJECTS)]
    expected = [sum(found) * weight / sum(population.weights) for weight in population.weights]
    assert all(abs(many - usual) < 5 * usual**0.5 + 0.1 * usual for many, usual in zip(found, expected, strict=True))


def test_claims_are_what_a_hundred_questions_show(population: Population) -> None:
    agents = [population.draw(number) for number in range(200)]
    errors = [c - s for agent in agents for c, s in zip(agent.claims, agent.skills, strict=True)]
    assert abs(sum(errors) / len(errors)) < 0.005
    assert 0.03 < (sum(error**2 for error in errors) / len(errors)) ** 0.5 < 0.06
    assert len(agents[0].advert.capability) == SUBJECTS


def test_a_question_lies_at_its_subject(population: Population) -> None:
    for subject in range(SUBJECTS):
        embedding = population.space.embed(Question("q1", subject, 40, 9).text)
        assert population.space.nearest(embedding).prototypes[0] == subject


@given(st.integers(0, 10**6), st.integers(0, SUBJECTS - 1), st.integers(8, 500), st.integers(8, 500))
def test_engines_answer_with_what_the_draw_says_at_the_length_that_was_drawn(
    number: int, subject: int, prompt: int, output: int
) -> None:
    population = Population(7)
    agent, question = population.draw(5), Question(f"q{number}", subject, prompt, output)
    answer = population.model(agent).answer(question.text)
    assert judged(answer, question.answer) == population.right(question.name, subject, agent)
    assert (tokens_of(question.text), tokens_of(answer)) == (prompt, output)


def test_right_answers_are_as_many_as_the_skill_says(population: Population) -> None:
    agent = population.draw(5)
    for subject in range(0, SUBJECTS, 5):
        right = sum(population.right(f"q{number}", subject, agent) for number in range(2_000))
        assert abs(right / 2_000 - agent.skills[subject]) < 0.045


@pytest.mark.parametrize("arrivals", ["poisson", "bursty"])
def test_questions_come_at_the_rate_asked_for_and_in_order(population: Population, arrivals: Arrivals) -> None:
    asking = list(draw_asking(population, 50, 10.0, 1_000, 1_000_000 + 1_000, arrivals, Random(3)))
    assert all(one.at_ms <= other.at_ms for one, other in pairwise(asking))
    assert asking[0].at_ms >= 1_000
    assert asking[-1].at_ms < 1_001_000
    assert len({one.question.name for one in asking}) == len(asking)
    assert abs(len(asking) / 10_000 - 1) < (0.05 if arrivals == "poisson" else 0.2)
    per_s = [0] * 1_000
    for one in asking:
        per_s[(one.at_ms - 1_000) // 1000] += 1
    mean = sum(per_s) / len(per_s)
    dispersion = sum((count - mean) ** 2 for count in per_s) / len(per_s) / mean
    assert (0.85 < dispersion < 1.15) if arrivals == "poisson" else dispersion > 2


def test_demand_is_as_skewed_and_as_long_as_said(population: Population) -> None:
    asking = list(draw_asking(population, 50, 100.0, 0, 300_000, "poisson", Random(3)))
    first = sum(one.seat == 0 for one in asking) / len(asking)
    assert abs(first - 1 / sum((rank + 1) ** -0.8 for rank in range(50))) < 0.01
    subjects = sum(one.question.subject == 0 for one in asking) / len(asking)
    assert abs(subjects - population.weights[0] / sum(population.weights)) < 0.01
    for tokens, (mean, _) in ((0, PROMPT_TOKENS), (1, OUTPUT_TOKENS)):
        lengths = [(one.question.prompt_tokens, one.question.output_tokens)[tokens] for one in asking]
        assert abs(sum(lengths) / len(lengths) / mean - 1) < 0.05


def test_experts_are_the_best_of_those_who_are_there(population: Population) -> None:
    experts, alive, rng = Experts(), dict[int, Agent](), Random(1)
    for step in range(200):
        if alive and rng.random() < 0.4:
            experts.leave(alive.pop(rng.choice(sorted(alive))))
        else:
            alive[step] = population.draw(step)
            experts.join(alive[step])
        subject = rng.randrange(SUBJECTS)
        if alive:
            best = max(alive.values(), key=lambda agent: (agent.skills[subject], -agent.index))
            assert experts.most_able(subject) is best
            claims = max(alive.values(), key=lambda agent: (agent.claims[subject], -agent.index))
            assert experts.most_promising(subject) is claims
            value, slow = rng.random(), {agent.index: rng.random() / 2 for agent in alive.values()}
            useful = experts.most_useful(subject, value, lambda agent, slow=slow: slow[agent.index])
            worths = {index: value * agent.claims[subject] - slow[index] for index, agent in alive.items()}
            assert worths[useful.index] == max(worths.values())


def test_a_spread_is_of_the_values_themselves() -> None:
    found = spread([5, 1, 3, 2, 4] * 20)
    assert (found.mean, found.p50, found.p95, found.p99) == (3.0, 3, 5, 5)
    assert spread([7]) == spread([7, 7])
    assert spread([]).mean is None


def test_traffic_is_per_second_that_a_peer_was_there() -> None:
    gossip = "/p2pagent/gossip/1"
    one, other = (Node(name, None, {}) for name in ("one", "other"))  # type: ignore[arg-type]
    traffic = Traffic()
    one.sent[gossip] = 500
    traffic.begin(one, 0)
    traffic.begin(other, 5_000)
    one.sent[gossip] += 1_000
    other.received[gossip] += 600
    other.sent["/p2pagent/query/1"] += 10_000
    traffic.end(one, 10_000)
    traffic.end(one, 12_000)
    traffic.end(other, 10_000)
    assert traffic.out_bytes_per_s == pytest.approx(1_000 / 15)
    assert traffic.in_bytes_per_s == pytest.approx(600 / 15)
    assert traffic.each == [100.0, 120.0]


def test_every_scenario_says_what_happens_in_a_line() -> None:
    assert {"steady", "bursty", "churn", "partition", "lossy", "stale", "liars", "scale"} == SCENARIOS.keys()
    assert all(scenario.about.endswith(".") and len(scenario.about) < 100 for scenario in SCENARIOS.values())
