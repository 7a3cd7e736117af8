"""Parts of the predictors against slow oracles: all data at once, exact fractions, every sequence of misses."""

from collections.abc import Sequence
from fractions import Fraction
from math import inf

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.routing.qos import LATENCY_US_MAX, Forecast, Outcome, Sample, Task
from p2pagent.routing.qos_bands import Bands
from p2pagent.routing.qos_lengths import EXPECTED, Lengths
from p2pagent.routing.qos_physical import Physical
from p2pagent.routing.qos_regression import FORGET, PRIOR_ANSWERS, RIDGE, Regression
from tests.scenario import METER

FEATURES = 3

features = st.lists(st.floats(0, 2), min_size=FEATURES - 1, max_size=FEATURES - 1).map(lambda rest: [1.0, *rest])
measurements = st.tuples(features, st.integers(1_000, 1_000_000))
tasks = st.builds(
    Task,
    prompt_tokens=st.integers(0, 100_000),
    cached_tokens=st.integers(0, 100_000),
    max_tokens=st.integers(1, 4_096),
    running=st.integers(0, 64),
    prefilling_tokens=st.integers(0, 100_000),
    waiting=st.integers(0, 64),
)
outcomes = st.builds(
    Outcome,
    ttft_us=st.integers(0, 10 * LATENCY_US_MAX),
    tpot_us=st.integers(0, 10 * LATENCY_US_MAX),
    output_tokens=st.integers(0, 4_096),
    cached_tokens=st.integers(0, 100_000),
)
samples = st.builds(Sample, tasks, outcomes)


class AllAtOnce:
    """The regression's sums as they are defined, from everything that was ever learned."""

    def __init__(self, prior: Sequence[tuple[Sequence[float], int]]) -> None:
        self.prior = [(np.array(f), y, PRIOR_ANSWERS / len(prior) / y**2) for f, y in prior]
        self.ridge = RIDGE / np.median([y for _, y in prior]) ** 2
        self.learned: list[tuple[np.ndarray, int, float]] = []
        self.scale = 0.2

    def learn(self, row: Sequence[float], value: int, predicted: float) -> None:
        error = abs(value - predicted) / predicted
        weight = 1 if error <= 1.345 * self.scale else 1.345 * self.scale / error
        self.learned.append((np.array(row), value, weight / predicted**2))
        self.scale = 0.98 * self.scale + 0.02 * 1.25 * min(error, 3 * self.scale)

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        last = len(self.learned) - 1
        rows = self.prior + [(f, y, w * FORGET ** (last - i)) for i, (f, y, w) in enumerate(self.learned)]
        whole = sum((w * np.outer(f, f) for f, _, w in rows), self.ridge * np.eye(FEATURES))
        return whole, sum(w * y * f for f, y, w in rows)


@given(st.lists(measurements, min_size=1, max_size=6), st.lists(measurements, max_size=25))
def test_the_regression_is_the_best_non_negative_one_on_all_data_at_once(
    prior: list[tuple[list[float], int]], learned: list[tuple[list[float], int]]
) -> None:
    """A convex problem: what meets Karush, Kuhn and Tucker's conditions is the solution."""
    regression, oracle = Regression(*zip(*prior, strict=True)), AllAtOnce(prior)
    for row, value in learned:
        oracle.learn(row, value, regression.predict(row))
        regression.learn(row, value)
    found = regression.coefficients
    whole, toward = oracle.sums()
    slope = whole @ found - toward
    rounding = 1e-6 * (np.abs(whole) @ np.abs(found) + np.abs(toward)).max()
    assert (found >= 0).all()
    assert (slope >= -rounding).all()
    assert (np.abs(slope[found > 0]) <= rounding).all()


@given(st.lists(measurements, min_size=1, max_size=6), st.lists(measurements, max_size=10), features, features)
def test_more_work_is_never_predicted_to_take_less(
    prior: list[tuple[list[float], int]], learned: list[tuple[list[float], int]], one: list[float], other: list[float]
) -> None:
    regression = Regression(*zip(*prior, strict=True))
    for row, value in learned:
        regression.learn(row, value)
    less, more = np.minimum(one, other), np.maximum(one, other)
    assert regression.predict(less) <= regression.predict(more)


def redistributed(answers: Sequence[tuple[int, int]]) -> float:
    """The median by Efron (1967): the weight of each answer cut off goes to all longer ones, shortest first."""
    lengths = sorted((tokens, tokens >= limit) for tokens, limit in answers)
    weights = [Fraction(1, len(lengths))] * len(lengths)
    gone = Fraction(0)
    for place, (tokens, is_cut) in enumerate(lengths):
        if not is_cut:
            gone += weights[place]
            if gone >= Fraction(1, 2):
                return tokens
        elif place + 1 < len(lengths):
            share = weights[place] / (len(lengths) - place - 1)
            weights[place + 1 :] = [weight + share for weight in weights[place + 1 :]]
    return inf


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12), st.integers(1, 12))
def test_lengths_are_the_median_of_the_product_limit_estimate(drawn: list[tuple[int, int]], limit: int) -> None:
    answers = [(min(tokens, most), most) for tokens, most in drawn]
    lengths = Lengths()
    for tokens, most in answers:
        lengths.learn(tokens, most)
    median = redistributed([(EXPECTED, EXPECTED + 1), *answers])
    assert lengths.predict(limit) == min(limit, median)


@given(st.lists(st.integers(1, 10**8), max_size=150), st.integers(1, 10**8), st.integers(0, 2**32))
@settings(max_examples=25)
def test_whatever_came_before_nine_in_ten_soon_lie_within(figures: list[int], mean: int, seed: int) -> None:
    bands = Bands()
    for figure in figures:
        band = bands.around(mean, LATENCY_US_MAX)
        assert band.low <= band.mean <= band.high
        bands.learn(band, figure)
    below = above = 0
    for factor in np.random.default_rng(seed).lognormal(0, 0.3, 1_200):
        band, figure = bands.around(10**6, LATENCY_US_MAX), round(10**6 * factor)
        below, above = below + (figure < band.low), above + (figure > band.high)
        bands.learn(band, figure)
    assert 0.02 <= below / 1_200 <= 0.08
    assert 0.02 <= above / 1_200 <= 0.08


@given(st.lists(samples, max_size=4), st.lists(st.tuples(tasks, outcomes, st.booleans()), max_size=8), st.lists(tasks))
@settings(max_examples=50)
def test_whatever_was_learned_predictions_are_bands_within_bounds(
    known: list[Sample], learned: list[tuple[Task, Outcome, bool]], asked: list[Task]
) -> None:
    model = Physical(METER, known)
    for task, outcome, is_promised in learned:
        model.learn_one(task, outcome, model.predict_one(task) if is_promised else None)
    for task in [*asked, *(task for task, _, _ in learned)]:
        forecast = model.predict_one(task)
        for figure in Forecast.__struct_fields__:
            band = getattr(forecast, figure)
            dearest = METER(task.usage(task.max_tokens))
            most = {"output_tokens": task.max_tokens, "cost_microcredits": dearest}.get(figure, LATENCY_US_MAX)
            assert 0 <= band.low <= band.mean <= band.high <= most
