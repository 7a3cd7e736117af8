"""What a method is fitted to: questions with outcomes in one reading, and the clusterings that methods share."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from p2pagent.routing.prototypes import Vector
from scripts.benches.routing_data import Floats, Labels, Sample

Made = TypeVar("Made")
FOLDS = 3
KMEANS_ITERATIONS = 50

Parts = list[tuple["Fold", Sample]]
"""Of a cross-validation: what to fit, and what to try it on."""


class Fold:
    """Training questions, and a seed for everything that is drawn in a fit.

    Clusterings and parts are made once and shared by both readings and by all methods that ask for the same.
    """

    def __init__(self, sample: Sample, seed: int) -> None:
        self.sample = sample
        self.seed = seed
        self._clusters: dict[tuple[int, int | None], tuple[Vector, Labels]] = {}
        self._kept: dict[str, Any] = {}

    def outcomes(self, reading: str) -> Floats:
        return self.sample.outcomes[reading]

    def kept(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` makes, once: it is the same for both readings."""
        if name not in self._kept:
            self._kept[name] = make()
        made: Made = self._kept[name]
        return made

    def clusters(self, count: int, within: int | None = None) -> tuple[Vector, Labels]:
        """k-means centres as unit rows, and the one of each question: of all questions, or of those of one set."""
        if (count, within) not in self._clusters:
            vectors = self.sample.vectors if within is None else self.sample.vectors[self.sample.sets == within]
            fit = KMeans(min(count, len(vectors)), n_init=1, max_iter=KMEANS_ITERATIONS, random_state=self.seed)
            centres = fit.fit(vectors).cluster_centers_
            unit = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
            self._clusters[count, within] = unit, np.argmax(vectors @ unit.T, axis=1)
        return self._clusters[count, within]

    def question_parts(self) -> Parts:
        """Cross-validation over questions."""

        def parts() -> Parts:
            held = np.random.default_rng(self.seed).permutation(len(self.sample)) % FOLDS
            return [self._without(held == part) for part in range(FOLDS)]

        return self.kept("question parts", parts)

    def set_parts(self) -> Parts:
        """Cross-validation over data sets, of which there are at least two: each left out in turn."""
        sets = np.unique(self.sample.sets)
        return self.kept("set parts", lambda: [self._without(self.sample.sets == each) for each in sets])

    def _without(self, held: NDArray[np.bool_]) -> tuple["Fold", Sample]:
        return Fold(self.sample.take(~held), self.seed), self.sample.take(held)


def chosen(outcomes: Floats, choice: Labels) -> Floats:
    """What each question brings, given which model is chosen for it, shape (n,)."""
    return outcomes[np.arange(len(choice)), choice]
