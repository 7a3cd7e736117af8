"""README.md's account of a run of the affinity bench on real engines, from its JSON alone."""

from typing import Any

from scripts.benches.markdown import against_target, spread, table

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
    """What was asked, what was held to a target, and a row per policy."""
    return "\n\n".join(
        [asked(result["traces"][0], result["speed"]), held(result["targets"]), policies(result["policies"])]
    )


def asked(trace: dict[str, Any], speed: dict[str, float]) -> str:
    """In a few sentences."""
    sizes = f"{trace['cache_tokens_per_node']:,} of the {trace['working_set_tokens']:,.0f} tokens of all prompts"
    length = f"{trace['turns']} turns, up to {trace['prompt_tokens_longest']:,} tokens, {trace['repetitions']} times"
    spared = f"{trace['ceiling']['value']:.1%} of all prompt tokens"
    named = f"{speed['pinned_miss_ms']:.0f} ms, with all but the last turn cached {speed['pinned_hit_ms']:.0f} ms"
    return (
        f"{trace['nodes']} nodes with vLLM, each with a cache of {sizes}; {trace['conversations']} conversations of"
        f" {length}. One cache without bounds would spare {spared}. When nothing else goes on, the first token takes"
        f" {named}, asked by name; as ours {speed['ours_miss_ms']:.0f} ms and {speed['ours_hit_ms']:.0f} ms; when all"
        f" nodes are asked at once, {speed['joint_miss_ms']:.0f} ms and {speed['joint_hit_ms']:.0f} ms."
    )


def held(targets: list[dict[str, Any]]) -> str:
    """A row per target that is a figure or missed: what has to be exact, and is, need not be told."""
    return against_target("", [target for target in targets if target["target"][0] != "=" or not target["met"]])


def policies(rows: list[dict[str, Any]], columns: dict[str, tuple[str, int]] = FIGURES) -> str:
    """A row per policy, hit rates with intervals over runs, the rest over conversations within them.

    Prices are in microcredits; what was quoted in vain is a share of all prompt tokens.
    """
    lines = ([row["policy"], *(cell(row[key], digits) for key, (_, digits) in columns.items())] for row in rows)
    return table(["policy", *(title for title, _ in columns.values())], lines)


def cell(figure: dict[str, Any] | float, digits: int) -> str:
    """A figure, with its interval where it has one."""
    return spread(figure, digits) if isinstance(figure, dict) else f"{figure:,.{digits}f}"
