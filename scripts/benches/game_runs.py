"""Every policy on one trace, and the figures of each; traces side by side in two processes."""

import multiprocessing
from collections.abc import Iterator
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.sim.arena import Arena, Jobs, Outcome
from p2pagent.sim.traces import Arrivals, Trace, draw_population, draw_trace
from scripts.benches.game_policies import contenders
from scripts.benches.run import Run

PROCESSES = 2
GOSSIP_S = (2.0, 10.0)
WARM_SHARE = 0.4
"""Questions at the start that no figure but growth counts: in three of the longer gossip periods beliefs form."""


class Case(Struct, frozen=True):
    """One trace."""

    peers: int
    load: float
    seed: int
    queries: int
    arrivals: Arrivals = "poisson"


LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
QUERIES = {5: 6_000, 50: 10_000, 100: 12_000, 500: 32_000, 1_000: 64_000}
"""Per number of peers: more than a minute of the highest load, so that a queue that grows is seen to grow."""

MANY_PEERS = 500
"""From here on a lower load gets fewer questions, not more time."""

QUERIES_QUICK = {5: 400, 50: 500, 100: 600, 500: 800, 1_000: 1_200}
BURSTY_PEERS = 50
BURSTY_LOADS = (0.5, 0.7, 0.9)
SEEDS = 5
SEEDS_FEW_PEERS = 10
"""With five peers much hangs on who is fast at what."""

FEW_PEERS = 5


def cases(run: Run) -> list[Case]:
    """All traces of a run: every load at every number of peers, and bursts at one."""
    queries = run.pick(QUERIES, QUERIES_QUICK)
    seeds = {peers: run.pick(SEEDS_FEW_PEERS if peers == FEW_PEERS else SEEDS, 1) for peers in queries}
    steady = [
        Case(peers, load, seed, round(count * load / LOADS[-1]) if peers >= MANY_PEERS else count)
        for peers, count in queries.items()
        for load in run.pick(LOADS, (0.3, 0.7, 0.9))
        for seed in range(seeds[peers])
    ]
    return steady + [
        Case(BURSTY_PEERS, load, seed, queries[BURSTY_PEERS], "bursty")
        for load in run.pick(BURSTY_LOADS, BURSTY_LOADS[1:2])
        for seed in range(seeds[BURSTY_PEERS])
    ]


class Figures(Struct, frozen=True):
    """One policy on one trace. `gossip_s` is None where the policy looks at no gossip.

    Attributes:
        growth: how much the mean number of questions in the system grows from the second to the third third of the run,
            per question asked in a third.
        jain_askers: Jain's index of the askers' mean latencies; `jain_agents` of the agents' utilisations.
        cached_share: of all prompt tokens served.
    """

    policy: str
    gossip_s: float | None
    accuracy: float
    latency_s: float
    p95_s: float
    p99_s: float
    probes: float
    jain_askers: float
    jain_agents: float
    cached_share: float
    growth: float


class Played(Struct, frozen=True):
    """A trace and what every policy made of it."""

    case: Case
    figures: list[Figures]


def play_all(run: Run, planned: list[Case]) -> Iterator[Played]:
    """Each case, the long ones first; no order changes a figure."""
    ordered = sorted(planned, key=lambda case: -case.queries)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        yield from run.track(pool.imap_unordered(partial(play, run), ordered), "traces", len(planned))


def play(run: Run, case: Case) -> Played:
    """Every policy on the trace of `case`."""
    population = draw_population(case.peers, run.rng("population", case.peers, case.seed))
    rng = run.rng("trace", case.peers, case.load, case.seed, case.arrivals)
    trace = draw_trace(population, case.queries, case.load, rng, case.arrivals)
    figures = []
    for name, policy in contenders(case.peers, case.load, case.arrivals).items():
        for gossip_s in GOSSIP_S if policy.gossips else (None,):
            outcome = Arena(trace, policy, gossip_s or GOSSIP_S[0], case.seed).run()
            figures.append(measured(name, gossip_s, trace, outcome))
    return Played(case, figures)


def measured(policy: str, gossip_s: float | None, trace: Trace, outcome: Outcome) -> Figures:
    """The figures of one run."""
    start = int(WARM_SHARE * len(trace.queries))
    latency_s = outcome.latency_s[start:]
    askers = np.array([query.asker for query in trace.queries[start:]])
    sums = np.bincount(askers, weights=latency_s)
    counts = np.bincount(askers)
    prompt_tokens = np.array([query.prompt_tokens for query in trace.queries])
    served_tokens = prompt_tokens[outcome.jobs.query].sum()
    return Figures(
        policy=policy,
        gossip_s=gossip_s,
        accuracy=float(outcome.right[start:].mean()),
        latency_s=float(latency_s.mean()),
        p95_s=float(np.percentile(latency_s, 95)),
        p99_s=float(np.percentile(latency_s, 99)),
        probes=float(outcome.probes[start:].mean()),
        jain_askers=jain(sums[counts > 0] / counts[counts > 0]),
        jain_agents=jain(utilisation(trace, outcome.jobs)),
        cached_share=float(outcome.jobs.cached_tokens.sum() / served_tokens),
        growth=growth(trace, outcome.jobs),
    )


def jain(shares: NDArray[np.float64]) -> float:
    """(sum x)^2 / (n sum x^2): 1 where all are equal, 1/n where one has all (Jain, Chiu, Hawe 1984)."""
    squares = float((shares**2).sum())
    return float(shares.sum()) ** 2 / (len(shares) * squares) if squares else 1.0


def utilisation(trace: Trace, jobs: Jobs) -> NDArray[np.float64]:
    """Share of each agent's slots that was busy until the last question was asked."""
    agents = trace.population.agents
    busy_s = np.clip(np.minimum(jobs.ended_s, trace.end_s) - jobs.started_s, 0, None)
    return np.bincount(jobs.agent, busy_s, len(agents)) / (np.array([a.slots for a in agents]) * trace.end_s)


def growth(trace: Trace, jobs: Jobs) -> float:
    """See `Figures`."""
    third_s = trace.end_s / 3
    second, last = (inside(jobs, start * third_s, (start + 1) * third_s) for start in (1, 2))
    return (last - second) / (len(trace.queries) / 3)


def inside(jobs: Jobs, start_s: float, end_s: float) -> float:
    """Mean number of questions at agents, waiting or in service, between two times."""
    stay_s = np.minimum(jobs.ended_s, end_s) - np.maximum(jobs.arrived_s, start_s)
    return float(np.clip(stay_s, 0, None).sum()) / (end_s - start_s)
