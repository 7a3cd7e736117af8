"""Within an epoch nothing moves; afterwards everything that was learned counts, in its order."""

from p2pagent.routing.qos import Band, Forecast, Outcome, Task
from p2pagent.routing.qos_frozen import EPOCH_MS, Frozen

TASK = Task(100, 0, 16)


class Recorder:
    """Predicts how much it has learned."""

    def __init__(self) -> None:
        self.learned: list[tuple[int, Forecast | None]] = []

    def predict_one(self, task: Task) -> Forecast:
        band = Band(len(self.learned), 0, 10)
        return Forecast(band, band, band, band, band)

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:
        self.learned.append((outcome.ttft_us, promised))


def came(ttft_us: int) -> Outcome:
    return Outcome(ttft_us, 10, 5, 0)


def seen(frozen: Frozen, at_ms: int) -> int:
    return frozen.predict_one(TASK, at_ms).ttft_us.mean


def test_what_is_learned_counts_from_the_next_epoch_on() -> None:
    frozen = Frozen(Recorder())
    at_ms = 5 * EPOCH_MS
    assert seen(frozen, at_ms) == 0
    frozen.learn_one(TASK, came(1), None, at_ms + 1)
    assert seen(frozen, at_ms + EPOCH_MS - 1) == 0
    assert seen(frozen, at_ms + EPOCH_MS) == 1


def test_an_answer_learned_before_the_first_prediction_of_its_epoch_waits_for_the_next() -> None:
    frozen = Frozen(Recorder())
    frozen.learn_one(TASK, came(1), None, EPOCH_MS - 1)
    frozen.learn_one(TASK, came(2), None, EPOCH_MS)
    assert seen(frozen, EPOCH_MS) == 1
    assert seen(frozen, 2 * EPOCH_MS) == 2


def test_all_is_learned_once_in_order_with_its_promise() -> None:
    recorder = Recorder()
    frozen = Frozen(recorder)
    promised = frozen.predict_one(TASK, 0)
    frozen.learn_one(TASK, came(1), promised, 10)
    frozen.learn_one(TASK, came(2), None, 20)
    for at_ms in (9 * EPOCH_MS, 10 * EPOCH_MS):
        seen(frozen, at_ms)
    assert recorder.learned == [(1, promised), (2, None)]


def test_a_clock_that_goes_back_changes_nothing() -> None:
    frozen = Frozen(Recorder())
    frozen.learn_one(TASK, came(1), None, 3 * EPOCH_MS)
    assert seen(frozen, EPOCH_MS) == 0
    assert seen(frozen, 4 * EPOCH_MS) == 1
