"""What is believed of an agent's skill at each prototype: its claims, and this device's own outcomes. Pure.

A record claims one accuracy c_m per prototype m, measured on n_m calibration questions. Prototypes belong to families
(kinds of task), and claims are shrunk in two steps, towards the family and the family towards all of them, as in a
hierarchical model with variances known (Gelman and others, Bayesian Data Analysis, 3rd edition, section 5.4):

    pooled   = sum_m n_m c_m / sum_m n_m
    family_f = (sum_{m in f} n_m c_m + K pooled) / (sum_{m in f} n_m + K)
    claim_m  = (n_m c_m + k family_f(m)) / (n_m + k)

k and K are the calibration's `family_questions` and `pooled_questions`. Then each prototype has a Beta posterior
(PPAI's capability vector, arXiv 2605.18067, with a distribution in place of a number): the claim counts as
W = `CLAIM_WEIGHT` + `SHRINKAGE` answers, however many questions stand behind it, and S_m and N_m are the good ones and
all of the answers that this device had, each spread over the prototypes by its relevance and decayed by half each
`HALF_LIFE_DAYS`:

    mean_m = (W h claim_m + S_m) / (W + N_m),    var_m = mean_m (1 - mean_m) / (W + N_m + 1)
    h      = min(1, (W + sum_m S_m) / (W + sum_m N_m claim_m))

h is what is left of an agent's word: how its answers compare with what it had claimed where they were asked. So a claim
moves a score no further than a handful of answers would, and who lies in one place is believed less in all.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.routing.prototypes import Calibration, Relevance

CLAIM_WEIGHT = 5.0
SHRINKAGE = 1.0
HALF_LIFE_DAYS = 30.0
_DAY_MS = 86_400_000
_WEIGHT = CLAIM_WEIGHT + SHRINKAGE

Floats = NDArray[np.float64]


class Experience(Struct, frozen=True):
    """This device's own answers from one agent in one space: S and N of the prototypes that it was asked about.

    A value: it is kept as it is encoded, and what changes it returns another.

    Attributes:
        good: S_m by prototype m, as of `at_ms`.
        seen: N_m by prototype m, as of `at_ms`.
        outcomes: answers that were judged, not decayed.
    """

    good: dict[int, float] = {}
    seen: dict[int, float] = {}
    outcomes: int = 0
    at_ms: int = 0

    def decayed(self, now_ms: int) -> "Experience":
        """As of `now_ms`; a clock that was set back changes nothing."""
        keep = _kept(self.at_ms, now_ms)
        return Experience(
            {m: value * keep for m, value in self.good.items()},
            {m: value * keep for m, value in self.seen.items()},
            self.outcomes,
            max(now_ms, self.at_ms),
        )

    def observed(self, relevance: Relevance, *, good: bool, now_ms: int) -> "Experience":
        """With one more answer, to a question of this relevance: r_m to N_m, and to S_m if it was good."""
        return self._changed(relevance, 1.0, good=good, now_ms=now_ms)

    def retracted(self, relevance: Relevance, *, good: bool, judged_ms: int, now_ms: int) -> "Experience":
        """Without an answer that was judged at `judged_ms`, for a user who has thought better of it."""
        return self._changed(relevance, -_kept(judged_ms, now_ms), good=good, now_ms=now_ms)

    def _changed(self, relevance: Relevance, times: float, *, good: bool, now_ms: int) -> "Experience":
        now = self.decayed(now_ms)
        change = [{m: times * weight} for m, weight in zip(relevance.prototypes, relevance.weights, strict=True)]
        seen = _sums([now.seen, *change])
        gained = _sums([now.good, *(change if good else [])])
        outcomes = max(0, now.outcomes + (1 if times > 0 else -1))
        return Experience({m: min(value, seen.get(m, 0.0)) for m, value in gained.items()}, seen, outcomes, now.at_ms)


class Belief(Struct, frozen=True):
    """Mean and variance of an agent's skill at each prototype, shape (M,), and of its pooled skill."""

    mean: Floats
    variance: Floats
    pooled_mean: float
    pooled_variance: float


def belief(calibration: Calibration, capability: bytes, experience: Experience, now_ms: int) -> Belief:
    """The posterior of one agent from its advertised `capability`, one byte per prototype, and what it did here."""
    claims, pooled = _shrunk(calibration, np.frombuffer(capability, dtype=np.uint8) / 255)
    known = experience.decayed(now_ms)
    good, seen = _dense(known.good, len(claims)), _dense(known.seen, len(claims))
    honesty = min(1.0, (_WEIGHT + good.sum()) / (_WEIGHT + seen @ claims))
    mean, variance = _beta(honesty * claims, good, seen)
    pooled_mean, pooled_variance = _beta(np.array(honesty * pooled), good.sum(), seen.sum())
    return Belief(mean, variance, float(pooled_mean), float(pooled_variance))


def carried(experience: Experience, to: Sequence[int]) -> Experience:
    """Experience of a space in the next version of it: what was counted at prototype m goes to prototype `to[m]`."""
    good, seen = (_sums({to[m]: value} for m, value in counts.items()) for counts in (experience.good, experience.seen))
    return Experience(good, seen, experience.outcomes, experience.at_ms)


def _shrunk(calibration: Calibration, claims: Floats) -> tuple[Floats, float]:
    """`claim_m`, shape (M,), and `pooled`, from what was claimed, shape (M,)."""
    weighed = calibration.questions * claims
    pooled = float(weighed.sum() / calibration.questions.sum())
    asked = np.bincount(calibration.families, weights=calibration.questions) + calibration.pooled_questions
    right = np.bincount(calibration.families, weights=weighed) + calibration.pooled_questions * pooled
    towards = calibration.family_questions * (right / asked)[calibration.families]
    return (weighed + towards) / (calibration.questions + calibration.family_questions), pooled


def _kept(then_ms: int, now_ms: int) -> float:
    return float(0.5 ** (max(0, now_ms - then_ms) / (HALF_LIFE_DAYS * _DAY_MS)))


def _sums(counts: Iterable[Mapping[int, float]]) -> dict[int, float]:
    total: dict[int, float] = {}
    for each in counts:
        for m, value in each.items():
            total[m] = total.get(m, 0.0) + value
    # A retraction may leave a rounding error below nothing.
    return {m: value for m, value in total.items() if value > 0}


def _dense(counts: Mapping[int, float], length: int) -> Floats:
    dense = np.zeros(length)
    for m, value in counts.items():
        dense[m] = value
    return dense


def _beta(claim: Floats, good: Floats, seen: Floats) -> tuple[Floats, Floats]:
    mean = (_WEIGHT * claim + good) / (_WEIGHT + seen)
    return mean, mean * (1 - mean) / (_WEIGHT + seen + 1)
