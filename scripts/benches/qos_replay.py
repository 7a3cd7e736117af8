"""Replays recorded answers through predictors: errors and coverage of each, and how they compare.

Prequential (Dawid 1984): each answer is predicted when it got its slot, from what had ended by then, and learned when
it ends; predictions stand still within an epoch, as they do in a peer.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.market.receipts import metered
from p2pagent.peer.messages import RateCard
from p2pagent.routing.qos import Forecast, Meter, Outcome, Predictor, Sample, Task
from p2pagent.routing.qos_frozen import Frozen
from scripts.benches.intervals import Interval, ratio_of_sums

MEANT = ("ttft_us", "tpot_us", "output_tokens", "cost_microcredits")
"""The figures over which means are taken."""

TARGETS = (*MEANT, "total_us")
"""All figures; the whole answer follows from others."""

METER = partial(metered, RateCard(10, 1, 40))
"""Its rates part all kinds of tokens."""

BLOCK = 20
"""Successive answers that the bootstrap keeps together: errors in a row are of one busy time, and so are misses."""


class Answer(Struct, frozen=True):
    """One answer as it was recorded, on any one clock."""

    task: Task
    outcome: Outcome
    start_ms: int
    end_ms: int


class Trace(Struct, frozen=True):
    """Answers of one engine, in the order in which they got their slots; from `onset_ms` on it shares its machine."""

    samples: tuple[Sample, ...]
    answers: tuple[Answer, ...]
    onset_ms: int


class Scores(Struct, frozen=True, eq=False):
    """Of one figure of each answer: the absolute error, and whether it lay in its band.

    Both have shape (answers,), both are NaN where an answer has no such figure.
    """

    errors: NDArray[np.float64]
    covered: NDArray[np.float64]


class Window(Struct, frozen=True):
    """What a predictor did with one figure in one part of all traces; `against` is its error over the reference's."""

    error: float
    coverage: Interval
    against: Interval


def windows(trace: Trace) -> dict[str, slice]:
    """The parts of a trace that are told apart, as slices of its answers.

    Cold is the first seventh of those before the other load, warm the last four; drift is two sevenths after it has
    come, and after the two after that.
    """
    onset = sum(answer.start_ms < trace.onset_ms for answer in trace.answers)
    seventh = onset // 7
    return {
        "cold": slice(0, seventh),
        "warm": slice(3 * seventh, onset),
        "drift": slice(onset, onset + 2 * seventh),
        "after": slice(onset + 2 * seventh, onset + 4 * seventh),
    }


def replay(trace: Trace, predictor: Predictor) -> list[Forecast]:
    """What is predicted of each answer; `predictor` knows the trace's samples already."""
    frozen = Frozen(predictor)
    starts = [(answer.start_ms, 1, place) for place, answer in enumerate(trace.answers)]
    ends = [(answer.end_ms, 0, place) for place, answer in enumerate(trace.answers)]
    forecasts: dict[int, Forecast] = {}
    for at_ms, is_start, place in sorted(starts + ends):
        answer = trace.answers[place]
        if is_start:
            forecasts[place] = frozen.predict_one(answer.task, at_ms)
        else:
            frozen.learn_one(answer.task, answer.outcome, forecasts[place], at_ms)
    return [forecasts[place] for place in range(len(trace.answers))]


def scores(trace: Trace, forecasts: Sequence[Forecast], meter: Meter) -> dict[str, Scores]:
    """How well each figure was predicted; costs are those by `meter`."""
    return {target: _scores(target, trace, forecasts, meter) for target in TARGETS}


def compared(
    traces: Sequence[Trace], scored: Mapping[str, Sequence[Mapping[str, Scores]]], reference: str
) -> dict[str, dict[str, dict[str, Window]]]:
    """What each predictor did, by its name, the figure and the window.

    Args:
        traces: what was replayed.
        scored: by predictor, the scores of each trace.
        reference: the predictor that the others' errors are held against.

    Returns:
        Errors and coverages pooled over traces; both ratios with a bootstrap over blocks of `BLOCK`.
    """
    parts = [windows(trace) for trace in traces]
    return {
        name: {
            target: {
                window: _window([(o[target], r[target], p[window]) for o, r, p in zip(own, theirs, parts, strict=True)])
                for window in parts[0]
            }
            for target in TARGETS
        }
        for name, own in scored.items()
        for theirs in [scored[reference]]
    }


def _window(found: Sequence[tuple[Scores, Scores, slice]]) -> Window:
    sums = []
    for own, theirs, part in found:
        within = range(len(own.errors))[part]
        for start in within[::BLOCK]:
            block = slice(start, min(start + BLOCK, within.stop))
            covered = own.covered[block]
            figures = own.errors[block], theirs.errors[block], covered, np.isfinite(covered)
            sums.append([np.nansum(figure) for figure in figures])
    errors, reference, inside, counted = np.transpose(sums)
    return Window(
        float(errors.sum() / counted.sum()),
        ratio_of_sums(inside, counted, np.random.default_rng(0)),
        ratio_of_sums(errors, reference, np.random.default_rng(0)),
    )


def _scores(target: str, trace: Trace, forecasts: Sequence[Forecast], meter: Meter) -> Scores:
    errors = np.full(len(trace.answers), np.nan)
    covered = np.full(len(trace.answers), np.nan)
    for place, (answer, forecast) in enumerate(zip(trace.answers, forecasts, strict=True)):
        band, actual = getattr(forecast, target), answer.outcome.figures(answer.task, meter).get(target)
        if actual is not None:
            errors[place] = abs(actual - band.mean)
            covered[place] = band.low <= actual <= band.high
    return Scores(errors, covered)
