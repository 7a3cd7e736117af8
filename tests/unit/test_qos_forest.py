"""When the forest is fitted, and that its trees are asked as scikit-learn would ask them."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from p2pagent.routing import qos_forest
from p2pagent.routing.qos_forest import EVERY, FIRST, LEAF, REACH, TREES, Forest


def drawn(count: int) -> list[tuple[tuple[float, float], float]]:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 10, (count, 2))
    return [((float(x), float(y)), float((x > 5) - 0.5 + rng.normal(0, 0.1))) for x, y in points]


def learned(answers: list[tuple[tuple[float, float], float]]) -> Forest:
    forest = Forest()
    for features, residual in answers:
        forest.learn(features, residual)
    return forest


def test_nothing_is_expected_before_there_is_enough() -> None:
    answers = drawn(FIRST)
    assert learned(answers[:-1]).predict((9.0, 5.0)) == 0
    assert learned(answers).predict((9.0, 5.0)) == pytest.approx(0.5, abs=0.1)
    assert learned(answers).predict((1.0, 5.0)) == pytest.approx(-0.5, abs=0.1)


def test_it_is_fitted_anew_only_now_and_then() -> None:
    answers = drawn(FIRST + EVERY)
    at = [learned(answers[:count]).predict((9.0, 5.0)) for count in (FIRST, FIRST + EVERY - 1, FIRST + EVERY)]
    assert at[0] == at[1] != at[2]


def test_the_mean_of_its_trees_is_what_the_forest_says() -> None:
    answers = drawn(FIRST)
    forest = learned(answers)
    whole = ExtraTreesRegressor(n_estimators=TREES, min_samples_leaf=LEAF, random_state=0)
    whole.fit([features for features, _ in answers], [max(-REACH, min(REACH, y)) for _, y in answers])
    for features, _ in answers[:20]:
        assert forest.predict(features) == pytest.approx(whole.predict([features])[0])


def test_no_residual_counts_for_more_than_a_factor_of_two() -> None:
    forest = learned([(features, 10.0) for features, _ in drawn(FIRST)])
    assert forest.predict((5.0, 5.0)) == pytest.approx(REACH)


def test_what_is_old_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qos_forest, "LAST", FIRST)
    answers = drawn(2 * FIRST)
    turned = [(features, -residual) for features, residual in answers[FIRST:]]
    assert learned(answers[:FIRST] + turned).predict((9.0, 5.0)) == pytest.approx(-0.5, abs=0.1)
