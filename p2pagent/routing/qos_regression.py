"""Linear regression that forgets, with coefficients that cannot be negative: costs per token, per answer, per step.

In information form, for features f_i and figures y_i, newest last,

    R = R0 + sum g^(t-i) w_i f_i f_i',    s = s0 + sum g^(t-i) w_i y_i f_i,    minimise x'R x - 2 s'x over x >= 0.

That is recursive least squares with exponential forgetting (Ljung and Soderstrom 1983, Theory and Practice of Recursive
Identification, section 2.6), but what is forgotten leaves the prior R0, s0, not nothing (stabilised forgetting: Kulhavy
and Zarrop 1993, International Journal of Control 58:905), so that R cannot become singular, however little a feature
varies. Non-negative by the active set method of Lawson and Hanson (1974, Solving Least Squares Problems, chapter 23),
so that more work never predicts less time. Of both sums only triangular factors are kept, brought up to date by
orthogonal transformations (Bierman 1977, Factorization Methods for Discrete Sequential Estimation, chapter V): answers
of a millisecond and of a minute are in one sum, which would leave nothing of R's smallest eigenvalues.

Errors grow with what is measured, and some are far out. Hence weights w = min(1, 1.345 sigma / |e|) / p^2, for a
prediction p, its relative error e = (y - p) / p and its running scale sigma (Huber 1964, Annals of Mathematical
Statistics 35:73; 1.345 is its usual constant, 95 % efficient on Gaussian errors).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

FORGET = 0.99
"""Weight of the past after one more answer: the last hundred count."""

PRIOR_ANSWERS = 1
"""Answers that the prior weighs as much as, for good."""

RIDGE = 0.003
"""Part of one answer, in every direction, for what the prior's measurements never varied."""

HUBER = 1.345
SCALE_FIRST = 0.2
SCALE_RATE = 0.02
MEAN_TO_DEVIATION = 1.25
"""A Gaussian's standard deviation over its mean absolute deviation, sqrt(pi / 2)."""

LEAST = 1.0
"""No less is predicted: errors are relative."""


class Regression:
    """Non-negative figures, predicted from non-negative features of about one."""

    def __init__(self, rows: Sequence[Sequence[float]], values: Sequence[float]) -> None:
        """Begin with measurements, which weigh `PRIOR_ANSWERS` answers together and are never forgotten.

        Args:
            rows: their features, shape (measurements, features), at least one row.
            values: their figures.
        """
        features, figures = np.array(rows), np.maximum(np.array(values), LEAST)
        weights = np.sqrt(PRIOR_ANSWERS / len(figures)) / figures
        ridge = np.sqrt(RIDGE) / float(np.median(figures)) * np.eye(features.shape[1] + 1)[:-1]
        measured = weights[:, None] * np.column_stack([features, figures])
        self._prior = _factor(np.vstack([measured, ridge]))
        self._seen: NDArray[np.float64] = np.zeros((0, features.shape[1] + 1))
        self._scale = SCALE_FIRST
        self._solution: NDArray[np.float64] | None = None

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """What one of each feature adds, 0 or more."""
        if self._solution is None:
            rows = np.vstack([self._prior, self._seen])
            self._solution = nnls(rows[:, :-1], rows[:, -1])[0]
        return self._solution

    def predict(self, features: ArrayLike) -> float:
        """The figure to expect, `LEAST` or more."""
        return max(LEAST, float(self.coefficients @ np.asarray(features)))

    def learn(self, features: ArrayLike, value: float) -> None:
        """Take in one more measurement."""
        predicted = self.predict(features)
        error = abs(value - predicted) / predicted
        weight = min(1.0, HUBER * self._scale / max(error, 1e-9)) / predicted**2
        self._scale += SCALE_RATE * (MEAN_TO_DEVIATION * min(error, 3 * self._scale) - self._scale)
        row = np.sqrt(weight) * np.append(features, value)
        self._seen = _factor(np.vstack([np.sqrt(FORGET) * self._seen, row]))
        self._solution = None


def _factor(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """As few rows with the same sums of products; the last column holds what the others are to make."""
    return np.linalg.qr(rows).R
