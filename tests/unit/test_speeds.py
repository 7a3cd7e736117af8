"""How long answers take by what there is to compute, as it follows from answers."""

import pytest

from p2pagent.routing.speeds import LEAST_SHARE, Speeds

MEAN_MS = 200


def taught(*answers: tuple[int, int]) -> Speeds:
    speeds = Speeds()
    for uncached_tokens, ttft_ms in answers:
        speeds.learn(uncached_tokens, ttft_ms, MEAN_MS)
    return speeds


@pytest.mark.parametrize("answers", [(), ((100, 50),), ((100, 50), (100, 70))])
def test_as_long_as_prompts_do_not_differ_all_take_what_is_usual(answers: tuple[tuple[int, int], ...]) -> None:
    speeds = taught(*answers)
    assert speeds.answer_ms(5_000, MEAN_MS) == MEAN_MS
    assert speeds.prefill_ms(5_000, MEAN_MS) == 0


def test_more_to_compute_takes_longer_and_less_shorter_in_the_agents_own_measure() -> None:
    speeds = taught(*((tokens, 30 + tokens // 100) for tokens in (1_000, 3_000, 5_000)))
    assert speeds.prefill_ms(4_000, MEAN_MS) == pytest.approx(40, abs=1)
    assert speeds.prefill_ms(4_000, 10 * MEAN_MS) == pytest.approx(400, abs=1)
    usual, more = speeds.answer_ms(3_000, MEAN_MS), speeds.answer_ms(4_000, MEAN_MS)
    assert usual == pytest.approx(MEAN_MS, abs=1)
    assert more - usual == pytest.approx(10, abs=1)
    assert speeds.answer_ms(0, MEAN_MS) == pytest.approx(170, abs=1)


def test_prompts_that_hardly_differ_tell_next_to_nothing() -> None:
    speeds = taught((15, 100), (17, 2_000), (16, 1_000))
    assert speeds.answer_ms(30, MEAN_MS) == pytest.approx(MEAN_MS, rel=0.05)


def test_an_answer_is_never_for_nothing_and_a_prompt_never_less() -> None:
    speeds = taught(*((tokens, tokens) for tokens in (500, 1_000, 1_500)))
    assert speeds.answer_ms(0, MEAN_MS) == round(LEAST_SHARE * MEAN_MS)
    sooner = taught((100, 90), (200, 60), (300, 30))
    assert sooner.prefill_ms(1_000, MEAN_MS) == 0


def test_of_agents_without_a_mean_nothing_is_learned() -> None:
    speeds = Speeds()
    speeds.learn(10, 10, 0)
    speeds.learn(1_000, 1_000, 0)
    assert speeds.answer_ms(10, MEAN_MS) == MEAN_MS


def test_one_answer_that_took_for_ever_spoils_little() -> None:
    speeds = taught((10, 2**31), *((tokens, 30 + tokens // 100) for tokens in (1_000, 3_000, 5_000) * 40))
    assert speeds.answer_ms(5_000, MEAN_MS) < 2 * MEAN_MS


def test_what_was_answered_long_ago_is_forgotten() -> None:
    slow, fast = [(tokens, tokens) for tokens in (1_000, 3_000)], [(tokens, tokens // 10) for tokens in (1_000, 3_000)]
    speeds = taught(*slow * 100, *fast * 300)
    assert speeds.prefill_ms(1_000, MEAN_MS) == pytest.approx(100, rel=0.05)
