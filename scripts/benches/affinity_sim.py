"""The affinity bench on simulated nodes: networks of real peers on simulated engines, and central routers beside them.

What is compared is who decides. Ours decides as the daemons do, each owner for itself, by what is heard by gossip and
quoted; a router sees all owners' requests and answers at once. It need not ask, but its requests take the ways of ours;
what that costs a router is seen by one that is spared it, which is in the table and in no target.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from scripts.benches import intervals
from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS
from scripts.benches.affinity_sim_runs import ABLATED, DIRECT, SITE, Figures, Played, cases, play_all
from scripts.benches.affinity_targets import OURS, targets
from scripts.benches.report import Part, exactly
from scripts.benches.run import Run

SPREAD = (
    "hit_rate",
    "stayed",
    "ttft_ms",
    "ttft_ms_p95",
    "end_to_end_ms",
    "end_to_end_ms_p95",
    "price_microcredits",
    "quoted_in_vain",
)
"""Of these a row has means over traces with their intervals, of other figures means alone."""

RATIOS = ("ttft_ms", "end_to_end_ms", "price_microcredits")


def bench(run: Run) -> Part:
    """Play every policy on every trace."""
    return part(list(play_all(run, cases(run))))


def part(played: Sequence[Played]) -> Part:
    """The figures of these runs, and what they are held to."""
    traces, policies, without, over = [], [], [], []
    held = []
    for nodes in sorted({p.case.nodes for p in played}):
        runs = {name: by_seed(played, nodes, name) for name in (OURS, *ROUTERS, *DIRECT, *ABLATED)}
        rows = {name: {"nodes": nodes, **row(name, found)} for name, found in runs.items() if found}
        traces.append(trace(nodes, runs))
        policies += [rows[name] for name in (OURS, *ROUTERS, *DIRECT)]
        without += [rows[name] for name in (OURS, *ABLATED) if ABLATED.keys() <= rows.keys()]
        over += [{"nodes": nodes, **ratios(name, runs[OURS], runs[name])} for name in rows if name != OURS]
        unanswered = sum(figures.unanswered for figures in runs[OURS].values())
        held.append(exactly(f"questions without an answer, {nodes} nodes", 0, unanswered))
        highest = mean(figures.ceiling for figures in runs[OURS].values())
        held += targets(f"{nodes} nodes", highest, list(rows.values()))
    return Part({"traces": traces, "policies": policies, "without": without, "ours_over": over}, held)


def by_seed(played: Sequence[Played], nodes: int, policy: str) -> dict[int, Figures]:
    """A policy's figures at one size, in the order of the traces."""
    found = {p.case.seed: p.figures for p in played if (p.case.nodes, p.case.policy) == (nodes, policy)}
    return dict(sorted(found.items()))


def trace(nodes: int, runs: dict[str, dict[int, Figures]]) -> dict[str, Any]:
    """What was asked, how much of it could be had, and how busy the engines are where nobody knows of caches."""
    all_of_ours = list(runs[OURS].values())
    load_only = [figures.load for name in LOAD_ONLY for figures in runs[name].values()]
    return {
        "nodes": nodes,
        "seeds": len(all_of_ours),
        "answers": round(mean(figures.answers for figures in all_of_ours)),
        "ceiling": intervals.mean([figures.ceiling for figures in all_of_ours]),
        "prompt_tokens_mean": mean(figures.prompt_tokens for figures in all_of_ours),
        "working_set_tokens": round(mean(figures.working_set_tokens for figures in all_of_ours)),
        "cache_tokens_per_node": SITE.cache_tokens,
        "slots_per_node": SITE.slots,
        "load_of_load_only": mean(load_only),
        "load_of_ours": mean(figures.load for figures in all_of_ours),
    }


def row(policy: str, runs: dict[int, Figures]) -> dict[str, Any]:
    """A policy at one size, over traces."""
    spread = {name: intervals.mean([getattr(figures, name) for figures in runs.values()]) for name in SPREAD}
    of_ceiling = intervals.mean([figures.hit_rate / figures.ceiling for figures in runs.values()])
    plain = {name: mean(getattr(figures, name) for figures in runs.values()) for name in ("load", "cleared", "calls")}
    return {"policy": policy, "of_ceiling": of_ceiling, **spread, **plain}


def ratios(policy: str, ours: dict[int, Figures], theirs: dict[int, Figures]) -> dict[str, Any]:
    """Ours over another, trace by trace."""
    found: dict[str, Any] = {"policy": policy}
    for name in RATIOS:
        pairs = [(getattr(ours[seed], name), getattr(theirs[seed], name)) for seed in theirs]
        found[name] = intervals.mean([one / other for one, other in pairs])
    return found
