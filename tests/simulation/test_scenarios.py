"""The named scenarios, small: what must hold in each, and that one seed is one run."""

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import msgspec
import pytest

from p2pagent.ledger import receipt_in
from p2pagent.peer.messages import Fail, Final
from p2pagent.sim.liars import LyingPeer
from p2pagent.sim.results import Results
from p2pagent.sim.scenarios import SCENARIOS
from p2pagent.sim.stage import Stage, play
from p2pagent.types import PeerId

PEERS = 24
LIES = ("boasters", "flatterers", "braggarts", "idlers", "quitters", "slanderers", "padders")
SMALL = {"peers": PEERS, "settle_minutes": 0.5, "minutes": 1.0, "load": 0.03}


@cache
def played(name: str, seed: int = 1, **changes: float) -> Results:
    scenario = msgspec.structs.replace(SCENARIOS[name], **{**SMALL, **changes})
    return play(name, scenario, seed, lambda _: None)[0]


def lied(lie: str | None) -> Results:
    return played("liars", **{each: 0.3 if each == lie else 0.0 for each in LIES})


class Told(NamedTuple):
    """How many messages of one type honest peers have sent to users' peers, and how many liars."""

    by_honest: int
    by_liars: int


@cache
def told(lie: str, kind: type) -> list[Told]:
    """What was sent in each quarter of six minutes with many questions."""
    changes = {each: 0.3 if each == lie else 0.0 for each in LIES} | {"minutes": 6.0, "load": 0.05}
    scenario = msgspec.structs.replace(SCENARIOS["liars"], **{**SMALL, **changes})
    stage = Stage("liars", scenario, 1)
    begin_ms, quarter_ms = round(60_000 * scenario.settle_minutes), 15_000 * scenario.minutes
    sums = [Told(0, 0)]

    def count(over_ms: int) -> None:
        if over_ms >= begin_ms + quarter_ms * len(sums):
            nodes = [node for node in map(stage.world.node, stage._present) if node is not None]
            sent = [(isinstance(node.peer, LyingPeer), node.kinds[kind]) for node in nodes]
            sums.append(Told(sum(n for lies, n in sent if not lies), sum(n for lies, n in sent if lies)))

    stage.run(count)
    return [Told(now[0] - before[0], now[1] - before[1]) for before, now in pairwise(sums)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_asked_is_answered(name: str) -> None:
    results = played(name)
    assert results.asked >= 20
    assert results.answered_share == 1.0


@pytest.mark.parametrize("name", SCENARIOS)
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


def test_deaths_are_noticed_by_all_those_at_the_end_too() -> None:
    scenario = msgspec.structs.replace(SCENARIOS["churn"], **{**SMALL, "churn_per_minute": 0.5, "silent_share": 1.0})
    stage = Stage("churn", scenario, 1)
    results, samples = stage.run(lambda _: None)
    assert results.deaths >= 5
    assert len(samples.known_ms) == len(samples.suspected_ms) == results.deaths
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


class TestLiars:
    """A third of the peers tells one lie, and what that costs the others."""

    @pytest.mark.parametrize("lie", LIES)
    def test_nobody_goes_without_an_answer_or_is_forgotten(self, lie: str) -> None:
        lying = lied(lie)
        assert lying.digest != lied(None).digest
        assert lying.answered_share == 1.0
        assert lying.directory.p50 is not None
        assert lying.directory.p50 >= 0.9 * (PEERS - 1)

    @pytest.mark.parametrize("lie", sorted(set(LIES) - {"boasters"}))
    def test_only_boasts_make_answers_much_worse(self, lie: str) -> None:
        honest, lying = lied(None), lied(lie)
        assert honest.accuracy is not None
        assert lying.accuracy is not None
        assert lying.accuracy > honest.accuracy - 0.1

    @pytest.mark.parametrize("lie", ["flatterers", "braggarts", "slanderers", "quitters"])
    def test_lies_of_waits_make_nobody_wait_much_longer(self, lie: str) -> None:
        honest, lying = lied(None).latency_ms.mean, lied(lie).latency_ms.mean
        assert honest is not None
        assert lying is not None
        assert lying < 1.5 * honest

    @pytest.mark.parametrize("lie", ["idlers", "quitters"])
    def test_what_is_not_answered_is_asked_elsewhere(self, lie: str) -> None:
        assert not lied(None).restarts_per_query
        assert lied(lie).restarts_per_query

    def test_whoever_boasts_answers_less_and_less(self) -> None:
        first, *_, last = told("boasters", Final)
        assert last.by_liars < 0.9 * first.by_liars
        assert last.by_honest > 2 * first.by_honest

    def test_whoever_gives_up_is_given_less_and_less(self) -> None:
        first, *_, last = told("quitters", Fail)
        assert first.by_liars >= 5
        assert last.by_liars < 0.7 * first.by_liars
        assert first.by_honest == last.by_honest == 0

    def test_whoever_pads_is_found_out_by_each_buyer_at_once(self) -> None:
        changes = {each: 0.3 if each == "padders" else 0.0 for each in LIES} | {"minutes": 3.0, "load": 0.05}
        stage = Stage("liars", msgspec.structs.replace(SCENARIOS["liars"], **{**SMALL, **changes}), 1)
        stage.run(lambda _: None)
        world, sales, honest = stage.world, Counter[tuple[str, str]](), 0
        for buyer, ledger in world.ledgers.items():
            for ident, receipt in [(ident, receipt_in(post.receipt)) for ident, post in ledger.items()]:
                seller = world.node(PeerId(receipt.seller))
                lies = seller is not None and isinstance(seller.peer, LyingPeer)
                if receipt.buyer == buyer:
                    assert lies == (ident in world.disputes[buyer])
                    sales[buyer, receipt.seller] += lies
                    honest += not lies
        assert sales.total() >= 20
        assert honest >= 100
        assert sales.total() <= 1.1 * sum(count > 0 for count in sales.values())  # but for what was under way already


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


def test_nobody_is_asked_and_nobody_leaves_where_hardly_anybody_is() -> None:
    """Two peers of whom each leaves once a minute: often only one is there, and it stays."""
    results = played("churn", peers=2, minutes=30.0, churn_per_minute=1.0)
    assert results.asked > 20
    assert results.answered_share == 1.0
    assert results.deaths > 10
