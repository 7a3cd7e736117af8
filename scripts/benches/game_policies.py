"""Which policies meet where: whoever a target names everywhere, the other baselines with 5 and 50 peers."""

from p2pagent.sim import baselines, baselines_caches, baselines_scores, policy_ablations
from p2pagent.sim.policy import Policy
from p2pagent.sim.policy_game import Game
from p2pagent.sim.traces import Arrivals

OURS = "ours"
PROBE_ALL = "probe all"
TWO = "power of two"
LOCAL = "local"
PAPERS_OWN = (LOCAL, "majority vote", "RouterDC", "KABB", "KABB, one expert")
"""PPAI's own baselines. KABB also with one expert, which bears more load than the published two."""

PEERS_PUBLISHED = (5, 50)
"""Where the baselines run that no target names."""

PEERS_ABLATED = 50
LOADS_ABLATED = (0.5, 0.7, 0.9)

NAMED: dict[str, type[Policy]] = {
    OURS: Game,
    PROBE_ALL: baselines.ProbeAll,
    TWO: baselines.PowerOfTwo,
    LOCAL: baselines.Local,
    "majority vote": baselines_scores.Vote,
    "RouterDC": baselines_scores.RouterDC,
    "KABB": baselines_scores.Kabb,
    "KABB, one expert": baselines_scores.KabbOne,
}
PUBLISHED: dict[str, type[Policy]] = {
    "stale least loaded": baselines.StaleLeastLoaded,
    "Preble E2": baselines_caches.Preble,
    "LBGR": baselines_caches.Lbgr,
    "SGLang cache-aware": baselines_caches.SGLang,
    "sticky session": baselines_caches.Sticky,
    "random": baselines.RandomAgent,
    "round robin": baselines.RoundRobin,
    "score only": baselines.ScoreOnly,
    "UniRoute": baselines_scores.UniRoute,
    "k-NN": baselines_scores.NearestNeighbours,
    "vLLM Semantic Router": baselines_scores.SemanticRouter,
}
ABLATED: dict[str, type[Policy]] = {
    "ours without price": policy_ablations.Unpriced,
    "ours without probes": policy_ablations.Unprobed,
    "ours without chance": policy_ablations.Greedy,
    "ours without own in flight": policy_ablations.Forgetful,
    "rates only": policy_ablations.RatesOnly,
    "probe all, priced": policy_ablations.PricedProbeAll,
    "power of two, priced": policy_ablations.PricedPowerOfTwo,
}


def contenders(peers: int, load: float, arrivals: Arrivals) -> dict[str, type[Policy]]:
    """Who runs, by name."""
    published = PUBLISHED if peers in PEERS_PUBLISHED else {}
    ablated = ABLATED if peers == PEERS_ABLATED and load in LOADS_ABLATED and arrivals == "poisson" else {}
    return NAMED | published | ablated
