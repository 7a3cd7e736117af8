"""How wide bands are, and how much lies within them."""

from math import exp

import numpy as np
import pytest

from p2pagent.routing.qos import Band
from p2pagent.routing.qos_bands import ALPHA, ALPHA_MAX, FEW, LAST, Bands

MOST = 10**9


def learned(bands: Bands, mean: int, factors: np.ndarray) -> list[tuple[bool, bool]]:
    """Whether each figure was below or above its band."""
    outside = []
    for factor in factors:
        band, value = bands.around(mean, MOST), round(mean * factor)
        outside.append((value < band.low, value > band.high))
        bands.learn(band, value)
    return outside


def test_without_scores_a_factor_of_two_either_way() -> None:
    assert Bands().around(1_000, MOST) == Band(1_000, 500, 2_000)


def test_no_band_goes_beyond_what_is_possible() -> None:
    assert Bands().around(40.0, 64) == Band(40, 20, 64)
    assert Bands().around(100.0, 64) == Band(64, 50, 64)


def test_the_bounds_are_the_quantiles_of_the_scores() -> None:
    """As long as a is alpha: of 99 scores, the 95th covers 95 of 100; of 50 the bound is between two, at 48.45."""
    rng = np.random.default_rng(0)
    for count, place in ((99, 95), (50, 48.45)):
        scores = np.sort(rng.normal(0, 0.2, count))
        bands = Bands()
        for score in rng.permutation(scores):
            bands.learn(Band(10**6, 0, MOST), round(10**6 * exp(score)))
        for side in (bands._above, bands._below):
            side._alpha = ALPHA
        band = bands.around(10**6, MOST)
        places = np.arange(1, count + 1)
        assert band.high == pytest.approx(10**6 * exp(np.interp(place, places, scores)), abs=2)
        assert band.low == pytest.approx(10**6 * exp(np.interp(count + 1 - place, places, scores)), abs=2)


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_nine_in_ten_lie_within(spread: float) -> None:
    factors = np.random.default_rng(1).lognormal(0, spread, 5_000)
    outside = np.array(learned(Bands(), 10**5, factors))
    assert outside.mean(axis=0) == pytest.approx([ALPHA, ALPHA], abs=0.01)


def test_and_do_again_soon_after_a_change_that_the_predictor_misses() -> None:
    rng = np.random.default_rng(2)
    bands = Bands()
    learned(bands, 10**5, rng.lognormal(0, 0.1, 500))
    after = np.array(learned(bands, 10**5, 1.6 * rng.lognormal(0, 0.2, 500)))
    assert after[:30, 1].sum() >= 3
    assert after[: 2 * LAST, 1].mean() == pytest.approx(ALPHA, abs=0.03)
    assert after[2 * LAST :, 1].mean() == pytest.approx(ALPHA, abs=0.02)
    assert after[:, 0].mean() < ALPHA


def test_what_is_always_right_gets_no_band_and_can_lose_that() -> None:
    bands = Bands()
    learned(bands, 1_000, np.ones(2_000))
    assert bands._above._alpha == ALPHA_MAX
    assert bands.around(1_000, MOST) == Band(1_000, 1_000, 1_000)
    outside = learned(bands, 1_000, np.random.default_rng(0).lognormal(0, 0.3, 400))
    assert np.array(outside[100:]).any(axis=1).mean() < 0.13


def test_a_band_on_one_side_of_what_is_expected_ends_there() -> None:
    bands = Bands()
    learned(bands, 1_000, np.full(100, 3.0))
    assert bands.around(1_000, MOST).low == 1_000


def test_where_more_than_alpha_was_outside_all_that_was_seen_is_covered() -> None:
    bands = Bands()
    values = np.linspace(1_000, 3_000, 100)
    for value in values:
        bands.learn(Band(1_000, 500, 1_000), round(value))
    assert bands.around(1_000, MOST).high == pytest.approx(3_000, abs=2)


def test_a_few_scores_do_not_make_a_narrow_band() -> None:
    few, enough = Bands(), Bands()
    learned(few, 1_000, np.ones(FEW - 1))
    learned(enough, 1_000, np.ones(FEW))
    assert few.around(1_000, MOST) == Band(1_000, 500, 2_000)
    assert enough.around(1_000, MOST) == Band(1_000, 1_000, 1_000)
