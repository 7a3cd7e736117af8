"""The figure of the routing bench: accuracy by method, in distribution and left out, by embedding."""

from pathlib import Path
from typing import Any

TITLES = {"in_distribution": "Test splits of what was fitted", "left_out": "A data set that was not fitted"}
STYLES = (("o", -0.12), ("s", 0.12))


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Write `file` from the rows of `accuracy`; its suffix says in which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    embeddings = list(dict.fromkeys(row["embedding"] for row in rows))
    for axis, (split, title) in zip(axes, TITLES.items(), strict=True):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["split"] == split))
        for embedding, (marker, shift) in zip(embeddings, STYLES, strict=True):
            drawn = [r for r in rows if (r["split"], r["embedding"]) == (split, embedding) and r["mean"] is not None]
            places = [methods.index(row["method"]) + shift for row in drawn]
            means = [row["mean"] for row in drawn]
            reach = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
            axis.errorbar([m.value for m in means], places, xerr=reach, fmt=marker, capsize=2, label=embedding)
        axis.set_yticks(range(len(methods)), methods)
        axis.invert_yaxis()
        axis.set_title(title)
        axis.set_xlabel("accuracy, mean over data sets")
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(title="embedding")
    figure.suptitle("Choosing among real models (bars are 95 % intervals over fits)")
    figure.savefig(file, dpi=150)
    plt.close(figure)
