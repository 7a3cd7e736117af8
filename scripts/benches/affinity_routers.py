"""The rules that ours is measured against, for nodes of any speed."""

from collections.abc import Callable
from random import Random

from msgspec import Struct

from p2pagent.sim.routers import AnyNode, InTurn, Lbgr, LeastLoaded, Preble, Router, SGLang, Speed, Sticky


class Nodes(Struct, frozen=True):
    """What a rule is told of the nodes, which are all alike."""

    count: int
    slots: int
    speed: Speed
    characters_per_token: float


LOAD_ONLY = "random", "round robin", "least loaded"

ROUTERS: dict[str, Callable[[Nodes, Random], Router]] = {
    "random": lambda nodes, rng: AnyNode(nodes.count, rng),
    "round robin": lambda nodes, rng: InTurn(nodes.count, rng),
    "least loaded": lambda nodes, rng: LeastLoaded(nodes.count, rng),
    "sticky": lambda nodes, rng: Sticky(nodes.count, rng),
    "SGLang": lambda nodes, rng: SGLang(nodes.count, rng),
    "Preble E2": lambda nodes, rng: Preble(nodes.count, rng, nodes.speed),
    "LBGR": lambda nodes, rng: Lbgr(nodes.count, rng, nodes.characters_per_token),
    "SGLang, fitted to the slots": lambda nodes, rng: SGLang(nodes.count, rng, nodes.slots),
    "LBGR, at the engine's speed": lambda nodes, rng: Lbgr(
        nodes.count, rng, nodes.characters_per_token, _ms_per_character(nodes)
    ),
}
"""The published rules, and two of them with thresholds that suit the nodes: SGLang balances once slots are apart."""


def _ms_per_character(nodes: Nodes) -> float:
    return 1_000 * nodes.speed.prefill_s_per_token / nodes.characters_per_token
