"""Runs of the affinity bench on simulated nodes: one policy on one trace each, two side by side."""

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from time import perf_counter
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from p2pagent.sim.affinity import Network, Service, Site
from p2pagent.sim.affinity_routed import WAYS, Routed
from p2pagent.sim.conversations import Turn, ceiling
from p2pagent.sim.crowds import Crowd, draw_crowd
from p2pagent.sim.engine_blocks import BLOCK_TOKENS
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN
from p2pagent.sim.routers import Speed
from p2pagent.sim.stage import for_thousands
from scripts.benches.affinity_routers import ROUTERS, Nodes
from scripts.benches.affinity_sim_ablations import Part, without
from scripts.benches.affinity_targets import OURS
from scripts.benches.run import Run

PROCESSES = 2
OWNERS_SHARE = 0.2
"""Devices that ask, per node: few of them have most conversations."""

LASTING = {500: 12.0, 50: 60.0}
LASTING_QUICK = {20: 6.0}
"""By nodes, in mean pauses of a conversation."""

CONVERSATIONS_PER_PAUSE = 1 / 3
CONVERSATIONS_AT_ONCE = 8
"""Per node, that begin in a pause and that are there at the end, when those at a slow pace end as all others do."""

SITE = Site(
    nodes=50,
    slots=4,
    blocks=300,
    prefill_tokens_per_s=3_000.0,
    step_ms=12.0,
    step_ms_per_answer=1.0,
    pause_ms=1_000.0,
)

ABLATED: dict[str, Part] = {
    "ours without affinity": "affinity",
    "ours without prediction": "prediction",
    "ours without the market": "market",
    "ours without a price for eviction": "eviction",
}

DIRECT = {"Preble E2, one way": "Preble E2"}
"""Whose requests go straight to the node, as a central router's can; all others take the ways of ours."""


def seen(site: Site) -> Nodes:
    """The nodes as rules are told of them, all slots at work."""
    decode_s = (site.step_ms / site.slots + site.step_ms_per_answer) / 1_000
    speed = Speed(1 / site.prefill_tokens_per_s, decode_s, site.blocks, BLOCK_TOKENS)
    return Nodes(site.nodes, site.slots, speed, CHARACTERS_PER_TOKEN)


class Case(Struct, frozen=True):
    """One policy on the trace of one seed."""

    nodes: int
    lasting: float
    policy: str
    seed: int

    @property
    def crowd(self) -> Crowd:
        """Who asks."""
        conversations = round(self.nodes * (CONVERSATIONS_AT_ONCE + CONVERSATIONS_PER_PAUSE * self.lasting))
        return Crowd(max(1, round(OWNERS_SHARE * self.nodes)), conversations, lasting=self.lasting)


def cases(run: Run) -> list[Case]:
    """All runs, the long ones first: ours at every size, then what ours is without its parts, then the routers."""
    sizes = run.pick(LASTING, LASTING_QUICK)
    seeds = range(run.pick(5, 1))
    planned = [
        Case(nodes, lasting, policy, seed)
        for nodes, lasting in sizes.items()
        for policy in (OURS, *(ABLATED if nodes == min(sizes) else ()), *ROUTERS, *DIRECT)
        for seed in seeds
    ]
    return sorted(planned, key=lambda case: (-case.nodes, case.policy in ROUTERS | DIRECT))


class Figures(Struct, frozen=True):
    """One run. Times in ms, as the one who asks sees them; prices in microcredits, an answer's mean.

    Attributes:
        ceiling: of the trace.
        stayed: share of the turns after a conversation's first that went where the one before went.
        cleared: answers in slots that a hub had cleared; `calls` are those for quotes, per answer.
        quoted_in_vain: share of all prompt tokens that were charged as cached, since they were quoted, but computed.
        load: work of the engines over what they could do until the last answer, prefill and decode in full batches.
    """

    answers: int
    ceiling: float
    working_set_tokens: int
    prompt_tokens: float
    hit_rate: float
    stayed: float
    ttft_ms: float
    ttft_ms_p95: float
    end_to_end_ms: float
    end_to_end_ms_p95: float
    price_microcredits: float
    quoted_in_vain: float
    load: float
    lasted_s: float
    unanswered: int
    cleared: int
    calls: float


