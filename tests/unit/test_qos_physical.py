"""The physical predictor as a whole: from the benchmark to what it promises."""

import pytest
from msgspec.structs import replace

from p2pagent.routing.qos import LATENCY_US_MAX, Band, Forecast, Outcome, Sample, Task
from p2pagent.routing.qos_physical import GUESSED, Physical
from p2pagent.types import Usage
from tests.scenario import METER


def outcome(task: Task, output_tokens: int = 16, factor: float = 1.0) -> Outcome:
    """An engine of 20 ms, .2 ms per uncached token, shared with those under way, and steps of 10 ms + 2 per answer."""
    ttft_us = 20_000 + 200 * (task.prompt_tokens - task.cached_tokens + task.prefilling_tokens)
    tpot_us = 10_000 + 2_000 * task.running
    return Outcome(round(factor * ttft_us), round(factor * tpot_us), output_tokens, task.cached_tokens)


MEASURED = (
    Task(64, 0, 16),
    Task(1_024, 0, 16),
    Task(1_024, 992, 16),
    Task(256, 0, 16, 1, 256),
    Task(256, 0, 16, 3, 768),
)
SAMPLES = tuple(Sample(task, outcome(task)) for task in MEASURED)
TASK = Task(600, 200, 32, running=2, prefilling_tokens=300)


def taught(model: Physical, task: Task, came: Outcome, count: int) -> Physical:
    for _ in range(count):
        model.learn_one(task, came, model.predict_one(task))
    return model


def test_the_benchmark_is_enough_to_start_from() -> None:
    forecast, came = Physical(METER, SAMPLES).predict_one(TASK), outcome(TASK)
    assert forecast.ttft_us.mean == pytest.approx(came.ttft_us, rel=0.1)
    assert forecast.tpot_us.mean == pytest.approx(came.tpot_us, rel=0.1)


def test_without_one_there_is_a_guess_that_ten_answers_correct() -> None:
    forecast = Physical(METER).predict_one(Task(600, 200, 32))
    assert forecast.ttft_us.mean == pytest.approx(2_000 * 400, rel=0.1)
    assert forecast.tpot_us.mean == pytest.approx(GUESSED[0].outcome.tpot_us, rel=0.02)
    better = taught(Physical(METER), TASK, outcome(TASK), 10).predict_one(TASK)
    assert better.ttft_us.mean == pytest.approx(outcome(TASK).ttft_us, rel=0.35)


def test_the_whole_answer_is_the_first_token_and_all_others() -> None:
    model = taught(Physical(METER, SAMPLES), TASK, outcome(TASK, output_tokens=11), 50)
    forecast = model.predict_one(TASK)
    assert forecast.output_tokens.mean == 11
    assert forecast.total_us.mean == pytest.approx(forecast.ttft_us.mean + 10 * forecast.tpot_us.mean, abs=10)


def test_more_to_compute_beside_more_others_takes_longer() -> None:
    model = taught(Physical(METER, SAMPLES), TASK, outcome(TASK), 20)
    known = model.predict_one(TASK)
    for worse in (replace(TASK, cached_tokens=0), replace(TASK, running=3), replace(TASK, prefilling_tokens=900)):
        forecast = model.predict_one(worse)
        assert forecast.ttft_us.mean >= known.ttft_us.mean
        assert forecast.tpot_us.mean >= known.tpot_us.mean
        assert forecast.total_us.mean > known.total_us.mean


