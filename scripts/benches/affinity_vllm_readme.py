"""README.md's account of a run of the affinity bench on real engines, from its JSON alone."""

from typing import Any

from scripts.benches.game_readme import measured
from scripts.benches.market_readme import spread


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
    """A row per target that is a figure."""
    rows = [f"| {t['name']} | {t['target']} | {measured(t)} |" for t in targets if t["target"][0] != "="]
    return "\n".join(["| | target | measured |", "|---|---|---|", *rows])


def policies(rows: list[dict[str, Any]]) -> str:
    """A row per policy, hit rates with intervals over runs, the rest over conversations within them.

    Prices are in microcredits; what was quoted in vain is a share of all prompt tokens.
    """
    times = "first token, mean, ms", "p95", "whole answer, mean, ms", "p95"
    head = "policy", "found in a cache", *times, "price", "quoted in vain"
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = (
            row["policy"],
            spread(row["hit_rate"], 3),
            spread(row["ttft_ms"], 0),
            f"{row['ttft_ms_p95']:,.0f}",
            spread(row["end_to_end_ms"], 0),
            f"{row['end_to_end_ms_p95']:,.0f}",
            spread(row["price_microcredits"], 0),
            f"{row['quoted_in_vain']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
