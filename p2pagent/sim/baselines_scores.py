"""Baselines that know nothing of load: RouterDC, UniRoute, k-NN, vLLM Semantic Router, majority vote, KABB.

All learn from the same calibration questions as everybody's scores; KABB learns from outcomes too.
"""

from collections.abc import Sequence
from math import exp, log
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from p2pagent.sim.policy import Answer, Move, Policy, Send, View, was_right
from p2pagent.sim.traces import Query, Trace

NEIGHBOURS = 50
CLUSTERS = 16
CONTRASTED = 3
EPOCHS = 60
LEARNING_RATE = 0.5
SAME_COSINE = 0.9
PROTOTYPES_MAX = 8
BEST_WEIGHT = 0.75
VOTERS = 3
KABB_WEIGHTS = (0.4, 0.3, 0.3)
KABB_DECAY_PER_S = 0.99
KABB_DIFFICULTY = 1.0
KABB_TOP = 2
CONCEPT_QUALITY = 0.66
PARAMETER_MIN = 1e-3


class Scorer(Policy):
    """Sends to the candidate of the highest score, which depends on the conversation's embedding alone."""

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._chosen: dict[int, int] = {}

    def scores(self, query: Query) -> NDArray[np.float64]:
        """One score per candidate."""
        raise NotImplementedError

    def route(self, query: Query) -> Move:
        if query.conversation not in self._chosen:
            self._chosen[query.conversation] = query.candidates[int(np.argmax(self.scores(query)))]
        return Send((self._chosen[query.conversation],))


class RouterDC(Scorer):
    """Dual contrastive learning of query and agent embeddings (Chen et al., NeurIPS 2024, arXiv 2409.19886).

    The sample-LLM contrastive loss of its code: up to three agents that answered right are positives, each against up
    to three that did not, temperature 1. The encoder is replaced by what it could at best learn here, a free similarity
    per subject and agent, with subjects recognised by the nearest centre; the cluster loss, which only shapes the
    encoder, falls away. Fitted by gradient descent over redrawn positives and negatives.
    """

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._subjects = nearest(trace.embeddings, trace.population.centres)
        calibration = trace.population.calibration
        draws = np.random.default_rng(rng.getrandbits(64))
        subjects = range(len(trace.population.centres))
        right = [calibration.right[calibration.subjects == subject] for subject in subjects]
        self.similarity = np.stack([contrasted(of, draws) for of in right])

    def scores(self, query: Query) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self.similarity[self._subjects[query.conversation], list(query.candidates)]
        return scores


class UniRoute(Scorer):
    """Least error on the cluster of the question (Jitkrittum et al., arXiv 2502.08773), clusters by k-means."""

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        calibration = trace.population.calibration
        centres, member = kmeans2(calibration.embeddings, CLUSTERS, minit="++", seed=rng.getrandbits(32))
        self._clusters = nearest(trace.embeddings, centres)
        pooled = calibration.right.mean(axis=0)
        self._accuracy = [
            calibration.right[member == cluster].mean(axis=0) if (member == cluster).any() else pooled
            for cluster in range(CLUSTERS)
        ]

    def scores(self, query: Query) -> NDArray[np.float64]:
        accuracy: NDArray[np.float64] = self._accuracy[self._clusters[query.conversation]][list(query.candidates)]
        return accuracy


class NearestNeighbours(Scorer):
    """Accuracy on the most similar calibration questions (arXiv 2505.12601: a tuned k-NN matches learned routers)."""

    def scores(self, query: Query) -> NDArray[np.float64]:
        calibration = self.trace.population.calibration
        cosines = calibration.embeddings @ self.trace.embeddings[query.conversation]
        near = np.argpartition(-cosines, NEIGHBOURS)[:NEIGHBOURS]
        accuracy: NDArray[np.float64] = calibration.right[near][:, list(query.candidates)].mean(axis=0)
        return accuracy


class SemanticRouter(Scorer):
    """vLLM Semantic Router's prototype scorer: a category by prototypes, then the category's best agent.

    Per category, greedy medoids of its examples at cosine 0.9, at most 8; a category scores 0.75 of its best prototype
    and 0.25 of the mean of its best two (src/semantic-router/pkg/classification/prototype_{bank,clustering,scoring}.go
    of vllm-project/semantic-router).
    """

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        calibration = trace.population.calibration
        categories = range(len(trace.population.centres))
        scores = []
        self._accuracy = []
        for category in categories:
            of = calibration.subjects == category
            cosines = np.sort(trace.embeddings @ medoids(calibration.embeddings[of]).T, axis=1)
            scores.append(BEST_WEIGHT * cosines[:, -1] + (1 - BEST_WEIGHT) * cosines[:, -2:].mean(axis=1))
            self._accuracy.append(calibration.right[of].mean(axis=0))
        self._categories = np.argmax(np.stack(scores), axis=0)

    def scores(self, query: Query) -> NDArray[np.float64]:
        accuracy: NDArray[np.float64] = self._accuracy[self._categories[query.conversation]][list(query.candidates)]
        return accuracy


