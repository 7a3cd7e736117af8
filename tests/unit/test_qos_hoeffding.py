"""The paper's predictor: river's trees, given what ours is given."""

from itertools import islice

import numpy as np
import pytest
from river.dummy import StatisticRegressor
from river.stats import Mean

from p2pagent.routing.qos import LATENCY_US_MAX, Forecast, Outcome, Sample, Task
from scripts.benches.qos_hoeffding import Hoeffding
from scripts.benches.qos_predictors import CONTENDERS
from scripts.benches.qos_record import questions
from scripts.benches.qos_replay import METER


def drawn(rng: np.random.Generator) -> tuple[Task, Outcome]:
    task = Task(int(rng.integers(50, 1_500)), 0, 32, running=int(rng.integers(0, 4)))
    ttft_us = (20_000 + 200 * task.prompt_tokens) * rng.lognormal(0, 0.05)
    return task, Outcome(round(ttft_us), 10_000 + 2_000 * task.running, 16, 0)


def test_it_learns() -> None:
    rng = np.random.default_rng(0)
    model = Hoeffding(METER)
    errors = []
    for _ in range(600):
        task, came = drawn(rng)
        forecast = model.predict_one(task)
        errors.append(abs(forecast.ttft_us.mean / came.ttft_us - 1))
        model.learn_one(task, came, forecast)
    assert np.mean(errors[500:]) < 0.15 < np.mean(errors[:50])


def test_the_benchmark_comes_first() -> None:
    task, came = drawn(np.random.default_rng(0))
    told = Hoeffding(METER, [Sample(task, came)] * 50).predict_one(task)
    assert told.ttft_us.mean == pytest.approx(came.ttft_us, rel=0.2)
    assert Hoeffding(METER).predict_one(task).ttft_us.mean == 0


def test_it_learns_what_was_cached_not_what_was_believed() -> None:
    believing, knowing = Hoeffding(METER), Hoeffding(METER)
    rng = np.random.default_rng(2)
    for _ in range(300):
        cached = int(rng.integers(0, 900))
        came = Outcome(1_000 * (1_000 - cached), 50, 4, cached)
        believing.learn_one(Task(1_000, 0, 8), came, None)
        knowing.learn_one(Task(1_000, cached, 8), came, None)
    task = Task(1_000, 400, 8)
    assert believing.predict_one(task).ttft_us == knowing.predict_one(task).ttft_us
    assert knowing.predict_one(task).ttft_us.mean == pytest.approx(600_000, rel=0.1)


def test_cost_is_learned_as_it_is_billed() -> None:
    """Quoted are 500 tokens of 600, found are 0 or 600; no more is ever expected than the longest answer costs."""
    model = Hoeffding(METER, regressor=lambda: StatisticRegressor(Mean()))
    for cached in (0, 600):
        model.learn_one(Task(600, 500, 8), Outcome(100, 50, 4, cached), None)
    assert model.predict_one(Task(600, 500, 8)).cost_microcredits.mean == (1_500 + 600) / 2 + 4 * 40
    assert model.predict_one(Task(1, 0, 1)).cost_microcredits.mean == 10 + 40


def test_a_running_mean_is_what_came_of_late_whatever_is_asked() -> None:
    mean = CONTENDERS["running mean, whatever is asked"]([])
    for ttft_us in (*[100_000] * 50, *[200_000] * 10):
        mean.learn_one(Task(10, 0, 8), Outcome(ttft_us, 50, 4, 0), None)
    told = mean.predict_one(Task(1_000, 0, 8, running=3)).ttft_us.mean
    assert told == pytest.approx(200_000 - 100_000 * 0.9**10, rel=0.01)


def test_another_regressor_may_stand_in() -> None:
    model = Hoeffding(METER, regressor=lambda: StatisticRegressor(Mean()))
    for ttft_us in (100, 200, 600):
        model.learn_one(Task(10, 0, 8), Outcome(ttft_us, 50, 4, 0), None)
    forecast = model.predict_one(Task(999, 0, 3))
    assert (forecast.ttft_us.mean, forecast.tpot_us.mean, forecast.total_us.mean) == (300, 50, 450)
    assert forecast.output_tokens.high == 3


def test_an_answer_of_one_token_says_nothing_of_further_ones() -> None:
    model = Hoeffding(METER, regressor=lambda: StatisticRegressor(Mean()))
    model.learn_one(Task(10, 0, 8), Outcome(100, 50, 4, 0), None)
    model.learn_one(Task(10, 0, 8), Outcome(100, 0, 1, 0), None)
    assert model.predict_one(Task(10, 0, 8)).tpot_us.mean == 50


def test_predictions_are_bands_within_bounds_however_wild_the_leaves() -> None:
    rng = np.random.default_rng(1)
    model = Hoeffding(METER)
    for _ in range(100):
        task, _ = drawn(rng)
        model.learn_one(task, Outcome(int(rng.integers(0, 10**12)), int(rng.integers(0, 10**12)), 9, 0), None)
        forecast = model.predict_one(Task(10**6, 0, 8))
        for figure in Forecast.__struct_fields__:
            band = getattr(forecast, figure)
            assert 0 <= band.low <= band.mean <= band.high <= LATENCY_US_MAX
        assert forecast.output_tokens.high <= 8


def test_nobody_errs_less_about_lengths_than_who_knows_how_they_are_drawn() -> None:
    model = CONTENDERS["knowing how lengths are drawn"]([])
    for _ in range(100):  # of which it learns nothing
        model.learn_one(Task(10, 0, 64), Outcome(1, 1, 60, 0), None)
    asked = list(islice(questions(np.random.default_rng(3)), 3_000))
    told = [model.predict_one(Task(10, 0, question.limit)).output_tokens.mean for question in asked]
    errors = {
        shift: np.mean([abs(q.output_tokens - min(q.limit, mean + shift)) for q, mean in zip(asked, told, strict=True)])
        for shift in (-3, 0, 3)
    }
    assert errors[0] < min(errors[-3], errors[3])
