"""The predictors that the bench of quality of service compares, and what each lacks."""

from collections.abc import Callable, Sequence
from functools import partial
from math import exp
from sys import maxsize

from river.dummy import StatisticRegressor
from river.forest import ARFRegressor
from river.stats import EWMean
from river.tree import HoeffdingAdaptiveTreeRegressor

from p2pagent.routing.qos import Predictor, Sample
from p2pagent.routing.qos_lengths import Lengths
from p2pagent.routing.qos_physical import Physical
from scripts.benches.qos_hoeffding import RECENT, Hoeffding
from scripts.benches.qos_record import LENGTH_LOG
from scripts.benches.qos_replay import METER


class Knowing(Physical):
    """Ours, with nothing left to learn of lengths: no predictor of them can expect a smaller error."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(METER, samples)
        self._lengths = AsDrawn()


class AsDrawn(Lengths):
    """The median of what is drawn."""

    def predict(self, max_tokens: int) -> float:
        """See `Lengths`."""
        return min(exp(LENGTH_LOG[0]), max_tokens)


CONTENDERS: dict[str, Callable[[Sequence[Sample]], Predictor]] = {
    "physical": partial(Physical, METER),
    "without level": lambda samples: Physical(METER, samples, level_rate=0.0),
    "without forest": lambda samples: Physical(METER, samples, forest_first=maxsize),
    "regression alone": lambda samples: Physical(METER, samples, level_rate=0.0, forest_first=maxsize),
    "knowing how lengths are drawn": Knowing,
    "Hoeffding tree": lambda samples: Hoeffding(METER, samples),
    "Hoeffding adaptive tree": lambda samples: Hoeffding(
        METER, samples, lambda: HoeffdingAdaptiveTreeRegressor(seed=0)
    ),
    "adaptive random forest": lambda samples: Hoeffding(METER, samples, lambda: ARFRegressor(seed=0)),
    "running mean, whatever is asked": lambda samples: Hoeffding(
        METER, samples, lambda: StatisticRegressor(EWMean(RECENT))
    ),
}
