"""The bench `churn`: what peers that leave without a word cost the others, and what scale costs; in simulation."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from scripts.benches import intervals
from scripts.benches.churn_runs import CHURN, TRAFFIC_CHURN, Case, Measured, Part, cases, play_all
from scripts.benches.report import Report, Target, at_least, at_most, machine
from scripts.benches.run import Run

HARD = 0.1
GAP_MAX = 0.02
"""Of accuracy, behind an oracle that knows who is alive, at `HARD`."""

GROWTH_MAX = 2.0
SMALL, LARGE = 100, 10_000


def bench(run: Run) -> Report:
    """Simulate every case."""
    start = perf_counter()
    done = sorted(play_all(run, cases(run)), key=lambda m: _order(m.case))
    churn, traffic = churn_rows(_of(done, "churn")), traffic_rows([*_of(done, "traffic"), *_of(done, "scale")])
    (scale,) = _of(done, "scale")
    figures = {"by_churn": churn, "gossip": traffic, "scale": scale_figures(scale)}
    return Report(
        bench="churn",
        seed=run.seed,
        quick=run.quick,
        seconds=round(perf_counter() - start, 1),
        confidence=intervals.CONFIDENCE,
        machine=machine(),
        figures=figures,
        targets=targets(churn, traffic),
    )


def churn_rows(done: list[Measured]) -> list[dict[str, Any]]:
    """A row per level of churn, over seeds; what is compared with no churn is compared seed by seed."""
    still = {m.case.seed: m for m in done if not m.case.churn_per_minute}
    rows = []
    for churn in CHURN:
        runs = [m for m in done if m.case.churn_per_minute == churn]
        asked = sum(m.results.asked - m.results.abandoned for m in runs)
        rows.append(
            {
                "peers": runs[0].case.peers,
                "churn_per_minute": churn,
                "seeds": len(runs),
                "questions": asked,
                "asker_left": sum(m.results.abandoned for m in runs),
                "answered_share": intervals.share(sum(len(m.samples.latency_ms) for m in runs), asked),
                "accuracy": _mean(runs, lambda m: m.results.accuracy),
                "accuracy_knowing_who_is_alive": _mean(runs, lambda m: m.results.accuracy_informed),
                "accuracy_gap": _mean(runs, lambda m: _less(m.results.accuracy_informed, m.results.accuracy)),
                "accuracy_best_claim": _mean(runs, lambda m: m.results.accuracy_claimed),
                "accuracy_best_skill": _mean(runs, lambda m: m.results.accuracy_oracle),
                "accuracy_local": _mean(runs, lambda m: m.results.accuracy_local),
                "latency_ms_mean": _mean(runs, lambda m: m.results.latency_ms.mean),
                "latency_ms_p95": _mean(runs, lambda m: m.results.latency_ms.p95),
                "latency_ms_p99": _mean(runs, lambda m: m.results.latency_ms.p99),
                "latency_ms_added": _mean(
                    runs, lambda m: _less(m.results.latency_ms.mean, still[m.case.seed].results.latency_ms.mean)
                ),
                "calls_per_query": _mean(runs, lambda m: m.results.calls_per_query),
                "restarts_per_query": _mean(runs, lambda m: m.results.restarts_per_query),
                "deaths": sum(m.results.deaths for m in runs),
                "suspected_s": _seconds([ms for m in runs for ms in m.samples.suspected_ms]),
                "suspected_s_p95": _percentile([ms for m in runs for ms in m.samples.suspected_ms], 95),
                "gone_s": _seconds([ms for m in runs for ms in m.samples.known_ms]),
                "gone_s_p95": _percentile([ms for m in runs for ms in m.samples.known_ms], 95),
                "deaths_never_noticed": sum(m.results.deaths_unknown for m in runs),
                "gossip_out_bytes_per_s": _mean(runs, lambda m: m.results.gossip_out_bytes_per_s),
            }
        )
    return rows


def traffic_rows(done: list[Measured]) -> list[dict[str, Any]]:
    """A row per size and churn: what one peer sends and receives of gossip."""
    rows = []
    for churn in TRAFFIC_CHURN:
        for peers in sorted({m.case.peers for m in done}):
            runs = [m for m in done if (m.case.peers, m.case.churn_per_minute) == (peers, churn)]
            if not runs:
                continue
            each = np.concatenate([m.samples.gossip_bytes_per_s for m in runs])
            rows.append(
                {
                    "peers": peers,
                    "churn_per_minute": churn,
                    "seeds": len(runs),
                    "out_bytes_per_s": _mean(runs, lambda m: m.results.gossip_out_bytes_per_s),
                    "in_bytes_per_s": _mean(runs, lambda m: m.results.gossip_in_bytes_per_s),
                    "both_bytes_per_s_p99": float(np.percentile(each, 99)),
                    "peers_known_mean": _mean(runs, lambda m: m.results.directory.mean),
                }
            )
    return rows


def scale_figures(m: Measured) -> dict[str, Any]:
    """The largest run: what it took, and that the network works at that size."""
    return {
        "peers": m.case.peers,
        "virtual_minutes": m.case.settle_minutes + m.case.minutes,
        "questions": m.results.asked,
        "answered_share": m.results.answered_share,
        "accuracy": m.results.accuracy,
        "accuracy_local": m.results.accuracy_local,
        "latency_ms_mean": m.results.latency_ms.mean,
        "wall_s": round(m.wall_s, 1),
        "events": m.results.events,
        "events_per_s": round(m.results.events / m.wall_s),
        "memory_mb": m.memory_mb,
    }


def targets(churn: list[dict[str, Any]], traffic: list[dict[str, Any]]) -> list[Target]:
    """What the issue asks for. Sizes that a quick run leaves out are not measured."""
    held = [
        at_least(f"answered_share at {row['churn_per_minute']:.0%} a minute", 1.0, row["answered_share"].value)
        for row in churn
    ]
    (hard,) = (row for row in churn if row["churn_per_minute"] == HARD)
    held.append(at_most(f"accuracy_gap at {HARD:.0%} a minute", GAP_MAX, hard["accuracy_gap"].value))
    for level in TRAFFIC_CHURN:
        sent = {row["peers"]: row["out_bytes_per_s"].value for row in traffic if row["churn_per_minute"] == level}
        growth = sent[LARGE] / sent[SMALL] if {SMALL, LARGE} <= sent.keys() else None
        held.append(at_most(f"gossip at {LARGE} peers over that at {SMALL}, {level:.0%} a minute", GROWTH_MAX, growth))
    return held


def _of(done: list[Measured], part: Part) -> list[Measured]:
    return [m for m in done if m.case.part == part]


def _order(case: Case) -> tuple[str, int, float, int]:
    return (case.part, case.peers, case.churn_per_minute, case.seed)


def _mean(runs: list[Measured], figure: Callable[[Measured], float | None]) -> intervals.Interval | None:
    values = [value for value in map(figure, runs) if value is not None]
    return intervals.mean(values) if values else None


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _seconds(times_ms: list[int]) -> intervals.Interval | None:
    return intervals.mean([ms / 1000 for ms in times_ms]) if times_ms else None


def _percentile(times_ms: list[int], percent: float) -> float | None:
    return float(np.percentile(times_ms, percent)) / 1000 if times_ms else None
