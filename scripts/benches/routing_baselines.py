"""Published routers, fitted to the same questions. Each chooses a model per question; each is tuned on training alone.

A free parameter is the one whose choices are best on held-out training questions (`FOLDS`-fold).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from p2pagent.routing.prototypes import Vector
from scripts.benches.routing_data import Floats, Labels, Sample
from scripts.benches.routing_fold import Fold, chosen

CLUSTERS = (4, 8, 16, 32, 64, 128)
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SAME_COSINE = 0.9
PROTOTYPES_MAX = 8
BEST_WEIGHT = 0.75
TOP = 2

Choose = Callable[[Vector], Labels]
"""The model of each question, by its vector."""

Rule = Callable[[Fold, str, float], Callable[[Vector], Floats]]
"""Fits, in a reading and with a parameter, a score per question and model."""


def tuned(rule: Rule, parameters: Sequence[float]) -> Callable[[Fold, str], Choose]:
    """A method that fits `rule` with the parameter that is best on held-out training questions."""

    def fit(fold: Fold, reading: str) -> Choose:
        def held_out(parameter: float) -> float:
            brought = [
                chosen(held.outcomes[reading], np.argmax(rule(part, reading, parameter)(held.vectors), axis=1))
                for part, held in fold.question_parts()
            ]
            return float(np.concatenate(brought).mean())

        scores = rule(fold, reading, max(parameters, key=held_out))
        return lambda vectors: np.argmax(scores(vectors), axis=1)

    return fit


def uniroute(fold: Fold, reading: str, clusters: float) -> Callable[[Vector], Floats]:
    """UniRoute (Jitkrittum et al., arXiv 2502.08773), K-means form: a model's features are its errors per cluster, and
    a question goes to the model of the least error on its nearest cluster; all costs equal."""
    centres, labels = fold.clusters(int(clusters))
    outcomes = fold.outcomes(reading)
    counts = np.bincount(labels, minlength=len(centres))
    sums = np.zeros((len(centres), outcomes.shape[1]))
    np.add.at(sums, labels, outcomes)
    right = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], outcomes.mean(axis=0))
    return lambda vectors: right[np.argmax(vectors @ centres.T, axis=1)]


def neighbours(fold: Fold, reading: str, count: float) -> Callable[[Vector], Floats]:
    """k-NN (Li, arXiv 2505.12601): mean outcome on the k most similar training questions."""
    outcomes, k = fold.outcomes(reading), min(int(count), len(fold.sample) - 1)

    def scores(vectors: Vector) -> Floats:
        cosines = vectors @ fold.sample.vectors.T
        near = np.argpartition(-cosines, k, axis=1)[:, :k]
        return np.asarray(outcomes[near].mean(axis=1))

    return scores


def ridge(fold: Fold, reading: str, penalty: float) -> Callable[[Vector], Floats]:
    """One linear head per model on the embedding, least squares with a ridge penalty."""
    outcomes, vectors = fold.outcomes(reading), fold.sample.vectors.astype(np.float64)
    centre, level = vectors.mean(axis=0), outcomes.mean(axis=0)
    gram = (vectors - centre).T @ (vectors - centre) + penalty * np.eye(vectors.shape[1])
    heads = np.linalg.solve(gram, (vectors - centre).T @ (outcomes - level))
    return lambda asked: (asked - centre) @ heads + level


def semantic_router_models(fold: Fold, reading: str) -> Choose:
    """vLLM Semantic Router's prototype scorer with a category per model: the questions that it answers best of all.

    Of models that are equally right the more confident one counts as the best. Where the router compares categories to
    a threshold the best one wins here. The rest is `medoids`.
    """
    scores, right = fold.outcomes("mean_score"), fold.outcomes(reading).max(axis=1) > 0
    best = np.where(right, np.argmax(scores, axis=1), -1)
    similar = [similarity(fold.sample.take(best == model)) for model in range(scores.shape[1])]
    return lambda vectors: np.argmax(np.stack([of(vectors) for of in similar], axis=1), axis=1)


def semantic_router_sets(fold: Fold, reading: str) -> Choose:
    """The same scorer with a category per training set, whose questions go to the set's best model.

    That is how the router is meant to be used: categories are kinds of task, each with its model.
    """
    sets = np.unique(fold.sample.sets)
    similar = [similarity(fold.sample.take(fold.sample.sets == each)) for each in sets]
    best = np.array([np.argmax(fold.outcomes(reading)[fold.sample.sets == each].mean(axis=0)) for each in sets])
    return lambda vectors: best[np.argmax(np.stack([of(vectors) for of in similar], axis=1), axis=1)]


def similarity(sample: Sample) -> Callable[[Vector], NDArray[np.float32]]:
    """0.75 of the cosine to the best prototype, 0.25 of the mean of the two best; below all cosines without a question.

    From src/semantic-router/pkg/classification/prototype_{clustering,scoring}.go of vllm-project/semantic-router.
    """
    if not len(sample):
        return lambda vectors: np.full(len(vectors), -2, dtype=np.float32)
    prototypes = medoids(sample)

    def score(vectors: Vector) -> NDArray[np.float32]:
        cosines = np.sort(vectors @ prototypes.T, axis=1)
        mixed: NDArray[np.float32] = BEST_WEIGHT * cosines[:, -1] + (1 - BEST_WEIGHT) * cosines[:, -TOP:].mean(axis=1)
        return mixed

    return score


def medoids(sample: Sample) -> Vector:
    """Greedy clusters: the question that most others are within cosine 0.9 of, with those, again and again; of the
    eight largest clusters the member that is nearest to the others. Equals by the text."""
    order = np.array(sorted(range(len(sample)), key=sample.texts.__getitem__))
    vectors = sample.vectors[order]
    cosines = vectors @ vectors.T
    near = cosines >= SAME_COSINE
    np.fill_diagonal(near, val=True)
    left = np.ones(len(vectors), dtype=np.bool_)
    found: list[tuple[int, float, int]] = []
    while left.any() and len(found) < len(vectors):
        sizes = np.where(left, near @ left.astype(np.float32), 0)
        seed = int(np.argmax(sizes))
        if sizes[seed] <= 1 and len(found) >= PROTOTYPES_MAX:
            break
        members = np.flatnonzero(near[seed] & left)
        means = cosines[np.ix_(members, members)].mean(axis=1)
        medoid = int(np.argmax(means))
        found.append((-len(members), -float(means[medoid]), int(members[medoid])))
        left[members] = False
    return vectors[[place for _, _, place in sorted(found)[:PROTOTYPES_MAX]]]
