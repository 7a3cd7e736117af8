"""README.md's account of a run of the game bench, from its JSON alone."""

from typing import Any

from scripts.benches.markdown import against_target, table

PEERS = (50, 1_000)
LOADS = ("load 0.3", "load 0.7", "load 0.9", "load 0.95")
UNBOUNDED = "grows"
GROWTH_MAX = 0.01


def tables(result: dict[str, Any]) -> str:
    """What was held to a target, then latency and accuracy of every policy at few points."""
    held = against_target("ours, at the worst point", result["targets"])
    return "\n\n".join([held, *(points(result, peers) for peers in PEERS)])


def points(result: dict[str, Any], peers: int) -> str:
    """A row per policy: mean seconds and accuracy per load, and what it costs in probes."""
    rows = {metric: by_policy(result[metric], peers) for metric in ("latency_s", "accuracy", "probes", "growth")}
    lines = (
        [policy, *(cell(rows, policy, load) for load in LOADS), probes(rows, policy)]
        for policy, latencies in rows["latency_s"].items()
        if all(latencies[load] is not None for load in LOADS)
    )
    return table([f"{peers:,} peers", *LOADS, "probes at 0.7"], lines)


def probes(rows: dict[str, dict[str, dict[str, Any]]], policy: str) -> str:
    return f"{rows['probes'][policy][LOADS[1]]:.1f}"


def by_policy(rows: list[dict[str, Any]], peers: int) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in rows if row["peers"] == peers}


def cell(rows: dict[str, dict[str, dict[str, Any]]], policy: str, load: str) -> str:
    """Mean latency with its interval, and accuracy; no latency where the queue grows as long as the run lasts."""
    accuracy = f"{rows['accuracy'][policy][load]['value']:.1%}"
    if rows["growth"][policy][load] > GROWTH_MAX:
        return f"{UNBOUNDED}, {accuracy}"
    latency = rows["latency_s"][policy][load]
    return f"{latency['value']:.2f} s ({latency['low']:.2f} to {latency['high']:.2f}), {accuracy}"
