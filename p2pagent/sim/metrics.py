"""What a simulated run is measured by: answers, waits, prices, traffic, and how soon the death of a peer is known."""

from collections.abc import Sequence

from msgspec import Struct, field

from p2pagent.peer.wire import GOSSIP_PROTOCOL
from p2pagent.sim.node import Node
from p2pagent.sim.world import World
from p2pagent.types import PeerId

KNOWN_SHARE = 0.99
FOLLOWED_MAX = 24
"""Deaths that are followed at a time: each costs a look into every directory that had the peer."""

FORGOTTEN_MS = 180_000
"""A death that is not known by then never will be, but for the end of the lease."""


class Spread(Struct, frozen=True):
    """How a quantity is distributed; None where there was none of it."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


def spread(sample: Sequence[float]) -> Spread:
    """Of a sample, its mean and order statistics (nearest rank)."""
    if not sample:
        return Spread(None, None, None, None)
    values = sorted(sample)
    ranks = (values[min(len(values) - 1, int(share * len(values)))] for share in (0.5, 0.95, 0.99))
    return Spread(sum(values) / len(values), *ranks)


class Death(Struct, eq=False):
    """A peer that is gone, and who followed a cell of it and has not noticed yet."""

    peer: PeerId
    at_ms: int
    followers: int
    unsuspecting: set[PeerId]
    believing: set[PeerId]


class Deaths:
    """Follows deaths until `KNOWN_SHARE` of those who followed a cell of the dead know of it, or are dead too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.open: list[Death] = []
        """Those that are followed."""
        self.suspected_ms: list[int] = []
        self.gone_ms: list[int] = []
        self.unknown = 0

    def follow(self, peer: PeerId, followers: list[PeerId]) -> None:
        """`peer` has died; `followers` have it among their members."""
        if followers and self.has_room:
            self.open.append(Death(peer, self._world.now_ms, len(followers), set(followers), set(followers)))

    @property
    def has_room(self) -> bool:
        """Whether one more would be followed."""
        return len(self.open) < FOLLOWED_MAX

    def look(self) -> None:
        """See who knows by now."""
        still = []
        for death in self.open:
            passed_ms = self._world.now_ms - death.at_ms
            few = (1 - KNOWN_SHARE) * death.followers
            were = len(death.unsuspecting) > few
            death.unsuspecting = {name for name in death.unsuspecting if self._calls(name, death.peer)}
            death.believing = {name for name in death.believing if self._follows(name, death.peer)}
            if were and len(death.unsuspecting) <= few:
                self.suspected_ms.append(passed_ms)
            if len(death.believing) <= few:
                self.gone_ms.append(passed_ms)
            elif passed_ms > FORGOTTEN_MS or self._world.node(death.peer) is not None:
                self.unknown += self._world.node(death.peer) is None
            else:
                still.append(death)
        self.open = still

    def _follows(self, follower: PeerId, dead: PeerId) -> bool:
        """Whether `dead` is still a member for `follower`: it may also have gone on to a smaller cell."""
        node = self._world.node(follower)
        return node is not None and dead in node.peer.directory.members

    def _calls(self, follower: PeerId, dead: PeerId) -> bool:
        """Whether `follower` has no doubt that `dead` lives."""
        node = self._world.node(follower)
        entry = node.peer.directory.members.get(dead) if node is not None else None
        if node is None or entry is None:
            return False
        return not entry.silent and not node.peer.membership.suspects(dead)


class Traffic:
    """Gossip bytes per second and peer, over the time that each was there while it was measured."""

    def __init__(self) -> None:
        self._then: dict[PeerId, tuple[int, int, int]] = {}
        self._sent = 0
        self._received = 0
        self._peer_ms = 0
        self.each: list[float] = []

    def begin(self, node: Node, now_ms: int) -> None:
        """Measure `node` from now on."""
        self._then[node.name] = (now_ms, node.sent[GOSSIP_PROTOCOL], node.received[GOSSIP_PROTOCOL])

    def end(self, node: Node, now_ms: int) -> None:
        """`node` is gone, or measuring is over."""
        then = self._then.pop(node.name, None)
        if then is None or then[0] == now_ms:
            return
        sent, received = node.sent[GOSSIP_PROTOCOL] - then[1], node.received[GOSSIP_PROTOCOL] - then[2]
        self._sent += sent
        self._received += received
        self._peer_ms += now_ms - then[0]
        self.each.append(1000 * (sent + received) / (now_ms - then[0]))

    @property
    def out_bytes_per_s(self) -> float:
        """Sent by one peer."""
        return 1000 * self._sent / max(1, self._peer_ms)

    @property
    def in_bytes_per_s(self) -> float:
        """Received by one peer."""
        return 1000 * self._received / max(1, self._peer_ms)


class Tally(Struct):
    """What became of the questions."""

    asked: int = 0
    abandoned: int = 0
    """Whose asker was gone before the answer came."""
    unanswered: int = 0
    delegated: int = 0
    right_local: int = 0
    right_oracle: int = 0
    right_claimed: int = 0
    right_informed: int = 0
    restarts: int = 0
    asked_ms: list[int] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    latency_ms: list[int] = field(default_factory=list)
    ttft_ms: list[int] = field(default_factory=list)
    price_microcredits: list[int] = field(default_factory=list)
