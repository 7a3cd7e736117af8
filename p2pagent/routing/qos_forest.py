"""What a regression cannot know: a forest learns the residuals, once there are enough.

Extremely randomised trees (Geurts, Ernst and Wehenkel 2006, Machine Learning 63:3), fitted anew now and then on the
last answers. Where costs are linear they find nothing and add nothing; where a batch or a prompt of a certain size
suddenly costs more, as on engines with tiled kernels, they find that.
"""

from collections import deque
from collections.abc import Sequence
from math import log

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

FIRST = 300
"""Answers before the first fit."""

EVERY = 100
LAST = 500
TREES = 10
LEAF = 8
"""Answers in a leaf at least."""

REACH = log(2)
"""No residual counts for more, as a logarithm."""


class Forest:
    """Residuals, as logarithms, by what they may depend on."""

    def __init__(self, first: int = FIRST) -> None:
        self._first = first
        self._answers: deque[tuple[Sequence[float], float]] = deque(maxlen=LAST)
        self._count = 0
        self._trees: list[ExtraTreesRegressor] = []

    def predict(self, features: Sequence[float]) -> float:
        """The residual to expect, between `-REACH` and `REACH`; 0 before the first fit."""
        if not self._trees:
            return 0.0
        row = np.array([features], dtype=np.float32)
        # The trees themselves: a forest's own `predict` takes a millisecond to divide ten trees among threads.
        return float(sum(tree.tree_.predict(row)[0, 0] for tree in self._trees)) / TREES

    def learn(self, features: Sequence[float], residual: float) -> None:
        """Take in one more residual; now and then this fits the forest, which takes about ten milliseconds."""
        self._answers.append((features, min(REACH, max(-REACH, residual))))
        self._count += 1
        if self._count >= self._first and self._count % EVERY == 0:
            forest = ExtraTreesRegressor(n_estimators=TREES, min_samples_leaf=LEAF, random_state=0)
            self._trees = forest.fit([x for x, _ in self._answers], [y for _, y in self._answers]).estimators_
