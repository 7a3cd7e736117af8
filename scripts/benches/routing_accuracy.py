"""How well routers choose among real models: on test splits of what they were fitted to, and of what they were not.

Each of several fits has its own nine tenths of the training questions and its own draws, the same for all methods.
Intervals of accuracies are over fits, of differences over fits and questions: which questions a test split happens to
hold is chance as well.
"""

from itertools import product
from typing import Any

import numpy as np
from msgspec import Struct

from scripts.benches import intervals
from scripts.benches.intervals import Interval
from scripts.benches.report import Part, Target, at_least
from scripts.benches.routing_data import READINGS, Data, Floats, Sample, vectors_of
from scripts.benches.routing_fold import Fold, chosen
from scripts.benches.routing_methods import METHODS, reach, weight
from scripts.benches.run import Run

PART = 0.9
IN, OUT = "in_distribution", "left_out"
REFERENCES = ("best_single", "per_set_best", "oracle", "random")
RIVALS = tuple(name for name in METHODS if not name.startswith("ours"))

Key = tuple[str, str, str]
Brought = dict[Key, list[Floats]]
"""By reading, split and method: per data set what each test question brought in each fit, shape (fits, n)."""
Picked = dict[tuple[str, str, int | None], list[Any]]
"""By free parameter of ours, reading and data set left out: what each fit's cross-validation has chosen."""
PICKED = {"family_questions": weight, "back_off": reach}


class Measured(Struct, frozen=True):
    """All that was found with one embedder; `brought` is None without it."""

    embedding: str
    sets: list[str]
    brought: Brought | None
    picked: Picked

    def lines(self) -> list[tuple[str, str]]:
        """Splits and methods, in the order of the tables."""
        every = product((IN, OUT), (*METHODS, *REFERENCES))
        return [(split, method) for split, method in every if (split, method) != (OUT, "per_set_best")]

    def of(self, reading: str, split: str, method: str) -> list[Floats] | None:
        return self.brought[reading, split, method] if self.brought is not None else None


def measure(run: Run, data: Data) -> Part:
    """Every method with every embedder that is installed; the figures of others are None."""
    found, states = [], {}
    for kind, vectors in vectors_of(data).items():
        states[kind] = vectors if isinstance(vectors, str) else "measured"
        brought, picked = None, {}
        if not isinstance(vectors, str):
            brought, picked = fits(run, kind, data.sample(0, vectors), data.sample(1, vectors))
        found.append(Measured(kind, data.names, brought, picked))
    figures: dict[str, Any] = {"data": told(data), "embeddings": states}
    for reading in READINGS:
        figures[reading] = [row(each, reading, *key) for each in found for key in each.lines()]
    figures |= {name: [line for each in found for line in choices(each, name)] for name in PICKED}
    figures["ours_minus"] = [minus(run, each, *key) for each in found for key in each.lines()]
    figures["minilm_minus_hashing"] = [gained(run, found, split) for split in (IN, OUT)]
    # The part of the questions that a quick run asks is too small to hold anything to a target.
    return Part(figures, targets([] if run.quick else figures["ours_minus"]))


def fits(run: Run, kind: str, training: Sample, test: Sample) -> tuple[Brought, Picked]:
    """Every method fitted to all data sets and to all but one, several times."""
    sets = [int(each) for each in np.unique(training.sets)]
    parts = {each: test.take(test.sets == each) for each in sets}
    brought: dict[Key, dict[int, list[Floats]]] = {}
    picked: Picked = {}
    for seed, left_out in run.track([*product(range(run.pick(5, 2)), (None, *sets))], f"routing: {kind}"):
        rng = run.rng("part", seed)
        rows = np.sort(rng.permutation(len(training))[: int(PART * len(training))])
        part = training.take(rows)
        fold = Fold(part if left_out is None else part.take(part.sets != left_out), int(rng.integers(1 << 31)))
        for reading in READINGS:
            for name, of in PICKED.items():
                picked.setdefault((name, reading, left_out), []).append(of(fold, reading))
            for asked in sets if left_out is None else [left_out]:
                for name, values in referred(fold, reading, parts[asked], asked).items():
                    split = IN if left_out is None else OUT
                    brought.setdefault((reading, split, name), {}).setdefault(asked, []).append(values)
            for name, fit in METHODS.items():
                choose = fit(fold, reading)
                for asked in sets if left_out is None else [left_out]:
                    values = chosen(parts[asked].outcomes[reading], choose(parts[asked].vectors))
                    split = IN if left_out is None else OUT
                    brought.setdefault((reading, split, name), {}).setdefault(asked, []).append(values)
    return {key: [np.stack(values) for values in by_set.values()] for key, by_set in brought.items()}, picked


