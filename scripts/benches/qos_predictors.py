"""The predictors that the bench of quality of service compares, and what each lacks."""

from collections.abc import Callable, Sequence
from sys import maxsize

from river.dummy import StatisticRegressor
from river.forest import ARFRegressor
from river.stats import EWMean
from river.tree import HoeffdingAdaptiveTreeRegressor

from p2pagent.peer.messages import RateCard
from p2pagent.routing.qos import Predictor, Sample
from p2pagent.routing.qos_physical import Physical
from scripts.benches.qos_hoeffding import RECENT, Hoeffding

RATES = RateCard(10, 1, 40)
"""Rates that part all kinds of tokens, in microcredits."""

CONTENDERS: dict[str, Callable[[Sequence[Sample]], Predictor]] = {
    "physical": Physical,
    "without level": lambda samples: Physical(samples, level_rate=0.0),
    "without forest": lambda samples: Physical(samples, forest_first=maxsize),
    "regression alone": lambda samples: Physical(samples, level_rate=0.0, forest_first=maxsize),
    "Hoeffding tree": lambda samples: Hoeffding(RATES, samples),
    "Hoeffding adaptive tree": lambda samples: Hoeffding(
        RATES, samples, lambda: HoeffdingAdaptiveTreeRegressor(seed=0)
    ),
    "adaptive random forest": lambda samples: Hoeffding(RATES, samples, lambda: ARFRegressor(seed=0)),
    "running mean, whatever is asked": lambda samples: Hoeffding(
        RATES, samples, lambda: StatisticRegressor(EWMean(RECENT))
    ),
}
