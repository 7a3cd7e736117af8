"""Ours and the paper's form, fitted with the product's own code, beside the baselines and the references."""

from functools import partial

import numpy as np

from p2pagent.config import Preferences
from p2pagent.routing.gate import calibrated, towards_families, trained
from p2pagent.routing.prototypes import Calibration, Relevance, Space, Vector, quantised
from p2pagent.routing.scoring import Cosine, Posterior, Scorer, best, capability
from p2pagent.routing.skills import Skills
from scripts.benches.routing_baselines import (
    CLUSTERS,
    NEIGHBOURS,
    PENALTIES,
    Choose,
    neighbours,
    ridge,
    semantic_router_models,
    semantic_router_sets,
    tuned,
    uniroute,
)
from scripts.benches.routing_choice import BACK_OFFS, NONE, Fit, back_off, family_questions
from scripts.benches.routing_data import Labels
from scripts.benches.routing_fold import Fold, chosen

PROTOTYPES_PER_SET = 80
"""On average: larger sets have more. More of them leave more to tell apart, and shrinkage makes them safe."""

PROTOTYPES_MAX = 256
"""A record's capability has no more."""

QUESTIONS_MIN = 4
"""Questions per prototype, on average over a set."""

COSINE_PER_SET = (4, 16, 48)


class Named:
    """In place of an embedder whose vectors are there already."""

    name = "bench"

    def embed(self, texts: list[str]) -> Vector:
        raise NotImplementedError


def ours(fold: Fold, reading: str) -> Choose:
    """Families are the training sets: prototypes by k-means within each, our gate, claims shrunk towards families."""
    return ours_with(fold, reading, weight(fold, reading))


def ours_cautious(fold: Fold, reading: str) -> Choose:
    """Ours with a back-off to pooled skill that left-out training sets choose."""
    return ours_with(fold, reading, weight(fold, reading), reach(fold, reading))


def weight(fold: Fold, reading: str) -> float:
    """How many questions a family weighs in ours."""

    def fit(questions: float) -> Fit:
        return partial(ours_with, questions=questions)

    return fold.kept(f"family questions {reading}", lambda: family_questions(fold, reading, fit))


def reach(fold: Fold, reading: str) -> str:
    """From where on a question is new in `ours_cautious`."""

    def fit(name: str) -> Fit:
        return partial(ours_with, questions=weight(fold, reading), name=name)

    return fold.kept(f"back-off {reading}", lambda: back_off(fold, reading, fit))


def ours_with(fold: Fold, reading: str, questions: float, name: str = NONE) -> Choose:
    space, families = ours_space(fold)
    relevances, quantiles = relevances_of(fold, space), BACK_OFFS[name]
    if quantiles is None:
        calibration = calibrated(families, relevances, questions)
    else:
        calibration = calibrated(families, relevances, questions, fresh(fold), *quantiles)
    return choose(space, Posterior(), skills(fold, reading, relevances, calibration))


def ours_space(fold: Fold) -> tuple[Space, Labels]:
    """With the family of each prototype."""
    space, families, _ = fold.kept("by set", lambda: by_set(fold))
    return space, families


def ours_blind(fold: Fold, reading: str) -> Choose:
    """Ours for whoever does not know which set a training question is from: one family, bare cosines."""

    def fit(questions: float) -> Fit:
        return partial(blind_with, questions=questions)

    return blind_with(fold, reading, family_questions(fold, reading, fit))


def blind_with(fold: Fold, reading: str, questions: float) -> Choose:
    prototypes, _ = fold.clusters(min(PROTOTYPES_MAX, PROTOTYPES_PER_SET * len(np.unique(fold.sample.sets))))
    families = np.zeros(len(prototypes), dtype=np.int64)
    space = Space(Named(), prototypes)
    relevances = relevances_of(fold, space)
    return choose(space, Posterior(), skills(fold, reading, relevances, calibrated(families, relevances, questions)))


def cosine(fold: Fold, reading: str) -> Choose:
    """PPAI's form: cosine of relevance and capability, with prototypes per set as ours has them but its own gate.

    It does worse with as many as ours, so their number is the one that is best on held-out training questions.
    """

    def held_out(per_set: int) -> float:
        parts = [
            chosen(held.outcomes[reading], papers(part, reading, per_set)(held.vectors))
            for part, held in fold.question_parts()
        ]
        return float(np.concatenate(parts).mean())

    return papers(fold, reading, max(COSINE_PER_SET, key=held_out))


