"""The paper's predictor: river's trees, given what ours is given."""

import numpy as np
import pytest
from river.dummy import StatisticRegressor
from river.stats import Mean

from p2pagent.routing.qos import LATENCY_US_MAX, Forecast, Outcome, Sample, Task
from scripts.benches.qos_hoeffding import Hoeffding


def drawn(rng: np.random.Generator) -> tuple[Task, Outcome]:
    task = Task(int(rng.integers(50, 1_500)), 0, 32, running=int(rng.integers(0, 4)))
    ttft_us = (20_000 + 200 * task.prompt_tokens) * rng.lognormal(0, 0.05)
    return task, Outcome(round(ttft_us), 10_000 + 2_000 * task.running, 16, 0)


def test_it_learns() -> None:
    rng = np.random.default_rng(0)
    model = Hoeffding()
    errors = []
    for _ in range(600):
        task, came = drawn(rng)
        forecast = model.predict_one(task)
        errors.append(abs(forecast.ttft_us.mean / came.ttft_us - 1))
        model.learn_one(task, came, forecast)
    assert np.mean(errors[500:]) < 0.15 < np.mean(errors[:50])


def test_the_benchmark_comes_first() -> None:
    task, came = drawn(np.random.default_rng(0))
    told = Hoeffding([Sample(task, came)] * 50).predict_one(task)
    assert told.ttft_us.mean == pytest.approx(came.ttft_us, rel=0.2)
    assert Hoeffding().predict_one(task).ttft_us.mean == 0


def test_another_regressor_may_stand_in() -> None:
    model = Hoeffding(regressor=lambda: StatisticRegressor(Mean()))
    for ttft_us in (100, 200, 600):
        model.learn_one(Task(10, 0, 8), Outcome(ttft_us, 50, 4, 0), None)
    forecast = model.predict_one(Task(999, 0, 3))
    assert (forecast.ttft_us.mean, forecast.tpot_us.mean, forecast.total_us.mean) == (300, 50, 450)
    assert forecast.output_tokens.high == 3


def test_an_answer_of_one_token_says_nothing_of_further_ones() -> None:
    model = Hoeffding(regressor=lambda: StatisticRegressor(Mean()))
    model.learn_one(Task(10, 0, 8), Outcome(100, 50, 4, 0), None)
    model.learn_one(Task(10, 0, 8), Outcome(100, 0, 1, 0), None)
    assert model.predict_one(Task(10, 0, 8)).tpot_us.mean == 50


def test_predictions_are_bands_within_bounds_however_wild_the_leaves() -> None:
    rng = np.random.default_rng(1)
    model = Hoeffding()
    for _ in range(100):
        task, _ = drawn(rng)
        model.learn_one(task, Outcome(int(rng.integers(0, 10**12)), int(rng.integers(0, 10**12)), 9, 0), None)
        forecast = model.predict_one(Task(10**6, 0, 8))
        for figure in Forecast.__struct_fields__:
            band = getattr(forecast, figure)
            assert 0 <= band.low <= band.mean <= band.high <= LATENCY_US_MAX
        assert forecast.output_tokens.high <= 8
