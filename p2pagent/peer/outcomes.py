"""Whether an answer was good, as far as that can be said without its user.

Nothing was delivered in an empty answer. One that was expected to be a certain text is compared with it. Of all others
only the user can tell.
"""

_FINAL = ".!?,;:…"


def judged(answer: str, expect: str) -> bool | None:
    """Whether `answer` is good, given what it was to be unless that is blank; None where only its user can tell."""
    if not answer.strip():
        return False
    return _plain(answer) == _plain(expect) if expect.strip() else None


def _plain(text: str) -> str:
    """`text` without what makes no difference: case, white space around and between words, punctuation at its end."""
    folded = " ".join(text.casefold().split())
    return folded.rstrip(_FINAL + " ") or folded
