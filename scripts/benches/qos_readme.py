"""README.md's account of a run of the bench of quality of service, from its JSON alone."""

from statistics import fmean
from typing import Any

from scripts.benches.markdown import against_target, spread, table
from scripts.benches.qos_replay import MEANT

OURS, KNOWING = "physical", "knowing how lengths are drawn"
WINDOWS = ("cold", "warm", "drift", "after")
FIGURES = {
    "ttft_us": ("first token, ms", 1e-3),
    "tpot_us": ("a token after it, ms", 1e-3),
    "total_us": ("whole answer, ms", 1e-3),
    "output_tokens": ("tokens of the answer", 1.0),
    "cost_microcredits": ("cost, microcredits", 1.0),
}
"""What is predicted: what it is called, and what its errors are multiplied by."""


def tables(result: dict[str, Any]) -> str:
    """What was recorded, which targets were missed, ours by figure, every predictor's mean over the figures."""
    found = {(row["predictor"], row["figure"], row["window"]): row for row in result["predicted"]}
    parts = recorded(result["traces"]), missed(result["targets"]), least(found), ours(found), predictors(found)
    return "\n\n".join(parts)


def recorded(traces: list[dict[str, Any]]) -> str:
    """In a few sentences."""
    mean = {key: fmean(trace[key] for trace in traces) for key in traces[0]}
    return (
        f"{len(traces)} traces of {mean['answers']:,.0f} answers each; prompts of {mean['prompt_tokens_mean']:,.0f}"
        f" tokens, {mean['cached_share']:.0%} of them cached. The other load makes the first token take"
        f" {mean['ttft_ms_after']:,.0f} ms instead of {mean['ttft_ms_before']:,.0f}, and a token after it"
        f" {mean['tpot_ms_after']:,.0f} ms instead of {mean['tpot_ms_before']:,.0f}."
    )


def missed(targets: list[dict[str, Any]]) -> str:
    """How many targets were met, and a row per target that was not."""
    misses = [target for target in targets if not target["met"]]
    told = f"{len(targets) - len(misses)} of {len(targets)} targets are met"
    return f"{told}; these are not:\n\n{against_target('', misses)}" if misses else f"{told}."


def least(found: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """In a sentence: how well lengths can be foretold at best."""
    errors = [found[KNOWING, "output_tokens", window]["error_over_tree"]["value"] for window in WINDOWS]
    told = ", ".join(f"{error:.2f} ({window})" for error, window in zip(errors, WINDOWS, strict=True))
    return f"In lengths, who knows how they are drawn errs so much of what the tree errs, nobody can err less: {told}."


def ours(found: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """A row per figure and a column per window: error, that over the tree's, share of answers in their bands."""
    lines = []
    for figure, (title, unit) in FIGURES.items():
        rows = [found[OURS, figure, window] for window in WINDOWS]
        cells = [
            f"{row['error'] * unit:,.3g}, {spread(row['error_over_tree'], 2)}, {spread(row['coverage'], 2)}"
            for row in rows
        ]
        lines.append([title, *cells])
    return table(["ours: error, over the Hoeffding tree's, in band", *WINDOWS], lines)


def predictors(found: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """A row per predictor and a column per window: error over the tree's, mean over `MEANT`."""
    lines = []
    for predictor in dict.fromkeys(name for name, _, _ in found):
        means = (
            fmean(found[predictor, figure, window]["error_over_tree"]["value"] for figure in MEANT)
            for window in WINDOWS
        )
        lines.append([predictor, *(f"{mean:.2f}" for mean in means)])
    return table([f"error over the Hoeffding tree's, mean of {len(MEANT)} figures", *WINDOWS], lines)
