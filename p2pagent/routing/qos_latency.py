"""One latency of an agent: regression on what is to be done, times a level, times what a forest has found.

Whatever else the machine does slows all of an answer by one factor. One number follows that within tens of answers, and
the coefficients, which need hundreds, are left alone by it: the regression learns figures divided by the level. The
level is an exponentially weighted mean of log ratios (Brown 1959), no step of which may be more than a factor of e.

While errors are all to one side the level follows faster: with s the mean of the last steps and a that of their sizes,
|s| / a is Trigg and Leach's tracking signal (1967, Operational Research Quarterly 18:53), small while errors are noise
and 1 after a change. It is cubed, so that what it comes to by chance counts for little.
"""

from collections.abc import Sequence
from math import exp, log

from p2pagent.routing.qos import LATENCY_US_MAX
from p2pagent.routing.qos_forest import FIRST, Forest
from p2pagent.routing.qos_regression import LEAST, Regression

LEVEL_RATE = 0.06
"""Weight of one answer in the level. In replays, more follows noise, and less is late after a change."""

LEVEL_RATE_MAX = 0.3
"""The same after a change."""

SIGNAL_KEPT = 0.9
"""Weight of the past in the tracking signal after one more answer: the last ten count."""

SIZES_FIRST = 0.5
"""Sizes of steps, in sum, that are taken to have been before the first: one odd answer is no change."""


class Latency:
    """Microseconds, by features of the regression (`terms`) and of the forest (`context`)."""

    def __init__(
        self,
        rows: Sequence[Sequence[float]],
        values_us: Sequence[float],
        level_rate: float = LEVEL_RATE,
        forest_first: int = FIRST,
    ) -> None:
        """Begin with measurements, see `Regression`.

        Args:
            rows: their terms.
            values_us: what was measured.
            level_rate: 0 for no level.
            forest_first: answers before the first fit of the forest.
        """
        self._regression = Regression(rows, values_us)
        self._forest = Forest(forest_first)
        self._rate = level_rate
        self._level = 0.0
        self._steps = 0.0
        self._sizes = SIZES_FIRST

    def predict(self, terms: Sequence[float], context: Sequence[float]) -> float:
        """What to expect, in microseconds."""
        factor = exp(self._level + self._forest.predict(context))
        return min(LATENCY_US_MAX, factor * self._regression.predict(terms))

    def learn(self, terms: Sequence[float], context: Sequence[float], value_us: int) -> None:
        """Take in one more answer."""
        value = min(LATENCY_US_MAX, max(LEAST, value_us))
        residual = log(value / self._regression.predict(terms)) - self._level
        self._regression.learn(terms, value * exp(-self._level))
        step = min(1.0, max(-1.0, residual))
        self._steps = SIGNAL_KEPT * self._steps + step
        self._sizes = SIGNAL_KEPT * self._sizes + abs(step)
        if self._rate:
            changed = (abs(self._steps) / self._sizes) ** 3
            self._level += max(self._rate, LEVEL_RATE_MAX * changed) * step
        self._forest.learn(context, residual)
