"""Central routers over nodes that hold prefixes: three that know loads only, four that follow caches.

Each sees every request and every answer, as the routers of the papers do, and knows of a node's cache what follows from
what it has sent there. Prefixes are chains of blocks (`conversations.Turn`), so that what two conversations share is
seen as it is in a radix tree over texts: a block's name stands for all that comes before it.

The thresholds are the published ones, in `baselines_caches`, where each asker runs the same rules on conversations as
wholes; another one can be given where a rule is asked how it would do if it were fitted to the nodes.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from random import Random

from msgspec import Struct

from p2pagent.sim.baselines_caches import (
    DECAY,
    DECAY_S,
    IMBALANCE_RATIO,
    IMBALANCE_REQUESTS,
    MATCHED_SHARE,
    REBALANCE_RATIO,
    RESERVED_WEIGHT,
    RESIDUAL_FORGET,
    UNCACHED_MS_PER_CHARACTER,
    WINDOW_S,
)
from p2pagent.sim.blocks import BlockCache, Name
from p2pagent.sim.conversations import Turn

LBGR_MARGIN_MS = 1.0
"""An earlier node stays the choice unless a later one is expected to be faster by more than that."""


class Router:
    """What every router does: it counts what is unanswered. A rule is what `choose` says, and what `sent` notes."""

    def __init__(self, nodes: int, rng: Random) -> None:
        self.nodes = range(nodes)
        self.rng = rng
        self.unanswered = [0] * nodes

    def route(self, turn: Turn, now_s: float) -> int:
        """Which node to send to, and it is sent."""
        node = self.choose(turn, now_s)
        self.sent(turn, node, now_s)
        self.unanswered[node] += 1
        return node

    def answered(self, turn: Turn, node: int, now_s: float) -> None:  # noqa: ARG002
        """The answer is complete."""
        self.unanswered[node] -= 1

    def choose(self, turn: Turn, now_s: float) -> int:
        """The rule."""
        raise NotImplementedError

    def sent(self, turn: Turn, node: int, now_s: float) -> None:
        """Note what was sent where."""

    def least(self, values: Sequence[float], among: Sequence[int] = ()) -> int:
        """The node of the least value, of all or of some; one of several by chance."""
        return min(among or self.nodes, key=lambda node: (values[node], self.rng.random()))


class AnyNode(Router):
    """Any node."""

    def choose(self, turn: Turn, now_s: float) -> int:  # noqa: ARG002
        return self.rng.choice(self.nodes)


class InTurn(Router):
    """One node after the other."""

    _last = -1

    def choose(self, turn: Turn, now_s: float) -> int:  # noqa: ARG002
        self._last = (self._last + 1) % len(self.nodes)
        return self._last


class LeastLoaded(Router):
    """The node with the fewest unanswered requests."""

    def choose(self, turn: Turn, now_s: float) -> int:  # noqa: ARG002
        return self.least(self.unanswered)


class Sticky(Router):
    """A conversation stays where its first question went, which is any node."""

    def __init__(self, nodes: int, rng: Random) -> None:
        super().__init__(nodes, rng)
        self._home: dict[int, int] = {}

    def choose(self, turn: Turn, now_s: float) -> int:  # noqa: ARG002
        return self._home.setdefault(turn.conversation, self.rng.choice(self.nodes))


class TreeRouter(Router):
    """What a router with a radix tree knows: per node, every prefix that was ever sent there."""

    def __init__(self, nodes: int, rng: Random) -> None:
        super().__init__(nodes, rng)
        self.tree: list[set[int]] = [set() for _ in self.nodes]

    def matched(self, turn: Turn) -> list[float]:
        """Per node, the share of the prompt that was sent there before."""
        return [_leading(turn, self.tree[node]) / (len(turn.chain) or 1) for node in self.nodes]

    def sent(self, turn: Turn, node: int, now_s: float) -> None:  # noqa: ARG002
        self.tree[node].update(turn.chain)


def _leading(turn: Turn, held: set[int]) -> int:
    """How many leading blocks are among those held."""
    return next((place for place, block in enumerate(turn.chain) if block not in held), len(turn.chain))


class SGLang(TreeRouter):
    """SGLang's router 0.4.6 (sgl-router/src/router.rs, cache_aware): balance when off by much, else the longest prefix.

    If the longest queue exceeds the shortest by more than 32 requests and 1.0001 times, the shortest; else if more than
    half of the prompt matches, a node with the longest match; else the node whose tree is smallest. Its trees are cut
    back at 2^24 characters, which no run here gets near.
    """

    def __init__(self, nodes: int, rng: Random, imbalance: float = IMBALANCE_REQUESTS) -> None:
        super().__init__(nodes, rng)
        self._imbalance = imbalance

    def choose(self, turn: Turn, now_s: float) -> int:  # noqa: ARG002
        most, least = max(self.unanswered), min(self.unanswered)
        if most - least > self._imbalance and most > IMBALANCE_RATIO * least:
            return self.least(self.unanswered)
        matched = self.matched(turn)
        if max(matched) > MATCHED_SHARE:
            return self.least([-share for share in matched])
        return self.least([len(tree) for tree in self.tree])


class Speed(Struct, frozen=True):
    """What Preble is told of a node: the cost model of its paper, fitted to the engine, and the room for prefixes."""

    prefill_s_per_token: float
    decode_s_per_token: float
    blocks: int
    block_tokens: int


class Preble(Router):
    """Preble's E2 (Srivatsa et al., ICLR 2025, arXiv 2407.00023, section 3.2): exploit a long prefix, else explore.

    Exploit where the cached prefix is longer than the rest, among the longest where the load is least. Else the least
    of load (seconds of prefill and decode sent there in three minutes), eviction (prefill again of what would go, times
    the share of the window's requests that had it), and prefill of what is missing. If the heaviest load is over 1.5
    times the lightest, what would go to the heaviest goes to the lightest. What is cached follows from what was sent by
    least recent use in the room that nodes have (`GlobalSchedulerWithTime.handle_eviction` of WukLab/preble). Left out
    are copies of hot prefixes on more nodes (autoscaling) and placement that knows prefill from decode; single requests
    are diverted, from the first on.
    """

    def __init__(self, nodes: int, rng: Random, speed: Speed) -> None:
        super().__init__(nodes, rng)
        self._speed = speed
        self._held = [BlockCache(speed.blocks, speed.block_tokens) for _ in self.nodes]
        self._window: deque[tuple[float, int, float, tuple[Name, ...]]] = deque()
        self._load_s = [0.0] * nodes
        self._asked: dict[Name, int] = defaultdict(int)

    def choose(self, turn: Turn, now_s: float) -> int:
        self._forget(now_s)
        cached = [self._cached_tokens(turn, node) for node in self.nodes]
        if 2 * max(cached) > turn.prompt_tokens:
            chosen = self.least(self._load_s, [node for node in self.nodes if cached[node] == max(cached)])
        else:
            costs = [self._load_s[node] + self._explore_s(turn, node, cached[node]) for node in self.nodes]
            chosen = self.least(costs)
        if self._load_s[chosen] == max(self._load_s) > REBALANCE_RATIO * min(self._load_s):
            return self.least(self._load_s)
        return chosen

    def sent(self, turn: Turn, node: int, now_s: float) -> None:
        missing = turn.prompt_tokens - self._cached_tokens(turn, node)
        work_s = self._speed.prefill_s_per_token * missing + self._speed.decode_s_per_token * turn.output_tokens
        lease = self._held[node].admit(turn.domain, turn.chain, turn.prompt_tokens, turn.output_tokens)
        assert lease is not None, "a prompt is longer than the cache"
        self._held[node].release(lease)
        self._window.append((now_s, node, work_s, lease.names))
        self._load_s[node] += work_s
        for name in lease.names:
            self._asked[name] += 1

    def _forget(self, now_s: float) -> None:
        while self._window and self._window[0][0] < now_s - WINDOW_S:
            _, node, work_s, names = self._window.popleft()
            self._load_s[node] -= work_s
            for name in names:
                self._asked[name] -= 1

    def _cached_tokens(self, turn: Turn, node: int) -> int:
        return self._held[node].cached_tokens(turn.domain, turn.chain, turn.prompt_tokens)

    def _explore_s(self, turn: Turn, node: int, cached: int) -> float:
        victims = self._held[node].victims(turn.domain, turn.chain, turn.prompt_tokens)
        asked = sum(self._asked[name] for name in victims) / max(1, len(self._window))
        tokens = turn.prompt_tokens - cached + asked * self._speed.block_tokens
        return self._speed.prefill_s_per_token * tokens


class Lbgr(TreeRouter):
    """LBGR (ICLR 2026, arXiv 2601.18999; fzwark/KVRouting, `EtaOnline3D`): the least predicted end-to-end time.

    1 ms per uncached character, plus the work reserved at the node, which fades by 31/32 every 20 ms and ends with the
    answer, plus the residual that recursive least squares on a constant learn of what came (forgetting .95).
    """

    def __init__(
        self, nodes: int, rng: Random, characters_per_token: float, ms_per_character: float = UNCACHED_MS_PER_CHARACTER
    ) -> None:
        super().__init__(nodes, rng)
        self._ms_per_token = ms_per_character * characters_per_token
        self._reserved = [(0.0, 0.0)] * nodes
        self._residual = [(0.0, 0.0)] * nodes
        self._sent: dict[tuple[int, int], tuple[float, float, float]] = {}

    def choose(self, turn: Turn, now_s: float) -> int:
        matched = self.matched(turn)
        totals = [
            self._base_ms(turn, matched[node])
            + RESERVED_WEIGHT * self._reserved_ms(node, now_s)
            + self._residual[node][0]
            for node in self.nodes
        ]
        best = 0
        for node in self.nodes:
            if totals[node] + LBGR_MARGIN_MS < totals[best]:
                best = node
        return best

    def sent(self, turn: Turn, node: int, now_s: float) -> None:
        base_ms, reserved_ms = self._base_ms(turn, self.matched(turn)[node]), self._reserved_ms(node, now_s)
        self._reserved[node] = reserved_ms + base_ms, now_s
        self._sent[turn.conversation, turn.number] = base_ms, reserved_ms, now_s
        super().sent(turn, node, now_s)

    def answered(self, turn: Turn, node: int, now_s: float) -> None:
        super().answered(turn, node, now_s)
        base_ms, reserved_ms, sent_s = self._sent.pop((turn.conversation, turn.number))
        rest_ms = base_ms * DECAY ** ((now_s - sent_s) / DECAY_S)
        self._reserved[node] = max(0.0, self._reserved_ms(node, now_s) - rest_ms), now_s
        # On a constant alone, recursive least squares are a mean whose weights fade.
        mean, weight = self._residual[node]
        weight = RESIDUAL_FORGET * weight + 1
        missed_ms = max(1.0, 1000 * (now_s - sent_s) - base_ms - RESERVED_WEIGHT * reserved_ms)
        self._residual[node] = mean + (missed_ms - mean) / weight, weight

    def _base_ms(self, turn: Turn, matched: float) -> float:
        return max(1.0, self._ms_per_token * turn.prompt_tokens * (1 - matched))

    def _reserved_ms(self, node: int, now_s: float) -> float:
        work_ms, at_s = self._reserved[node]
        return float(work_ms * DECAY ** ((now_s - at_s) / DECAY_S))
