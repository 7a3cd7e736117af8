"""The named scenarios, small: what must hold in each, and that one seed is one run."""

import os
import subprocess
import sys
from functools import cache

import msgspec
import pytest

from p2pagent.sim.results import Results
from p2pagent.sim.scenarios import SCENARIOS
from p2pagent.sim.stage import play

PEERS = 24
SMALL = {"peers": PEERS, "settle_minutes": 0.5, "minutes": 1.0, "load": 0.03}


@cache
def played(name: str, seed: int = 1, **changes: float) -> Results:
    scenario = msgspec.structs.replace(SCENARIOS[name], **{**SMALL, **changes})
    return play(name, scenario, seed, lambda _: None)[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_asked_is_answered(name: str) -> None:
    results = played(name)
    assert results.asked >= 20
    assert results.answered_share == 1.0


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"partition", "liars"}))
def test_the_network_answers_better_than_each_alone(name: str) -> None:
    results = played(name)
    assert results.accuracy is not None
    assert results.accuracy_local is not None
    assert results.accuracy_oracle is not None
    assert results.accuracy > results.accuracy_local + 0.15
    assert results.delegated_share is not None
    assert results.delegated_share > 0.7


@pytest.mark.parametrize("name", ["steady", "bursty", "lossy", "stale"])
def test_nobody_who_is_there_is_forgotten(name: str) -> None:
    results = played(name)
    assert results.deaths == 0
    assert results.directory.p50 == PEERS - 1


def test_deaths_are_noticed_by_all() -> None:
    results = played("churn", churn_per_minute=0.5)
    assert results.deaths >= 5
    assert results.deaths_unknown == 0
    assert results.death_known_ms.p99 is not None
    assert results.death_known_ms.p99 < 60_000


def test_what_is_lost_is_missed() -> None:
    """Frames that are lost cost time: the scenario does lose some."""
    lossy, steady = played("lossy", loss=0.15), played("steady")
    assert lossy.digest != steady.digest
    assert lossy.latency_ms.mean is not None
    assert steady.latency_ms.mean is not None
    assert lossy.latency_ms.mean > steady.latency_ms.mean


@pytest.mark.parametrize("lie", ["boasters", "flatterers", "idlers", "slanderers"])
def test_lies_are_told_and_nobody_goes_without_an_answer(lie: str) -> None:
    lies = dict.fromkeys(("boasters", "flatterers", "idlers", "slanderers"), 0.0)
    honest, lying = played("liars", **lies), played("liars", **{**lies, lie: 0.3})
    assert lying.digest != honest.digest
    assert lying.answered_share == 1.0
    assert lying.directory.p50 is not None
    assert lying.directory.p50 >= 0.9 * (PEERS - 1)


def test_idlers_cost_restarts() -> None:
    lies = dict.fromkeys(("boasters", "flatterers", "idlers", "slanderers"), 0.0)
    results = played("liars", **{**lies, "idlers": 0.3})
    assert results.restarts_per_query is not None
    assert results.restarts_per_query > 0


def test_one_seed_is_one_run_whatever_the_hash_seed() -> None:
    """Two interpreters with different hashes of strings, in which sets have different orders."""
    program = (
        "import msgspec\n"
        "from p2pagent.sim.scenarios import SCENARIOS\n"
        "from p2pagent.sim.stage import play\n"
        "for name in ('churn', 'liars'):\n"
        "    small = dict(peers=20, settle_minutes=0.5, minutes=1.0, churn_per_minute=0.2)\n"
        "    scenario = msgspec.structs.replace(SCENARIOS[name], **small)\n"
        "    results, _ = play(name, scenario, 3, lambda _: None)\n"
        "    print(msgspec.json.encode(results).decode())\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].count("digest") == 2


def test_another_seed_is_another_run() -> None:
    assert played("steady", 1).digest != played("steady", 2).digest
