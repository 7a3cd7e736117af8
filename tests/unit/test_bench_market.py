"""The market bench's own parts: an oracle that cannot fail and a hunt that finds nothing anywhere prove nothing."""

import json
from collections import Counter

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from p2pagent.market.clearing import clear
from p2pagent.market.payments import Market, seller_gains, tolls
from p2pagent.peer.directory import Directory
from p2pagent.routing.space import load_space
from scripts.benches import (
    hub_epochs,
    intervals,
    market_capabilities,
    market_hubs,
    market_lies,
    market_oracle,
    market_plot,
    market_readme,
)
from scripts.benches.__main__ import app
from scripts.benches.market_budget import Budget
from scripts.benches.market_draws import Truth, awkward_truth, prototype_truth
from scripts.benches.market_lies import contested_truth
from scripts.benches.market_load import SHARES
from scripts.benches.market_mechanisms import OURS, Mechanism, greedy, heaviest_first, pay_per_query, pay_your_bid
from scripts.benches.market_oracle import Audit, by_assignment, by_capacity
from scripts.benches.market_thickness import best_gains
from scripts.benches.report import Report, Target, at_least, at_most, exactly
from scripts.benches.run import Run


def integers(*rows: object) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def test_the_dynamic_programme_solves_by_hand_what_can_be_solved_by_hand():
    assert by_capacity(integers([9, 8], [7, 1]), integers(1, 1)) == 8 + 7
    assert by_capacity(integers([9, 8], [7, 1]), integers(0, 1)) == 8
    assert by_capacity(integers([-5], [0]), integers(3)) == 0
    assert by_capacity(np.zeros((0, 2), dtype=np.int64), integers(1, 1)) == 0
    assert by_capacity(np.zeros((2, 0), dtype=np.int64), integers()) == 0


def test_both_oracles_agree():
    rng = np.random.default_rng(1)
    for _ in range(100):
        market = awkward_truth(rng).market
        best = by_capacity(market.weights, market.capacities)
        assert best == by_assignment(market.weights, market.capacities)


@pytest.mark.parametrize(
    ("wrong", "noticed"),
    [
        ({}, set()),
        ({"toll": 1}, {"owner_payments", "client_payments"}),
        ({"gain": -1}, {"seller_payments"}),
        ({"slot_price": 1}, {"slot_prices"}),
        ({"welfare": 1}, {"welfare"}),
    ],
)
def test_the_oracle_catches_a_wrong_price(wrong: dict[str, int], noticed: set[str]):
    # One slot wanted by three owners: the winner pays 7, and without the seller 9 are lost.
    market = Market(integers([9], [7], [4]), integers(1), np.arange(3), np.arange(1))
    clearing = clear(market.weights, market.capacities)
    charged = tolls(market, clearing) + integers(wrong.get("toll", 0), 0, 0)
    gains = seller_gains(market, clearing) + wrong.get("gain", 0)
    told = msgspec.structs.replace(
        clearing,
        slot_prices=clearing.slot_prices + wrong.get("slot_price", 0),
        welfare=clearing.welfare + wrong.get("welfare", 0),
    )
    audit = Audit(Counter(), Counter())
    market_oracle.check(market, told, charged, gains, by_capacity, audit)
    assert {kind for kind, count in audit.wrong.items() if count} == noticed
    assert audit.compared["owner_payments"] == 3


def hunted(mechanism: tuple[Mechanism, ...], *, several: bool, markets: int = 60) -> int:
    rng = np.random.default_rng(3)
    drawn = (contested_truth(rng, several=several) for _ in range(markets))
    tallies = market_lies.hunt(rng, mechanism, drawn, 10, Budget())
    assert sum(tally.tried for tally in tallies.values()) == 10 * markets
    return sum(tally.profitable for tally in tallies.values())


@pytest.mark.parametrize("several", [False, True])
def test_no_lie_of_an_owner_pays_under_the_rules_and_some_do_under_the_controls(several: bool):
    assert hunted(OURS, several=several) == 0
    assert hunted((pay_your_bid,), several=several) > 0
    assert hunted((greedy,), several=several) > 0


def test_charging_queries_one_by_one_is_safe_for_owners_of_one_only():
    assert hunted((pay_per_query,), several=False) == 0
    assert hunted((pay_per_query,), several=True) > 0


