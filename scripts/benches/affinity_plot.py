"""The figure of the affinity bench: what every policy found in caches, how soon it answered, and at what price."""

from pathlib import Path
from typing import Any

from scripts.benches.affinity_targets import OURS

PANELS = {"hit_rate": "found in a cache", "ttft_ms": "first token, ms", "price_microcredits": "price, microcredits"}


def plot(figures: dict[str, Any], file: Path) -> None:
    """Write `file` from a report's tables, a bar per policy and a line per trace; its suffix says in which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    traces = figures["traces"]
    size = (13, 4.5 * len(traces))
    figure, axes = plt.subplots(
        len(traces), len(PANELS), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    for line, trace in zip(axes, traces, strict=True):
        rows = [row for row in figures["policies"] if row["nodes"] == trace["nodes"]]
        names = [row["policy"] for row in rows]
        colours = ["tab:red" if name == OURS else "tab:gray" for name in names]
        for axis, (key, title) in zip(line, PANELS.items(), strict=True):
            values = [row[key].value for row in rows]
            below = [max(0.0, row[key].value - row[key].low) for row in rows]
            above = [max(0.0, row[key].high - row[key].value) for row in rows]
            axis.barh(names, values, xerr=[below, above], color=colours, capsize=3)
            axis.set_title(f"{title}, {trace['nodes']} nodes")
            axis.grid(visible=True, axis="x", alpha=0.3)
        line[0].axvline(trace["ceiling"].value, color="black", linestyle="--")
        line[0].invert_yaxis()
    figure.suptitle("The same conversations by every policy, with 95 % intervals; dashed: what could be found at most")
    figure.savefig(file, dpi=150)
    plt.close(figure)
