import re
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from p2pagent.experts.families import FAMILIES, Family, Split, check, questions

SPLITS: tuple[Split, ...] = get_args(Split)
families = st.sampled_from(FAMILIES)
seeds = st.integers(0, 2**32)
counts = st.integers(0, 40)


def numbers(prompt: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", prompt))


@given(families, st.sampled_from(SPLITS), counts, seeds)
def test_the_same_arguments_give_the_same_distinct_questions(
    family: Family, split: Split, count: int, seed: int
) -> None:
    first = questions(family, split, count, seed)

    assert first == questions(family, split, count, seed)
    assert len({question.prompt for question in first}) == count
    assert all(question.family == family and check(question, f" {question.answer} ") for question in first)


@given(families, seeds, seeds)
def test_no_prompt_is_in_two_splits(family: Family, seed: int, other: int) -> None:
    train, calibration, test = (
        {question.prompt for question in questions(family, split, 40, drawn)}
        for split, drawn in zip(SPLITS, (seed, other, seed), strict=True)
    )

    assert train.isdisjoint(calibration)
    assert train.isdisjoint(test)
    assert calibration.isdisjoint(test)


@given(st.sampled_from(("add", "minutes")), seeds, seeds)
def test_operands_stay_in_their_split_in_other_words(family: Family, seed: int, other: int) -> None:
    trained = {numbers(question.prompt) for question in questions(family, "train", 40, seed)}

    assert not trained & {numbers(question.prompt) for question in questions(family, "test", 40, other)}


@given(seeds)
def test_sorting_and_reversing_keep_the_letters(seed: int) -> None:
    for question in questions("reverse", "test", 10, seed) + questions("sort", "test", 10, seed):
        words = question.prompt.rstrip(".?").split()
        assert any(sorted(word) == sorted(question.answer) for word in words)


@given(seeds)
def test_caesar_comes_back_after_twenty_three_more(seed: int) -> None:
    for question in questions("caesar", "test", 10, seed):
        back = "".join(chr((ord(letter) - ord("a") - 3) % 26 + ord("a")) for letter in question.answer)
        assert back in question.prompt
