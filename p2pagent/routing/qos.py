"""Quality of service: what is predicted of an answer when it gets its slot, and what came of it.

Predictors see how much there is to compute and what else is at work, nothing of a bid: what somebody offers to pay
cannot move what is predicted for it. Times are in microseconds, lengths in tokens, all integers; what happens in
between is in floats.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from p2pagent.types import Microcredits, Usage

Meter = Callable[[Usage], Microcredits]
"""What so many tokens cost."""

WAIT_MS_MAX = 120_000
"""No more is ever predicted or learned: what takes longer is as good as gone, and one odd measurement is to spoil
nothing."""

LATENCY_US_MAX = 1_000 * WAIT_MS_MAX


class Task(Struct, frozen=True):
    """An answer as it gets its slot.

    Attributes:
        prompt_tokens: of the whole prompt.
        cached_tokens: those of them that are believed to be in the cache.
        max_tokens: the most that the answer may have.
        running: other answers at work on the engine.
        prefilling_tokens: uncached tokens of those that have not said anything yet.
        waiting: answers that wait for a slot.
    """

    prompt_tokens: int
    cached_tokens: int
    max_tokens: int
    running: int = 0
    prefilling_tokens: int = 0
    waiting: int = 0

    @property
    def uncached_tokens(self) -> int:
        """What of the prompt is to be computed."""
        return max(0, self.prompt_tokens - self.cached_tokens)

    def usage(self, output_tokens: int) -> Usage:
        """What is metered if so many tokens are answered, and no more is cached than is believed."""
        return Usage(self.prompt_tokens, self.prompt_tokens - self.uncached_tokens, output_tokens)


class Outcome(Struct, frozen=True):
    """What came of a task: time from the slot to the first token, per further token, and the tokens of the usage."""

    ttft_us: int
    tpot_us: int
    output_tokens: int
    cached_tokens: int

    @classmethod
    def timed(cls, ttft_us: int, rest_us: int, usage: Usage) -> "Outcome":
        """Of an answer whose first token took `ttft_us` and all others together `rest_us`."""
        further = usage.output_tokens - 1
        return cls(ttft_us, rest_us // further if further > 0 else 0, usage.output_tokens, usage.cached_tokens)

    @property
    def has_tpot(self) -> bool:
        """Whether there was a second token, so that `tpot_us` says something."""
        return self.output_tokens > 1

    @property
    def total_us(self) -> int:
        """From the slot to the last token."""
        return self.ttft_us + self.tpot_us * max(0, self.output_tokens - 1)

    def figures(self, task: Task, meter: Meter) -> dict[str, int]:
        """What came of each figure of a `Forecast`, but for the time of further tokens where there were none.

        What was believed to be cached is promised: no fewer tokens than that are charged as cached.
        """
        cached = min(task.prompt_tokens, max(task.cached_tokens, self.cached_tokens))
        charged = Usage(task.prompt_tokens, cached, self.output_tokens)
        found = {
            "ttft_us": self.ttft_us,
            "tpot_us": self.tpot_us,
            "output_tokens": self.output_tokens,
            "total_us": self.total_us,
            "cost_microcredits": meter(charged),
        }
        if not self.has_tpot:
            del found["tpot_us"]
        return found


class Sample(Struct, frozen=True):
    """A measurement of an engine's start-up benchmark."""

    task: Task
    outcome: Outcome


class Band(Struct, frozen=True):
    """A figure as it is expected, and the bounds that nine in ten are to lie within; `low <= mean <= high`."""

    mean: int
    low: int
    high: int


class Forecast(Struct, frozen=True):
    """What is expected of a task; `total_us` is from the slot to the last token."""

    ttft_us: Band
    tpot_us: Band
    output_tokens: Band
    total_us: Band
    cost_microcredits: Band


class Predictor(Protocol):
    """Learns one agent's answers as they end, predicts them as they begin."""

    def predict_one(self, task: Task) -> Forecast:
        """What to expect; learns nothing."""

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:
        """Take in an answer, and what was predicted of it when it began, if anything was."""
