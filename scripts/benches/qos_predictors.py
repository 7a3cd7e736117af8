"""The predictors that the bench of quality of service compares, and what each lacks."""

from collections.abc import Callable, Sequence
from sys import maxsize

from river.forest import ARFRegressor
from river.tree import HoeffdingAdaptiveTreeRegressor

from p2pagent.routing.qos import Predictor, Sample
from p2pagent.routing.qos_physical import Physical
from scripts.benches.qos_hoeffding import Hoeffding

CONTENDERS: dict[str, Callable[[Sequence[Sample]], Predictor]] = {
    "physical": Physical,
    "without level": lambda samples: Physical(samples, level_rate=0.0),
    "without forest": lambda samples: Physical(samples, forest_first=maxsize),
    "regression alone": lambda samples: Physical(samples, level_rate=0.0, forest_first=maxsize),
    "Hoeffding tree": Hoeffding,
    "Hoeffding adaptive tree": lambda samples: Hoeffding(samples, lambda: HoeffdingAdaptiveTreeRegressor(seed=0)),
    "adaptive random forest": lambda samples: Hoeffding(samples, lambda: ARFRegressor(seed=0)),
}
