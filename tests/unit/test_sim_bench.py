"""The churn bench's own parts, on runs that are made up, and one small run from end to end."""

import json
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from p2pagent.sim.metrics import Spread
from p2pagent.sim.results import Results, Samples
from scripts.benches import churn, churn_readme
from scripts.benches.__main__ import app
from scripts.benches.churn_runs import CHURN, Case, Measured, cases, measure
from scripts.benches.report import Target
from scripts.benches.run import Run

EVEN = Spread(100.0, 100.0, 100.0, 100.0)


def made_up(part: str, peers: int, level: float, seed: int = 0, **changes: Any) -> Measured:
    results = Results(
        scenario="churn",
        peers=peers,
        seed=seed,
        minutes=1.0,
        asked=11,
        abandoned=1,
        answered_share=1.0,
        delegated_share=1.0,
        accuracy=0.8,
        accuracy_local=0.4,
        accuracy_informed=0.8,
        accuracy_claimed=0.85,
        accuracy_oracle=0.9,
        latency_ms=EVEN,
        ttft_ms=EVEN,
        calls_per_query=2.0,
        restarts_per_query=0.0,
        price_microcredits=EVEN,
        gossip_out_bytes_per_s=1_000.0,
        gossip_in_bytes_per_s=1_000.0,
        gossip_bytes_per_s=EVEN,
        deaths=3,
        death_suspected_ms=EVEN,
        death_known_ms=EVEN,
        deaths_unknown=0,
        directory=EVEN,
        faults_blamed=0,
        events=50_000,
        digest="",
    )
    samples = Samples([0] * 10, [100] * 10, [True] * 8 + [False] * 2, [1_900.0, 2_100.0], [5_000, 7_000], [20_000])
    case = Case(part, peers, level, 1.0, 1.0, 0.1, seed)  # type: ignore[arg-type]
    return Measured(case, msgspec.structs.replace(results, **changes), samples, 5.0, 200)


def by_name(targets: list[Target]) -> dict[str, bool | None]:
    return {target.name: target.met for target in targets}


def report(**changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    runs = [
        made_up("churn", 500, level, seed, **(changes if level == 0.1 else {})) for level in CHURN for seed in (0, 1)
    ]
    sizes = [made_up("traffic", peers, level) for peers in (100, 10_000) for level in (0.0, 0.1)]
    return churn.churn_rows(runs), churn.traffic_rows(sizes)


def test_rows_are_over_seeds_and_compare_seed_by_seed() -> None:
    runs = [
        made_up("churn", 500, level, seed, latency_ms=Spread(100.0 * (seed + 1) + 1_000 * level, 1.0, 1.0, 1.0))
        for level in CHURN
        for seed in (0, 1)
    ]
    rows = churn.churn_rows(runs)
    assert [row["churn_per_minute"] for row in rows] == list(CHURN)
    assert [row["latency_ms_added"].value for row in rows] == pytest.approx([0, 50, 100, 200])
    assert all(row["latency_ms_added"].high - row["latency_ms_added"].low < 1e-6 for row in rows)
    assert rows[0]["latency_ms_mean"].value == 150
    assert (rows[0]["questions"], rows[0]["asker_left"], rows[0]["answered_share"].value) == (20, 2, 1.0)
    assert rows[0]["suspected_s"].value == 6.0


def test_a_figure_that_no_run_has_is_not_measured() -> None:
    rows = churn.churn_rows([made_up("churn", 500, level, restarts_per_query=None) for level in CHURN])
    assert rows[0]["restarts_per_query"] is None


def test_what_meets_its_targets_does() -> None:
    assert set(by_name(churn.targets(*report())).values()) == {True}


def test_an_accuracy_that_falls_behind_is_a_target_missed() -> None:
    missed = by_name(churn.targets(*report(accuracy=0.77)))
    assert [name for name, met in missed.items() if not met] == ["accuracy_gap at 10% a minute"]


def test_one_question_without_an_answer_is_a_target_missed() -> None:
    churned, traffic = report()
    runs = [made_up("churn", 500, level, asked=12 if level == 0.2 else 11) for level in CHURN]
    missed = by_name(churn.targets(churn.churn_rows(runs), traffic))
    assert [name for name, met in missed.items() if not met] == ["answered_share at 20% a minute"]
    assert churned


def test_gossip_that_grows_is_a_target_missed_and_one_not_run_is_not_measured() -> None:
    churned, _ = report()
    sizes = [made_up("traffic", 100, 0.0), made_up("scale", 10_000, 0.0, gossip_out_bytes_per_s=2_100.0)]
    found = by_name(churn.targets(churned, churn.traffic_rows(sizes)))
    assert found["gossip at 10000 peers over that at 100, 0% a minute"] is False
    assert found["gossip at 10000 peers over that at 100, 10% a minute"] is None


@pytest.mark.parametrize("quick", [True, False])
def test_every_part_is_run_and_the_full_run_is_of_the_sizes_asked_for(*, quick: bool) -> None:
    planned = cases(Run(quick=quick))
    assert {case.churn_per_minute for case in planned if case.part == "churn"} == set(CHURN)
    assert [case.part for case in planned].count("scale") == 1
    assert len(set(planned)) == len(planned)
    if not quick:
        assert {case.peers for case in planned} == {100, 500, 1_000, 10_000}
        assert {sum(c.part == "churn" and c.churn_per_minute == level for c in planned) for level in CHURN} == {5}
        (scale,) = (case for case in planned if case.part == "scale")
        assert scale.settle_minutes + scale.minutes == 10


def test_a_run_is_measured_in_a_network_that_loses_peers() -> None:
    measured = measure(Run(), Case("churn", 12, 1.0, 0.2, 0.5, 0.05, 0))
    assert measured.results.deaths > 0
    assert measured.results.answered_share == 1.0
    assert len(measured.samples.latency_ms) == measured.results.asked - measured.results.abandoned
    assert measured.memory_mb > 10


def test_prints_json_with_tables_beside_it_that_the_readme_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made_up("churn", 500, level, seed) for level in CHURN for seed in (0, 1)]
    runs += [made_up("traffic", 100, 0.0), made_up("traffic", 100, 0.1), made_up("traffic", 10_000, 0.1)]
    runs.append(made_up("scale", 10_000, 0.0))
    monkeypatch.setattr(churn, "play_all", lambda _run, _cases: iter(runs))
    result = CliRunner().invoke(app, ["churn", "--json", "--seed", "3"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["bench"], shown["seed"]) == ("churn", 3)
    text = churn_readme.tables(shown)
    assert "| 10% |" in text
    assert "10,000 peers for 2 virtual minutes: 5 s" in text
    assert text.count("\n\n") == 2
