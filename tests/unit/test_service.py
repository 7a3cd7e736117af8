"""How quickly beliefs about one's own speed follow what happens."""

import pytest

from p2pagent.routing.service import FORGET, ServiceTimes


def learned(*answers: tuple[int, int, int, int]) -> ServiceTimes:
    times = ServiceTimes()
    for answer in answers:
        times.learn_one(*answer)
    return times


def test_the_first_answer_replaces_the_guess() -> None:
    prediction = learned((100, 10, 50, 150)).predict_one(200, ahead=0, slots=1)
    assert (prediction.ttft_ms, prediction.tpot_us) == (100, 10_000)


def test_the_second_counts_as_much_as_the_first() -> None:
    times = learned((100, 10, 50, 150), (100, 10, 150, 450))
    assert times.predict_one(100, 0, 1).ttft_ms == 100
    assert times.predict_one(100, 0, 1).tpot_us == 20_000


def test_in_the_long_run_each_new_answer_weighs_a_tenth() -> None:
    times = learned(*[(100, 10, 100, 200)] * 50)
    before = times.predict_one(1_000, 0, 1).ttft_ms
    times.learn_one(100, 10, 200, 300)
    assert times.predict_one(1_000, 0, 1).ttft_ms == pytest.approx(before + (1 - FORGET) * 1_000, abs=2)


def test_whoever_waits_waits_for_whole_answers_ahead() -> None:
    times = learned((100, 10, 100, 200))
    free, queued = times.predict_one(100, 0, 2), times.predict_one(100, 2, 2)
    assert queued.ttft_ms == free.ttft_ms + 200
    assert times.predict_one(100, 2, 1).ttft_ms == free.ttft_ms + 400


def test_an_answer_without_tokens_divides_by_nothing() -> None:
    prediction = learned((0, 0, 0, 0)).predict_one(0, 0, 1)
    assert (prediction.ttft_ms, prediction.tpot_us) == (0, 0)
