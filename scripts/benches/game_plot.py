"""The figure of the game bench: mean latency over load, and accuracy, by policy."""

from pathlib import Path
from typing import Any

PANELS = (50, 1_000)
LATENCY_MAX_S = 12.0
STYLES = {
    "ours, gossip 2 s": ("tab:red", "o", "-"),
    "ours, gossip 10 s": ("tab:red", "o", "--"),
    "probe all": ("tab:blue", "s", "-"),
    "power of two": ("tab:green", "^", "-"),
    "stale least loaded, gossip 2 s": ("tab:purple", "v", "-"),
    "Preble E2, gossip 2 s": ("tab:brown", "D", "-"),
    "SGLang cache-aware, gossip 2 s": ("tab:olive", "P", "-"),
    "local": ("tab:gray", "x", "-"),
    "RouterDC": ("tab:orange", "+", "-"),
    "KABB, one expert": ("tab:pink", "*", "-"),
    "majority vote": ("black", "1", "-"),
}


def plot(figures: dict[str, Any], file: Path) -> None:
    """Write `file` from the tables of the report; its suffix says in which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(PANELS), figsize=(12, 9), sharex=True, layout="constrained")
    for column, peers in enumerate(PANELS):
        for axis, metric in zip(axes[:, column], ("latency_s", "accuracy"), strict=True):
            rows = {row["policy"]: row for row in figures[metric] if row["peers"] == peers}
            for policy, (colour, marker, line) in STYLES.items():
                cells = {k.removeprefix("load "): v for k, v in rows.get(policy, {}).items() if k.startswith("load ")}
                drawn = [(float(load), cell) for load, cell in cells.items() if cell is not None]
                loads = [load for load, _ in drawn]
                means = [cell.value for _, cell in drawn]
                axis.plot(loads, means, color=colour, marker=marker, linestyle=line, label=policy)
                low, high = [cell.low for _, cell in drawn], [cell.high for _, cell in drawn]
                axis.fill_between(loads, low, high, color=colour, alpha=0.12)
            axis.set_title(f"{peers:,} peers")
            axis.grid(visible=True, alpha=0.3)
        axes[0][column].set_ylim(0, LATENCY_MAX_S)
        axes[1][column].set_xlabel("offered load, share of capacity")
    axes[0][0].set_ylabel("mean latency, s (a line that leaves has an unbounded queue)")
    axes[1][0].set_ylabel("share of right answers")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("Routing policies on the same simulated traces; bands are 95 % intervals over seeds")
    figure.savefig(file, dpi=150)
    plt.close(figure)
