"""Replay: what is predicted when, what counts where, and both predictors on synthetic traces."""

import numpy as np
import pytest

from p2pagent.routing.qos import Band, Forecast, Outcome, Task
from scripts.benches.qos_predictors import CONTENDERS
from scripts.benches.qos_replay import METER, TARGETS, Answer, Scores, Trace, compared, replay, scores, windows
from tests.qos_streams import Machine, stream


class Last:
    """Predicts the last figures that it learned, give or take one tenth; 100 of each at first."""

    def __init__(self) -> None:
        self.forecast = self._around(Task(50, 10, 64), Outcome(100, 100, 100, 0))

    def predict_one(self, task: Task) -> Forecast:
        return self.forecast

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:
        assert promised is not None
        self.forecast = self._around(task, outcome)

    def _around(self, task: Task, outcome: Outcome) -> Forecast:
        figures = outcome.figures(task, METER).values()
        return Forecast(*(Band(figure, figure * 9 // 10, figure * 11 // 10) for figure in figures))


def answered(start_ms: int, end_ms: int, ttft_us: int, output_tokens: int = 3, cached_tokens: int = 0) -> Answer:
    return Answer(Task(50, 10, 64), Outcome(ttft_us, 20, output_tokens, cached_tokens), start_ms, end_ms)


def test_answers_are_predicted_from_what_had_ended_in_earlier_epochs() -> None:
    """The second begins when the first has ended, but in its epoch; the third in the next, when two has not ended."""
    trace = Trace(
        (),
        (answered(0, 400, 111), answered(500, 2_100, 222), answered(1_500, 1_900, 333), answered(3_000, 4_000, 1)),
        0,
    )
    assert [forecast.ttft_us.mean for forecast in replay(trace, Last())] == [100, 100, 111, 222]


def test_errors_and_coverage_of_every_figure() -> None:
    trace = Trace((), (answered(0, 400, 111, 3, 20), answered(1_000, 1_400, 105, 1)), 0)
    found = scores(trace, replay(trace, Last()), METER)
    assert found["ttft_us"].errors.tolist() == [11, 6]
    assert found["ttft_us"].covered.tolist() == [0, 1]
    assert found["tpot_us"].errors.tolist() == pytest.approx([80, np.nan], nan_ok=True)
    assert found["tpot_us"].covered.tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert found["output_tokens"].errors.tolist() == [97, 2]
    # Ten tokens were quoted as cached, twenty and none were: at least ten are charged so.
    costs = 40 * 10 + 10 + 100 * 40, 30 * 10 + 20 + 3 * 40, 40 * 10 + 10 + 1 * 40
    assert found["cost_microcredits"].errors.tolist() == [costs[0] - costs[1], costs[2] - costs[1]]
    assert found["total_us"].errors.tolist() == [abs(111 + 40 - 10_000), abs(105 - 151)]


def test_windows_are_of_answers_as_they_began() -> None:
    trace = Trace((), tuple(answered(10 * i, 10 * i + 50, 1) for i in range(1_100)), onset_ms=7_005)
    found = windows(trace)
    assert (found["cold"], found["warm"]) == (slice(0, 100), slice(300, 701))
    assert trace.answers[found["drift"]][0].start_ms == 7_010
    assert (len(trace.answers[found["drift"]]), len(trace.answers[found["after"]])) == (200, 199)


def test_windows_of_a_short_trace_have_the_same_parts() -> None:
    trace = Trace((), tuple(answered(10 * i, 10 * i + 50, 1) for i in range(80)), onset_ms=485)
    assert windows(trace) == {
        "cold": slice(0, 7),
        "warm": slice(21, 49),
        "drift": slice(49, 63),
        "after": slice(63, 77),
    }


def test_ratios_are_of_summed_errors_and_pooled_over_traces() -> None:
    traces = [Trace((), tuple(answered(i, i + 1, 1) for i in range(1_100)), 700)] * 2

    def scored(errors: float, covered: float) -> dict[str, Scores]:
        figures = np.full(1_100, errors, dtype=float)
        figures[50] = np.nan
        inside = np.where(np.isnan(figures), np.nan, covered)
        return dict.fromkeys(TARGETS, Scores(figures, inside))

    found = compared(traces, {"a": [scored(1, 1), scored(3, 0)], "b": [scored(4, 1), scored(4, 1)]}, "b")
    cold = found["a"]["ttft_us"]["cold"]
    assert (cold.error, cold.coverage.value, cold.coverage.n) == (2, 0.5, 10)
    assert cold.against.value == pytest.approx(0.5)
    assert 0.25 < cold.against.low < 0.5 < cold.against.high < 0.75
    assert found["b"]["total_us"]["drift"].against.value == 1


def test_intervals_know_that_answers_in_a_row_miss_together() -> None:
    """Of ten blocks one misses as a whole: as if there were ten answers, not two hundred."""
    trace = Trace((), tuple(answered(i, i + 1, 1) for i in range(2_200)), 1_400)
    covered = np.ones(2_200)
    covered[20:40] = 0
    found = compared([trace], {"a": [dict.fromkeys(TARGETS, Scores(np.ones(2_200), covered))]}, "a")
    cold = found["a"]["ttft_us"]["cold"].coverage
    assert (cold.value, cold.n) == (0.9, 10)
    assert cold.low < 0.75 < 0.99 < cold.high


def test_a_block_ends_with_its_window() -> None:
    trace = Trace((), tuple(answered(i, i + 1, 1) for i in range(770)), 490)
    errors = np.where(np.arange(770) < 70, 1.0, 99.0)
    found = compared([trace], {"a": [dict.fromkeys(TARGETS, Scores(errors, np.ones(770)))]}, "a")
    assert found["a"]["ttft_us"]["cold"].error == 1


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_can_be_replayed(name: str) -> None:
    trace = stream(7, 120, onset=100)
    forecasts = replay(trace, CONTENDERS[name](trace.samples))
    assert len({forecast.ttft_us.mean for forecast in forecasts}) > 10


def test_synthetic_traces_are_what_they_say() -> None:
    machine = Machine(noise=0.02, stalls=0.0)
    trace = stream(1, 1_000, machine)
    assert trace == stream(1, 1_000, machine) != stream(2, 1_000, machine)
    before, after = trace.answers[300:700], trace.answers[700:900]
    assert trace.answers[700].start_ms == trace.onset_ms > trace.answers[699].start_ms
    alone = [
        np.quantile([a.outcome.tpot_us for a in part if a.task.running == 0 and a.outcome.output_tokens > 3], 0.1)
        for part in (before, after)
    ]
    assert alone[1] / alone[0] == pytest.approx(1.6, rel=0.15)
    assert max(answer.task.running for answer in trace.answers) == machine.slots - 1
    hits = [a for a in before if a.task.cached_tokens > 500 and a.task.running == 0]
    misses = [a for a in before if a.task.prompt_tokens > 500 and a.task.cached_tokens == 0 and a.task.running == 0]
    assert 2 * np.median([a.outcome.ttft_us for a in hits]) < np.median([a.outcome.ttft_us for a in misses])
    assert 0.5 < np.mean([a.task.cached_tokens > 0 for a in trace.answers]) < 0.7


@pytest.mark.slow
def test_the_physical_predictor_is_ahead_of_the_hoeffding_tree_where_it_matters() -> None:
    """Cold, warm and after a change, and its bands hold: as is asked of recorded traces."""
    traces = [stream(seed, 1_000) for seed in range(5)]
    scored = {
        name: [scores(trace, replay(trace, CONTENDERS[name](trace.samples)), METER) for trace in traces]
        for name in ("physical", "Hoeffding tree")
    }
    ours = compared(traces, scored, "Hoeffding tree")["physical"]
    for target in ("ttft_us", "total_us"):
        for window, most in (("cold", 0.8), ("warm", 0.9), ("drift", 0.8)):
            assert ours[target][window].against.value <= most, (target, window)
            assert 0.87 <= ours[target][window].coverage.value <= 0.93, (target, window)
