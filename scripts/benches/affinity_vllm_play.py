"""One policy on one trace: a closed loop of conversations, each turn asked a pause after the answer before."""

from collections.abc import Awaitable, Callable, Sequence

import trio
from msgspec import Struct

from p2pagent.sim.conversations import Turn
from p2pagent.sim.routers import Router
from p2pagent.types import Microcredits
from scripts.benches.affinity_vllm_fleet import Reply


class Served(Struct, frozen=True):
    """A turn that was answered: by which node, after how long, at what price; `denied` says why it was asked again."""

    conversation: int
    number: int
    node: int
    prompt_tokens: int
    cached_tokens: int
    first_ms: float
    ended_ms: float
    price_microcredits: Microcredits
    denied: tuple[str, ...]
    restarts: int
    calls: int
    """Agents that were asked for a quote by the end."""
    cleared: bool
    """A hub gave it its slot."""


Ask = Callable[[Turn, int | None], Awaitable[Reply]]
"""Asks a turn of this node, or of whoever is worth most."""


async def play(
    turns: Sequence[Turn], pause_s: float, ask: Ask, rule: Router | None, place: Callable[[Reply], int]
) -> list[Served]:
    """All turns by `rule`, or, without one, by the network's own choice; as they ended.

    Args:
        turns: those of one conversation in a row.
        pause_s: the mean pause.
        place: which node has answered.
    """
    conversations: dict[int, list[Turn]] = {}
    for turn in turns:
        conversations.setdefault(turn.conversation, []).append(turn)
    served: list[Served] = []

    async def converse(said: list[Turn]) -> None:
        for turn in said:
            await trio.sleep(turn.pause * pause_s)
            node = None if rule is None else rule.route(turn, trio.current_time())
            reply = await ask(turn, node)
            if rule is not None and node is not None:
                rule.answered(turn, node, trio.current_time())
            served.append(_served(turn, reply, place(reply)))

    async with trio.open_nursery() as nursery:
        for said in conversations.values():
            nursery.start_soon(converse, said)
    return served


def _served(turn: Turn, reply: Reply, node: int) -> Served:
    answered = reply.answered
    return Served(
        conversation=turn.conversation,
        number=turn.number,
        node=node,
        prompt_tokens=answered.usage.prompt_tokens,
        cached_tokens=answered.usage.cached_tokens,
        first_ms=1_000 * (reply.first_s - reply.asked_s),
        ended_ms=1_000 * (reply.ended_s - reply.asked_s),
        price_microcredits=answered.price_microcredits,
        denied=reply.denied,
        restarts=answered.restarts,
        calls=sum(candidate.outcome != "not called" for candidate in answered.candidates),
        cleared=answered.how == "cleared",
    )
