"""Expected quality of an agent on a question, with its uncertainty.

Per agent j and prototype m a Beta posterior whose pseudo-observations are the agent's own claims, weighed as
`CLAIM_WEIGHT` questions however many it says it measured, shrunk toward the agent's pooled skill by `SHRINKAGE` more:

    mean_jm = (CLAIM_WEIGHT * claim_jm + SHRINKAGE * pooled_j) / (CLAIM_WEIGHT + SHRINKAGE)
    var_jm  = mean_jm (1 - mean_jm) / (CLAIM_WEIGHT + SHRINKAGE + 1)
    quality = sum_m r_m mean_jm,   uncertainty = sqrt(sum_m r_m^2 var_jm)

A claim therefore moves a score no further than a handful of answers would. Cosine (PPAI) ignores the norm of the skill
vector, so that a uniformly weak agent ties with a uniformly strong one; this is the per-cluster error of UniRoute
(arXiv 2502.08773) with a posterior. Where a question is far from every prototype, what is known of the nearest says
little: quality backs off to pooled skill.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.routing.prototypes import Relevance

CLAIM_WEIGHT = 5.0
SHRINKAGE = 1.0
NOVEL_COSINE = 0.2
"""Below this cosine to its nearest prototype a question is new to the space, and pooled skill alone speaks."""

FAMILIAR_COSINE = 0.4
"""From this cosine on the prototypes speak alone; between the two the mixture is linear."""


class Score(Struct, frozen=True):
    """A probability of a good answer and the standard deviation of that belief."""

    quality: float
    uncertainty: float

    def cautious(self, caution: float) -> float:
        """The quality less `caution` standard deviations, kept in [0, 1]."""
        return min(1.0, max(0.0, self.quality - caution * self.uncertainty))


def score(relevance: Relevance, capabilities: list[bytes]) -> list[Score]:
    """One score per agent from its advertised `capability` (one byte per prototype, 255 = always right)."""
    if not capabilities:
        return []
    claims = np.stack([np.frombuffer(c, dtype=np.uint8) for c in capabilities]).astype(np.float32) / 255
    pooled = claims.mean(axis=1)
    weights = np.asarray(relevance.weights, dtype=np.float32)
    near = claims[:, list(relevance.prototypes)]
    strength = CLAIM_WEIGHT + SHRINKAGE
    mean = (CLAIM_WEIGHT * near + SHRINKAGE * pooled[:, None]) / strength
    variance = mean * (1 - mean) / (strength + 1)
    familiar = float(np.clip((relevance.nearest_cosine - NOVEL_COSINE) / (FAMILIAR_COSINE - NOVEL_COSINE), 0, 1))
    quality = familiar * (mean @ weights) + (1 - familiar) * pooled
    spread = np.sqrt(familiar * (variance @ weights**2) + (1 - familiar) * pooled * (1 - pooled) / (strength + 1))
    return [Score(float(q), float(s)) for q, s in zip(quality, spread, strict=True)]


def capability(prototypes: NDArray[np.int64], correct: NDArray[np.bool_], count: int) -> bytes:
    """What an agent may claim after calibration: per prototype its share of right answers, shrunk to its pooled share.

    Args:
        prototypes: per calibration question, the index of its nearest prototype, shape (n,).
        correct: per calibration question, whether the agent answered it right, shape (n,).
        count: the number of prototypes M; one without a question gets the pooled share.
    """
    pooled = float(correct.mean()) if correct.size else 0.0
    asked = np.bincount(prototypes, minlength=count)
    right = np.bincount(prototypes, weights=correct, minlength=count)
    share = (right + SHRINKAGE * pooled) / (asked + SHRINKAGE)
    return bytes(np.rint(share * 255).astype(np.uint8))
