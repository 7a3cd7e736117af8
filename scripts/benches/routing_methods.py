"""Ours and the paper's form, fitted with the product's own code, beside the baselines and the references."""

from collections.abc import Callable

import numpy as np

from p2pagent.config import Preferences
from p2pagent.routing.gate import calibrated, towards_families, trained
from p2pagent.routing.prototypes import Calibration, Relevance, Space, Vector, one_family, quantised
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
from scripts.benches.routing_data import Floats, Labels
from scripts.benches.routing_fold import Fold, chosen

PROTOTYPES_PER_SET = 64
"""On average: larger sets have more."""

PROTOTYPES_MAX = 256
"""A record's capability has no more."""

FAMILY_QUESTIONS = (15.0, 25.0, 35.0, 50.0, 75.0, 150.0)

Fit = Callable[[Fold, str], Choose]


class Named:
    """In place of an embedder whose vectors are there already."""

    name = "bench"

    def embed(self, texts: list[str]) -> Vector:
        raise NotImplementedError


def ours(fold: Fold, reading: str) -> Choose:
    """Families are the training sets: prototypes by k-means within each, our gate, claims shrunk towards families."""
    return selected(fold, reading, by_set, "families")


def ours_blind(fold: Fold, reading: str) -> Choose:
    """Ours for whoever does not know which set a training question is from: one family, bare cosines."""
    return selected(fold, reading, by_cluster, "blind")


def cosine(fold: Fold, reading: str) -> Choose:
    """PPAI's form: cosine of relevance and capability, its gate trained on the very prototypes that ours has."""
    space, families, labels = fold.kept("by set", lambda: by_set(fold))
    gate = fold.kept("paper's gate", lambda: trained(fold.sample.vectors, labels, len(families)))
    gated = Space(Named(), space.prototypes, gate)
    return choose(gated, Cosine(), skills(fold, reading, gated, one_family(len(families))))


Made = tuple[Space, Labels, Labels]
"""A space, the family of each of its prototypes, and the prototype of each training question."""


def by_set(fold: Fold) -> Made:
    sets, counts = np.unique(fold.sample.sets, return_counts=True)
    shares = np.maximum(1, counts * prototypes_for(sets) // counts.sum())
    parts = [fold.clusters(int(share), int(each)) for each, share in zip(sets, shares, strict=True)]
    prototypes = np.concatenate([centres for centres, _ in parts])
    families = np.repeat(sets, [len(centres) for centres, _ in parts])
    labels = np.zeros(len(fold.sample), dtype=np.int64)
    for each, (_, member) in zip(sets, parts, strict=True):
        labels[fold.sample.sets == each] = member + int(np.argmax(families == each))
    gate = towards_families(prototypes, families, fold.sample.vectors, fold.sample.sets)
    return Space(Named(), prototypes, gate), np.searchsorted(sets, families), labels


def by_cluster(fold: Fold) -> Made:
    prototypes, labels = fold.clusters(prototypes_for(np.unique(fold.sample.sets)))
    return Space(Named(), prototypes), np.zeros(len(prototypes), dtype=np.int64), labels


def prototypes_for(sets: Labels) -> int:
    return min(PROTOTYPES_MAX, PROTOTYPES_PER_SET * len(sets))


def selected(fold: Fold, reading: str, make: Callable[[Fold], Made], name: str) -> Choose:
    """Posterior scoring with the least `family_questions` that is not measurably worse on held-out training questions.

    That is, within one standard error of the best (Breiman et al. 1984, section 3.4.3, which prefers the simplest such
    tree). Shrinkage pays where questions are like those it was fitted to; less of it is left for questions that are
    not. Test splits have no part in it.
    """

    def held_out(weight: float) -> Floats:
        brought = [
            chosen(held.outcomes[reading], fitted(part, reading, make, name, weight)(held.vectors))
            for part, held in fold.question_parts()
        ]
        return np.concatenate(brought)

    tried = {weight: held_out(weight) for weight in FAMILY_QUESTIONS}
    most = max(tried.values(), key=np.mean)
    errors = {weight: (most - values).std() / np.sqrt(len(most)) for weight, values in tried.items()}
    enough = [weight for weight, values in tried.items() if most.mean() - values.mean() <= errors[weight]]
    return fitted(fold, reading, make, name, min(enough))


def fitted(fold: Fold, reading: str, make: Callable[[Fold], Made], name: str, family_questions: float) -> Choose:
    space, families, relevances = fold.kept(name, lambda: made(fold, make))
    calibration = calibrated(families, relevances, family_questions)
    return choose(space, Posterior(), skills(fold, reading, space, calibration, relevances))


def made(fold: Fold, make: Callable[[Fold], Made]) -> tuple[Space, Labels, list[Relevance]]:
    space, families, _ = make(fold)
    return space, families, relevant(space, fold.sample.vectors)


def skills(
    fold: Fold, reading: str, space: Space, calibration: Calibration, relevances: list[Relevance] | None = None
) -> Skills[int]:
    """The models in a table, each with the capability that it would measure on the training questions."""
    nearest = np.array([r.prototypes[0] for r in relevances or relevant(space, fold.sample.vectors)])
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


METHODS: dict[str, Fit] = {
    "ours": ours,
    "ours_blind": ours_blind,
    "cosine_prototypes": cosine,
    "uniroute": tuned(uniroute, CLUSTERS),
    "k_nn": tuned(neighbours, NEIGHBOURS),
    "semantic_router_models": semantic_router_models,
    "semantic_router_sets": semantic_router_sets,
    "ridge_heads": tuned(ridge, PENALTIES),
}
"""What learns. `ours_blind` shows what ours owes to knowing the training questions' sets."""