def test_attention_makes_long_prompts_dearer_by_the_token() -> None:
    model = Physical(METER, SAMPLES)
    lengths = (100, 500, 1_000, 2_000, 4_000)
    exact = {n: Outcome(20_000 + 200 * n + n * n // 10, 10_000, 16, 0) for n in lengths}
    for place in range(250):
        n = lengths[place % len(lengths)]
        model.learn_one(Task(n, 0, 32), exact[n], None)
    for n in lengths:
        assert model.predict_one(Task(n, 0, 32)).ttft_us.mean == pytest.approx(exact[n].ttft_us, rel=0.06)


@pytest.mark.parametrize(
    ("quiet", "busy"),
    [
        (Task(500, 0, 32), Task(500, 0, 32, waiting=3)),
        (Task(500, 0, 32), Task(500, 0, 32, running=2)),
        (Task(500, 0, 32), Task(500, 0, 32, prefilling_tokens=2_000)),
        (Task(500, 500, 32), Task(2_500, 2_500, 32)),
    ],
)
def test_what_holds_up_further_tokens_is_learned(quiet: Task, busy: Task) -> None:
    """Too few answers for the forest, so that it takes the term."""
    model = Physical(METER, SAMPLES)
    for _ in range(100):
        model.learn_one(quiet, Outcome(50_000, 10_000, 16, quiet.cached_tokens), None)
        model.learn_one(busy, Outcome(50_000, 16_000, 16, busy.cached_tokens), None)
    assert model.predict_one(quiet).tpot_us.mean == pytest.approx(10_000, rel=0.06)
    assert model.predict_one(busy).tpot_us.mean == pytest.approx(16_000, rel=0.06)


@pytest.mark.parametrize(
    "busy", [Task(100, 0, 32, running=3), Task(100, 0, 32, prefilling_tokens=2_000), Task(2_100, 0, 32)]
)
def test_what_holds_up_the_first_token_is_learned(busy: Task) -> None:
    quiet = Task(100, 0, 32)
    model = Physical(METER, SAMPLES)
    for _ in range(100):
        model.learn_one(quiet, Outcome(40_000, 10_000, 16, 0), None)
        model.learn_one(busy, Outcome(70_000, 10_000, 16, 0), None)
    assert model.predict_one(quiet).ttft_us.mean == pytest.approx(40_000, rel=0.06)
    assert model.predict_one(busy).ttft_us.mean == pytest.approx(70_000, rel=0.06)


def test_a_queue_ten_times_as_long_holds_up_no_more_than_there_are_slots() -> None:
    model = Physical(METER, SAMPLES)
    for waiting in (0, 2) * 100:
        model.learn_one(Task(500, 0, 32, waiting=waiting), Outcome(50_000, 10_000 + 2_000 * waiting, 16, 0), None)
    two, twenty = (model.predict_one(Task(500, 0, 32, waiting=waiting)).tpot_us.mean for waiting in (2, 20))
    assert two < twenty < 1.25 * two


def test_it_learns_from_what_was_cached_not_from_what_was_believed() -> None:
    """Three in four cache hits that were expected are misses; a task is believed all the same."""
    hit = Task(1_000, 900, 32)
    model = Physical(METER, SAMPLES)
    for place in range(100):
        met = replace(hit, cached_tokens=900 if place % 4 == 0 else 0)
        model.learn_one(hit, outcome(met), None)
    assert model.predict_one(hit).ttft_us.mean == pytest.approx(outcome(hit).ttft_us, rel=0.1)


def test_an_answer_of_one_token_says_nothing_of_further_ones() -> None:
    one, none = Physical(METER, SAMPLES), Physical(METER, SAMPLES)
    alone = replace(outcome(TASK, output_tokens=1), tpot_us=0)
    for _ in range(50):
        one.learn_one(TASK, alone, one.predict_one(TASK))
    assert one.predict_one(TASK).tpot_us == none.predict_one(TASK).tpot_us
    assert one.predict_one(TASK).total_us.mean == one.predict_one(TASK).ttft_us.mean


def test_nor_does_a_measurement_of_one_token() -> None:
    alone = tuple(Sample(task, replace(outcome(task, output_tokens=1), tpot_us=0)) for task in MEASURED)
    told = Physical(METER, SAMPLES).predict_one(TASK)
    assert Physical(METER, alone).predict_one(TASK).tpot_us == Physical(METER).predict_one(TASK).tpot_us
    assert Physical(METER, alone + SAMPLES).predict_one(TASK).tpot_us == told.tpot_us
    assert Physical(METER, alone).predict_one(TASK).ttft_us == told.ttft_us


def test_bands_learn_only_from_what_was_promised() -> None:
    """Without promises they stay as wide as at first; with promises that hold they narrow."""
    came = outcome(TASK)
    blind, told = Physical(METER, SAMPLES), Physical(METER, SAMPLES)
    for _ in range(40):
        blind.learn_one(TASK, came, None)
        told.learn_one(TASK, came, told.predict_one(TASK))
    wide, narrow = blind.predict_one(TASK).ttft_us, told.predict_one(TASK).ttft_us
    assert wide.mean == narrow.mean
    assert (wide.low, wide.high) == (wide.mean // 2, pytest.approx(2 * wide.mean, abs=2))
    assert narrow.high - narrow.low < 0.3 * (wide.high - wide.low)


def test_without_level_a_slower_machine_is_noticed_later() -> None:
    slow = outcome(TASK, factor=1.6)
    found = {}
    for rate in (0.06, 0.0):
        model = taught(Physical(METER, SAMPLES, level_rate=rate), TASK, outcome(TASK), 100)
        found[rate] = taught(model, TASK, slow, 10).predict_one(TASK).ttft_us.mean
    assert found[0.0] < found[0.06] < slow.ttft_us


def test_no_tokens_and_far_too_many_have_a_forecast() -> None:
    model = taught(Physical(METER), Task(0, 0, 1), Outcome(0, 0, 0, 0), 3)
    nothing, vast = model.predict_one(Task(0, 0, 1)), model.predict_one(Task(10**9, 0, 10**6))
    assert 0 <= nothing.ttft_us.mean <= nothing.total_us.mean
    assert vast.ttft_us.mean == vast.total_us.high == LATENCY_US_MAX


def test_a_cost_is_metered_from_the_expected_length_and_its_band_holds_what_was_cached_by_luck() -> None:
    model = taught(Physical(METER, SAMPLES), TASK, outcome(TASK, output_tokens=11), 100)
    assert model.predict_one(TASK).cost_microcredits == Band(*3 * [METER(Usage(600, 200, 11))])
    lucky = replace(outcome(TASK, output_tokens=11), cached_tokens=500)
    model = Physical(METER, SAMPLES)
    for came in 20 * [*4 * [outcome(TASK, output_tokens=11)], lucky]:
        model.learn_one(TASK, came, model.predict_one(TASK))
    band = model.predict_one(TASK).cost_microcredits
    assert band.low <= METER(Usage(600, 500, 11)) < band.mean == METER(Usage(600, 200, 11)) == band.high


def test_no_cost_is_expected_beyond_that_of_the_longest_answer() -> None:
    task = Task(600, 600, 4)
    band = taught(Physical(METER, SAMPLES), TASK, outcome(TASK, output_tokens=32), 20).predict_one(task)
    assert band.cost_microcredits.high == METER(Usage(600, 600, 4))


def test_a_forecast_is_all_that_a_predictor_has_bands_for() -> None:
    assert set(Physical(METER)._bands) == set(Forecast.__struct_fields__)