def test_owners_of_several_queries_are_drawn_and_none_has_more_than_eight():
    rng = np.random.default_rng(2)
    owned = [np.bincount(contested_truth(rng, several=True).owners).max() for _ in range(200)]
    assert set(owned) >= set(range(2, 9))
    assert max(owned) == 8


@pytest.mark.parametrize("by_report", [False, True])
def test_lies_of_sellers_pay_only_where_success_is_taken_as_reported(by_report: bool):
    rng = np.random.default_rng(4)
    drawn = (market_capabilities.uncertain_market(rng) for _ in range(60))
    tallies = market_capabilities.hunt(rng, drawn, 10, by_report=by_report)
    assert all(tally.tried > 50 for tally in tallies.values())
    assert any(tally.profitable for tally in tallies.values()) == by_report


def test_settling_at_expected_values_is_the_mean_over_all_outcomes():
    rng = np.random.default_rng(5)
    both = [market_capabilities.enumerated_and_settled(market_capabilities.uncertain_market(rng)) for _ in range(10)]
    assert all(enumerated == settled for enumerated, settled in both)
    assert any(any(settled) for _, settled in both)


def test_the_heaviest_pair_goes_first():
    assert list(heaviest_first(integers([9, 8], [7, 1], [-1, 0]), integers(1, 1))) == [0, 1, -1]


def test_a_lone_seller_can_overstate_and_a_rival_as_good_undoes_it():
    thin = Truth(integers([1000], [900]), integers([100], [100]), integers(4), np.arange(2), np.arange(1))
    gains = best_gains(thin, 0)
    assert gains["overstating"] == 2 * 200  # three times its rates
    assert gains["any"] >= gains["withholding"] > 0
    matched = Truth(
        integers([1000, 1000], [900, 900]), integers([100, 100], [100, 100]), integers(4, 4), np.arange(2), np.arange(2)
    )
    assert best_gains(matched, 0) == {"overstating": 0, "withholding": 0, "any": 0}


def test_draws_follow_from_the_seed_and_the_name_alone():
    def first(seed: int, name: str) -> list[int]:
        return Run(seed=seed).rng(name).integers(0, 1 << 30, 4).tolist()

    assert first(0, "a") == first(0, "a")
    assert len({tuple(first(seed, name)) for seed in (0, 1) for name in ("a", "b")}) == 4
    one, two = (prototype_truth(Run().rng("x"), queries=5, agents=3, slots=2) for _ in range(2))
    assert (one.market.weights == two.market.weights).all()


def test_peers_in_one_hub_clear_as_one_market_does_in_under_four_round_trips():
    row = market_hubs.row(Run(), 8, market_hubs.EVEN, 1.0, 2)
    assert row["ratio"].value == row["ratio_first_epoch"].value == 1.0
    assert row["queries"] == 21
    assert row["messages_per_query"] > 4  # commit, reveal, sheet and claim of each, and the sellers' part
    assert 2 < row["latency_round_trips_mean"] < 4  # no connection has to be made first


def test_peers_that_know_nobody_clear_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Directory, "learn", lambda *_: False)
    cleared = hub_epochs.clear_epochs(Run(), load_space("hashing"), 8, market_hubs.EVEN, 1.0, 0)
    assert (cleared.ratio, cleared.hubs, cleared.messages, cleared.delays_ms) == (0, 0, 0, [])


def test_intervals_hold_what_they_are_made_of():
    assert intervals.mean([1, 2, 3]) == intervals.Interval(
        2.0, pytest.approx(-0.484, abs=1e-3), pytest.approx(4.484, abs=1e-3), 3
    )
    # P(at most 1 of 10 coins) = 0.011, of 2 it is 0.055: the second smallest and second largest.
    assert intervals.median(range(10)) == intervals.Interval(4.5, 1.0, 8.0, 10)
    assert intervals.median([3, 1, 2]) == intervals.Interval(2.0, 1.0, 3.0, 3)
    assert intervals.share(0, 100).high == pytest.approx(1 - 0.025 ** (1 / 100))
    rng = np.random.default_rng(0)
    assert intervals.ratio_of_sums([2, 4, 6], [1, 2, 3], rng) == intervals.Interval(2.0, 2.0, 2.0, 3)
    medians = intervals.ratio_of_medians([8, 10, 12], [5, 5, 5], rng)
    assert (medians.value, medians.low, medians.high) == (2.0, 1.6, 2.4)