def referred(fold: Fold, reading: str, asked: Sample, which: int) -> dict[str, Floats]:
    """What the references bring on one set's test questions; the single models are those best in training."""
    outcomes, known = asked.outcomes[reading], fold.outcomes(reading)
    found = {
        "best_single": outcomes[:, np.argmax(known.mean(axis=0))],
        "oracle": outcomes.max(axis=1),
        "random": outcomes.mean(axis=1),
    }
    own = fold.sample.sets == which
    if own.any():
        found["per_set_best"] = outcomes[:, np.argmax(known[own].mean(axis=0))]
    return found


def told(data: Data) -> dict[str, Any]:
    """What there was to fit and to ask."""
    counts = {name: f"{len(train):,} / {len(test):,}" for name, (train, test) in data.splits.items()}
    return {"models": len(data.models), "training / test questions": counts}


def row(found: Measured, reading: str, split: str, method: str) -> dict[str, Any]:
    """A method's line: per data set, the mean of these, and the share of the way from best single model to oracle."""
    line: dict[str, Any] = {"embedding": found.embedding, "split": split, "method": method}
    values = found.of(reading, split, method)
    if values is None:
        return line | dict.fromkeys([*found.sets, "mean", "gap_closed"])
    means = np.stack([each.mean(axis=1) for each in values])
    ends = [found.of(reading, split, name) or [] for name in ("best_single", "oracle")]
    low, high = (np.mean([each.mean(axis=1) for each in end], axis=0) for end in ends)
    line |= {name: intervals.mean(each) for name, each in zip(found.sets, means, strict=True)}
    closed = (means.mean(axis=0) - low) / (high - low)
    return line | {"mean": intervals.mean(means.mean(axis=0)), "gap_closed": intervals.mean(closed)}


def choices(found: Measured, parameter: str) -> list[dict[str, Any]]:
    """What each fit has chosen for a free parameter of ours: a line per data set left out."""
    names = {None: "none"} | dict(enumerate(found.sets))
    return [
        {"embedding": found.embedding, "left_out": name}
        | {reading: found.picked.get((parameter, reading, left_out)) for reading in READINGS}
        for left_out, name in names.items()
    ]


def minus(run: Run, found: Measured, split: str, method: str) -> dict[str, Any]:
    """How much more ours brings than a method, mean of the data sets, in both readings."""
    line: dict[str, Any] = {"embedding": found.embedding, "split": split, "method": method}
    for reading in READINGS:
        one, other = found.of(reading, split, "ours"), found.of(reading, split, method)
        line[reading] = difference(one, other, run.rng("minus", method)) if one and other else None
    return line


def gained(run: Run, found: list[Measured], split: str) -> dict[str, Any]:
    """What MiniLM brings ours over the default embedder, which is what the default loses."""
    by_kind = {each.embedding: each for each in found}
    line: dict[str, Any] = {"split": split}
    for reading in READINGS:
        one, other = (by_kind[kind].of(reading, split, "ours") for kind in ("minilm", "hashing"))
        line[reading] = difference(one, other, run.rng("gained")) if one and other else None
    return line


def difference(one: list[Floats], other: list[Floats], rng: np.random.Generator) -> Interval:
    """Mean over data sets of paired differences, by the percentile bootstrap over fits and each set's questions."""
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    fits_count = len(gaps[0])
    redrawn = []
    for _ in range(intervals.RESAMPLES):
        weights = rng.multinomial(fits_count, np.full(fits_count, 1 / fits_count)) / fits_count
        redrawn.append(np.mean([(weights @ gap)[rng.integers(0, gap.shape[1], gap.shape[1])].mean() for gap in gaps]))
    low, high = np.percentile(redrawn, [100 * (1 - intervals.CONFIDENCE) / 2, 100 * (1 + intervals.CONFIDENCE) / 2])
    return Interval(
        float(np.mean([gap.mean() for gap in gaps])), float(low), float(high), sum(g.shape[1] for g in gaps)
    )


def targets(rows: list[dict[str, Any]]) -> list[Target]:
    """What ours is held to, with MiniLM: above all learned methods and the best single model, and no worse than the
    models that were best on each training set; where a set was left out, no worse than the best single model."""
    gaps = {(row["split"], row["method"]): row["accuracy"] for row in rows if row["embedding"] == "minilm"}
    held = [above(name, gaps.get((IN, name))) for name in (*RIVALS, "best_single")]
    within, out = gaps.get((IN, "per_set_best")), gaps.get((OUT, "best_single"))
    names = (f"{IN} ours_minus per_set_best, upper end", f"{OUT} ours_minus best_single")
    measured = (within.high if within else None, out.value if out else None)
    return held + [at_least(name, 0, value) for name, value in zip(names, measured, strict=True)]


def above(method: str, gap: Interval | None) -> Target:
    return Target(f"{IN} ours_minus {method}", "> 0", gap.value if gap else None, gap.value > 0 if gap else None)
