"""Simulated networks under churn, each run in a process of its own so that its memory can be told; two side by side."""

import multiprocessing
import resource
import sys
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Literal

import msgspec
from msgspec import Struct

from p2pagent.sim.results import Results, Samples
from p2pagent.sim.scenarios import SCENARIOS
from p2pagent.sim.stage import play
from scripts.benches.run import Run

PROCESSES = 2
CHURN = (0.0, 0.05, 0.1, 0.2)
TRAFFIC_CHURN = (0.0, 0.1)

Part = Literal["churn", "traffic", "scale"]


class Case(Struct, frozen=True):
    """One run: for which part of the bench, how large, how long, at which churn."""

    part: Part
    peers: int
    churn_per_minute: float
    settle_minutes: float
    minutes: float
    load: float
    seed: int


class Measured(Struct, frozen=True):
    """What came of a run, and what it took."""

    case: Case
    results: Results
    samples: Samples
    wall_s: float
    memory_mb: int


def cases(run: Run) -> list[Case]:
    """All runs, the long ones first."""
    if run.quick:
        return [
            Case("scale", 150, 0.0, 0.5, 0.5, 0.01, 0),
            *(Case("traffic", peers, churn, 0.5, 0.5, 0.01, 0) for peers in (80, 40, 20) for churn in TRAFFIC_CHURN),
            *(Case("churn", 40, churn, 0.5, 1.0, 0.03, 0) for churn in CHURN),
        ]
    return [
        Case("scale", 10_000, 0.0, 2.0, 8.0, 0.0015, 0),
        Case("traffic", 10_000, 0.1, 2.0, 1.0, 0.0015, 0),
        *(Case("traffic", 1_000, churn, 2.0, 2.0, 0.01, seed) for churn in TRAFFIC_CHURN for seed in range(2)),
        *(Case("churn", 500, churn, 2.0, 4.0, 0.02, seed) for churn in CHURN for seed in range(5)),
        *(Case("traffic", 100, churn, 2.0, 4.0, 0.01, seed) for churn in TRAFFIC_CHURN for seed in range(5)),
    ]


def play_all(run: Run, planned: list[Case]) -> Iterator[Measured]:
    """Each case; no order changes a figure but times."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES, maxtasksperchild=1) as pool:
        yield from run.track(pool.imap_unordered(partial(measure, run), planned), "networks", len(planned))


def measure(run: Run, case: Case) -> Measured:
    """Simulate one case. Whoever leaves goes dark without a word: nobody's connection breaks at once."""
    scenario = msgspec.structs.replace(
        SCENARIOS["churn"],
        peers=case.peers,
        settle_minutes=case.settle_minutes,
        minutes=case.minutes,
        load=case.load,
        churn_per_minute=case.churn_per_minute,
        silent_share=1.0,
    )
    start_s = perf_counter()
    # Churn has draws of its own: at one seed all levels meet the same population and the same questions.
    results, samples = play("churn", scenario, 1_000 * run.seed + case.seed, lambda _: None)
    wall_s = perf_counter() - start_s
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Measured(case, results, samples, wall_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)
