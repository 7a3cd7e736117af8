"""Newcomers get tried: now and then what an agent of few judged answers is worth is drawn, not deducted.

A cautious buyer never asks an agent of which it knows nothing, so it never learns of it. On one query in
1 / `TRIAL_SHARE` the quality of each newcomer is one draw from its posterior, without a deduction for uncertainty
(Thompson 1933; Chapelle and Li 2011, "An empirical evaluation of Thompson sampling"): who might be best is tried as
often as it might be. After `NEWCOMER_OUTCOMES` judged answers an agent is one like others, until they are forgotten.

Only those are drawn who are expected to be nearly as good as the best: of many weak agents one would always be lucky.
"""

from random import Random

import numpy as np

from p2pagent.routing.scoring import Scores, Values

TRIAL_SHARE = 0.1
NEWCOMER_OUTCOMES = 5
PLAUSIBLE = 0.25
"""How far below the best agent's expected quality a newcomer may be to be tried."""

_VARIANCE_MIN = 1e-6


def explored(scores: Scores, outcomes: Values, rng: Random) -> Scores:
    """`scores`, or for a trial those in which newcomers are drawn.

    Args:
        scores: of every candidate; of others nothing must count, since nobody is to be measured against who is gone.
        outcomes: judged answers of each, shape (n,).
        rng: decides whether this is a trial, and draws.
    """
    if rng.random() >= TRIAL_SHARE:
        return scores
    plausible = scores.quality >= scores.quality.max(initial=0) - PLAUSIBLE
    new = np.flatnonzero((outcomes < NEWCOMER_OUTCOMES) & plausible)
    quality, uncertainty = scores.quality.copy(), scores.uncertainty.copy()
    quality[new] = _drawn(quality[new], uncertainty[new], np.random.default_rng(rng.getrandbits(64)))
    uncertainty[new] = 0
    return Scores(quality, uncertainty)


def _drawn(mean: Values, deviation: Values, rng: np.random.Generator) -> Values:
    """One draw per agent from the Beta distribution of this mean and standard deviation."""
    centre = np.clip(mean.astype(np.float64), 1e-3, 1 - 1e-3)
    strength = centre * (1 - centre) / np.maximum(deviation.astype(np.float64) ** 2, _VARIANCE_MIN) - 1
    strength = np.maximum(strength, 1e-3)
    return rng.beta(centre * strength, (1 - centre) * strength).astype(np.float32)
