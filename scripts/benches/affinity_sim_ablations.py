"""Peers without one of the things by which they choose where a conversation goes on: what is each of them worth?

Each part is taken out where all of it passes, in every peer made or at work inside `without`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

from p2pagent.peer import calling, choice, seller
from p2pagent.routing.qos import Band, Forecast, Meter, Outcome, Sample, Task
from p2pagent.routing.residency import Recall, Shelf

Part = Literal["affinity", "prediction", "market", "eviction"]

FORGET = 0.9
"""Weight of the past in means."""


class Means:
    """Forgetting means of what answers took, whatever they were: in place of a prediction for the one asked about."""

    def __init__(self, meter: Meter, samples: Sequence[Sample] = ()) -> None:
        self._meter = meter
        self._ttft_us, self._tpot_us, self._tokens = 0.0, 0.0, 0.0
        self._seen = 0
        for sample in samples:
            self.learn_one(sample.task, sample.outcome, None)

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:  # noqa: ARG002
        """See `Predictor`."""
        keep = min(FORGET, self._seen / (self._seen + 1))
        self._seen += 1
        self._ttft_us += (1 - keep) * (outcome.ttft_us - self._ttft_us)
        self._tpot_us += (1 - keep) * (outcome.tpot_us - self._tpot_us)
        self._tokens += (1 - keep) * (outcome.output_tokens - self._tokens)

    def predict_one(self, task: Task) -> Forecast:
        """See `Predictor`."""
        total_us = self._ttft_us + self._tpot_us * max(0.0, self._tokens - 1)
        cost = self._meter(task.usage(round(self._tokens)))
        return Forecast(*(_flat(mean) for mean in (self._ttft_us, self._tpot_us, self._tokens, total_us, cost)))


def _flat(mean: float) -> Band:
    return Band(round(mean), round(mean), round(mean))


def _nothing(*_: Any) -> int:
    return 0


def _never(*_: Any) -> bool:
    return False


SEAMS: dict[Part, tuple[tuple[Any, str, Callable[..., Any]], ...]] = {
    # Neither side believes that anything is cached; who is charged less for it has been lucky.
    "affinity": ((Recall, "expected_tokens", _nothing), (Shelf, "held_tokens", _nothing)),
    "prediction": ((seller, "Physical", Means),),
    # Nobody is told what an answer drives out of a cache.
    "eviction": ((Shelf, "displaced_tokens", _nothing),),
    # Nobody heeds what an answer does to others, and no slot is cleared by a hub, so that none has a price.
    "market": (
        (choice, "toll", _nothing),
        (calling, "is_contested", _never),
        (Shelf, "displaced_tokens", _nothing),
    ),
}


@contextmanager
def without(part: Part | None) -> Iterator[None]:
    """Take this part out of all peers, or nothing."""
    with ExitStack() as stack:
        for owner, name, instead in SEAMS[part] if part else ():
            stack.enter_context(patch.object(owner, name, instead))
        yield
