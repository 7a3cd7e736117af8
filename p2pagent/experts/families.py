"""Six kinds of questions that anyone can check by eye: what the shipped experts learn and what experiments ask.

A question is a phrasing around its operands. Its split depends on the operands alone, by hash, so that no test question
was ever seen in training in other words. Everything is a pure function of the seed.
"""

import hashlib
from collections.abc import Callable
from random import Random
from string import ascii_lowercase
from typing import Literal, get_args

from msgspec import Struct

Family = Literal["reverse", "sort", "add", "caesar", "count", "minutes"]
"""A kind of question, and the name of the expert that answers it."""

Split = Literal["train", "calibration", "test"]
"""What questions are for: learning, measuring oneself, being measured by others. No operands are in two of them."""

FAMILIES: tuple[Family, ...] = get_args(Family)

VOWELS = "aeiou"

_LETTERS = ascii_lowercase + 2 * VOWELS
_SHIFTED = str.maketrans(ascii_lowercase, ascii_lowercase[3:] + ascii_lowercase[:3])
_BUCKETS = 10
_DRAWS_MIN, _DRAWS_PER_QUESTION = 1_000, 100


class Question(Struct, frozen=True):
    """A question of one family and the only answer that counts as right."""

    family: Family
    prompt: str
    answer: str


class _Recipe(Struct, frozen=True):
    """How a family draws operands, solves them, and words them ({0} and {1} are the operands)."""

    draw: Callable[[Random], tuple[str, ...]]
    solve: Callable[..., str]
    phrasings: tuple[str, ...]


def questions(family: Family, split: Split, count: int, seed: int) -> list[Question]:
    """`count` distinct questions of one family from one split; the same arguments give the same questions everywhere.

    Raises:
        ValueError: `family` is not one of `FAMILIES`, or has no `count` distinct questions in this split.
    """
    if family not in _RECIPES:
        raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    recipe = _RECIPES[family]
    random = Random(f"{family} {split} {seed}")
    found: dict[str, Question] = {}
    for _ in range(_DRAWS_MIN + _DRAWS_PER_QUESTION * count):
        if len(found) == count:
            break
        operands = recipe.draw(random)
        if split_of(family, operands) == split:
            prompt = random.choice(recipe.phrasings).format(*operands)
            found.setdefault(prompt, Question(family, prompt, recipe.solve(*operands)))
    if len(found) < count:
        raise ValueError(f"{family} has fewer than {count} distinct questions in {split}")
    return list(found.values())


def split_of(family: Family, operands: tuple[str, ...]) -> Split:
    """The split that owns these operands: a tenth of all is `test`, a tenth `calibration`, the rest `train`."""
    digest = hashlib.sha256(" ".join((family, *operands)).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % _BUCKETS
    return "test" if bucket == 0 else "calibration" if bucket == 1 else "train"


def check(question: Question, answer: str) -> bool:
    """Whether `answer` is right: the exact text, white space around it aside."""
    return answer.strip() == question.answer


def _word(random: Random) -> tuple[str, ...]:
    return ("".join(random.choices(_LETTERS, k=random.randint(3, 8))),)


def _two_digit_pair(random: Random) -> tuple[str, ...]:
    return str(random.randint(10, 99)), str(random.randint(10, 99))


def _duration(random: Random) -> tuple[str, ...]:
    """Hours and minutes, both plural, up to two days."""
    return str(random.randint(2, 48)), str(random.randint(2, 59))


def _count(word: str) -> str:
    vowels = sum(letter in VOWELS for letter in word)
    return f"{_plural(vowels, 'vowel')}, {_plural(len(word) - vowels, 'consonant')}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_RECIPES: dict[Family, _Recipe] = {
    "reverse": _Recipe(
        _word,
        lambda word: word[::-1],
        (
            "Reverse the word {0}.",
            "What is {0} spelled backwards?",
            "Write {0} backwards.",
            "Spell {0} from back to front.",
        ),
    ),
    "sort": _Recipe(
        _word,
        lambda word: "".join(sorted(word)),
        (
            "Sort the letters of {0}.",
            "Put the letters of {0} in alphabetical order.",
            "Sort {0} alphabetically.",
            "What are the letters of {0} from a to z?",
        ),
    ),
    "add": _Recipe(
        _two_digit_pair,
        lambda left, right: str(int(left) + int(right)),
        (
            "What is {0} plus {1}?",
            "Add {0} and {1}.",
            "What is the sum of {0} and {1}?",
            "How much is {0} + {1}?",
        ),
    ),
    "caesar": _Recipe(
        _word,
        lambda word: word.translate(_SHIFTED),
        (
            "Shift each letter of {0} by three.",
            "Encode {0} with a Caesar shift of 3.",
            "What is {0} in the Caesar cipher?",
            "Move every letter of {0} three places on.",
        ),
    ),
    "count": _Recipe(
        _word,
        _count,
        (
            "How many vowels and consonants are in {0}?",
            "Count the vowels and consonants of {0}.",
            "How many vowels and consonants does {0} have?",
            "Count vowels and consonants in the word {0}.",
        ),
    ),
    "minutes": _Recipe(
        _duration,
        lambda hours, minutes: str(60 * int(hours) + int(minutes)),
        (
            "How many minutes are {0} hours and {1} minutes?",
            "Convert {0} hours and {1} minutes to minutes.",
            "What is {0} hours {1} minutes in minutes?",
            "How long is {0} hours and {1} minutes in minutes?",
        ),
    ),
}
