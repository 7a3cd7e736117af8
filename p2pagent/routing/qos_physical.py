"""Quality of service from what an engine does: prefill, steps of continuous batching, answers side by side.

The time of an iteration is a constant for reading the weights and a term per sequence (Yu et al. 2022, Orca, OSDI,
section 3); that of prefill is linear in the tokens computed, plus one for attention, as each of them meets the whole
prompt. Prompts under way share the engine, so that a first token waits for theirs, too.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from p2pagent.routing.qos import LATENCY_US_MAX, Band, Forecast, Meter, Outcome, Sample, Task
from p2pagent.routing.qos_bands import Bands
from p2pagent.routing.qos_forest import FIRST
from p2pagent.routing.qos_latency import LEVEL_RATE, Latency
from p2pagent.routing.qos_lengths import Lengths

THOUSAND = 1_000
"""Tokens are counted in thousands, so that all features are about one."""

FEW = 4
"""Answers beside a prefill are counted in fours: where measurements cannot tell whether it were they that held it up or
their prompts, as when all slots start at once, most of it is put down to the larger feature, the prompts."""

GUESSED = tuple(Sample(Task(tokens, 0, 16), Outcome(2_000 * tokens, 5_000, 16, 0)) for tokens in (64, 256, 1_024))
"""What an engine of which nothing is known is taken for."""


class Physical:
    """One agent's latencies, lengths and costs, each with its band; a `Predictor`.

    A cost is that of the expected length, at what `meter` says: all else of it is known, but for what turns out to be
    cached beyond what is promised.
    """

    def __init__(
        self,
        meter: Meter,
        samples: Sequence[Sample] = (),
        *,
        level_rate: float = LEVEL_RATE,
        forest_first: int = FIRST,
    ) -> None:
        """Begin with the engine's start-up benchmark, without one with a guess; for the rest see `Latency`."""
        self._meter = meter
        first = samples or GUESSED
        further = [sample for sample in samples if sample.outcome.has_tpot] or GUESSED
        self._ttft = Latency(
            [_first_token(known.task) for known in first],
            [known.outcome.ttft_us for known in first],
            level_rate,
            forest_first,
        )
        self._tpot = Latency(
            [_further_tokens(known.task) for known in further],
            [known.outcome.tpot_us for known in further],
            level_rate,
            forest_first,
        )
        self._lengths = Lengths()
        self._bands = {figure: Bands() for figure in Forecast.__struct_fields__}

    def predict_one(self, task: Task) -> Forecast:
        """See `Predictor`."""
        context = _context(task)
        ttft_us = self._ttft.predict(_first_token(task), context)
        tpot_us = self._tpot.predict(_further_tokens(task), context)
        tokens = self._lengths.predict(task.max_tokens)
        return Forecast(
            ttft_us=self._band("ttft_us", ttft_us),
            tpot_us=self._band("tpot_us", tpot_us),
            output_tokens=self._band("output_tokens", tokens, task.max_tokens),
            total_us=self._band("total_us", ttft_us + tpot_us * max(0.0, tokens - 1)),
            cost_microcredits=self._band(
                "cost_microcredits", self._meter(task.usage(round(tokens))), self._meter(task.usage(task.max_tokens))
            ),
        )

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:
        """See `Predictor`."""
        if promised is not None:
            for figure, value in outcome.figures(task, self._meter).items():
                self._bands[figure].learn(getattr(promised, figure), value)
        # It took as long as what was computed in the end, not as what was believed to be cached.
        met = replace(task, cached_tokens=outcome.cached_tokens)
        context = _context(met)
        self._ttft.learn(_first_token(met), context, outcome.ttft_us)
        if outcome.has_tpot:
            self._tpot.learn(_further_tokens(met), context, outcome.tpot_us)
        self._lengths.learn(outcome.output_tokens, task.max_tokens)

    def _band(self, figure: str, mean: float, most: int = LATENCY_US_MAX) -> Band:
        return self._bands[figure].around(mean, most)


def _first_token(task: Task) -> tuple[float, ...]:
    """A constant, prefill of its own and of those before or beside it, steps of others, attention.

    Tokens of others cost what its own do: they are in the same step, or in one that must end first.
    """
    uncached, prompt = task.uncached_tokens / THOUSAND, task.prompt_tokens / THOUSAND
    return 1.0, uncached + task.prefilling_tokens / THOUSAND, task.running / FEW, uncached * prompt


def _further_tokens(task: Task) -> tuple[float, ...]:
    """A constant, answers beside it, prefill that holds up its steps, attention to its prompt, prompts to come.

    Of those that wait only as many begin meanwhile as others end, however long the queue is.
    """
    to_come = task.waiting / (1 + task.waiting)
    return 1.0, task.running, task.prefilling_tokens / THOUSAND, task.prompt_tokens / THOUSAND, to_come


def _context(task: Task) -> tuple[float, ...]:
    return (
        task.prompt_tokens,
        task.uncached_tokens,
        task.prefilling_tokens,
        task.running,
        task.waiting,
        task.max_tokens,
    )
