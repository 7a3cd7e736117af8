"""How often a peer may have something done for it: so many times at once, and once more per so many milliseconds."""

from p2pagent.bounded import bound
from p2pagent.peer.directory import PEERS_MAX
from p2pagent.types import PeerId


class Allowance:
    """One leaky bucket per peer; those not heard of for longest are forgotten, full as they would be again."""

    def __init__(self, burst: int, refill_ms: int) -> None:
        self._burst = burst
        self._refill_ms = refill_ms
        self._spent: dict[PeerId, tuple[float, int]] = {}

    def take(self, peer: PeerId, now_ms: int) -> bool:
        """Whether `peer` may have it once more; if so, it has."""
        spent, then_ms = self._spent.pop(peer, (0.0, now_ms))
        spent = max(0.0, spent - (now_ms - then_ms) / self._refill_ms)
        allowed = spent + 1 <= self._burst
        self._spent[peer] = (spent + allowed, now_ms)
        bound(self._spent, PEERS_MAX)
        return allowed