class Vote(Policy):
    """Three candidates drawn at random answer each question; right is what most of them answer right.

    That counts every wrong answer as the same wrong answer. The vote is in when the slowest is.
    """

    def route(self, query: Query) -> Move:
        return Send(self.rng.sample(query.candidates, min(VOTERS, len(query.candidates))))

    def right(self, query: Query, agents: Sequence[int]) -> bool:
        return 2 * sum(was_right(query, agent) for agent in agents) > len(agents)


class Kabb(Policy):
    """Knowledge-aware Bayesian bandits (ICML 2025, arXiv 2502.07350, bayesian_mab.py): the two best of a Beta draw.

    distance = [.4 (1 - concept overlap) + .3 |dependencies| / |experts| + .3 (1 - a/(a+b))] ln(1 + difficulty), sample
    Beta(a exp(-distance), b), a and b decayed by .99 a second, a += reward, b += 1 - reward. Here a concept is a
    subject that an agent's measured quality is good in, nobody depends on others, and difficulty is 1. Where the two
    differ, the answer of the one with the higher a/(a+b) counts. Outcomes of all askers feed one bandit, as in the
    paper's central system: more than a peer could know.
    """

    learns = True
    top = KABB_TOP

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        super().__init__(trace, view, rng)
        self._subjects = nearest(trace.embeddings, trace.population.centres).tolist()
        self._arms: dict[tuple[int, int], tuple[float, float, float]] = {}

    def route(self, query: Query) -> Move:
        subject = self._subjects[query.conversation]
        draws = []
        for agent, quality in zip(query.candidates, query.quality, strict=True):
            a, b = self._arm(subject, agent, query.at_s)
            overlap = float(quality >= CONCEPT_QUALITY)
            unlike = KABB_WEIGHTS[0] * (1 - overlap) + KABB_WEIGHTS[2] * (1 - a / (a + b))
            kept = max(PARAMETER_MIN, a * exp(-unlike * log(1 + KABB_DIFFICULTY)))
            draws.append((self.rng.betavariate(kept, b), agent))
        best = sorted(draws, reverse=True)[: self.top]
        return Send(tuple(agent for _, agent in best))

    def answered(self, query: Query, answer: Answer) -> None:
        subject = self._subjects[query.conversation]
        a, b = self._arm(subject, answer.agent, answer.answered_s)
        self._arms[subject, answer.agent] = a + answer.right, b + (not answer.right), answer.answered_s

    def right(self, query: Query, agents: Sequence[int]) -> bool:
        subject = self._subjects[query.conversation]
        return was_right(query, max(agents, key=lambda agent: self._mean(subject, agent)))

    def _arm(self, subject: int, agent: int, now_s: float) -> tuple[float, float]:
        a, b, at_s = self._arms.get((subject, agent), (1.0, 1.0, now_s))
        kept = KABB_DECAY_PER_S ** (now_s - at_s)
        return max(PARAMETER_MIN, a * kept), max(PARAMETER_MIN, b * kept)

    def _mean(self, subject: int, agent: int) -> float:
        a, b, _ = self._arms.get((subject, agent), (1.0, 1.0, 0.0))
        return a / (a + b)


class KabbOne(Kabb):
    """KABB with its best draw alone: half the load of the published rule, so harder to beat on latency."""

    top = 1


def nearest(embeddings: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each embedding, the index of the centre with the largest inner product, centres taken as unit vectors."""
    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    index: NDArray[np.int64] = np.argmax(embeddings @ unit.T, axis=1)
    return index


def contrasted(right: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """One subject's similarity to each agent, fitted to who was `right` (questions, agents) by the contrastive loss."""
    similarity = np.zeros(right.shape[1])
    rows = np.arange(len(right))[:, None]
    for epoch in range(EPOCHS):
        tie = rng.random(right.shape)
        few = min(CONTRASTED, right.shape[1])
        positives = np.argpartition(np.where(right, tie, 2), few - 1, axis=1)[:, :few]
        negatives = np.argpartition(np.where(right, 2, tie), few - 1, axis=1)[:, :few]
        is_positive, is_negative = right[rows, positives], ~right[rows, negatives]
        up = np.exp(similarity[positives])
        down = np.where(is_negative, np.exp(similarity[negatives]), 0.0)
        whole = up + down.sum(axis=1, keepdims=True)
        gradient = np.zeros_like(similarity)
        np.add.at(gradient, positives, np.where(is_positive, up / whole - 1, 0.0))
        pull = np.where(is_positive, 1 / whole, 0.0).sum(axis=1, keepdims=True)
        np.add.at(gradient, negatives, down * pull)
        seen = np.bincount(np.concatenate([positives.ravel(), negatives.ravel()]), minlength=len(similarity))
        similarity -= LEARNING_RATE * gradient / np.maximum(seen, 1) / (1 + epoch / EPOCHS)
    return similarity


def medoids(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Greedy cover: again and again the example that most uncovered ones are similar to, until all are covered."""
    near = embeddings @ embeddings.T >= SAME_COSINE
    open_ = np.ones(len(embeddings), dtype=bool)
    chosen: list[int] = []
    while open_.any() and len(chosen) < PROTOTYPES_MAX:
        chosen.append(int(np.argmax(np.where(open_, near[:, open_].sum(axis=1), -1))))
        open_ &= ~near[chosen[-1]]
    return embeddings[chosen]
