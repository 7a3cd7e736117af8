"""The game bench's own parts: what it measures, whom it compares with, and which points it holds to a target."""

import json

import msgspec
import numpy as np
import pytest

from p2pagent.sim.arena import Arena
from p2pagent.sim.baselines import Local, ProbeAll
from scripts.benches import game_plot, game_readme, game_targets
from scripts.benches.game_points import METRICS, tables
from scripts.benches.game_policies import NAMED, PAPERS_OWN, contenders
from scripts.benches.game_runs import (
    BURSTY_LOADS,
    GOSSIP_S,
    LOADS,
    QUERIES,
    Case,
    Figures,
    Played,
    cases,
    growth,
    inside,
    jain,
    measured,
    play,
)
from scripts.benches.run import Run
from tests.arenas import drawn, query, trace


def figures(policy: str, gossip_s: float | None = None, **fields: float) -> Figures:
    usual = {"accuracy": 0.8, "latency_s": 2.0, "probes": 8.0, "growth": 0.0}
    rest = dict.fromkeys(("p95_s", "p99_s", "jain_askers", "jain_agents", "cached_share"), 1.0)
    return Figures(policy, gossip_s, **(usual | rest | fields))


def played(load: float = 0.7, seed: int = 0, **of: Figures) -> Played:
    """A trace on which all do alike but those given by name."""
    usual = {name: figures(name) for name in NAMED if name != "ours"}
    ours = of.pop("ours", figures("ours", probes=4.0))
    both = [msgspec.structs.replace(ours, gossip_s=gossip_s) for gossip_s in GOSSIP_S]
    return Played(Case(50, load, seed, 100), [*both, *(usual | of).values()])


def test_jain_is_one_where_all_have_alike_and_a_share_where_one_has_all():
    assert jain(np.ones(7)) == pytest.approx(1)
    assert jain(np.eye(5)[0]) == pytest.approx(0.2)
    assert jain(np.zeros(3)) == 1


def test_how_many_are_inside_is_the_mean_over_time():
    jobs = Arena(trace(query(0), query(1, 1.0)), Local, 2.0, 0).run().jobs  # 0 to 2 s, and 1 to 4 s with its wait
    assert inside(jobs, 0, 4) == pytest.approx((2 + 3) / 4)
    assert inside(jobs, 3, 5) == pytest.approx(1 / 2)


def test_growth_tells_overload_from_load():
    calm, over = drawn(1, 6, 3_000, 0.4), drawn(1, 6, 3_000, 3.0)
    assert abs(growth(calm, Arena(calm, ProbeAll, 2.0, 0).run().jobs)) < game_targets.GROWTH_MAX
    assert growth(over, Arena(over, ProbeAll, 2.0, 0).run().jobs) > 0.3


def test_figures_are_of_what_happened_after_the_start():
    questions = trace(*(query(i, 10.0 * i, right=(i >= 3, True, True)) for i in range(10)))
    found = measured("local", None, questions, Arena(questions, Local, 2.0, 0).run())
    assert found.accuracy == 1
    assert found.latency_s == pytest.approx(2.0)
    assert found.probes == found.cached_share == found.growth == 0


def test_the_papers_best_is_the_most_useful_of_those_that_stay_bounded():
    fast = {"local": figures("local", accuracy=0.6, latency_s=1.0)}
    right = {"RouterDC": figures("RouterDC", accuracy=0.9, latency_s=3.0)}
    grows = {"KABB": figures("KABB", accuracy=0.99, growth=0.02)}
    others = {name: figures(name, growth=1.0) for name in PAPERS_OWN if name not in {"local", "RouterDC", "KABB"}}
    found = game_targets.pairs([played(**(fast | right | grows | others))])
    assert [game_targets.best_of(of) for of in found.values()] == ["RouterDC (1)"] * len(GOSSIP_S)


def test_where_all_of_the_papers_own_grow_there_is_nothing_to_compare_with():
    found = game_targets.pairs([played(**{name: figures(name, growth=0.5) for name in PAPERS_OWN})])
    assert all(game_targets.mean_over(of, "latency over the papers' best") is None for of in found.values())
    assert game_targets.best_of(next(iter(found.values()))) == "none bounded"


def test_targets_hold_at_the_worst_point():
    slow = figures("ours", latency_s=2.1, accuracy=0.7, probes=5.0)
    quick = figures("ours", latency_s=1.0, accuracy=0.9, probes=2.0)
    for run, measured_at in ((Run(), 1.05), (Run(quick=True), None)):
        found = game_targets.pairs([played(0.5, ours=quick), played(0.9, ours=slow)])
        by_name = {target.name: target for target in game_targets.targets(run, found)}
        assert by_name["latency over probe all"].measured == measured_at
        assert by_name["latency over power of two, load 0.7 and more"].measured == measured_at
        assert by_name["probes over probe all"].measured == (None if run.quick else 0.625)
        assert by_name["accuracy over local, relative"].met == (None if run.quick else False)


def test_idle_hours_do_not_count_against_power_of_two():
    found = game_targets.pairs([played(0.5, ours=figures("ours", latency_s=9.0)), played(0.7)])
    by_name = {target.name: target for target in game_targets.targets(Run(), found)}
    assert by_name["latency over power of two, load 0.7 and more"].measured == 1


def test_every_named_policy_plays_every_trace_and_a_quick_run_has_the_same_rows():
    full, quick = cases(Run()), cases(Run(quick=True))
    assert {case.peers for case in full} == {case.peers for case in quick} == set(QUERIES)
    assert {case.load for case in full} == set(LOADS)
    assert {case.load for case in full if case.arrivals == "bursty"} == set(BURSTY_LOADS)
    assert all(set(NAMED) <= set(contenders(case.peers, case.load, case.arrivals)) for case in full)

    def rows(planned: list[Case]) -> set[tuple[int, str, str]]:
        return {(c.peers, c.arrivals, name) for c in planned for name in contenders(c.peers, c.load, c.arrivals)}

    assert rows(full) == rows(quick)


def test_a_trace_is_played_alike_whoever_plays_it():
    case = Case(5, 0.9, 1, 60)
    assert play(Run(), case) == play(Run(), case)
    assert play(Run(seed=1), case) != play(Run(), case)


def test_the_readme_and_the_figure_are_made_from_the_report_alone(tmp_path):
    found = [
        Played(Case(peers, load, seed, 100), played(load, seed).figures)
        for peers in (50, 1_000)
        for load in LOADS
        for seed in (0, 1)
    ]
    shown = tables(found)
    assert set(shown) == set(METRICS)
    targets = game_targets.targets(Run(), game_targets.pairs(found))
    result = json.loads(msgspec.json.encode(shown | {"targets": targets}))
    text = game_readme.tables(result)
    assert "| ours, gossip 2 s | 2.00 s (2.00 to 2.00), 80.0% |" in text
    assert text.count("| local |") == 2
    pytest.importorskip("matplotlib")
    game_plot.plot(shown, tmp_path / "game.svg")
    assert (tmp_path / "game.svg").stat().st_size > 10_000
