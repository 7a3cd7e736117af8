"""Quality of service by Hoeffding trees, as IEMAS has it (arXiv 2603.17302): one per agent and figure, cost included.

Cost is learned as it was billed and predicted by a tree of its own, not metered from a predicted length.

A Hoeffding tree (Domingos and Hulten 2000; for regression Ikonomovska, Gama and Dzeroski 2011, Data Mining and
Knowledge Discovery 23:128) splits a leaf once it is sure, by Hoeffding's bound, which split is best. river's
(https://riverml.xyz), with its defaults; features are standardised, since its leaves hold linear models. Bands are of
river's jackknife.
"""

from collections.abc import Callable, Hashable, Sequence

from msgspec.structs import replace
from river.base import Regressor
from river.conf import RegressionJackknife
from river.preprocessing import StandardScaler
from river.tree import HoeffdingTreeRegressor

from p2pagent.routing.qos import LATENCY_US_MAX, Band, Forecast, Meter, Outcome, Sample, Task

CONFIDENCE = 0.9
WINDOW = 200
RECENT = 0.1
"""Weight of one answer in the recent latencies, which are features, and in a running mean."""


class Hoeffding:
    """One agent's latencies, lengths and costs; a `Predictor`. Another of river's regressors may replace the tree."""

    def __init__(
        self, meter: Meter, samples: Sequence[Sample] = (), regressor: Callable[[], Regressor] = HoeffdingTreeRegressor
    ) -> None:
        """Begin with the engine's start-up benchmark; costs are those by `meter`."""
        self._meter = meter
        self._models = {
            figure: StandardScaler() | RegressionJackknife(regressor(), CONFIDENCE, WINDOW)
            for figure in Forecast.__struct_fields__
        }
        self._ttft_us = self._tpot_us = 0.0
        for sample in samples:
            self.learn_one(sample.task, sample.outcome, None)

    def predict_one(self, task: Task) -> Forecast:
        """See `Predictor`."""
        features = self._features(task)
        dearest = self._meter(task.usage(task.max_tokens))
        return Forecast(
            ttft_us=self._band("ttft_us", features, LATENCY_US_MAX),
            tpot_us=self._band("tpot_us", features, LATENCY_US_MAX),
            output_tokens=self._band("output_tokens", features, task.max_tokens),
            total_us=self._band("total_us", features, LATENCY_US_MAX),
            cost_microcredits=self._band("cost_microcredits", features, dearest),
        )

    def learn_one(self, task: Task, outcome: Outcome, promised: Forecast | None) -> None:  # noqa: ARG002 - the jackknife has its own
        """See `Predictor`."""
        # Ours is told what was really cached, too.
        features = self._features(replace(task, cached_tokens=outcome.cached_tokens))
        for figure, value in outcome.figures(task, self._meter).items():
            self._models[figure].learn_one(features, value)
        self._ttft_us += RECENT * (outcome.ttft_us - self._ttft_us)
        self._tpot_us += RECENT * (outcome.tpot_us - self._tpot_us)

    def _features(self, task: Task) -> dict[Hashable, float]:
        """What the physical predictor is told, its products, and the recent latencies."""
        return {
            **{name: float(getattr(task, name)) for name in Task.__struct_fields__},
            "uncached_tokens": float(task.uncached_tokens),
            "attention": float(task.uncached_tokens * task.prompt_tokens),
            "recent_ttft_us": self._ttft_us,
            "recent_tpot_us": self._tpot_us,
        }

    def _band(self, figure: str, features: dict[Hashable, float], most: int) -> Band:
        model = self._models[figure]
        mean = model.predict_one(features)
        interval = model.predict_one(features, with_interval=True)
        low, middle, high = (round(min(most, max(0.0, bound))) for bound in (interval.lower, mean, interval.upper))
        return Band(middle, min(low, middle), max(middle, high))
