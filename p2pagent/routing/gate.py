"""Trains gates, offline, on calibration questions whose prototype or family is known. Peers only multiply.

Two forms, both a light linear projector onto the shared prototypes (PPAI's QAGate, arXiv 2605.18067):

`trained` is the paper's: logistic regression of each question's prototype on its embedding.

`towards_families` is ours, for prototypes of several families, which differ in how a question is put as much as in what
it is about. Cosines see mostly the latter. With v the question's vector, p_m a prototype of family f(m), and w_f, b_f
the logistic regression of families on embeddings, it is by Bayes' rule, prototypes as evidence beside families,

    relevance_m ~ P(f(m) | v) exp(p_m . v / T),   so   similarity_m = (p_m + T w_f(m)) . v + T b_f(m)

up to a constant that all prototypes share. Only the families' few hyperplanes are learned, so it is fitted from few
questions; and a question of no family still goes to the prototypes that it is near to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from p2pagent.routing.prototypes import TEMPERATURE, Calibration, Gate, Relevance, Vector

PRECISION = 10.0
"""Inverse strength of the ridge penalty on the regressions' weights."""

ITERATIONS_MAX = 300

FAMILIAR_QUANTILE = 0.01
"""As near to a prototype as all but this share of the calibration's own questions is familiar; half as near is new."""

COSINE_MIN = 0.01

Labels = NDArray[np.int64]


def trained(embeddings: Vector, prototypes: Labels, count: int) -> Gate:
    """The paper's gate.

    Args:
        embeddings: unit rows of the questions, shape (n, dimensions).
        prototypes: the prototype of each, shape (n,).
        count: the number of prototypes M; one without a question is never relevant.
    """
    weights, bias, classes = _regressed(embeddings, prototypes)
    never = np.float32(2 * bias.min() - bias.max() - 2 * np.abs(weights).sum(axis=1).max() - 1)
    all_weights = np.zeros((count, embeddings.shape[1]), dtype=np.float32)
    all_bias = np.full(count, never, dtype=np.float32)
    all_weights[classes], all_bias[classes] = weights, bias
    return Gate(all_weights * np.float32(TEMPERATURE), all_bias * np.float32(TEMPERATURE))


def towards_families(prototypes: Vector, families: Labels, embeddings: Vector, asked: Labels) -> Gate:
    """Our gate.

    Args:
        prototypes: unit rows, shape (M, dimensions).
        families: the family of each prototype, shape (M,).
        embeddings: unit rows of the questions, shape (n, dimensions).
        asked: the family of each question, shape (n,); every family of `families` is among them.
    """
    if len(np.unique(asked)) == 1:
        return Gate(prototypes, np.zeros(len(prototypes), dtype=np.float32))
    weights, bias, classes = _regressed(embeddings, asked)
    of = np.searchsorted(classes, families)
    return Gate(prototypes + np.float32(TEMPERATURE) * weights[of], np.float32(TEMPERATURE) * bias[of])


def calibrated(
    families: Labels,
    asked: Sequence[Relevance],
    family_questions: float,
    fresh: Sequence[Relevance] | None = None,
    novel_quantile: float | None = None,
    familiar_quantile: float = FAMILIAR_QUANTILE,
) -> Calibration:
    """What the calibration questions say of a space.

    Args:
        families: the family of each prototype, shape (M,).
        asked: the relevance of each calibration question; it counts for the first prototype, as in `capability`.
        family_questions: as in `Calibration`; cross-validation on several agents' answers tells.
        fresh: relevances of such questions that no prototype was made from, to say how near those are; by default
            `asked`, which k-means has drawn its prototypes to.
        novel_quantile: as far from every prototype as this share of them, and further, is new; by default what is half
            as near as the least familiar.
        familiar_quantile: as near as all but this share of them is familiar.
    """
    nearest = np.array([relevance.prototypes[0] for relevance in asked])
    cosines = [relevance.nearest_cosine for relevance in fresh or asked]
    familiar = max(COSINE_MIN, float(np.quantile(cosines, familiar_quantile)))
    novel = familiar / 2
    if novel_quantile is not None:
        # Where all are as near, what is further is new.
        novel = min(float(np.quantile(cosines, novel_quantile)), familiar - COSINE_MIN / 2)
    questions = np.bincount(nearest, minlength=len(families)).astype(np.float64)
    return Calibration(families, questions, family_questions, novel_cosine=novel, familiar_cosine=familiar)


def _regressed(embeddings: Vector, labels: Labels) -> tuple[Vector, Vector, Labels]:
    """Weights, intercepts and labels of the classes, one row each."""
    fit = LogisticRegression(C=PRECISION, max_iter=ITERATIONS_MAX).fit(embeddings, labels)
    weights, bias = np.asarray(fit.coef_, dtype=np.float32), np.asarray(fit.intercept_, dtype=np.float32)
    if len(fit.classes_) == 2:
        # Of two classes only the second one's log-odds are given.
        half = np.float32(0.5)
        weights, bias = np.vstack([-half * weights, half * weights]), np.concatenate([-half * bias, half * bias])
    return weights, bias, np.asarray(fit.classes_, dtype=np.int64)
