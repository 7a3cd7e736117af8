"""What a regression makes of its prior, of exact data, of stalls, and of a change."""

import numpy as np
import pytest

from p2pagent.routing.qos_regression import LEAST, Regression

TRUE = np.array([20_000.0, 300_000.0, 5_000.0])
ROWS = [(1.0, 0.1, 0.0), (1.0, 1.0, 0.0), (1.0, 0.3, 3.0), (1.0, 0.7, 1.0)]


def worth(row: tuple[float, ...], coefficients: np.ndarray = TRUE) -> float:
    return float(coefficients @ np.array(row))


def drawn(rng: np.random.Generator) -> tuple[float, ...]:
    return 1.0, float(rng.uniform(0, 1.5)), float(rng.integers(0, 4))


def known(rows: list[tuple[float, ...]] = ROWS) -> Regression:
    return Regression(rows, [worth(row) for row in rows])


def test_measurements_are_believed_before_anything_is_learned() -> None:
    for row in ROWS:
        assert known().predict(row) == pytest.approx(worth(row), rel=0.05)


def test_what_was_never_varied_is_learned_when_it_is() -> None:
    regression = known([(1.0, 0.1, 0.0), (1.0, 1.0, 0.0)])
    assert regression.coefficients[2] == pytest.approx(0, abs=1)
    rng = np.random.default_rng(0)
    for _ in range(100):
        row = drawn(rng)
        regression.learn(row, worth(row))
    assert regression.coefficients == pytest.approx(TRUE, rel=0.03)


def test_a_stall_now_and_then_spoils_little() -> None:
    """One answer in fifty takes ten times as long, which least squares would spread over all: a fifth more."""
    regression = known()
    rng = np.random.default_rng(0)
    for place in range(400):
        row = drawn(rng)
        regression.learn(row, worth(row) * (10 if place % 50 == 49 else rng.lognormal(0, 0.1)))
    for row in ROWS:
        assert regression.predict(row) == pytest.approx(worth(row), rel=0.06)


def test_what_is_true_no_more_is_forgotten_but_for_the_prior() -> None:
    """That is of a machine three times as fast, so each of its measurements weighs nine of those learned."""
    regression = known()
    rng = np.random.default_rng(0)
    for _ in range(600):
        row = drawn(rng)
        regression.learn(row, 3 * worth(row))
    for row in ROWS:
        assert 0.75 < regression.predict(row) / worth(row) / 3 < 1


def test_what_would_have_to_cost_less_than_nothing_costs_nothing() -> None:
    regression = known()
    rng = np.random.default_rng(0)
    for _ in range(300):
        row = drawn(rng)
        regression.learn(row, worth(row, np.array([60_000, 300_000, -10_000])))
    assert regression.coefficients[2] == 0
    assert regression.coefficients[1] == pytest.approx(300_000, rel=0.2)


def test_nothing_takes_no_time_at_all() -> None:
    regression = Regression([(1.0, 0.0)], [0.0])
    assert regression.predict((0.0, 0.0)) == LEAST
    regression.learn((1.0, 1.0), 0.0)
    assert np.isfinite(regression.predict((1.0, 1.0)))


def test_a_microsecond_and_a_minute_are_in_one_sum() -> None:
    """Weights are then 10**15 apart: as a sum of squares the lighter would not be there at all."""
    regression = Regression([(1.0, 0.0, 1.0), (1.0, 1.0, 0.0)], [60e6, 60e6])
    for _ in range(50):
        regression.learn((1.0, 0.0, 0.0), LEAST)
    assert regression.predict((1.0, 0.0, 0.0)) == pytest.approx(LEAST, rel=0.01)
    assert regression.predict((1.0, 1.0, 0.0)) == pytest.approx(60e6, rel=0.01)
    assert regression.predict((1.0, 0.0, 1.0)) == pytest.approx(60e6, rel=0.01)


def test_it_keeps_no_more_however_much_it_learns() -> None:
    regression = known()
    for row in ROWS * 50:
        regression.learn(row, worth(row))
    assert len(regression._seen) <= len(TRUE) + 1
