"""What was found at every point: a row per number of peers and policy, a column per load."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from p2pagent.sim.traces import Arrivals
from scripts.benches import intervals
from scripts.benches.game_policies import ABLATED, NAMED, PUBLISHED
from scripts.benches.game_runs import LOADS, QUERIES, Figures, Played

METRICS = (
    "latency_s",
    "accuracy",
    "p95_s",
    "p99_s",
    "probes",
    "jain_askers",
    "jain_agents",
    "cached_share",
    "growth",
)
"""As in `Figures`."""

WITH_INTERVALS = ("latency_s", "accuracy")
ORDER = [*NAMED, *PUBLISHED, *ABLATED]
Mean = Callable[[list[Figures]], intervals.Interval | float | None]


class Line(NamedTuple):
    """What a row is about."""

    peers: int
    arrivals: Arrivals
    policy: str
    gossip_s: float | None

    @property
    def label(self) -> str:
        """The policy with what sets it apart from its other rows."""
        gossip = f", gossip {self.gossip_s:g} s" if self.gossip_s else ""
        return f"{'bursty: ' if self.arrivals == 'bursty' else ''}{self.policy}{gossip}"


def tables(played: list[Played]) -> dict[str, list[dict[str, Any]]]:
    """One table per metric: a mean over seeds per load, with its interval for latency and accuracy."""
    cells: dict[Line, dict[float, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    for case, figures in sorted(((p.case, p.figures) for p in played), key=lambda found: found[0].seed):
        for found in figures:
            line = Line(case.peers, case.arrivals, found.policy, found.gossip_s)
            cells[line][case.load].append(found)
    lines = sorted(cells, key=place)
    return {metric: [row(line, cells[line], mean_of(metric)) for line in lines] for metric in METRICS}


def row(line: Line, cells: dict[float, list[Figures]], mean: Mean) -> dict[str, Any]:
    """One policy's cells of one metric; loads that were not run stay empty."""
    return {"peers": line.peers, "policy": line.label, **{f"load {load:g}": mean(cells[load]) for load in LOADS}}


def place(line: Line) -> tuple[int, bool, int, float]:
    """Rows by peers, then steady before bursty, then as the policies are listed."""
    peers = list(QUERIES).index(line.peers)
    return peers, line.arrivals == "bursty", ORDER.index(line.policy), line.gossip_s or 0.0


def mean_of(metric: str) -> Mean:
    """The mean of one metric over seeds; None where nothing was run."""

    def of(found: list[Figures]) -> intervals.Interval | float | None:
        if not found:
            return None
        mean = intervals.mean([getattr(figures, metric) for figures in found])
        if metric not in WITH_INTERVALS:
            return brief(mean.value)
        return intervals.Interval(brief(mean.value), brief(mean.low), brief(mean.high), mean.n)

    return of


def brief(value: float) -> float:
    """Five digits are more than any of these is good for."""
    return float(f"{value:.5g}")
