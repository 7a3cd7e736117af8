"""Bands that hold what they say, whatever the predictor: adaptive conformal inference.

Scores are log ratios of what came to what was expected. The upper bound is their quantile at 1 - a, and after each
answer, with m = 1 if it was above the bound it had been given, else 0,

    a <- a + g (alpha - m)

(Gibbs and Candes 2021, https://arxiv.org/abs/2106.00170, equation 2); the lower bound alike, each at alpha = 5 %. The
sum of g (m - alpha) over any answers is how far a has come down over them, so that the share outside strays from alpha
by no more than that as long as a stays within its limits: for figures that grow without end it does not, and no band
made of past scores would hold. The step g is large at first and small in the end
(Angelopoulos, Barber and Bates 2024, https://arxiv.org/abs/2402.01139): the errors of a predictor that has hardly
learned are no measure for its next, while later a large step makes bands wide without need.
"""

from collections import deque
from math import ceil, exp, floor, log

from p2pagent.routing.qos import Band

ALPHA = 0.05
"""Share that may lie above a band, and below."""

RATE = 0.01
"""The least step. In replays bands are late after a change with less, and cover no better with more."""

UNSETTLED = 20
"""The step is one over so many answers and half of those learned, where that is more."""

ALPHA_MAX = 0.1
"""a goes no higher, where a figure is so easy that nothing is ever outside: it would take too long to come back. Nor
does it go below 0, where the bound is the largest score that is remembered: that would take too long, too."""

LAST = 100
"""Scores that are remembered."""

FIRST = log(2)
"""No bound is nearer before there are `FEW` scores."""

FEW = 10


class Bands:
    """The bands of one figure."""

    def __init__(self) -> None:
        self._above = _Side()
        self._below = _Side()

    def around(self, mean: float, most: int) -> Band:
        """A band for what is expected to be `mean`, and cannot be more than `most`."""
        expected = min(most, round(mean))
        low, high = floor(mean * exp(-self._below.reach())), ceil(mean * exp(self._above.reach()))
        return Band(expected, min(expected, low), min(most, max(expected, high)))

    def learn(self, promised: Band, value: int) -> None:
        """Take in what came of a figure with this band."""
        score = log(max(1, value) / max(1, promised.mean))
        self._above.learn(score, is_outside=value > promised.high)
        self._below.learn(-score, is_outside=value < promised.low)


class _Side:
    """One bound: the scores on its side are positive."""

    def __init__(self) -> None:
        self._scores: deque[float] = deque(maxlen=LAST)
        self._sorted: list[float] | None = []
        self._alpha = ALPHA
        self._count = 0

    def reach(self) -> float:
        """How far from what is expected the bound is, 0 or more."""
        if self._sorted is None:
            self._sorted = sorted(self._scores)
        # One more score is as likely in any place among these: the k-th smallest covers k of n + 1. Between two of
        # them in proportion (Hyndman and Fan 1996, definition 6), or small samples would always cover more.
        place = (len(self._sorted) + 1) * (1 - self._alpha)
        below = int(place)
        if below < len(self._sorted):
            bound = self._sorted[below - 1] + (place - below) * (self._sorted[below] - self._sorted[below - 1])
        else:
            bound = max(self._sorted, default=0.0)
        return max(bound, FIRST if len(self._sorted) < FEW else 0.0)

    def learn(self, score: float, *, is_outside: bool) -> None:
        self._scores.append(score)
        self._sorted = None
        self._count += 1
        step = max(RATE, 1 / (UNSETTLED + self._count / 2))
        self._alpha = max(0.0, min(ALPHA_MAX, self._alpha + step * (ALPHA - is_outside)))