def papers(fold: Fold, reading: str, per_set: int) -> Choose:
    def gated() -> Space:
        space, families, labels = by_set(fold, per_set)
        return Space(Named(), space.prototypes, trained(fold.sample.vectors, labels, len(families)))

    space = fold.kept(f"paper's {per_set}", gated)
    return choose(space, Cosine(), skills(fold, reading, relevances_of(fold, space), space.calibration))


Made = tuple[Space, Labels, Labels]
"""A space, the family of each of its prototypes, and the prototype of each training question."""


def by_set(fold: Fold, per_set: int = PROTOTYPES_PER_SET) -> Made:
    sets, counts = np.unique(fold.sample.sets, return_counts=True)
    shares = counts * min(PROTOTYPES_MAX, per_set * len(sets)) // counts.sum()
    shares = np.clip(shares, 1, np.maximum(1, counts // QUESTIONS_MIN))
    parts = [fold.clusters(int(share), int(each)) for each, share in zip(sets, shares, strict=True)]
    prototypes = np.concatenate([centres for centres, _ in parts])
    families = np.repeat(sets, [len(centres) for centres, _ in parts])
    labels = np.zeros(len(fold.sample), dtype=np.int64)
    for each, (_, member) in zip(sets, parts, strict=True):
        labels[fold.sample.sets == each] = member + int(np.argmax(families == each))
    gate = towards_families(prototypes, families, fold.sample.vectors, fold.sample.sets)
    return Space(Named(), prototypes, gate), np.searchsorted(sets, families), labels


def skills(fold: Fold, reading: str, relevances: list[Relevance], calibration: Calibration) -> Skills[int]:
    """The models in a table, each with the capability that it would measure on the training questions."""
    nearest = np.array([relevance.prototypes[0] for relevance in relevances])
    table: Skills[int] = Skills(calibration)
    for model, right in enumerate(fold.outcomes(reading).T):
        table.put(model, capability(nearest, right, len(calibration.families)))
    return table


def choose(space: Space, scorer: Scorer, table: Skills[int]) -> Choose:
    """Each question to the model of the best score, less a margin of the product's default caution."""

    def of(vectors: Vector) -> Labels:
        caution = Preferences().caution
        scores = [scorer.score(relevance, table) for relevance in relevant(space, vectors)]
        return np.array([best(each, 1, caution)[0] for each in scores])

    return of


def relevant(space: Space, vectors: Vector) -> list[Relevance]:
    """As a peer finds it, from the quantised vector that it is sent."""
    return [space.nearest(vector.tobytes()) for vector in quantised(vectors)]


def relevances_of(fold: Fold, space: Space) -> list[Relevance]:
    """Of the training questions."""
    return fold.kept(f"relevances {space.name}", lambda: relevant(space, fold.sample.vectors))


def fresh(fold: Fold) -> list[Relevance]:
    """Of the training questions, each in a space that was made without it."""

    def held_out() -> list[Relevance]:
        parts = fold.question_parts()
        return [each for part, held in parts for each in relevant(ours_space(part)[0], held.vectors)]

    return fold.kept("fresh", held_out)


METHODS: dict[str, Fit] = {
    "ours": ours,
    "ours_cautious": ours_cautious,
    "ours_15_questions": partial(ours_with, questions=15.0),
    "ours_50_questions": partial(ours_with, questions=50.0),
    "ours_150_questions": partial(ours_with, questions=150.0),
    "ours_blind": ours_blind,
    "cosine_prototypes": cosine,
    "uniroute": tuned(uniroute, CLUSTERS),
    "k_nn": tuned(neighbours, NEIGHBOURS),
    "semantic_router_models": semantic_router_models,
    "semantic_router_sets": semantic_router_sets,
    "ridge_heads": tuned(ridge, PENALTIES),
}
"""What learns. The other forms of ours show what the weight of a family does, what it costs to take more questions for
new, and what ours owes to knowing which set a training question is from."""
