"""The affinity bench on simulated nodes: what it plays, and what it makes of it, on runs that are made up."""

import json
from pathlib import Path
from random import Random

import msgspec
import pytest
from msgspec.structs import replace

from p2pagent.peer import choice, seller
from p2pagent.routing.qos import Outcome, Task
from p2pagent.routing.qos_physical import Physical
from p2pagent.routing.residency import Recall, Shelf
from p2pagent.sim.affinity import Service
from p2pagent.sim.conversations import ceiling
from p2pagent.sim.crowds import draw_crowd
from p2pagent.sim.engine_blocks import BLOCK_TOKENS
from p2pagent.types import Usage
from scripts.benches import affinity_plot, affinity_sim, affinity_sim_readme
from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS
from scripts.benches.affinity_sim_ablations import SEAMS, Means, without
from scripts.benches.affinity_sim_runs import (
    ABLATED,
    DIRECT,
    SITE,
    Case,
    Figures,
    Played,
    cases,
    figures,
    play,
    seen,
)
from scripts.benches.affinity_sim_runs import Outcome as Outcomes
from scripts.benches.affinity_targets import BASELINES, OURS
from scripts.benches.run import Run
from tests.scenario import METER

USUAL = Figures(
    answers=100,
    ceiling=0.86,
    working_set_tokens=50_000,
    prompt_tokens=1_300.0,
    hit_rate=0.8,
    stayed=0.9,
    ttft_ms=500.0,
    ttft_ms_p95=900.0,
    end_to_end_ms=800.0,
    end_to_end_ms_p95=1_500.0,
    price_microcredits=8_000.0,
    quoted_in_vain=0.0,
    load=0.4,
    lasted_s=60.0,
    unanswered=0,
    cleared=0,
    calls=2.0,
)


def made_up(nodes: int = 50, **ours: float) -> list[Played]:
    """Two traces on which all do alike but ours, and on the second of which all is dearer."""
    found = []
    for seed in (1, 0):
        usual = msgspec.structs.replace(USUAL, price_microcredits=8_000.0 * (1 + seed))
        better = msgspec.structs.replace(usual, hit_rate=0.84, ttft_ms=150.0, price_microcredits=4_000.0 * (1 + seed))
        of = {OURS: msgspec.structs.replace(better, **ours), **dict.fromkeys((*ROUTERS, *DIRECT, *ABLATED), usual)}
        found += [Played(Case(nodes, 0.0, policy, seed), figures, 1.0) for policy, figures in of.items()]
    return found


def test_a_full_run_has_five_traces_at_both_sizes_and_a_quick_one_all_policies() -> None:
    full, quick = cases(Run()), cases(Run(quick=True))
    for nodes in (50, 500):
        for policy in (OURS, *BASELINES):
            assert sum((case.nodes, case.policy) == (nodes, policy) for case in full) == 5
    assert {case.policy for case in quick} == {case.policy for case in full} == {OURS, *ROUTERS, *DIRECT, *ABLATED}
    assert {case.nodes for case in quick} == {20}
    assert full[0].nodes == 500
    assert full[0].policy == OURS


def test_targets_are_held_where_they_belong() -> None:
    part = affinity_sim.part(made_up())
    assert {target.met for target in part.targets} == {True}
    (over,) = (row for row in part.figures["ours_over"] if row["policy"] == LOAD_ONLY[0])
    assert (over["ttft_ms"].value, over["price_microcredits"].value) == pytest.approx((0.3, 0.5))
    (row,) = (row for row in part.figures["policies"] if row["policy"] == OURS)
    assert row["of_ceiling"].value == pytest.approx(0.84 / 0.86)
    assert row["price_microcredits"].low < row["price_microcredits"].value == 6_000


@pytest.mark.parametrize("worse", [{"hit_rate": 0.79}, {"ttft_ms": 501.0}, {"price_microcredits": 9_000.0}])
def test_what_is_worse_misses_its_target(worse: dict[str, float]) -> None:
    assert False in {target.met for target in affinity_sim.part(made_up(**worse)).targets}


