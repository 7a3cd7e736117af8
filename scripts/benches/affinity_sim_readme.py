"""README.md's account of a run of the affinity bench on simulated nodes, from its JSON alone."""

from collections.abc import Callable
from typing import Any

from scripts.benches.affinity_vllm_readme import held
from scripts.benches.market_readme import spread

FIGURES = {
    "hit_rate": ("found in a cache", 3),
    "ttft_ms": ("first token, mean, ms", 0),
    "ttft_ms_p95": ("p95", 0),
    "end_to_end_ms": ("whole answer, mean, ms", 0),
    "end_to_end_ms_p95": ("p95", 0),
    "price_microcredits": ("price", 0),
    "quoted_in_vain": ("quoted in vain", 3),
}
"""Columns: what they are called, and how many digits are told."""


def tables(result: dict[str, Any]) -> str:
    """What was held to a target; per size what was asked, and a row per policy; what ours is without its parts."""
    parts = [held(result["targets"])]
    for trace in result["traces"]:
        rows = [row for row in result["policies"] if row["nodes"] == trace["nodes"]]
        parts += [asked(trace), policies(rows)]
    return "\n\n".join([*parts, without(result["without"])])


def asked(trace: dict[str, Any]) -> str:
    """In a few sentences."""
    spared = f"{trace['ceiling']['value']:.1%} of all prompt tokens"
    load = f"{trace['load_of_load_only']:.0%} by routers that look at loads only, {trace['load_of_ours']:.0%} by ours"
    return (
        f"{trace['nodes']} nodes, each with {trace['slots_per_node']} slots and a cache of"
        f" {trace['cache_tokens_per_node']:,} of the {trace['working_set_tokens']:,.0f} tokens of all prompts;"
        f" {trace['answers']:,} answers on each of {trace['seeds']} traces. One cache without bounds would spare"
        f" {spared}. Engines are used to {load}."
    )


def policies(rows: list[dict[str, Any]]) -> str:
    """A row per policy, with intervals over traces; prices are in microcredits."""
    return table(rows, lambda row: row["policy"], FIGURES)


def without(rows: list[dict[str, Any]]) -> str:
    """A row per part that is taken out."""
    return table(rows, lambda row: f"{row['policy']}, {row['nodes']} nodes", {"stayed": ("stayed", 3), **FIGURES})


def table(
    rows: list[dict[str, Any]], name: Callable[[dict[str, Any]], str], columns: dict[str, tuple[str, int]]
) -> str:
    lines = [f"| policy | {' | '.join(title for title, _ in columns.values())} |", f"|---|{'---|' * len(columns)}"]
    for row in rows:
        cells = (spread(row[key], digits) for key, (_, digits) in columns.items())
        lines.append(f"| {name(row)} | {' | '.join(cells)} |")
    return "\n".join(lines)
