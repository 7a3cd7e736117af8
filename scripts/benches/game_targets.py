"""Ours against those that a target names, on the same traces, point by point; a target holds at the worst point.

The best of the paper's own baselines on a trace is, of those whose queue stays bounded there, the one of the highest
utility: a right answer less `DELAY` per second, which is what every asker maximises. Where none stays bounded there is
nothing to compare with: any bounded queue beats an unbounded one, by as much as the run is long.
"""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from p2pagent.sim.policy import DELAY_MICROCREDITS_PER_S, VALUE_MICROCREDITS
from p2pagent.sim.traces import Arrivals
from scripts.benches import intervals
from scripts.benches.game_points import brief
from scripts.benches.game_policies import LOCAL, OURS, PAPERS_OWN, PROBE_ALL, TWO
from scripts.benches.game_runs import GOSSIP_S, QUERIES, Figures, Played
from scripts.benches.intervals import Interval
from scripts.benches.report import Target, at_least, at_most
from scripts.benches.run import Run

GROWTH_MAX = 0.01
"""A queue is bounded if it keeps no more than this share of the questions that are asked."""

DELAY = DELAY_MICROCREDITS_PER_S / VALUE_MICROCREDITS
FASTER = 1 - 0.1634
MORE_ACCURATE = 0.0796
PROBE_ALL_RATIO_MAX = 1.02
PROBES_SHARE_MAX = 0.65
BUSY_LOAD = 0.7


class Point(NamedTuple):
    """Where policies meet."""

    peers: int
    arrivals: Arrivals
    gossip_s: float
    load: float

    @property
    def label(self) -> str:
        bursty = ", bursty" if self.arrivals == "bursty" else ""
        return f"{self.peers} peers, load {self.load:g}, gossip {self.gossip_s:g} s{bursty}"


class Pair(NamedTuple):
    """Ours and what it is compared with on one trace; `best` is None where none of the paper's own stays bounded."""

    ours: Figures
    best: Figures | None
    local: Figures
    probe_all: Figures
    two: Figures


COLUMNS = {
    "latency over the papers' best": lambda pair: pair.best and pair.ours.latency_s / pair.best.latency_s,
    "accuracy over the papers' best": lambda pair: pair.best and pair.ours.accuracy / pair.best.accuracy - 1,
    "accuracy over local": lambda pair: pair.ours.accuracy / pair.local.accuracy - 1,
    "latency over probe all": lambda pair: pair.ours.latency_s / pair.probe_all.latency_s,
    "probes over probe all": lambda pair: pair.ours.probes / pair.probe_all.probes,
    "latency over power of two": lambda pair: pair.ours.latency_s / pair.two.latency_s,
    "accuracy over power of two": lambda pair: pair.ours.accuracy / pair.two.accuracy - 1,
}


def pairs(played: list[Played]) -> dict[Point, list[Pair]]:
    """Every trace at its point, once per gossip period."""
    found: dict[Point, list[Pair]] = defaultdict(list)
    for case, figures in sorted(((p.case, p.figures) for p in played), key=lambda one: one[0].seed):
        by_name = {(f.policy, f.gossip_s): f for f in figures}
        own = [by_name[name, None] for name in PAPERS_OWN]
        best = max((f for f in own if f.growth <= GROWTH_MAX), key=utility, default=None)
        for gossip_s in GOSSIP_S:
            others = (by_name[name, None] for name in (LOCAL, PROBE_ALL, TWO))
            point = Point(case.peers, case.arrivals, gossip_s, case.load)
            found[point].append(Pair(by_name[OURS, gossip_s], best, *others))
    return {point: found[point] for point in sorted(found, key=lambda p: (list(QUERIES).index(p.peers), *p[1:]))}


def utility(figures: Figures) -> float:
    """What a question was worth on average, in right answers."""
    return figures.accuracy - DELAY * figures.latency_s


def against(found: dict[Point, list[Pair]]) -> dict[str, list[dict[str, Any]]]:
    """Two tables with a row per point: means over traces of what ours is over another on the same trace."""
    papers, probing = list(COLUMNS)[:3], list(COLUMNS)[3:]
    return {
        "against the papers' own": [
            {"point": point.label, "best": best_of(of), **{name: mean_over(of, name) for name in papers}}
            for point, of in found.items()
        ],
        "against those that probe": [
            {"point": point.label, **{name: mean_over(of, name) for name in probing}} for point, of in found.items()
        ],
    }


def best_of(of: list[Pair]) -> str:
    """Who was the best of the paper's own, on how many traces."""
    names = Counter(pair.best.policy for pair in of if pair.best)
    return ", ".join(f"{name} ({count})" for name, count in names.most_common()) or "none bounded"


def mean_over(of: list[Pair], name: str) -> Interval | None:
    """The mean of one column over the traces on which it can be had."""
    values = [value for value in map(COLUMNS[name], of) if value is not None]
    if not values:
        return None
    mean = intervals.mean(values)
    return Interval(brief(mean.value), brief(mean.low), brief(mean.high), mean.n)


def targets(run: Run, found: dict[Point, list[Pair]]) -> list[Target]:
    """The worst point of each; a quick run is too short to hold anybody to anything."""

    def means(name: str, load_min: float = 0.0) -> list[float]:
        at = (of for point, of in found.items() if point.load >= load_min)
        return [mean.value for of in at if (mean := mean_over(of, name)) is not None]

    def highest(values: list[float]) -> float | None:
        return None if run.quick else max(values, default=None)

    def lowest(values: list[float]) -> float | None:
        return None if run.quick else min(values, default=None)

    fastest, rightest = "latency over the papers' best", "accuracy over the papers' best"
    return [
        at_most(fastest, FASTER, highest(means(fastest))),
        at_least(f"{rightest}, relative", 0, lowest(means(rightest))),
        at_least("accuracy over local, relative", MORE_ACCURATE, lowest(means("accuracy over local"))),
        at_most("latency over probe all", PROBE_ALL_RATIO_MAX, highest(means("latency over probe all"))),
        at_most("probes over probe all", PROBES_SHARE_MAX, highest(means("probes over probe all"))),
        at_most(
            f"latency over power of two, load {BUSY_LOAD:g} and more",
            1,
            highest(means("latency over power of two", BUSY_LOAD)),
        ),
    ]
