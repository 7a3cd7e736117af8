"""Hub clearing's calendar and its cast: which epoch it is, who belongs to a hub, and who clears it.

Clocks differ by less than an epoch or two and directories by a few peers. Neither matters for correctness: buyers that
draw another auctioneer, or name the cell of another size, take part in another clearing.
"""

from msgspec import Struct, field

from p2pagent.peer.directory import Directory
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.routing.hubs import HUB_AGENTS_MAX, Hub, Hubs, draw, home
from p2pagent.routing.prototypes import Space
from p2pagent.types import AgentRef, PeerId

EPOCH_MS = 1_000
"""Four round trips across an ocean. Waits shorter than this are not worth a clearing."""

EPOCH_SKEW = 2
"""Epochs by which another device's calendar may differ from ours."""

GATHER_MS = 100
"""The book stays open this long after the first commit, for others of the same moment."""

BOOK_MS = 250
"""It is closed by then, whoever of the sellers has not answered."""

REVEAL_MS = 250
"""Bids are waited for this long after the book."""

GRANT_MS = 1_000
"""A granted slot waits this long for its claim."""

WIDE_HUB_AGENTS_MAX = 256
"""Agents of the hub in which what was left over is cleared; no auctioneer asks more."""

DRAWN = 3
"""A seller heeds the first so many of the auctioneers that it would draw itself."""


def epoch_at(now_ms: int) -> int:
    """The epoch at `now_ms` of the Unix epoch."""
    return now_ms // EPOCH_MS


def is_current(epoch: int, now_ms: int) -> bool:
    """Whether an honest peer may be speaking of `epoch` now."""
    return abs(epoch - epoch_at(now_ms)) <= EPOCH_SKEW


class Cast(Struct):
    """Who plays which part, as far as this peer can see. `local` are this device's own agents."""

    me: PeerId
    space: Space
    hubs: Hubs
    directory: Directory
    local: tuple[AgentAdvert, ...] = ()
    homes: dict[AgentRef, int] = field(default_factory=dict)
    looked_ms: int = -1

    def hub(self, prototype: int, attempt: int, epoch: int, now_ms: int) -> Hub:
        """Where a query of ours with this top prototype is cleared: a wider hub if the first had no slot for it."""
        agents_max = WIDE_HUB_AGENTS_MAX if attempt else HUB_AGENTS_MAX
        return self.hubs.hub_of(prototype, self.me, epoch, self._homes(now_ms), agents_max)

    def members(self, name: str, now_ms: int) -> list[PeerId]:
        """Live peers, this one included, that host an agent of the hub."""
        return sorted({a.peer for a, home in self._homes(now_ms).items() if self.hubs.contains(name, a, home)})

    def own(self, name: str) -> list[AgentAdvert]:
        """This device's agents in the hub."""
        return [
            a
            for a in self.local
            if self._fits(a) and self.hubs.contains(name, AgentRef(self.me, a.name), home(a.capability))
        ]

    def auctioneers(self, name: str, epoch: int, now_ms: int) -> list[PeerId]:
        """Who may clear the hub in this epoch, the one to go to first."""
        return draw(name, epoch, self.members(name, now_ms))[:DRAWN]

    def _homes(self, now_ms: int) -> dict[AgentRef, int]:
        """Where each live agent belongs; worked out once a millisecond, since several parts ask at one moment."""
        if self.looked_ms != now_ms:
            known = {
                AgentRef(peer, advert.name): home(advert.capability)
                for peer, entry in self.directory.reachable(now_ms)
                if entry.record.space == self.space.name
                for advert in entry.record.agents
                if self._fits(advert)
            }
            own = {AgentRef(self.me, a.name): home(a.capability) for a in self.local if self._fits(a)}
            self.homes, self.looked_ms = known | own, now_ms
        return self.homes

    def _fits(self, advert: AgentAdvert) -> bool:
        return len(advert.capability) == len(self.space.prototypes)
