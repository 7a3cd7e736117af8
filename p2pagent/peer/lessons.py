"""What a seller's predictors learn from: answers that somebody has signed for.

A question whose buyer never settles teaches nothing, so that nobody moves what is predicted for others, or for itself,
without paying for answers.
"""

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.routing.qos import Forecast, Outcome, Task
from p2pagent.routing.qos_frozen import Frozen

UNSIGNED_MAX = 1_024
"""Answers whose receipt may still be signed; the oldest are given up first."""


class Lesson(Struct, frozen=True):
    """An answer as it was met, what came of it, and what was forecast as it began."""

    predictor: Frozen
    task: Task
    outcome: Outcome
    forecast: Forecast

    def learn(self, now_ms: int) -> None:
        """Teach it."""
        self.predictor.learn_one(self.task, self.outcome, self.forecast, now_ms)


class Lessons:
    """Lessons by the receipt that is to be signed."""

    def __init__(self) -> None:
        self._unsigned: dict[bytes, Lesson] = {}

    def on_delivered(self, receipt: bytes, lesson: Lesson) -> None:
        """An answer has left; the id of its receipt is `receipt`."""
        self._unsigned[receipt] = lesson
        bound(self._unsigned, UNSIGNED_MAX)

    def on_signed(self, receipt: bytes, now_ms: int) -> None:
        """The buyer has signed."""
        lesson = self._unsigned.pop(receipt, None)
        if lesson is not None:
            lesson.learn(now_ms)