def report(*targets: Target) -> Report:
    interval = intervals.Interval(0.5, 0.25, 0.75, 9)
    figures = {"rows": [{"a": 1, "b": interval}, {"a": 2, "b": None}], "fields": {"x": {"y": 1234}, "ok": True}}
    return Report("market", 0, True, 1.5, 0.95, {"cores": 2}, figures, list(targets))


def test_a_missed_target_is_an_exit_code_and_an_unmeasured_one_is_not():
    assert report(at_most("a", 2, 2), at_least("b", 2, 2), exactly("c", True, True)).exit_code == 0
    assert report(at_most("a", 2, None), at_least("b", 2, None), exactly("c", 0, None)).exit_code == 0
    for missed in (at_most("a", 2, 2.1), at_least("b", 2, 1.9), exactly("c", 0, 1), exactly("d", True, False)):
        assert report(missed).exit_code == 1


def test_json_has_stdout_to_itself(capsys: pytest.CaptureFixture[str]):
    report(at_most("a", 2, 1.5)).write(as_json=True)
    written = capsys.readouterr()
    result = json.loads(written.out)
    assert result["targets"] == [{"name": "a", "target": "<= 2", "measured": 1.5, "met": True}]
    assert result["rows"][0]["b"] == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    assert result["fields"]["x"]["y"] == 1234
    report(at_most("a", 2, 1.5)).write(as_json=False)
    shown = capsys.readouterr()
    assert not shown.err
    for text in ("0.5 [0.25, 0.75]", "not measured", "x y", "1,234", "<= 2"):
        assert text in shown.out
        assert text in written.err


def test_the_figure_is_drawn(tmp_path):
    means = {f"{share}_per_slot": intervals.Interval(0.5, 0.4, 0.6, 3) for share in SHARES}
    rows = [{"load": load, "rule": rule, "markets": 3, **means} for load in (0.5, 1.0) for rule in ("a", "b", "c")]
    market_plot.plot(rows, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text("utf-8")
    assert drawn.startswith("<?xml")


def test_the_readme_tables_say_what_was_measured():
    interval = {"value": 1.234, "low": 1.1, "high": 1.3, "n": 7}
    share = {"value": 0.0, "low": 0.0, "high": 0.1, "n": 5_000}
    size = {"queries": 100, "agents": 20, "slots": 4, "weights": "uniform"}
    row = {"sellers": 2, "gain_share_of_trade": interval, "gain_largest_share_of_trade": 2.0}
    result = {
        "oracle_mismatches": {"markets": 12, "mismatch_share": share},
        "profitable_misreports": {"profitable_share": share},
        "caught_controls": {"caught": True, "pay_your_bid": {"tried": 9, "profitable": 3}},
        "per_query_pricing": {"share_that_pays": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 10}},
        "budget_residue_microcredits": {"total": 0, "markets": 77},
        "clear_over_lsa": [{**size, "ratio": interval}, {**size, "ratio": None}],
        "naive_speedup": [{**size, "speedup": interval, "seller_gains_over_lsa": interval}],
        "seller_gain_by_thickness": [{**row, "paid_over_cost": interval, "contingent_received_over_paid": interval}],
        "hub_welfare_ratio": [
            {
                "agents": 512,
                "demand": "even",
                "load": 1.3,
                "ratio": interval,
                "ratio_first_epoch": interval,
                "messages_per_query": 9.5,
                "kilobytes_per_query": 80.5,
                "latency_ms_mean": 181.5,
                "latency_round_trips_mean": 3.6,
            }
        ],
        "targets": [
            {"name": "clear_over_lsa 100x20x4 uniform", "target": "<= 2.5"},
            {"name": "naive_speedup uniform", "target": ">= 300"},
        ],
    }
    text = market_readme.tables(result)
    for cell in ("0 of 5,000, 12 markets", "3 of 9", "25.0% (20.0% to 30.0%)", "1.23 (1.10 to 1.30)", "not measured"):
        assert f"| {cell} |" in text
    assert "| <= 2.5 |" in text
    assert "| >= 300 |" in text
    assert "| 512 | even | 1.3 | 1.234 | 1.234 | 9.5 | 80.5 | 181.5 | 3.6 |" in text


def test_help_lists_the_benches():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "market" in result.output
    for option in ("--json", "--seed", "--quick", "--plot"):
        assert option in CliRunner().invoke(app, ["market", "--help"]).output


def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_is_measured():
    for file in ("figure.txt", "no-such-folder/figure.png"):
        result = CliRunner().invoke(app, ["market", "--plot", file])
        assert result.exit_code == 2
        assert "is no .png or .svg" in result.output
