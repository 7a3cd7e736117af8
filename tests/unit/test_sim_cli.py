"""`p2pagent sim` on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pagent.cli import app
from p2pagent.sim import plots
from p2pagent.sim.results import Results, Samples
from p2pagent.sim.scenarios import SCENARIOS, Scenario
from p2pagent.sim.stage import play


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six peers with a question or two are enough to print."""
    scenario = Scenario("Small.", peers=6, settle_minutes=0.2, minutes=0.5, load=0.02)
    monkeypatch.setitem(SCENARIOS, "small", scenario)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sim", *arguments], prog_name="p2pagent")
    return result.exit_code, result.stdout, result.stderr


def test_prints_a_table_of_what_was_simulated(small: None) -> None:
    code, out, err = run("small")
    assert (code, err) == (0, "")
    assert out.startswith("simulated")
    for label in ("answered", "right answers", "latency", "calls per question", "gossip", "memory", "digest"):
        assert label in out


def test_prints_json_of_the_same_run(small: None) -> None:
    code, out, _ = run("small", "--seed", "4", "--json")
    shown = json.loads(out)
    results, _ = play("small", SCENARIOS["small"], 4, lambda _: None)
    assert code == 0
    assert shown["digest"] == results.digest
    assert shown["latency_ms"]["p99"] == results.latency_ms.p99
    assert {"wall_s", "events_per_s", "memory_mb"} <= shown.keys()
    assert shown["minutes"] == 0.5


def test_what_is_given_takes_the_place_of_the_scenarios(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Scenario, int]] = []

    def spy(name: str, scenario: Scenario, seed: int, progress: Callable[[int], None]) -> tuple[Results, Samples]:
        asked.append((name, scenario, seed))
        return play("small", SCENARIOS["small"], 0, progress)

    monkeypatch.setattr("p2pagent.sim.stage.play", spy)
    assert run("churn", "--peers", "33", "--minutes", "2.5", "--seed", "9")[0] == 0
    ((name, scenario, seed),) = asked
    assert (name, scenario.peers, scenario.minutes, seed) == ("churn", 33, 2.5, 9)
    assert scenario.churn_per_minute == SCENARIOS["churn"].churn_per_minute


def test_an_unknown_scenario_is_answered_with_those_that_exist() -> None:
    code, out, err = run("stedy")
    assert (code, out) == (2, "")
    assert "'stedy'" in err
    assert all(name in err.replace("\n", " ") for name in SCENARIOS)


def test_draws_what_was_measured(small: None, tmp_path: Path) -> None:
    file = tmp_path / "small.svg"
    assert run("small", "--plot", str(file))[0] == 0
    assert "simulated: small, 6 peers" in file.read_text() or file.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["figure.txt", "nowhere/figure.png"])
def test_what_cannot_be_drawn_is_refused_before_the_run(small: None, tmp_path: Path, name: str) -> None:
    code, out, err = run("small", "--plot", str(tmp_path / name))
    assert (code, out) == (2, "")
    assert ".png" in err


def test_without_matplotlib_says_how_to_get_it(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    code, out, err = run("small", "--plot", str(tmp_path / "figure.png"))
    assert (code, out) == (2, "")
    assert "p2pagent[plots]" in err


def test_help_names_every_scenario() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"  {name} " in out and scenario.about in out for name, scenario in SCENARIOS.items())