class Played(Struct, frozen=True):
    """A run and what came of it; `wall_s` is what it took."""

    case: Case
    figures: Figures
    wall_s: float


def play_all(run: Run, planned: list[Case]) -> Iterator[Played]:
    """Each case; no order changes a figure but times."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        yield from run.track(pool.imap_unordered(partial(play, run), planned), "runs", len(planned))


class Outcome(NamedTuple):
    """Answers, questions that got none, and of the answers how many a hub gave a slot and how many were called."""

    served: list[Service]
    unanswered: int = 0
    cleared: int = 0
    calls: int = 0


def play(run: Run, case: Case) -> Played:
    """One run."""
    start_s = perf_counter()
    seed = 1_000 * run.seed + case.seed
    turns = draw_crowd(case.crowd, BLOCK_TOKENS, Random(f"crowd {seed}"))
    site = replace(SITE, nodes=case.nodes)
    make = ROUTERS.get(DIRECT.get(case.policy, case.policy))
    if make is not None:
        ways = 1 if case.policy in DIRECT else WAYS
        outcome = Outcome(Routed(site, case.crowd, turns, make(seen(site), Random(f"router {seed}")), seed, ways).run())
    else:
        outcome = _with_peers(site, case, turns, seed)
    return Played(case, figures(site, turns, outcome), perf_counter() - start_s)


def _with_peers(site: Site, case: Case, turns: Sequence[Turn], seed: int) -> Outcome:
    with without(ABLATED.get(case.policy)), for_thousands(site.nodes + case.crowd.owners):
        network = Network(site, case.crowd, turns, seed)
        served = network.run()
    return Outcome(
        served,
        len(network.unanswered),
        sum(answer.how == "cleared" for answer in network.answers),
        sum(candidate.outcome != "not called" for answer in network.answers for candidate in answer.candidates),
    )


def figures(site: Site, turns: Sequence[Turn], outcome: Outcome) -> Figures:
    """What a run comes to."""
    served = outcome.served
    cached = sum(service.cached_tokens for service in served)
    billed = sum(service.billed_tokens for service in served)
    prompts = sum(service.turn.prompt_tokens for service in served)
    outputs = sum(service.turn.output_tokens for service in served)
    first_ms = np.array([service.first_ms - service.asked_ms for service in served])
    end_ms = np.array([service.ended_ms - service.asked_ms for service in served])
    lasted_s = max(service.ended_ms for service in served) / 1_000
    engine = seen(site).speed
    work_s = (prompts - cached) * engine.prefill_s_per_token + outputs * engine.decode_s_per_token
    node = {(service.turn.conversation, service.turn.number): service.node for service in served}
    later = [(place, at) for place, at in node.items() if place[1]]
    return Figures(
        answers=len(served),
        ceiling=ceiling(turns, BLOCK_TOKENS),
        working_set_tokens=BLOCK_TOKENS * len({(turn.domain, name) for turn in turns for name in turn.chain}),
        prompt_tokens=prompts / len(served),
        hit_rate=cached / prompts,
        stayed=sum(at == node.get((talk, number - 1)) for (talk, number), at in later) / max(1, len(later)),
        ttft_ms=float(first_ms.mean()),
        ttft_ms_p95=float(np.percentile(first_ms, 95)),
        end_to_end_ms=float(end_ms.mean()),
        end_to_end_ms_p95=float(np.percentile(end_ms, 95)),
        price_microcredits=sum(service.price_microcredits for service in served) / len(served),
        quoted_in_vain=(billed - cached) / prompts,
        load=work_s / (site.nodes * lasted_s),
        lasted_s=lasted_s,
        unanswered=outcome.unanswered,
        cleared=outcome.cleared,
        calls=outcome.calls / len(served),
    )
