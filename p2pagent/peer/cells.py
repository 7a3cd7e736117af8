"""Which part of the network this peer follows: the cells of its agents, as large as one table may be.

Everybody follows everybody as long as the network is small. A cell that grows beyond `FOLLOWED_MAX` is halved, by each
of its members alone and for itself: whoever follows more than that drops the half in which it is not. Members that
halve earlier or later differ in what they hear, and nothing else: what one tells another is either of that one's cell
or ignored. What lies beyond is looked up when it is needed.
"""

from hashlib import sha256
from itertools import islice

from p2pagent.peer.directory import Entry
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.routing.hubs import ROOT, Hubs, above, depth, home
from p2pagent.types import AgentRef, PeerId

FOLLOWED_MAX = 160
"""Peers of one cell: a heartbeat of each passes here every half minute, and costs 165 bytes three times."""

LONELY = 8
"""Members below which a cell is too small to be told apart from the wrong place."""


class Cells:
    """The cells of this device's agents, and how deep below the root each is."""

    def __init__(self, hubs: Hubs, me: PeerId, prototypes: int) -> None:
        self._hubs = hubs
        self._me = me
        self._prototypes = prototypes
        self._depths: dict[str, int] = {}
        self._names: tuple[str, ...] = ()

    def open_for(self, agents: tuple[AgentAdvert, ...]) -> None:
        """Follow the cells of these agents."""
        paths = self.paths(self._me, agents)
        known = max(self._depths.values(), default=0)
        self._go_to({path: self._depths.get(path, known) for path in paths})

    def paths(self, peer: PeerId, agents: tuple[AgentAdvert, ...]) -> tuple[str, ...]:
        """Per agent of a peer, the smallest cell that it can be in; one that its id draws if it has no agent for us."""
        paths = tuple(
            self._hubs.path(AgentRef(peer, agent.name), home(agent.capability))
            for agent in agents
            if len(agent.capability) == self._prototypes
        )
        if paths:
            return paths
        drawn = int.from_bytes(sha256(peer.encode()).digest()[:4], "big") % self._prototypes
        return (self._hubs.path(AgentRef(peer, ""), drawn),)

    def names(self) -> tuple[str, ...]:
        """The cells followed now, without those inside others."""
        return self._names

    def follows(self, paths: tuple[str, ...]) -> bool:
        """Whether an agent with one of these paths is in a cell that is followed."""
        return self._names == (ROOT,) or any(path.startswith(self._names) for path in paths)

    def sparse(self, members: list[Entry]) -> tuple[str, ...]:
        """Followed cells below the root with hardly anybody in them."""
        return tuple(name for name in self.names() if name != ROOT and not _has(name, members, LONELY))

    def halve(self, members: list[Entry]) -> bool:
        """Go one halving down wherever there are too many; whether anything has changed.

        Peers that we have only heard of count no more than those we have met: anybody can invent them.
        """
        if len(members) <= FOLLOWED_MAX:
            return False
        met = [entry for entry in members if entry.met]
        crowded = {name for name in self.names() if min(_count(name, members), 2 * _count(name, met)) > FOLLOWED_MAX}
        return self._go_to(
            {path: min(deep + (above(path, deep) in crowded), depth(path)) for path, deep in self._depths.items()}
        )

    def widen(self, name: str) -> tuple[str, ...]:
        """Go one halving up, since nobody else was found in the cell `name`; the cells followed instead."""
        wider = [path for path, deep in self._depths.items() if deep and above(path, deep) == name]
        self._go_to({path: deep - (path in wider) for path, deep in self._depths.items()})
        return tuple(dict.fromkeys(above(path, self._depths[path]) for path in wider))

    def deepen(self, name: str, followed: str) -> bool:
        """One whom we asked about our cell `name` follows only `followed`: there are too many for one table."""
        return self._go_to(
            {
                path: max(deep, min(depth(followed), depth(path))) if above(path, deep) == name else deep
                for path, deep in self._depths.items()
            }
        )

    def known_as(self) -> tuple[str, ...]:
        """The names under which members may look for us: the cells followed, those above and those below."""
        return tuple(
            dict.fromkeys(
                above(path, deep + by) for path, deep in self._depths.items() for by in (0, 1, -1) if deep + by > 0
            )
        )

    def _go_to(self, depths: dict[str, int]) -> bool:
        """Follow the cells at these depths; whether that is a change."""
        changed, self._depths = depths != self._depths, depths
        names = dict.fromkeys(above(path, deep) for path, deep in depths.items())
        self._names = tuple(n for n in names if not any(n != other and n.startswith(other) for other in names))
        return changed


def _has(name: str, members: list[Entry], least: int) -> bool:
    """Whether at least so many are in this cell."""
    return len(list(islice((entry for entry in members if entry.is_in(name)), least))) == least


def _count(name: str, members: list[Entry]) -> int:
    return sum(entry.is_in(name) for entry in members)
