"""How long the first token takes when nothing else goes on: with the prompt's beginning in a cache and without it."""

from collections.abc import Sequence
from statistics import median

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
    """Medians in ms: TTFT, as the asker has it, of a miss and a hit, asked by name and as ours; and per token after."""

    @property
    def prefill_ms(self) -> float:
        """What a prompt takes that is in no cache."""
        return max(1.0, self["pinned_miss_ms"] - self["pinned_hit_ms"])


async def probe(asker: Asker, shape: Shape, nodes: int) -> tuple[Speed, list[Reply]]:
    """The times, and all answers in which they were taken."""
    count = (nodes + 1) * (WARM_UP_PER_NODE + PROBES_PER_NODE)
    asked = structs.replace(shape, documents=count, conversations=count, popularity=0.0)
    replies: list[Reply] = []
    times: dict[str, list[float]] = {"pinned_miss_ms": [], "pinned_hit_ms": [], "ours_miss_ms": [], "ours_hit_ms": []}
    for conversation in range(asked.conversations):
        number, node = divmod(conversation, nodes + 1)
        place = None if node == nodes else node
        for turn, kind in ((PROBE_TURN, "miss"), (PROBE_TURN + 1, "hit")):
            said = messages(asked, conversation, turn, SEED)
            replies.append(await asker.ask(said, shape.output_tokens, place))
            if number >= WARM_UP_PER_NODE:
                name = f"{'ours' if place is None else 'pinned'}_{kind}_ms"
                times[name].append(first_ms(replies[-1]))
    after = [1_000 * (r.ended_s - r.first_s) / (shape.output_tokens - 1) for r in replies]
    return Speed({name: median(taken) for name, taken in times.items()} | {"output_token_ms": median(after)}), replies


def first_ms(reply: Reply) -> float:
    """Until the first piece."""
    return 1_000 * (reply.first_s - reply.asked_s)


def fitted(service: Service, speed: Speed, replies: Sequence[Reply]) -> Service:
    """`service` at the speed that was found: what routers are told of nodes."""
    tokens = median(reply.answered.usage.prompt_tokens for reply in replies)
    step_s = speed["output_token_ms"] / 1_000
    prefill_s = speed.prefill_ms / 1_000 / tokens
    return structs.replace(service, prefill_s=prefill_s, attention_s=0.0, step_s=step_s, sequence_s=0.0)
