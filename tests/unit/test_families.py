import pytest

from p2pagent.experts.families import FAMILIES, Family, Question, check, questions, split_of


@pytest.mark.parametrize(
    ("family", "right"),
    [
        ("reverse", {"What is cuw spelled backwards?": "wuc", "Write iqof backwards.": "foqi"}),
        ("sort", {"Sort yale alphabetically.": "aely"}),
        ("add", {"How much is 14 + 25?": "39", "Add 49 and 41.": "90"}),
        ("caesar", {"Shift each letter of fdznaahe by three.": "igcqddkh"}),
        ("count", {"Count the vowels and consonants of lnizf.": "1 vowel, 4 consonants"}),
        ("minutes", {"Convert 41 hours and 7 minutes to minutes.": "2467"}),
    ],
)
def test_answers_are_right(family: Family, right: dict[str, str]) -> None:
    asked = {question.prompt: question.answer for question in questions(family, "test", 400, 0)}

    assert right.items() <= asked.items()


def test_one_consonant_is_singular() -> None:
    answers = {question.answer for question in questions("count", "train", 500, 0)}

    assert "2 vowels, 1 consonant" in answers
    assert "1 vowel, 3 consonants" in answers


@pytest.mark.parametrize("family", FAMILIES)
def test_every_split_suffices_for_measuring(family: Family) -> None:
    for split in ("calibration", "test"):
        assert len({question.prompt for question in questions(family, split, 500, 1)}) == 500


@pytest.mark.parametrize("family", FAMILIES)
def test_another_familys_answer_is_rarely_right(family: Family) -> None:
    answers = [question.answer for question in questions(family, "test", 400, 0)]

    assert max(answers.count(answer) for answer in set(answers)) < 0.2 * len(answers)


def test_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="minutes has fewer than 1200"):
        questions("minutes", "test", 1_200, 0)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="no family 'poetry'; there are reverse"):
        questions("poetry", "test", 1, 0)  # type: ignore[arg-type]


def test_splits_never_move() -> None:
    """The shipped experts were trained on these splits: a change here would let them see what they are tested on."""
    assert [split_of("reverse", (word,)) for word in ("apple", "summer", "planet")] == ["test", "calibration", "train"]


def test_check_forgives_white_space_only() -> None:
    question = Question("add", "Add 12 and 30.", "42")

    assert check(question, " 42\n")
    assert not check(question, "42.")
    assert not check(question, "4 2")
