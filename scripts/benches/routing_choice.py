"""How the free parameters of ours are chosen: each by the cross-validation that mirrors what it is for.

Both per fit and per reading, on that fit's own training questions alone; a data set that the fit leaves out is in none.

How many questions a family weighs is for questions like those that were fitted. Of `FAMILY_QUESTIONS` the one is taken
whose choices bring most on training questions held out at random (`FOLDS`-fold), as the learned rivals are tuned.

From where on a question is new, so that pooled skill speaks, is for kinds of task that were not fitted. `ours_cautious`
takes of `BACK_OFFS` the one that brings most on a training set held out of the fit, the mean over these sets, with the
weight as chosen. Of those within one standard error of the best, paired by question, it is the one that backs off most:
a claim about a kind of task that was never measured is a guess. Cross-validated in turn on training questions it loses
in distribution and gains nothing on a set held out, so ours has none of it: its back-off is `calibrated`'s own.
"""

from collections.abc import Callable

import numpy as np

from scripts.benches.routing_baselines import Choose
from scripts.benches.routing_data import Floats
from scripts.benches.routing_fold import Fold, Parts, chosen

FAMILY_QUESTIONS = (5.0, 15.0, 50.0, 150.0, 500.0)

NONE = "none"
BACK_OFFS = {
    NONE: None,
    "1 to 5 %": (0.01, 0.05),
    "5 to 25 %": (0.05, 0.25),
    "25 to 75 %": (0.25, 0.75),
    "50 to 95 %": (0.5, 0.95),
}
"""Novel and familiar quantile of `calibrated`, of how near held-out training questions are, the most cautious last;
with none only what is half as near as almost all of them is new."""

Fit = Callable[[Fold, str], Choose]


def family_questions(fold: Fold, reading: str, fit: Callable[[float], Fit]) -> float:
    """Which of `FAMILY_QUESTIONS` is best for what `fit` makes of each; of equals the least."""

    def held_out(questions: float) -> float:
        return float(np.concatenate(brought(fold.question_parts(), reading, fit(questions))).mean())

    return max(FAMILY_QUESTIONS, key=held_out)


def back_off(fold: Fold, reading: str, fit: Callable[[str], Fit]) -> str:
    """Which of `BACK_OFFS` is best for what `fit` makes of each."""
    values = {name: brought(fold.set_parts(), reading, fit(name)) for name in BACK_OFFS}
    best = max(values.values(), key=lambda by_set: float(np.mean([each.mean() for each in by_set])))
    return [name for name, by_set in values.items() if no_worse(by_set, best)][-1]


def no_worse(one: list[Floats], best: list[Floats]) -> bool:
    """Whether what `one` brings, by data set, is within a standard error of the best."""
    gaps = [high - low for high, low in zip(best, one, strict=True)]
    error = np.sqrt(np.sum([gap.var() / len(gap) for gap in gaps])) / len(gaps)
    return bool(np.mean([gap.mean() for gap in gaps]) <= error)


def brought(parts: Parts, reading: str, fit: Fit) -> list[Floats]:
    """What choices bring on the held-out questions of each part."""
    return [chosen(held.outcomes[reading], fit(part, reading)(held.vectors)) for part, held in parts]
