"""How long answers are expected to be where some were cut off."""

from p2pagent.routing.qos_lengths import EXPECTED, LAST, Lengths


def learned(*answers: tuple[int, int]) -> Lengths:
    lengths = Lengths()
    for answer in answers:
        lengths.learn(*answer)
    return lengths


def test_without_answers_one_of_usual_length_is_expected() -> None:
    assert [Lengths().predict(limit) for limit in (40, 500)] == [40, EXPECTED]


def test_the_median_of_what_ended_by_itself() -> None:
    lengths = learned((10, 64), (12, 64), (50, 64))
    assert (lengths.predict(64), lengths.predict(11)) == (12, 11)


def test_what_was_cut_off_would_have_been_longer() -> None:
    """Three of ten ended within ten tokens, five were cut there: the median is beyond, where two end at 30 and 40.

    By Kaplan and Meier: 8/11 outlive 10 and none of the five cut off is seen again; of the three left, that taken for
    usual among them, two outlive 30.
    """
    cut = [(10, 10)] * 5
    lengths = learned((5, 64), (6, 64), (7, 64), *cut, (30, 64), (40, 64))
    assert lengths.predict(64) == 30
    assert learned((5, 64), *cut).predict(64) == 64


def test_old_answers_are_forgotten() -> None:
    lengths = learned(*[(5, 64)] * LAST, *[(50, 64)] * (LAST // 2 - 1), (5, 64))
    assert lengths.predict(64) == 5
    lengths.learn(50, 64)
    lengths.learn(50, 64)
    assert lengths.predict(64) == 50
