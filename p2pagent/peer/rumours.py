"""What is still to be told: each piece of news is passed on a few times and then rests (SWIM, section 4.1).

What was told least goes first, and of that the latest. A later heartbeat of a peer takes the place of the earlier.
"""

from collections.abc import Hashable
from math import ceil, log2
from typing import TypeVar

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.peer.directory import PEERS_MAX
from p2pagent.peer.gossip_messages import News, SignedHeartbeat, SignedSuspicion
from p2pagent.types import PeerId

HEARTBEATS_MAX = 32
SUSPICIONS_MAX = 16
TELLINGS = 3
"""Of an ordinary sign of life: 0.94 of the members hear it (z = 1 - exp(-3z)), the rest the next one."""

TELLINGS_PER_DOUBLING = 3
"""Of what must reach everybody, per doubling of the members."""

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Rumour(Struct):
    """One piece of news and how often it has yet to be told."""

    told: int
    left: int
    order: int


class Rumours:
    """News that rides on the next pings and answers."""

    def __init__(self) -> None:
        self._beats: dict[PeerId, tuple[SignedHeartbeat, Rumour]] = {}
        self._suspicions: dict[tuple[PeerId, PeerId], tuple[SignedSuspicion, Rumour]] = {}
        self._order = 0

    def tell_heartbeat(self, peer: PeerId, beat: SignedHeartbeat, members: int, *, urgent: bool) -> None:
        """Pass on a sign of life; `urgent` if it says more than that: a newcomer, a refutation, a goodbye.

        It says all that the one before it said, so what that had left to be told it has too.
        """
        rumour = self._rumour(members, urgent=urgent)
        if peer in self._beats:
            rumour.left = max(rumour.left, self._beats[peer][1].left)
        self._beats[peer] = (beat, rumour)
        bound(self._beats, PEERS_MAX)

    def tell_suspicion(self, accused: PeerId, accuser: PeerId, signed: SignedSuspicion, members: int) -> None:
        """Pass on an accusation."""
        self._suspicions[accused, accuser] = (signed, self._rumour(members, urgent=True))
        bound(self._suspicions, PEERS_MAX)

    def settle(self, accused: PeerId) -> None:
        """Accusations of this peer are of no interest any more."""
        for key in [key for key in self._suspicions if key[0] == accused]:
            del self._suspicions[key]

    def news(self, to: PeerId, own: tuple[SignedHeartbeat, ...] = ()) -> News:
        """What the next message to `to` carries: our `own` sign of life, and what is told least.

        Whoever is suspected is told so first (Lifeguard's buddy system).
        """
        theirs = [signed for (accused, _), (signed, _) in self._suspicions.items() if accused == to][:1]
        others = _told(self._suspicions, SUSPICIONS_MAX - len(theirs))
        suspicions = (*theirs, *(signed for signed in others if signed not in theirs))
        return News((*own, *_told(self._beats, HEARTBEATS_MAX - len(own))), suspicions)

    def _rumour(self, members: int, *, urgent: bool) -> Rumour:
        self._order += 1
        return Rumour(0, TELLINGS_PER_DOUBLING * ceil(log2(members + 2)) if urgent else TELLINGS, self._order)


def _told(table: dict[_K, tuple[_V, Rumour]], most: int) -> tuple[_V, ...]:
    """The values that go next; each is told once more, and forgotten when that was the last time."""
    keys = list(table)
    if len(keys) > most:
        ranked = sorted((rumour.told, -rumour.order, key) for key, (_, rumour) in table.items())
        keys = [key for _, _, key in ranked[:most]]
    values = []
    for key in keys:
        value, rumour = table[key]
        values.append(value)
        rumour.told += 1
        rumour.left -= 1
        if not rumour.left:
            del table[key]
    return tuple(values)
