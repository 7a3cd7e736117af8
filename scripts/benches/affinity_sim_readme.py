"""README.md's account of a run of the affinity bench on simulated nodes, from its JSON alone."""

from typing import Any

from scripts.benches.affinity_vllm_readme import FIGURES, held, policies


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


def without(rows: list[dict[str, Any]]) -> str:
    """A row per part that is taken out."""
    named = [{**row, "policy": f"{row['policy']}, {row['nodes']} nodes"} for row in rows]
    return policies(named, {"stayed": ("stayed", 3), **FIGURES})
