"""A predictor that stands still within an epoch.

All quotes of an epoch come from one model, so that nobody's question, however it goes, moves what its rivals are quoted
in the same clearing. What is learned counts from the next epoch on.
"""

from p2pagent.routing.qos import Forecast, Outcome, Predictor, Task

EPOCH_MS = 1_000


class Frozen:
    """One model, as it was when the epoch began."""

    def __init__(self, model: Predictor) -> None:
        self._model = model
        self._epoch = 0
        self._learned: list[tuple[Task, Outcome, Forecast | None]] = []

    def predict_one(self, task: Task, at_ms: int) -> Forecast:
        """What to expect of a task that gets its slot now."""
        self._enter(at_ms)
        return self._model.predict_one(task)

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None, at_ms: int) -> None:
        """Take in an answer that has been signed for; predictions change with the next epoch."""
        self._enter(at_ms)
        self._learned.append((task, outcome, promised))

    def _enter(self, at_ms: int) -> None:
        epoch = at_ms // EPOCH_MS
        if epoch > self._epoch:
            for task, outcome, promised in self._learned:
                self._model.learn_one(task, outcome, promised)
            self._epoch, self._learned = epoch, []
