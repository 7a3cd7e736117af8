"""The affinity bench on real engines: vLLM nodes behind daemons, on one machine.

All policies go through the same daemons, calls, awards and receipts: a baseline's router decides here, with exact
knowledge of what is under way since nobody else asks, and its choice is asked by name, call and quote included; ours is
asked as any user asks. The order of policies turns from one repetition to the next. Several engines share few cores, so
a policy that computes much slows all nodes, not only those that it overloads.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import trio

from p2pagent.config import Rates
from p2pagent.errors import bare_local_errors
from p2pagent.sim.conversations import Shape, Turn, ceiling, draw, messages
from p2pagent.testnet.fleet import POLL_S, Daemon
from p2pagent.types import ChatMessage
from scripts.benches import affinity_vllm_model, affinity_vllm_speed, intervals
from scripts.benches.affinity_routers import ROUTERS
from scripts.benches.affinity_targets import BASELINES, OURS, targets
from scripts.benches.affinity_trace import PAUSE_MISSES, RATES, Service
from scripts.benches.affinity_vllm_figures import Played, paired, rows
from scripts.benches.affinity_vllm_fleet import Asker, Counted, Reply, Site, asking, counted, hosted, hosts
from scripts.benches.affinity_vllm_play import play
from scripts.benches.affinity_vllm_speed import Speed
from scripts.benches.report import Part, exactly
from scripts.benches.run import Run

COUNTERS_S = 5.0
"""In which what vLLM has counted is what the daemons tell of it: they look every other second."""

HELLO = (ChatMessage("user", "hello"),)
"""What a new device asks every node first, so that all connections stand."""


class Setting(NamedTuple):
    """What is played, and how often."""

    shape: Shape
    service: Service
    policies: tuple[str, ...]
    repetitions: int

    @property
    def plan(self) -> list[tuple[str, int]]:
        """Policies with the number of their repetition, as they are played."""
        found = []
        for number in range(self.repetitions):
            first = number * len(self.policies) // self.repetitions
            found += [(policy, number) for policy in (*self.policies[first:], *self.policies[:first])]
        return found


def setting(run: Run) -> Setting:
    """All policies three times; quickly, a few on few conversations."""
    if run.quick:
        few = Shape(documents=3, conversations=9, turns=4)
        return Setting(few, Service(blocks=100, slots=1), (OURS, "random", "sticky"), 1)
    return Setting(Shape(), Service(), (OURS, *BASELINES), 3)


def bench(run: Run, python: Path) -> Part:
    """Start the nodes and play every policy; `python` is the interpreter that has vLLM."""
    with TemporaryDirectory(prefix="p2pagent-affinity-") as folder, bare_local_errors():
        return trio.run(_bench, run, setting(run), python, Path(folder))


async def _bench(run: Run, what: Setting, python: Path, folder: Path) -> Part:
    shape, service = what.shape, what.service
    model, questions = folder / "model", folder / "calibration.json"
    affinity_vllm_model.write(model, run.seed)
    questions.write_bytes(msgspec.json.encode(await affinity_vllm_model.calibration(model, run.seed)))
    sizes = {"slots": service.slots, "blocks": service.blocks}
    site = Site(folder, service.nodes, hosted(model, questions, python, **sizes, rates=Rates(*RATES)))
    traces = [draw(shape, service.block_tokens, Random(f"{run.seed} {n}")) for n in range(what.repetitions)]
    async with hosts(site) as nodes:
        claims = {agent.skill for peer in await nodes[0].until_peers(bool) for agent in peer.agents}
        async with asking(site, "prober", nodes) as asker:
            await _greet(asker, nodes)
            speed, probed = await affinity_vllm_speed.probe(asker, shape, service.nodes)
            fitted = affinity_vllm_speed.fitted(service, speed, probed)
            pause_s = PAUSE_MISSES * speed["joint_miss_ms"] / 1_000
            # Nodes in use are measured: those that are new have seen nothing but their own benchmark.
            usual = draw(shape, service.block_tokens, Random(f"{run.seed} usual"))
            ask = partial(_ask, asker, shape, run.seed + what.repetitions)
            await play(usual, pause_s, ask, None, partial(_place, nodes))
        await trio.sleep(COUNTERS_S)
        before = await counted(nodes)
        played = []
        for number, (policy, repetition) in enumerate(run.track(what.plan, "playing")):
            rule = None if policy == OURS else ROUTERS[policy](fitted.seen, Random(run.seed + repetition))
            async with asking(site, f"asker{number}", nodes) as asker:
                before = await _count_up(nodes, before, await _greet(asker, nodes))
                start_s = trio.current_time()
                ask = partial(_ask, asker, shape, run.seed + repetition)
                served = await play(traces[repetition], pause_s, ask, rule, partial(_place, nodes))
                lasted_s = trio.current_time() - start_s
            found = Played(policy, repetition, served, Counted(0, 0), lasted_s)
            after = await _count_up(nodes, before, found.used)
            played.append(found._replace(counted=after.less(before)))
            before = after
    return _part(run, what, traces, pause_s, speed, played, len(claims))


def _part(
    run: Run,
    what: Setting,
    traces: Sequence[Sequence[Turn]],
    pause_s: float,
    speed: Speed,
    played: list[Played],
    claims: int,
) -> Part:
    rng = run.rng("affinity", "vllm")
    highest = mean(ceiling(turns, what.service.block_tokens) for turns in traces)
    table = [{"nodes": what.service.nodes, **row} for row in rows(played, highest, rng)]
    planned = {(turn.conversation, turn.number): turn.prompt_tokens for turn in traces[0]}
    as_planned = all(planned[s.conversation, s.number] == s.prompt_tokens for p in played for s in p.served)
    figures: dict[str, Any] = {
        "traces": [_trace(what, traces) | {"pause_s": pause_s}],
        "speed": dict(speed),
        "policies": table,
    }
    held = [
        exactly("vLLM counts the prompts that receipts are for", True, all(p.agrees for p in played)),
        exactly("prompts are as long as planned", True, as_planned),
        exactly("different claims of skill", 1, claims),
    ]
    if run.quick:
        return Part(figures, held)
    return Part(
        figures | {"ttft_ours_over": paired(played, rng)}, held + targets(f"{what.service.nodes} nodes", highest, table)
    )


def _trace(what: Setting, traces: Sequence[Sequence[Turn]]) -> dict[str, Any]:
    """What was asked, and how much of it can be had."""
    block_tokens = what.service.block_tokens
    working_sets = [len({name for turn in turns for name in turn.chain}) for turns in traces]
    return {
        "nodes": what.service.nodes,
        "ceiling": intervals.mean([ceiling(turns, block_tokens) for turns in traces]),
        "slots_per_node": what.service.slots,
        "conversations": what.shape.conversations,
        "turns": what.shape.turns,
        "repetitions": what.repetitions,
        "prompt_tokens_longest": max(turn.prompt_tokens for turn in traces[0]),
        "prompt_tokens_mean": mean(turn.prompt_tokens for turn in traces[0]),
        "working_set_tokens": block_tokens * mean(working_sets),
        "cache_tokens_per_node": block_tokens * what.service.blocks,
    }


async def _ask(asker: Asker, shape: Shape, seed: int, turn: Turn, node: int | None) -> Reply:
    return await asker.ask(messages(shape, turn.conversation, turn.number, seed), turn.output_tokens, node)


async def _greet(asker: Asker, nodes: Sequence[Daemon]) -> Counted:
    """Ask every node something short; what that was."""
    return _used([await asker.ask(HELLO, 1, node) for node in range(len(nodes))])


def _place(nodes: Sequence[Daemon], reply: Reply) -> int:
    return [node.peer for node in nodes].index(reply.answered.agent.peer)


def _used(replies: Iterable[Reply]) -> Counted:
    usages = [reply.answered.usage for reply in replies]
    return Counted(sum(usage.prompt_tokens for usage in usages), sum(usage.cached_tokens for usage in usages))


async def _count_up(nodes: Sequence[Daemon], before: Counted, used: Counted) -> Counted:
    """vLLM's counters once they have gone up by the prompts of `used`, or as they are after long enough."""
    now = await counted(nodes)
    with trio.move_on_after(COUNTERS_S):
        while now.prompt_tokens - before.prompt_tokens < used.prompt_tokens:
            await trio.sleep(POLL_S)
            now = await counted(nodes)
    return now
