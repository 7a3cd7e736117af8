"""The predictors that the bench of quality of service compares, and what each lacks."""

from collections.abc import Callable, Sequence
from functools import partial
from sys import maxsize

from river.dummy import StatisticRegressor
from river.forest import ARFRegressor
from river.stats import EWMean
from river.tree import HoeffdingAdaptiveTreeRegressor

from p2pagent.market.receipts import metered
from p2pagent.peer.messages import RateCard
from p2pagent.routing.qos import Predictor, Sample
from p2pagent.routing.qos_physical import Physical
from scripts.benches.qos_hoeffding import RECENT, Hoeffding

METER = partial(metered, RateCard(10, 1, 40))
"""Its rates part all kinds of tokens."""

CONTENDERS: dict[str, Callable[[Sequence[Sample]], Predictor]] = {
    "physical": partial(Physical, METER),
    "without level": lambda samples: Physical(METER, samples, level_rate=0.0),
    "without forest": lambda samples: Physical(METER, samples, forest_first=maxsize),
    "regression alone": lambda samples: Physical(METER, samples, level_rate=0.0, forest_first=maxsize),
    "Hoeffding tree": lambda samples: Hoeffding(METER, samples),
    "Hoeffding adaptive tree": lambda samples: Hoeffding(
        METER, samples, lambda: HoeffdingAdaptiveTreeRegressor(seed=0)
    ),
    "adaptive random forest": lambda samples: Hoeffding(METER, samples, lambda: ARFRegressor(seed=0)),
    "running mean, whatever is asked": lambda samples: Hoeffding(
        METER, samples, lambda: StatisticRegressor(EWMean(RECENT))
    ),
}
