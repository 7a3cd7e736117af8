"""Expected quality of an agent on a question, with its uncertainty: two scorers behind one interface.

`Posterior`, ours: what is believed of the agent at the prototypes that the question is near to (`posteriors`), with
r_m the question's relevance to prototype m:

    quality = sum_m r_m mean_m,   uncertainty = sqrt(sum_m r_m^2 var_m)

That is the per-cluster error of UniRoute (arXiv 2502.08773) with a posterior. Where a question is far from every
prototype, what is known of the nearest says little: quality backs off to pooled skill.

`Cosine`, PPAI's (arXiv 2605.18067): the cosine of relevance and claimed accuracies. It ignores the norm of the skill
vector, so that a uniformly weak agent ties with a uniformly strong one. Kept to be compared with.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.routing.posteriors import SHRINKAGE
from p2pagent.routing.prototypes import Relevance
from p2pagent.routing.skills import Agent, Skills

Values = NDArray[np.float32]


class Score(Struct, frozen=True):
    """A probability of a good answer and the standard deviation of that belief."""

    quality: float
    uncertainty: float

    def cautious(self, caution: float) -> float:
        """The quality less `caution` standard deviations, kept in [0, 1]."""
        return min(1.0, max(0.0, self.quality - caution * self.uncertainty))


class Scores(Struct, frozen=True):
    """The score of every agent of a table, in its order: two arrays of shape (n,)."""

    quality: Values
    uncertainty: Values

    def at(self, place: int) -> Score:
        """The score of the agent at `place` of the table."""
        return Score(float(self.quality[place]), float(self.uncertainty[place]))

    def of(self, places: Sequence[int]) -> "Scores":
        """The scores of the agents at `places` of the table, in that order."""
        chosen = np.asarray(places, dtype=np.intp)
        return Scores(self.quality[chosen], self.uncertainty[chosen])

    def cautious(self, caution: float) -> Values:
        """The quality less `caution` standard deviations, not kept in any bounds, shape (n,)."""
        return self.quality - np.float32(caution) * self.uncertainty


class Scorer(Protocol):
    """A rule that scores all agents of a table on one question."""

    def score(self, relevance: Relevance, skills: Skills[Agent]) -> Scores:
        """One score per agent, in the table's order."""


class Posterior:
    """Ours: posterior mean by relevance, its standard deviation, and pooled skill where the question is new."""

    def score(self, relevance: Relevance, skills: Skills[Agent]) -> Scores:
        """Probabilities of a good answer."""
        quality = _mixed(skills.mean, relevance, 1)
        variance = _mixed(skills.variance, relevance, 2)
        familiar = np.float32(skills.calibration.familiarity(relevance))
        if familiar < 1:
            quality = familiar * quality + (1 - familiar) * skills.pooled_mean
            variance = familiar * variance + (1 - familiar) * skills.pooled_variance
        return Scores(quality, np.sqrt(variance))


class Cosine:
    """PPAI's: the cosine of relevance and claims, in [0, 1] since both are positive; it knows no uncertainty."""

    def score(self, relevance: Relevance, skills: Skills[Agent]) -> Scores:
        """Cosines: an order, not probabilities."""
        norms = np.sqrt(np.square(skills.claims).sum(axis=0)) * np.float32(np.linalg.norm(relevance.weights))
        along = _mixed(skills.claims, relevance, 1)
        cosine = np.divide(along, norms, out=np.zeros_like(along), where=norms > 0)
        return Scores(cosine, np.zeros_like(cosine))


def best(scores: Scores, count: int, caution: float) -> list[int]:
    """The places of the `count` agents of the highest cautious score, best first; equals by place."""
    values = scores.cautious(caution)
    if count < len(values):
        # Whatever ties with the last one must be among those that are sorted, or which equals get in were chance.
        floor = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero(values >= floor)
    else:
        places = np.arange(len(values))
    order = np.argsort(-values[places], kind="stable")[:count]
    return [int(place) for place in places[order]]


def capability(prototypes: NDArray[np.int64], correct: NDArray[np.bool_ | np.float64], count: int) -> bytes:
    """What an agent may claim after calibration: per prototype its share of right answers, shrunk to its pooled share.

    Args:
        prototypes: per calibration question, the index of its nearest prototype, shape (n,).
        correct: per calibration question, whether the agent answered it right, or its share of right answers if it was
            asked more than once, shape (n,).
        count: the number of prototypes M; one without a question gets the pooled share.
    """
    pooled = float(correct.mean()) if correct.size else 0.0
    asked = np.bincount(prototypes, minlength=count)
    right = np.bincount(prototypes, weights=correct, minlength=count)
    share = (right + SHRINKAGE * pooled) / (asked + SHRINKAGE)
    return bytes(np.rint(share * 255).astype(np.uint8))


def _mixed(table: Values, relevance: Relevance, power: int) -> Values:
    """Rows of `table` weighed by relevance to the `power`: only the few that the question is near to are read."""
    weights = [np.float32(weight**power) for weight in relevance.weights]
    mixed: Values = table[relevance.prototypes[0]] * weights[0]
    scratch = np.empty_like(mixed)
    for prototype, weight in zip(relevance.prototypes[1:], weights[1:], strict=True):
        mixed += np.multiply(table[prototype], weight, out=scratch)
    return mixed
