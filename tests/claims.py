"""Scores of agents of which nothing is known but what they claim."""

from p2pagent.routing.prototypes import Relevance, one_family
from p2pagent.routing.scoring import Posterior, Score
from p2pagent.routing.skills import Skills


def score(relevance: Relevance, capabilities: list[bytes]) -> list[Score]:
    """One score per agent from its advertised `capability` alone (one byte per prototype, 255 = always right)."""
    if not capabilities:
        return []
    skills: Skills[int] = Skills(one_family(len(capabilities[0])))
    for agent, claimed in enumerate(capabilities):
        skills.put(agent, claimed)
    scores = Posterior().score(relevance, skills)
    return [scores.at(place) for place in range(len(skills))]
