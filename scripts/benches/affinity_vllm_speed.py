"""How long the first token takes with the prompt's beginning in a cache and without it: of one node alone, and of all.

Nodes share the machine's cores, so that what a node takes while the others rest says little of a trace: its pauses, and
what routers are told of a node's speed, are of all nodes at work at once.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import trio
from msgspec import structs

from p2pagent.sim.conversations import Shape, messages
from scripts.benches.affinity_trace import Service
from scripts.benches.affinity_vllm_fleet import Asker, Reply

WARM_UP_PER_NODE = 2
"""Whose times are not taken: an engine's first requests are slow."""

PROBES_PER_NODE = 3
PROBE_TURN = 2
"""A prompt of about the trace's mean length."""

SEED = 1 << 30
"""No trace's: what is asked here comes nowhere else."""


class Speed(dict[str, float]):
    """Medians in ms: TTFT, as the asker has it, of a miss and a hit, and per token after.

    `pinned` is one node asked by name while others rest, `ours` whichever is chosen then, `joint` all nodes at once.
    """

    @property
    def prefill_ms(self) -> float:
        """What a prompt takes that is in no cache while all nodes are at work."""
        return max(1.0, self["joint_miss_ms"] - self["joint_hit_ms"])


async def probe(asker: Asker, shape: Shape, nodes: int) -> tuple[Speed, list[Reply]]:
    """The times, and the answers of all nodes at once."""
    count = (2 * nodes + 1) * (WARM_UP_PER_NODE + PROBES_PER_NODE)
    asked = structs.replace(shape, documents=count, conversations=count, popularity=0.0)
    fresh = iter(range(count))
    alone = [("pinned", [node]) for node in range(nodes)]
    ways: list[tuple[str, Sequence[int | None]]] = [*alone, ("ours", [None]), ("joint", range(nodes))]
    found: dict[str, list[Reply]] = defaultdict(list)
    for number in range(WARM_UP_PER_NODE + PROBES_PER_NODE):
        for name, places in ways:
            talks = [(next(fresh), place) for place in places]
            for turn, kind in ((PROBE_TURN, "miss"), (PROBE_TURN + 1, "hit")):
                replies = await _at_once(asker, asked, talks, turn)
                if number >= WARM_UP_PER_NODE:
                    found[f"{name}_{kind}_ms"] += replies
    joint = [*found["joint_miss_ms"], *found["joint_hit_ms"]]
    after = [1_000 * (r.ended_s - r.first_s) / (shape.output_tokens - 1) for r in joint]
    first = {name: median(first_ms(reply) for reply in replies) for name, replies in found.items()}
    return Speed(first | {"output_token_ms": median(after)}), joint


async def _at_once(asker: Asker, shape: Shape, talks: Sequence[tuple[int, int | None]], turn: int) -> list[Reply]:
    """The answers to this turn of conversations, each asked at its own place."""
    replies: list[Reply] = []

    async def ask(conversation: int, place: int | None) -> None:
        said = messages(shape, conversation, turn, SEED)
        replies.append(await asker.ask(said, shape.output_tokens, place))

    async with trio.open_nursery() as nursery:
        for conversation, place in talks:
            nursery.start_soon(ask, conversation, place)
    return replies


def first_ms(reply: Reply) -> float:
    """Until the first piece."""
    return 1_000 * (reply.first_s - reply.asked_s)


def fitted(service: Service, speed: Speed, replies: Sequence[Reply]) -> Service:
    """`service` at the speed that was found: what routers are told of nodes."""
    tokens = median(reply.answered.usage.prompt_tokens for reply in replies)
    step_s = speed["output_token_ms"] / 1_000
    prefill_s = speed.prefill_ms / 1_000 / tokens
    return structs.replace(service, prefill_s=prefill_s, attention_s=0.0, step_s=step_s, sequence_s=0.0)
