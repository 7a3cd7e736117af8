"""Whom to let go when more peers are connected than this device wants: those with whom there was least to say.

Those with whom something is under way go last, since it would break off. A newcomer is always let in, so that a full
network stays open. Whoever only floods us with connections pushes out others like it: a neighbour that we trade with
stays as long as there is one that we do not.
"""

from collections.abc import Callable, Collection, Set

from libp2p.peer.id import ID

BUSY_S = 30.0
"""A neighbour with which a frame was exchanged this recently is let go only if that is so of all."""


class Neighbours:
    """Who is connected, since when, and when a frame was exchanged last. All times are seconds of the caller's clock.

    Of the `bootstrap` peers, through which a device comes into the network, one is always kept. `counterparties` says
    with whom something is under way.
    """

    def __init__(self, bound: int, bootstrap: Collection[ID], counterparties: Callable[[], Set[ID]]) -> None:
        self._bound = bound
        self._counterparties = counterparties
        self._bootstrap = frozenset(bootstrap)
        self._up_s: dict[ID, float] = {}
        self._frame_s: dict[ID, float] = {}
        self._leaving: set[ID] = set()

    def __len__(self) -> int:
        return len(self._up_s)

    def __contains__(self, peer: ID) -> bool:
        return peer in self._up_s

    @property
    def room(self) -> int:
        """How many more there may be before somebody has to go."""
        return self._bound - len(self._up_s) + len(self._leaving)

    def up(self, peer: ID, now_s: float) -> bool:
        """Note a new connection; True when it is the only one of this peer."""
        first = peer not in self._up_s
        self._up_s[peer] = now_s
        self._leaving.discard(peer)
        return first

    def down(self, peer: ID) -> bool:
        """Note that a peer has no connection any more; True when it had one."""
        self._frame_s.pop(peer, None)
        self._leaving.discard(peer)
        return self._up_s.pop(peer, None) is not None

    def exchanged(self, peer: ID, now_s: float) -> None:
        """Note a frame, in either direction."""
        if peer in self._up_s:
            self._frame_s[peer] = now_s

    def let_go(self, newcomer: ID, now_s: float) -> list[ID]:
        """Choose whom to disconnect so that `newcomer` has room; those chosen count as gone from now on."""
        chosen = []
        while self.room < 0:
            staying = [peer for peer in self._up_s if peer not in self._leaving]
            kept = [peer for peer in staying if peer in self._bootstrap]
            spared = {newcomer, *kept} if len(kept) == 1 else {newcomer}
            candidates = [peer for peer in staying if peer not in spared]
            if not candidates:
                break
            engaged = self._counterparties()
            chosen.append(min(candidates, key=lambda peer: (peer in engaged, self._claim(peer, now_s))))
            self._leaving.add(chosen[-1])
        return chosen

    def _claim(self, peer: ID, now_s: float) -> tuple[bool, float]:
        """What speaks for keeping one of those with whom nothing is under way, least first."""
        frame_s = self._frame_s.get(peer, float("-inf"))
        return (now_s - frame_s < BUSY_S, max(frame_s, self._up_s[peer]))