@pytest.mark.parametrize("best", ["SGLang, fitted to the slots", "Preble E2"])
def test_the_best_router_is_the_best_of_all_that_take_our_ways(best: str) -> None:
    """One that is spared them is in the table, not in a target."""
    for policy, met in ((best, False), ("Preble E2, one way", True)):
        played = [
            msgspec.structs.replace(p, figures=msgspec.structs.replace(p.figures, ttft_ms=100.0))
            if p.case.policy == policy
            else p
            for p in made_up()
        ]
        (target,) = (t for t in affinity_sim.part(played).targets if t.name.startswith("TTFT over the best"))
        assert target.met is met


def test_an_unanswered_question_is_no_success() -> None:
    part = affinity_sim.part(made_up(unanswered=1))
    assert [target.met for target in part.targets if "without an answer" in target.name] == [False]


def test_the_readme_and_the_figure_are_made_from_the_report_alone(tmp_path: Path) -> None:
    part = affinity_sim.part([*made_up(), *(p for p in made_up(500) if p.case.policy not in ABLATED)])
    result = json.loads(msgspec.json.encode({**part.figures, "targets": part.targets}))
    text = affinity_sim_readme.tables(result)
    for policy in (OURS, *BASELINES, *DIRECT):
        assert text.count(f"| {policy} |") == 2
    for policy in ABLATED:
        assert f"| {policy}, 50 nodes |" in text
        assert f"{policy}, 500" not in text
    affinity_plot.plot(part.figures, tmp_path / "figure.svg")
    assert "500 nodes" in (tmp_path / "figure.svg").read_text()


def test_figures_are_of_what_was_served() -> None:
    case = Case(2, 0.0, "random", 0)
    turns = draw_crowd(case.crowd, BLOCK_TOKENS, Random(0))[:12]
    site = msgspec.structs.replace(SITE, nodes=2)
    served = [
        Service(turn, turn.conversation, 1_000 * n, 1_000 * n + 10 * (n + 1), 1_000 * n + 500, 0, 0, 100 * n)
        for n, turn in enumerate(turns)
    ]
    served[1] = served[1]._replace(node=1, cached_tokens=960, billed_tokens=992)
    found = figures(site, turns, Outcomes(served))
    prompts = sum(turn.prompt_tokens for turn in turns)
    assert found.hit_rate == pytest.approx(960 / prompts)
    assert found.quoted_in_vain == pytest.approx(32 / prompts)
    assert found.stayed == pytest.approx(8 / 10)
    assert found.ttft_ms == pytest.approx(65)
    assert found.ttft_ms_p95 == pytest.approx(114.5)
    assert found.end_to_end_ms == 500
    assert found.price_microcredits == 550
    assert found.ceiling == ceiling(turns, BLOCK_TOKENS)
    work_s = (prompts - 960) / 3_000 + 12 * 16 * seen(site).speed.decode_s_per_token
    assert found.load == pytest.approx(work_s / (2 * 11.5))


def test_without_a_part_peers_do_not_have_it_and_then_have_it_again() -> None:
    before = {(owner, name): getattr(owner, name) for seams in SEAMS.values() for owner, name, _ in seams}
    with without("affinity"):
        assert Recall().expected_tokens(None, (), 100, 0, 10) == 0  # type: ignore[arg-type]
        assert Shelf(100).held_tokens(b"", (), 100) == 0
    with without("prediction"):
        assert seller.Physical is Means
    with without("market"):
        assert choice.toll(None, 0, None) == 0  # type: ignore[arg-type]
    with without(None):
        assert seller.Physical is Physical
    assert before == {(owner, name): getattr(owner, name) for owner, name in before}


def test_means_say_the_same_of_every_task() -> None:
    means = Means(METER)
    for _ in range(200):
        means.learn_one(Task(1_000, 0, 16), Outcome(100_000, 2_000, 11, 0), None)
    short, long = means.predict_one(Task(10, 0, 16)), means.predict_one(Task(5_000, 0, 16, running=3))
    assert short == replace(long, cost_microcredits=short.cost_microcredits)
    assert short.cost_microcredits.mean == METER(Usage(10, 0, 11))
    assert short.ttft_us.mean == pytest.approx(100_000, rel=0.01)
    assert short.total_us.mean == pytest.approx(120_000, rel=0.01)


def test_without_affinity_conversations_do_not_come_home() -> None:
    whole, blind = (play(Run(), Case(5, 0.0, policy, 0)).figures for policy in (OURS, "ours without affinity"))
    assert not whole.unanswered + blind.unanswered
    assert whole.stayed > blind.stayed + 0.2
    assert whole.hit_rate > blind.hit_rate + 0.1
