"""The routing bench's own parts: baselines that do what their papers say, and a run on made-up models."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from p2pagent.errors import LocalError
from scripts.benches import routing_accuracy, routing_data, routing_plot, routing_readme
from scripts.benches.__main__ import app
from scripts.benches.routing_accuracy import IN, difference
from scripts.benches.routing_baselines import (
    BEST_WEIGHT,
    medoids,
    neighbours,
    ridge,
    semantic_router_models,
    semantic_router_sets,
    similarity,
    tuned,
    uniroute,
)
from scripts.benches.routing_choice import BACK_OFFS, FAMILY_QUESTIONS, NONE, back_off, family_questions
from scripts.benches.routing_data import NEEDED, READINGS, Sample, read
from scripts.benches.routing_fold import Fold
from scripts.benches.routing_methods import METHODS, cosine, ours, ours_blind, ours_cautious
from scripts.benches.run import Run

KINDS = {
    "gsm8k": "How many apples has {}?",
    "mmlu": "Which is true of {}? A. B. C. D.",
    "arc_challenge": "Question: {}",
}
MODELS = ("good at one", "good at two", "good at three", "fair at all")


def scores(kind: int, rng: np.random.Generator) -> dict[str, float]:
    chances = [0.9 if kind == model else 0.2 for model in range(3)] + [0.5]
    right = rng.random(4) < chances
    if kind == 0:  # a share of ten samples; elsewhere the confidence in the right choice where it was made
        return {model: float(share) for model, share in zip(MODELS, np.round(np.array(chances), 1), strict=True)}
    return {model: float(is_right * rng.uniform(0.3, 1)) for model, is_right in zip(MODELS, right, strict=True)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for kind, (name, files) in enumerate(NEEDED.items()):
        for file, count in zip(files, (48, 30), strict=True):
            words = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(count)]
            items = [{"question": KINDS[name].format(word), "scores": scores(kind, rng)} for word in words]
            (tmp_path / file).write_text(json.dumps(items))
    return tmp_path


@pytest.fixture
def only_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LocalError("the MiniLM embedder is not installed", "install it", 1)

    monkeypatch.setitem(routing_data.EMBEDDERS, "minilm", absent)


def sample(vectors: list[list[float]], outcomes: list[list[float]], sets: list[int] | None = None) -> Sample:
    rows = np.array(vectors, dtype=np.float32)
    texts = [f"{place:03}" for place in range(len(rows))]
    values = np.array(outcomes, dtype=np.float64)
    return Sample(
        texts,
        rows / np.linalg.norm(rows, axis=1, keepdims=True),
        dict.fromkeys(READINGS, values),
        np.array(sets or [0] * len(rows)),
    )


def crossed(count: int = 60) -> Sample:
    """Two kinds of question at right angles; model 0 answers the first, model 1 the second."""
    rng = np.random.default_rng(2)
    kinds = np.arange(count) % 2
    rows = rng.normal(0, 0.1, (count, 4))
    rows[np.arange(count), kinds] += 1
    return sample(rows.tolist(), [[1 - kind, kind] for kind in kinds], kinds.tolist())


QUESTIONS = np.array([[1, 0.1, 0, 0], [0.1, 1, 0, 0]], dtype=np.float32) / np.float32(np.hypot(1, 0.1))
METHODS_THAT_SEE = {
    "uniroute": tuned(uniroute, (2, 4)),
    "k_nn": tuned(neighbours, (1, 5)),
    "ridge": tuned(ridge, (0.1, 1.0)),
    "semantic_router_models": semantic_router_models,
    "semantic_router_sets": semantic_router_sets,
    "ours": ours,
    "ours_cautious": ours_cautious,
    "ours_blind": ours_blind,
    "cosine": cosine,
}


@pytest.mark.parametrize("name", METHODS_THAT_SEE)
def test_every_method_sends_each_kind_to_the_model_that_answers_it(name: str):
    choose = METHODS_THAT_SEE[name](Fold(crossed(), 1), "accuracy")
    assert list(choose(QUESTIONS)) == [0, 1]


def test_uniroute_takes_the_share_of_right_answers_in_the_nearest_cluster():
    fold = Fold(sample([[1, 0], [1, 0.01], [0, 1], [0.01, 1]], [[1, 0], [0, 0], [1, 1], [0, 1]]), 3)
    found = uniroute(fold, "accuracy", 2)(np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32))
    assert found.tolist() == [[0.5, 0], [0.5, 1]]


def test_neighbours_average_the_nearest():
    fold = Fold(sample([[1, 0], [1, 0.1], [0, 1], [-1, 0]], [[1, 0], [0, 0], [1, 1], [0, 1]]), 3)
    assert neighbours(fold, "accuracy", 2)(np.array([[1, 0]], dtype=np.float32)).tolist() == [[0.5, 0]]


def test_a_ridge_head_without_a_penalty_is_least_squares():
    rng = np.random.default_rng(4)
    vectors, truth = rng.normal(size=(50, 3)), rng.normal(size=(3, 2))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    fold = Fold(sample(vectors.tolist(), (unit @ truth + 0.5).tolist()), 5)
    found = ridge(fold, "accuracy", 1e-9)(unit.astype(np.float32))
    assert found == pytest.approx(unit @ truth + 0.5, abs=1e-3)


def test_a_parameter_is_tuned_on_what_was_held_out():
    def rule(fold: Fold, reading: str, parameter: float):
        return lambda vectors: np.tile([parameter, 0.5], (len(vectors), 1))

    of_second = sample([[1, 0], [0, 1], [1, 1]] * 4, [[0, 1]] * 12)
    assert list(tuned(rule, (0.0, 1.0))(Fold(of_second, 1), "accuracy")(QUESTIONS[:, :2])) == [1, 1]


def always(model: int):
    return lambda fold, reading: lambda vectors: np.full(len(vectors), model)


@pytest.mark.parametrize("wanted", FAMILY_QUESTIONS)
def test_a_weight_is_chosen_on_questions_of_sets_that_are_known(wanted: float):
    def fit(questions: float):
        def known(fold: Fold, reading: str):
            assert len(np.unique(fold.sample.sets)) == 2
            return always(int(questions != wanted))(fold, reading)

        return known

    assert family_questions(Fold(sample([[1, 0], [0, 1]] * 6, [[1, 0]] * 12, [0, 1] * 6), 1), "accuracy", fit) == wanted
    assert family_questions(Fold(sample([[1, 0], [0, 1]] * 6, [[1, 1]] * 12, [0, 1] * 6), 1), "accuracy", fit) == 5


@pytest.mark.parametrize("wanted", BACK_OFFS)
def test_a_back_off_is_chosen_on_sets_that_are_left_out(wanted: str):
    left_out = sample([[1, 0], [0, 1]] * 6, [[1, 0]] * 12, [0, 1] * 6)

    def fit(name: str):
        def new(fold: Fold, reading: str):
            assert len(np.unique(fold.sample.sets)) == 1
            return always(int(name != wanted))(fold, reading)

        return new

    assert back_off(Fold(left_out, 1), "accuracy", fit) == wanted


def test_of_back_offs_within_a_standard_error_the_most_cautious_is_chosen():
    def fit(name: str):
        return always(int(name != NONE))

    for won, wanted in ((3, [*BACK_OFFS][-1]), (8, NONE)):
        # None wins on this many questions of each set and loses on two: within chance, or beyond it.
        outcomes = [[1, 0]] * won + [[0, 1]] * 2 + [[1, 1]] * (10 - won)
        fold = Fold(sample([[1, 0]] * 24, outcomes * 2, [0] * 12 + [1] * 12), 1)
        assert back_off(fold, "accuracy", fit) == wanted


def test_medoids_are_of_the_largest_clusters_first():
    crowd = [[1, 0, 0], [1, 0.1, 0], [1, -0.1, 0]]
    pair = [[0, 1, 0], [0, 1, 0.1]]
    found = medoids(sample([*crowd, *pair, [0, 0, 1]], [[0]] * 6))
    assert found[0] == pytest.approx([1, 0, 0])
    assert found[1] == pytest.approx([0, 1, 0])
    assert found[2] == pytest.approx([0, 0, 1])
    assert len(found) == 3


def test_medoids_are_eight_at_most():
    assert len(medoids(sample(np.eye(12).tolist(), [[0]] * 12))) == 8


def test_a_category_scores_its_best_prototype_and_the_mean_of_two():
    score = similarity(sample([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0]] * 3))
    asked = np.array([[0.8, 0.6, 0]], dtype=np.float32)
    assert score(asked) == pytest.approx([BEST_WEIGHT * 0.8 + (1 - BEST_WEIGHT) * 0.7])


def test_readings_differ_in_multiple_choice_alone():
    shares = np.round(np.linspace(0, 1, 11), 1)
    confidences = np.concatenate([[0.0], np.linspace(0.26, 1, 99)])
    assert read(shares, "accuracy").tolist() == shares.tolist() == read(shares, "mean_score").tolist()
    assert read(confidences, "accuracy").tolist() == [0.0] + [1.0] * 99
    assert read(confidences, "mean_score").tolist() == confidences.tolist()


def test_a_difference_knows_chance_in_questions_and_in_fits():
    rng = np.random.default_rng(6)
    even = [np.tile(rng.integers(0, 2, 200), (5, 1)).astype(float)]
    assert difference(even, even, rng) == routing_accuracy.Interval(0, 0, 0, 200)
    better = [values + 0.1 for values in even]
    gap = difference(better, even, rng)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    other = [np.tile(rng.integers(0, 2, 200), (5, 1)).astype(float)]
    gap = difference(other, even, rng)
    assert gap.low < gap.value < gap.high
    assert 0.1 < gap.high - gap.low < 0.3


def test_what_the_folder_lacks_is_named(folder: Path):
    (folder / "mmlu_test.json").unlink()
    (folder / "gsm8k-train.json").unlink()
    result = CliRunner().invoke(app, ["routing", "--data", str(folder)])
    assert result.exit_code == 2
    assert "gsm8k-train.json" in result.output
    assert "mmlu_test.json" in result.output
    assert "arc_challenge" not in result.output


@pytest.mark.parametrize("body", ["[]", "{", '[{"question": 1}]'])
def test_a_file_that_is_no_data_is_named(folder: Path, body: str):
    (folder / "mmlu_test.json").write_text(body)
    result = CliRunner().invoke(app, ["routing", "--data", str(folder)])
    assert result.exit_code == 2
    assert "mmlu_test.json" in result.output


def test_no_folder_is_no_data(tmp_path: Path):
    result = CliRunner().invoke(app, ["routing", "--data", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "absent" in result.output


def test_models_must_be_the_same_in_all_files(folder: Path):
    (folder / "mmlu_test.json").write_text('[{"question": "a", "scores": {"another": 1}}]')
    result = CliRunner().invoke(app, ["routing", "--data", str(folder)])
    assert result.exit_code == 2
    assert "mmlu" in result.output


def test_further_data_sets_are_found(folder: Path):
    for split in ("train", "test"):
        (folder / f"more-{split}.json").write_bytes((folder / f"gsm8k-{split}.json").read_bytes())
    (folder / "alone_train.json").write_text("[]")
    assert list(routing_data.pairs(folder)) == [*NEEDED, "more"]


def test_a_quick_run_has_every_figure_and_a_plot(only_default: None, folder: Path, tmp_path: Path):
    result = CliRunner().invoke(app, ["routing", "--data", str(folder), "--quick", "--json"])
    assert result.exit_code in {0, 1}, result.output
    found = json.loads(result.stdout)
    for reading in READINGS:
        rows = {(row["embedding"], row["split"], row["method"]): row for row in found[reading]}
        assert rows["minilm", IN, "ours"]["mean"] is None
        assert rows["hashing", IN, "oracle"]["gap_closed"]["value"] == 1
        assert rows["hashing", IN, "best_single"]["gap_closed"]["value"] == 0
        assert set(NEEDED) <= set(rows["hashing", IN, "ours"])
        assert {method for _, _, method in rows} >= {*METHODS, "per_set_best", "random"}
    ours_right = next(row for row in found["accuracy"] if row["method"] == "ours")["mean"]["value"]
    single = next(row for row in found["accuracy"] if row["method"] == "best_single")["mean"]["value"]
    assert ours_right > single + 0.1
    assert "MiniLM" in found["embeddings"]["minilm"]
    assert found["score_over_matvec"]["ratio"]["value"] > 0
    unmet = [target for target in found["targets"] if target["name"] != "score_over_matvec"]
    assert all(target["met"] is None for target in unmet)
    assert "| ours | " in routing_readme.tables(found)
    file = tmp_path / "routing.png"
    rows = [
        row | {"mean": row["mean"] and msgspec.convert(row["mean"], routing_accuracy.Interval)}
        for row in found["accuracy"]
    ]
    routing_plot.plot(rows, file)
    assert file.stat().st_size > 10_000


def test_the_same_seed_finds_the_same(only_default: None, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routing_accuracy, "METHODS", {name: METHODS[name] for name in ("ours", "uniroute")})
    monkeypatch.setattr(routing_accuracy, "RIVALS", ("uniroute",))
    data = routing_data.load(folder, Run(quick=True))
    with threadpool_limits(1):
        one, other = (routing_accuracy.measure(Run(quick=True), data) for _ in range(2))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
