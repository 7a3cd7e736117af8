"""What can be said of an answer without its user."""

import pytest

from p2pagent.peer.outcomes import judged


@pytest.mark.parametrize("answer", ["", " ", "\n\t "])
@pytest.mark.parametrize("expect", ["", " ", "42", "."])
def test_an_empty_answer_is_bad_whatever_was_expected(answer: str, expect: str) -> None:
    assert judged(answer, expect) is False


@pytest.mark.parametrize("answer", ["42", "...", "no idea"])
@pytest.mark.parametrize("expect", ["", "  "])
def test_without_an_expectation_only_the_user_can_tell(answer: str, expect: str) -> None:
    assert judged(answer, expect) is None


@pytest.mark.parametrize(
    ("answer", "expect"),
    [
        ("42", "42"),
        (" 42.\n", "42"),
        ("42", "42."),
        ("The  Quick\nfox!", "the quick fox"),
        ("STRASSE", "straße"),
        ("yes . ", "yes"),
        ("...", "..."),
    ],
)
def test_case_spaces_and_final_punctuation_make_no_difference(answer: str, expect: str) -> None:
    assert judged(answer, expect) is True


@pytest.mark.parametrize(
    ("answer", "expect"), [("43", "42"), ("42 apples", "42"), ("4.2", "42"), (".42", "42"), ("?", "!"), ("4 2", "42")]
)
def test_anything_else_does(answer: str, expect: str) -> None:
    assert judged(answer, expect) is False
