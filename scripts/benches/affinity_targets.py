"""What the affinity bench is held to, whichever engine answers: every figure against others of the same run."""

from statistics import mean
from typing import Any

from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS
from scripts.benches.report import Target, at_least, at_most

OURS = "ours"
BASELINES = tuple(ROUTERS)
"""Whom ours is compared with: the best of all of them, the worst of all."""

OF_CEILING_MIN = 0.95
HIT_MIN, CEILING_HIGH = 0.80, 0.85
"""The least hit rate, on a trace on which there is that much to be had."""

COST_MAX = 0.65
"""Of the mean over the routers that look at loads only."""

FASTER_MIN = 2.9

Row = dict[str, Any]
"""A policy's figures: `policy`; `hit_rate`, `ttft_ms` and `price_microcredits`, an answer's means, as intervals."""


def targets(where: str, ceiling: float, rows: list[Row]) -> list[Target]:
    """Ours in `rows` against the others there, on traces with this `ceiling`."""
    by = {row["policy"]: row for row in rows}
    hit = by[OURS]["hit_rate"].value
    ttft_ms = {policy: by[policy]["ttft_ms"].value for policy in (OURS, *BASELINES)}
    price = {policy: by[policy]["price_microcredits"].value for policy in (OURS, *BASELINES)}
    others_ms = [ttft_ms[policy] for policy in BASELINES]
    return [
        at_least(f"trace's ceiling, {where}", CEILING_HIGH, ceiling),
        at_least(f"hit rate, {where}", HIT_MIN, hit),
        at_least(f"hit rate over the trace's ceiling, {where}", OF_CEILING_MIN, hit / ceiling),
        at_most(
            f"price over the mean of those that look at loads only, {where}",
            COST_MAX,
            price[OURS] / mean(price[policy] for policy in LOAD_ONLY),
        ),
        at_least(f"worst baseline's TTFT over ours, {where}", FASTER_MIN, max(others_ms) / ttft_ms[OURS]),
        at_most(f"TTFT over the best baseline's, {where}", 1.0, ttft_ms[OURS] / min(others_ms)),
    ]
